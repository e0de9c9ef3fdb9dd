"""The base of a checkpoint from a released file, whatever its layout, held against the model that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curation.errors import Refused
from training.denoiser.attention_sharing import attention_names, share_attention
from training.external_weights import Header, read_header, read_tensors
from training.interop.adapters import Read, pairs, read_lora, read_patches
from training.interop.differences import read_differences, read_unet_names
from training.interop.formats import WeightFormat, frames_of, recognise_parts
from training.interop.modes import find_mode
from training.presets.preset import Preset
from training.pretrained.families import find_family
from training.pretrained.loading import load_config


def read_base(header: Header, layout: WeightFormat) -> Read:
    """A base's tensors, in the file's types, and its facts.

    "kind": adapter, difference, weights or sharing; "mode": what it draws, where that is not a foreground alone.
    Raises Refused where the mode cannot be told, and where a tensor is not finite or has no partner.
    """
    mode = find_mode(header, layout).mode
    tensors, facts = _read(header, layout)
    return tensors, facts | ({"mode": mode.name} if mode else {})


def read_base_file(path: Path) -> Read:
    """The base in one file. Raises NotFound; Refused where the file is something else."""
    found = recognise_parts(read_header(path))
    if len(found) > 1:
        raise Refused(
            f"{path} holds {' and '.join(layout for layout, _ in found)}, no base",
            "give it as transparency",
        )
    [(layout, header)] = found
    return read_base(header, layout)


def _read(header: Header, layout: WeightFormat) -> Read:
    match layout:
        case WeightFormat.patches:
            return read_patches(header)
        case WeightFormat.lora:
            return read_lora(header)
        case WeightFormat.differences:
            return read_differences(header)
        case WeightFormat.offsets:
            return read_unet_names(header, "difference")
        case WeightFormat.unet:
            tensors, _ = read_unet_names(header, "weights")
            return tensors, {"kind": "weights" if _stands_alone(tensors) else "difference"}
        case WeightFormat.sharing:
            return _read_sharing(header)
        case _:
            raise Refused(f"{header.path} is no base, but an {layout}")


def check_base(tensors: Mapping[str, Tensor], facts: Mapping[str, str], preset: Preset) -> None:
    """Whether a base fits the UNet of the preset's model, by its configuration alone. Raises NotFound, Refused."""
    unet = _empty_unet(preset)
    misfit = _misfit(tensors, facts["kind"], unet)
    if misfit:
        raise Refused(
            f"these weights are not for {preset.model} (preset {preset.name!r}): {misfit}",
            "choose the preset of their family: sd15, sd21 or sdxl",
        )


def _misfit(tensors: Mapping[str, Tensor], kind: str, unet: Any) -> str | None:
    """The first thing that does not fit, in words."""
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    match kind:
        case "adapter":
            for module, (down, up) in pairs(tensors).items():
                own = shapes.get(f"{module}.weight")
                if own is None or (len(up), *down.shape[1:]) != own:
                    return f"{module} is {len(up)} x {down.shape[1]} there and {_size(own)} in the model"
        case "sharing":
            if len(attention_names(unet)) == 0 or unet.config["cross_attention_dim"] != _context(
                tensors
            ):
                return f"their texts have {_context(tensors)} numbers a word"
            share_attention(unet, tensors)
        case _:
            for name, value in tensors.items():
                own = shapes.get(name)
                wider = (
                    name == "conv_in.weight" and own is not None and value.shape[1] % own[1] == 0
                )
                if own is None or (
                    tuple(value.shape) != own and not (wider and value.shape[0] == own[0])
                ):
                    return (
                        f"{name} is {_size(tuple(value.shape))} there and {_size(own)} in the model"
                    )
            if kind == "weights" and (missing := sorted(shapes.keys() - tensors.keys())):
                return f"{missing[0]} is missing"
    return None


def _empty_unet(preset: Preset) -> Any:
    """The UNet of the preset's model without its numbers."""
    from diffusers import UNet2DConditionModel

    family = find_family(preset.family) if preset.family else None
    if family is None or family.denoiser is None or preset.model is None:
        raise Refused(
            f"preset {preset.name!r} has no pretrained UNet",
            "released bases need sd15, sd21 or sdxl",
        )
    kind: Any = UNet2DConditionModel
    config = load_config(kind, preset.model, family.denoiser)
    with torch.device("meta"):
        return kind.from_config(config)


def _stands_alone(tensors: Mapping[str, Tensor]) -> bool:
    """Whether all of a UNet's tensors are a UNet, not what is added to one: gains of norms are about 1, not 0."""
    gains = [
        value.float().abs().mean()
        for name, value in tensors.items()
        if "norm" in name and name.endswith("weight")
    ]
    return bool(gains) and bool(torch.stack(gains).mean() > 0.1)


def _read_sharing(header: Header) -> Read:
    tensors = read_tensors(header, header.shapes)
    rank = len(tensors["hookers.layers.0.to_q_lora.0.down.weight"])
    return tensors, {
        "kind": "sharing",
        "frames": str(frames_of(header.shapes)[0]),
        "rank": str(rank),
    }


def _context(tensors: Mapping[str, Tensor]) -> int:
    """The width of a text's states that attention sharing was trained with: the second attention looks at it."""
    return int(tensors["hookers.layers.1.to_k_lora.0.down.weight"].shape[1])


def _size(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "absent"
