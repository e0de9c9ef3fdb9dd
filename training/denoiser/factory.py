"""Factory of denoisers: new or stored, built-in or pretrained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from curation.errors import Refused
from training.denoiser.builtin import BuiltinDenoiser
from training.denoiser.denoiser import Denoiser
from training.denoiser.stable_diffusion import StableDiffusion
from training.presets.preset import Preset


def new_denoiser(preset: Preset) -> Denoiser:
    """Create a denoiser to train: an untrained one, or the pretrained model of the preset's family.

    Raises:
        NotFound: The pretrained model does not exist.
        Refused: It cannot be loaded, or its family has no denoiser here.
    """
    if preset.family is None:
        return BuiltinDenoiser(preset)
    return StableDiffusion(preset)


def load_denoiser(
    preset: Preset, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Denoiser:
    """Load a denoiser from the stored part of a checkpoint, frozen.

    Args:
        preset: The checkpoint's preset.
        tensors: The stored tensors.
        metadata: Their metadata.

    Raises:
        NotFound: The pretrained model does not exist.
        Refused: The tensors do not fit the preset.
    """
    denoiser: Denoiser
    try:
        if metadata.get("kind", "own") == "own":
            denoiser = BuiltinDenoiser(preset)
            denoiser.load_finetuned(tensors)
        else:
            denoiser = StableDiffusion(preset, (tensors, metadata))
    except RuntimeError as error:
        raise Refused(
            f"the stored base does not fit preset {preset.name!r}: {str(error)[:200]}",
            "the preset's sizes have changed since it was trained; train again without a parent",
        ) from error
    return denoiser.eval().requires_grad_(False)
