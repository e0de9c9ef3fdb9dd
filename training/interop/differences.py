"""What is added to a UNet's weights: released differences, in original and in diffusers' names, and adapters merged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.external_weights import Header, read_tensors
from training.interop.adapters import Read, merged, pairs
from training.interop.key_mapping import to_diffusers, to_ldm


def read_differences(header: Header) -> Read:
    """layerdiffusion-v1's `diffusion_model.<original name>::diff::0`. Raises Refused."""
    named = {
        name: to_diffusers(name.removeprefix("diffusion_model.").partition("::")[0])
        for name in header.shapes
    }
    read = read_tensors(header, named)
    return {ours: read[name] for name, ours in named.items()}, {"kind": "difference"}


def read_unet_names(header: Header, kind: str) -> Read:
    """A file in diffusers' UNet names: the differences of LayerDiffuse_Diffusers, or a whole UNet ("weights")."""
    read = read_tensors(header, header.shapes)
    return {name.removeprefix("unet."): value for name, value in read.items()}, {"kind": kind}


def write_differences(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The inverse of `read_differences`."""
    return {
        f"diffusion_model.{to_ldm(name, family)}::diff::0": value for name, value in tensors.items()
    }


def merge_adapter(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> dict[str, Tensor]:
    """A stored adapter as differences in diffusers' names, in the adapter's own type: what it adds to each weight."""
    scale = float(facts["alpha"]) / float(facts["rank"])
    return {
        f"{module}.weight": merged(down, up, scale).to(up.dtype)
        for module, (down, up) in pairs(tensors).items()
    }


def subtract_weights(
    tensors: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What a training added to the UNet it started from, in float32; tensors that did not change are left out.

    Channels that the first convolution has more than the UNet's began as zeros.
    """
    changed = {name: value.float() - _like(value, start[name]) for name, value in tensors.items()}
    return {name: value for name, value in changed.items() if value.any()}


def _like(value: Tensor, start: Tensor) -> Tensor:
    if value.shape == start.shape:
        return start.float()
    wider = torch.zeros(value.shape)
    wider[:, : start.shape[1]] = start
    return wider
