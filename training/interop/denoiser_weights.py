"""Import of a base from a weight file of any known format, checked against the model it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curation.errors import Refused
from training.denoiser.attention_sharing import attention_names, install_attention_sharing
from training.external_weights import WeightsHeader, read_header, read_tensors
from training.interop.adapters import PartTensors, matrices_by_module, read_lora, read_patches
from training.interop.differences import read_differences, read_unet_names
from training.interop.formats import WeightFormat, recognize_parts, sharing_frames
from training.interop.modes import find_mode
from training.presets.preset import Preset
from training.pretrained.families import find_family
from training.pretrained.loading import load_config


def read_base(header: WeightsHeader, weight_format: WeightFormat) -> PartTensors:
    """Read a base's tensors, in the file's dtypes, and its metadata.

    The metadata has "kind" (adapter, difference, weights or sharing), and "mode" if it generates
    anything other than single foregrounds.

    Args:
        header: The file's header.
        weight_format: Its format, as recognized.

    Raises:
        NotFound: The file does not exist.
        Refused: The mode is ambiguous, or a tensor is not finite or has no partner.
    """
    mode = find_mode(header, weight_format).mode
    tensors, metadata = _read(header, weight_format)
    return tensors, metadata | ({"mode": mode.name} if mode else {})


def read_denoiser_file(path: Path) -> PartTensors:
    """Read the base in one file of any known format.

    Raises:
        NotFound: The file does not exist.
        Refused: The file has no base.
    """
    found = recognize_parts(read_header(path))
    if len(found) > 1:
        raise Refused(
            f"{path} holds {' and '.join(layout for layout, _ in found)}, not a base",
            "pass it as transparency=",
        )
    [(layout, header)] = found
    return read_base(header, layout)


def _read(header: WeightsHeader, layout: WeightFormat) -> PartTensors:
    match layout:
        case WeightFormat.patches:
            return read_patches(header)
        case WeightFormat.lora:
            return read_lora(header)
        case WeightFormat.differences:
            return read_differences(header)
        case WeightFormat.offsets:
            return read_unet_names(header, "difference")
        # A whole UNet and differences have the same names; their values tell them apart.
        case WeightFormat.unet:
            tensors, _ = read_unet_names(header, "weights")
            return tensors, {"kind": "weights" if _stands_alone(tensors) else "difference"}
        case WeightFormat.sharing:
            return _read_sharing(header)
        case _:
            raise Refused(f"{header.path} is not a base: it is an {layout}")


def check_base(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], preset: Preset) -> None:
    """Check that a base fits the UNet of the preset's model, using the model's configuration alone.

    Args:
        tensors: The base in our names.
        metadata: Its metadata.
        preset: The preset, of a pretrained family.

    Raises:
        NotFound: The model does not exist.
        Refused: The base does not fit, or the preset has no pretrained UNet.
    """
    unet = _empty_unet(preset)
    misfit = _misfit(tensors, metadata["kind"], unet)
    if misfit:
        raise Refused(
            f"these weights are not for {preset.model} (preset {preset.name!r}): {misfit}",
            "choose the preset of their family: sd15, sd21 or sdxl",
        )


def _misfit(tensors: Mapping[str, Tensor], kind: str, unet: Any) -> str | None:
    """Describe the first mismatch between a base and a UNet, or return None."""
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    match kind:
        # Adapters: each pair of matrices must fit the weight of its module.
        case "adapter":
            for module, (down, up) in matrices_by_module(tensors).items():
                expected = shapes.get(f"{module}.weight")
                if expected is None or (len(up), *down.shape[1:]) != expected:
                    found = f"{len(up)} x {down.shape[1]}"
                    return f"{module} is {found} in the file and {_size(expected)} in the model"
        # Attention sharing: the model must have its attentions and its text width.
        case "sharing":
            if len(attention_names(unet)) == 0 or unet.config["cross_attention_dim"] != _context(
                tensors
            ):
                return f"their text states have width {_context(tensors)}"
            install_attention_sharing(unet, tensors)
        # Differences and whole UNets: every tensor must have its shape in the model.
        case _:
            for name, value in tensors.items():
                expected = shapes.get(name)
                # A base for given layers has a wider first convolution.
                wider = (
                    name == "conv_in.weight"
                    and expected is not None
                    and value.shape[1] % expected[1] == 0
                )
                if expected is None or (
                    tuple(value.shape) != expected and not (wider and value.shape[0] == expected[0])
                ):
                    found = _size(tuple(value.shape))
                    return f"{name} is {found} in the file and {_size(expected)} in the model"
            if kind == "weights" and (missing := sorted(shapes.keys() - tensors.keys())):
                return f"{missing[0]} is missing"
    return None


def _empty_unet(preset: Preset) -> Any:
    """Build the UNet of the preset's model on the "meta" device."""
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
    """Return whether tensors are a whole UNet rather than differences.

    The scales of normalization layers are about 1 in a UNet, and about 0 in differences.
    """
    scales = [
        value.float().abs().mean()
        for name, value in tensors.items()
        if "norm" in name and name.endswith("weight")
    ]
    return bool(scales) and bool(torch.stack(scales).mean() > 0.1)


def _read_sharing(header: WeightsHeader) -> PartTensors:
    tensors = read_tensors(header, header.shapes)
    rank = len(tensors["hookers.layers.0.to_q_lora.0.down.weight"])
    return tensors, {
        "kind": "sharing",
        "frames": str(sharing_frames(header.shapes)[0]),
        "rank": str(rank),
    }


def _context(tensors: Mapping[str, Tensor]) -> int:
    """Return the width of the text states that attention sharing was trained with.

    The second of its attentions is the cross-attention.
    """
    return int(tensors["hookers.layers.1.to_k_lora.0.down.weight"].shape[1])


def _size(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "absent"
