"""The preset table: every row is consistent, and has the values of the paper."""

from dataclasses import replace

import pytest

from curation.checkpoints.former_columns import FORMER_COLUMNS, present_columns
from curation.domain import Checkpoint, TrainingRequest
from curation.errors import NotFound, Refused
from curation.loops import diversity_guard
from training.presets.presets import (
    MICRO,
    PRESETS,
    find_preset,
    find_requested_preset,
    find_stored_preset,
)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_a_preset_is_consistent(preset):
    assert preset.image_size % preset.stride == 0
    # The encoder ends, and the decoder takes the latent, at the size of the latent.
    assert preset.fold * 2 ** (len(preset.encoder_widths) - 1) == preset.stride
    assert preset.fold * 2 ** (len(preset.decoder_widths) - 1) >= preset.stride
    assert all(width % preset.decoder_groups == 0 for width in preset.decoder_widths)
    assert preset.image_size % (preset.fold * 2 ** (len(preset.decoder_widths) - 1)) == 0
    assert preset.model is not None or preset.latent_channels <= 3 * preset.stride**2
    assert len(preset.unet_channels) == len(preset.unet_attention)
    assert preset.prediction in (
        {"epsilon", "v_prediction", "model"} if preset.family else {"epsilon", "v_prediction"}
    )


def test_presets_have_the_values_of_the_paper():
    for preset in PRESETS.values():
        assert preset.offset_dropout == 0.3
        assert preset.new_sample_weight == 2.0
        assert preset.real_share == diversity_guard.DEFAULT_SHARE
        assert (
            preset.reconstruction_weight
            == preset.identity_weight
            == (1.0 if preset.error == "square" else 0.2)
        )
    assert PRESETS["sdxl"].offset_scale == 100.0
    assert PRESETS["sdxl"].discriminator_weight == 0.01
    assert PRESETS["sdxl"].transparency_lr == 1e-5


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(NotFound) as caught:
        find_preset("huge")
    assert "tiny" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"error": "l2"}, "no error 'l2'"),
        ({"denoiser": "dit"}, "no denoiser 'dit'"),
        ({"cache_precision": "bf16"}, "no cache_precision 'bf16'"),
        ({"prediction": "v"}, "no prediction 'v'"),
        ({"prediction": "model"}, "needs a pretrained model"),
        ({"prediction": "epsilon"}, "epsilon prediction is undefined"),
        ({"accumulation": "0"}, "invalid accumulation 0"),
        ({"workers": "0"}, "invalid workers 0"),
        ({"sample_every_images": "0"}, "invalid sample_every_images 0"),
        ({"layers_batch": "0"}, "invalid layers_batch 0"),
        ({"layer_modules": "some"}, "no layer_modules 'some'"),
        ({"layer_roles": "foreground"}, "the layers foreground cannot be generated together"),
        ({"given_layer_prob": "1"}, "invalid given_layer_prob 1.0"),
        ({"foreground_only_prob": "-0.1"}, "invalid foreground_only_prob -0.1"),
    ],
)
def test_invalid_values_are_refused_with_a_hint(changes, message):
    with pytest.raises((NotFound, Refused), match=message) as error:
        find_preset("tiny", changes)
    assert error.value.hint


def test_every_preset_is_valid():
    for name in PRESETS:
        assert find_preset(name, {"warmup_images": "0"}).name == name


@pytest.mark.parametrize(("former", "present"), FORMER_COLUMNS.items())
def test_a_former_column_name_is_refused_with_the_present_name(former, present):
    with pytest.raises(NotFound, match=f"a preset has no column '{former}'") as error:
        find_preset("micro", {former: "1"})
    assert f"'{present}'" in error.value.hint
    assert hasattr(MICRO, present)
    assert not hasattr(MICRO, former)


def test_stored_overrides_are_read_by_their_present_names():
    stored = {"average_apart": "true", "optimiser": "lion", "known_share": "0.5", "guidance": "2"}
    preset = find_stored_preset("micro", stored)
    assert preset == replace(
        MICRO, ema_on_cpu=True, optimizer="lion", given_layer_prob=0.5, guidance=2.0
    )
    assert present_columns({"sheet_images": "8", "sample_every_images": "4"}) == {
        "sample_every_images": "4"  # given later than the former name
    }


def _request(changes, parent):
    return TrainingRequest("base", "micro", "a" * 64, None, parent, 0, 0, changes)


def test_a_request_has_former_names_from_its_parent_only():
    inherited = {"save_images": "8", "sharded": "true"}
    parent = Checkpoint({}, "whole", "micro", None, None, 0, "test", changes=inherited)
    preset = find_requested_preset(_request({**inherited, "fsdp": "false"}, parent))
    assert (preset.checkpoint_every_images, preset.fsdp) == (8, False)
    for changes, request_parent in (({"save_images": "16"}, parent), (inherited, None)):
        with pytest.raises(NotFound) as error:
            find_requested_preset(_request(changes, request_parent))
        assert "checkpoint_every_images" in error.value.hint
