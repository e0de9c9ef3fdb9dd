"""Weight differences of a UNet: in original or diffusers names, and adapters merged into them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.external_weights import WeightsHeader, read_tensors
from training.interop.adapters import PartTensors, lora_delta, matrices_by_module
from training.interop.key_mapping import to_diffusers, to_ldm


def read_differences(header: WeightsHeader) -> PartTensors:
    """Read layerdiffusion-v1's differences, named `diffusion_model.<original name>::diff::0`.

    Raises:
        NotFound: The file does not exist.
        Refused: A name is not of a Stable Diffusion UNet.
    """
    named = {
        name: to_diffusers(name.removeprefix("diffusion_model.").partition("::")[0])
        for name in header.shapes
    }
    read = read_tensors(header, named)
    return {ours: read[name] for name, ours in named.items()}, {"kind": "difference"}


def read_unet_names(header: WeightsHeader, kind: str) -> PartTensors:
    """Read a file with diffusers' UNet names.

    Args:
        header: The file's header.
        kind: "difference" (LayerDiffuse_Diffusers) or "weights" (a whole UNet).
    """
    read = read_tensors(header, header.shapes)
    return {name.removeprefix("unet."): value for name, value in read.items()}, {"kind": kind}


def write_differences(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Write differences in the names of layerdiffusion-v1: the inverse of `read_differences`."""
    return {
        f"diffusion_model.{to_ldm(name, family)}::diff::0": value for name, value in tensors.items()
    }


def merge_adapter(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Convert a stored adapter to differences in diffusers' names, in the adapter's dtype."""
    scale = float(metadata["alpha"]) / float(metadata["rank"])
    return {
        f"{module}.weight": lora_delta(down, up, scale).to(up.dtype)
        for module, (down, up) in matrices_by_module(tensors).items()
    }


def subtract_weights(
    tensors: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return trained weights minus their start, in float32, without unchanged tensors.

    Channels added to the first convolution started from zeros.
    """
    changed = {name: value.float() - _like(value, start[name]) for name, value in tensors.items()}
    return {name: value for name, value in changed.items() if value.any()}


def _like(value: Tensor, start: Tensor) -> Tensor:
    """Pad the input channels of the start weight with zeros to the shape of `value`."""
    if value.shape == start.shape:
        return start.float()
    wider = torch.zeros(value.shape)
    wider[:, : start.shape[1]] = start
    return wider
