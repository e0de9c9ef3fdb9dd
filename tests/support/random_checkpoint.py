"""Checkpoints of built-in presets with random weights of the right sizes, made in seconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from curation.domain import Checkpoint
from curation.ports import ObjectStore
from training.denoiser.builtin import BuiltinDenoiser
from training.layers.model import new_layered_denoiser
from training.presets.presets import find_preset
from training.safetensors_io import save_part
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency


def random_checkpoint(
    store: ObjectStore, name: str = "micro", *, pairs: bool = False, **changes: str
) -> Checkpoint:
    """Return a checkpoint that generates single layers, and with `pairs` also pairs."""
    torch.manual_seed(0)
    preset = find_preset(name, changes)
    side = preset.image_size
    autoencoder = fit_autoencoder(preset, torch.rand(48, 3, side, side) * 2 - 1)
    denoiser = BuiltinDenoiser(preset)
    _stir(denoiser.network)
    networks = Transparency(preset)
    _stir(networks.encoder)
    parts: dict[str, tuple[Any, Any]] = {
        "backbone": (autoencoder.state_dict(), autoencoder.metadata()),
        "transparency": (networks.state_dict(), {}),
        "base": (denoiser.finetuned_state_dict(), denoiser.metadata()),
    }
    if pairs:
        layered = new_layered_denoiser(preset, denoiser)
        _stir(layered.adapters)
        parts["layers"] = layered.finetuned_state_dict(), layered.metadata()
    files = {part: save_part(store, part, *content) for part, content in parts.items()}
    recipe = "pairs" if pairs else "whole"
    return Checkpoint(files, recipe, name, None, None, 0, "test", changes=changes)


def _stir(network: nn.Module) -> None:
    """Give numbers to what begins at 0 and would hide what is behind it."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
