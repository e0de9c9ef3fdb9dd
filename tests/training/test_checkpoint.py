"""Loaded checkpoints: frozen parts with the scales of their files; misfits are refused."""

from dataclasses import replace

import pytest
import torch

from curation.domain import Checkpoint
from curation.errors import NotFound, Refused
from training.checkpoint import load_checkpoint
from training.denoiser.builtin import BuiltinDenoiser
from training.presets.presets import PRESETS, find_preset
from training.safetensors_io import save_part
from training.transparency.autoencoder import LinearAutoencoder
from training.transparency.networks import Transparency, open_transparency

MICRO = PRESETS["micro"]


@pytest.fixture
def checkpoint(store):
    torch.manual_seed(0)
    autoencoder, denoiser = (
        LinearAutoencoder(MICRO.stride, MICRO.latent_channels, 2.0),
        BuiltinDenoiser(MICRO),
    )
    files = {
        "backbone": save_part(store, "backbone", autoencoder.state_dict(), autoencoder.metadata()),
        "transparency": save_part(
            store, "transparency", Transparency(MICRO).state_dict(), {"offset_scale": "7.5"}
        ),
        "base": save_part(store, "base", denoiser.finetuned_state_dict(), denoiser.metadata()),
    }
    return Checkpoint(files, "whole", "micro", None, None, 0, "test", changes={"guidance": "2"})


def test_parts_are_frozen_and_have_the_scales_of_their_files(checkpoint, store):
    parts = load_checkpoint(checkpoint, store)
    assert parts.preset == replace(MICRO, guidance=2.0)
    assert parts.autoencoder.scale == 2.0
    assert parts.transparency.encoder.offset_scale == 7.5
    assert parts.base is not None
    assert parts.base[1]["kind"] == "own"
    for network in (parts.autoencoder, parts.transparency):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_former_column_names_load_and_keep_the_id(checkpoint, store):
    stored = replace(checkpoint, changes={"sheet_images": "7", "join_text": "true"})
    preset = load_checkpoint(stored, store).preset
    assert (preset.sample_every_images, preset.joint_text_attention) == (7, True)
    renamed = {"sample_every_images": "7", "joint_text_attention": "true"}
    assert stored.id != replace(stored, changes=renamed).id  # the id covers the stored names
    assert dict(stored.changes) == {"sheet_images": "7", "join_text": "true"}


def test_a_missing_part_is_refused(checkpoint, store):
    without = {name: file for name, file in checkpoint.files.items() if name != "base"}
    assert load_checkpoint(replace(checkpoint, files=without), store).base is None
    for part in ("backbone", "transparency"):
        files = {name: file for name, file in checkpoint.files.items() if name != part}
        with pytest.raises(Refused, match=f"has no part {part!r}"):
            load_checkpoint(replace(checkpoint, files=files), store)
    with pytest.raises(NotFound):
        load_checkpoint(
            replace(checkpoint, files={**checkpoint.files, "backbone": "0" * 64}), store
        )


def test_networks_of_other_sizes_are_refused():
    with pytest.raises(Refused, match="do not fit preset 'micro'"):
        open_transparency(MICRO, Transparency(find_preset("tiny")).state_dict())


def test_a_file_without_a_scale_has_that_of_the_preset():
    assert (
        open_transparency(MICRO, Transparency(MICRO).state_dict()).encoder.offset_scale
        == MICRO.offset_scale
    )
