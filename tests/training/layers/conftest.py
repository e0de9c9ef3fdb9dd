"""Composite pairs in a store, and a checkpoint trained on them."""

from __future__ import annotations

import pytest
import torch

from curation.domain import Checkpoint, Split
from tests.support.composite_pairs import freeze_pairs
from training.data.splits import open_split
from training.denoiser.builtin import BuiltinDenoiser
from training.layers.model import new_layered_denoiser
from training.presets.presets import PRESETS
from training.safetensors_io import save_part
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray

MICRO = PRESETS["micro"]


@pytest.fixture
def pairs(store):
    """Return a snapshot of 30 pairs."""
    return freeze_pairs(store, range(30), side=32)


@pytest.fixture
def checkpoint(store, pairs):
    """Return a checkpoint with random weights and adapters."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rgba = open_split(store, pairs, Split.train, MICRO.image_size).load_batch(range(20))
    autoencoder = fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:]))
    denoiser = BuiltinDenoiser(MICRO)
    stir(denoiser.network)
    networks = Transparency(MICRO)
    stir(networks.encoder)
    layered = new_layered_denoiser(MICRO, denoiser)
    files = {
        "backbone": save_part(store, "backbone", autoencoder.state_dict(), autoencoder.metadata()),
        "transparency": save_part(store, "transparency", networks.state_dict(), {}),
        "base": save_part(store, "base", denoiser.finetuned_state_dict(), denoiser.metadata()),
    }
    stir(layered.adapters)
    files["layers"] = save_part(store, "layers", layered.finetuned_state_dict(), layered.metadata())
    return Checkpoint(files, "pairs", "micro", pairs, None, 0, "test")


def stir(network):
    """Set parameters that are initially 0 to random values."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
