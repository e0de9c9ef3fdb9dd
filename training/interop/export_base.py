"""Export of a checkpoint's base model as one file or a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from curation.errors import Refused
from training.interop.adapters import (
    peft_config,
    peft_metadata,
    write_kohya,
    write_patches,
)
from training.interop.differences import merge_adapter, subtract_weights, write_differences
from training.interop.export_files import ExportFile
from training.interop.key_mapping import to_ldm
from training.interop.modes import MODES
from training.presets.preset import Preset
from training.pretrained.families import find_family
from training.pretrained.loading import load_model


def write_base(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], preset: Preset, format_name: str
) -> ExportFile:
    """Convert a base to a program's format.

    Args:
        tensors: The base in our names.
        metadata: Its metadata, with "kind".
        preset: The preset, whose family and model it belongs to.
        format_name: The name of the format.

    Raises:
        NotFound: The model does not exist.
        Refused: The format does not support the base.
    """
    mode = metadata.get("mode")
    file = _write_base(tensors, metadata, preset, format_name)
    if mode is None:
        return file
    stem = file.name.partition("_transparent")[0].removesuffix("_attn")
    # Some modes have the same tensor names and shapes: record the mode in the metadata.
    return replace(
        file,
        name=f"{stem}_{mode}",
        what=f"{file.what}, {MODES[mode]}",
        part=mode,
        metadata={"mode": mode},
    )


def _write_base(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], preset: Preset, format_name: str
) -> ExportFile:
    family, kind = str(preset.family), metadata["kind"]
    # File names follow those of the released files.
    prefix = "layer_xl_" if family == "sdxl" else f"layer_{family}_"
    match kind, format_name:
        case "adapter", "released" | "comfyui" if family != "sdxl":
            raise Refused(
                f"a LoRA of {family} cannot be written as {format_name}: for SD 1.5, LayerDiffuse "
                "in Forge and ComfyUI supports only attention sharing",
                "write it with --format kohya, and load it there as any other LoRA",
            )
        case "adapter", "released" | "comfyui":
            return ExportFile(
                f"{prefix}transparent_attn",
                "low-rank patches",
                "base",
                write_patches(tensors, metadata, family),
            )
        # Adapters stay low-rank where the format allows it; for diffusers they become differences.
        case "adapter", "kohya":
            return ExportFile(
                f"{prefix}transparent_kohya", "LoRA", "base", write_kohya(tensors, metadata, family)
            )
        case "adapter", "peft":
            config = peft_config(tensors, metadata)
            return ExportFile(
                "pytorch_lora_weights", "LoRA", "base", tensors, peft_metadata(config)
            )
        case "adapter", "diffusers":
            return ExportFile(
                f"ld_diffusers_{family}_attn",
                "differences",
                "base",
                merge_adapter(tensors, metadata),
            )
        # Differences exist in original names and in diffusers' names.
        case "difference", "released" | "comfyui":
            return ExportFile(
                f"{prefix}transparent_conv",
                "differences",
                "base",
                write_differences(tensors, family),
            )
        case "difference", "diffusers":
            return ExportFile(f"ld_diffusers_{family}_attn", "differences", "base", tensors)
        # A whole UNet is written as it is, or as differences from the model it started from.
        case "weights", "diffusers":
            return ExportFile("diffusion_pytorch_model", "the whole UNet", "base", tensors)
        case "weights", "comfyui":
            whole = {
                f"model.diffusion_model.{to_ldm(name, family)}": value
                for name, value in tensors.items()
            }
            return ExportFile(f"{prefix}transparent_unet", "the whole UNet", "base", whole)
        case "weights", "released":
            added = write_differences(subtract_weights(tensors, _start(preset)), family)
            return ExportFile(f"{prefix}transparent_conv", "differences", "base", added)
        case "sharing", "released" | "comfyui":
            return ExportFile(f"{prefix}transparent_attn", "attention sharing", "base", tensors)
    raise Refused(
        f"a base of kind {kind!r} cannot be written as {format_name}",
        _HINTS.get(kind, "no other program supports it"),
    )


_HINTS = {
    "adapter": "formats: released, comfyui, diffusers, peft, kohya",
    "difference": "formats: released, comfyui, diffusers",
    "weights": "formats: diffusers, comfyui, released; it is not a LoRA",
    "sharing": "formats: released, comfyui",
}


def _start(preset: Preset) -> dict[str, Tensor]:
    """Load the UNet that a full fine-tuning started from."""
    from diffusers import UNet2DConditionModel

    family = find_family(str(preset.family))
    unet = load_model(UNet2DConditionModel, str(preset.model), family.denoiser, preset.variant)
    return dict(unet.state_dict())
