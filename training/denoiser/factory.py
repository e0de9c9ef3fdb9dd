"""Factory of denoisers: a new or a stored one, built-in or over a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from curation.errors import Refused
from training.denoiser.builtin import BuiltinDenoiser
from training.denoiser.denoiser import Denoiser
from training.denoiser.stable_diffusion import StableDiffusion
from training.presets.preset import Preset


def new_denoiser(preset: Preset) -> Denoiser:
    """A denoiser to begin a training with: a fresh one, or the pretrained one that the preset's family names.

    Raises NotFound, Refused for a model that is not there, and Refused for a family without a denoiser here.
    """
    if preset.family is None:
        return BuiltinDenoiser(preset)
    return StableDiffusion(preset)


def open_denoiser(
    preset: Preset, tensors: Mapping[str, Tensor], facts: Mapping[str, str]
) -> Denoiser:
    """A denoiser from its stored part, frozen. Raises Refused where the sizes are not the preset's, NotFound."""
    denoiser: Denoiser
    try:
        if facts.get("kind", "own") == "own":
            denoiser = BuiltinDenoiser(preset)
            denoiser.load_learnt(tensors)
        else:
            denoiser = StableDiffusion(preset, (tensors, facts))
    except RuntimeError as error:
        raise Refused(
            f"the stored base does not fit preset {preset.name!r}: {str(error)[:200]}",
            "a preset's sizes changed since it was trained; begin again without a parent",
        ) from error
    return denoiser.eval().requires_grad_(False)
