"""Export a checkpoint for other programs: Forge, ComfyUI, diffusers, PEFT and kohya's scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from curation.domain import Checkpoint
from curation.errors import Refused
from curation.object_store import write_file_atomically
from curation.ports import ObjectStore, WeightsFile
from training.interop import own_format
from training.interop.adapters import (
    peft_config,
    peft_metadata,
    safe_cast,
    write_kohya,
    write_patches,
)
from training.interop.differences import merge_adapter, subtract_weights, write_differences
from training.interop.export_files import PRECISIONS, ExportFile, save_export_file
from training.interop.key_mapping import to_ldm
from training.interop.layer_adapters import SCRIPT, example_script, write_roles
from training.interop.modes import MODES, SINGLE
from training.interop.transparency_weights import ALPHA_LAST_CHANNELS, alpha_last
from training.presets.preset import Preset
from training.presets.presets import SDXL, find_stored_preset
from training.pretrained.families import find_family
from training.pretrained.loading import load_model
from training.safetensors_io import load_part


@dataclass(frozen=True)
class ExportForm:
    """A program's file format: a row of FORMS."""

    name: str
    scale: float  # the offset scale that the program applies itself
    stem: str  # prefix of the names of the two networks' files


_V1 = ExportForm("released", 1.0, "{v1}vae_transparent_")
_LD = ExportForm("diffusers", 300.0, "ld_diffusers_{family}_vae_transparent_")

FORMATS: dict[str, ExportForm] = {
    row.name: row
    for row in (
        _V1,
        replace(_V1, name="comfyui"),
        replace(_V1, name="kohya"),
        _LD,
        replace(_LD, name="peft"),
    )
}
"""Forge and ComfyUI's nodes apply the offset unscaled, LayerDiffuse_Diffusers scales it by 300."""


def export_checkpoint(
    checkpoint: Checkpoint, store: ObjectStore, format_name: str, precision: str, folder: Path
) -> Sequence[WeightsFile]:
    """Export a checkpoint's files for another program (the port LAYERLOOP_EXPORTER).

    Each file is written completely or not at all.

    Args:
        checkpoint: The checkpoint to export.
        store: The store that holds its files.
        format_name: A name in FORMS, or "layerloop", which keeps every checkpoint bit for bit.
        precision: "stored" keeps each tensor's dtype; "fp16" and "fp32" convert.
        folder: The output folder; created if needed.

    Returns:
        The files. A part that the format does not support has no path, and the reason instead.

    Raises:
        NotFound: A file does not exist.
        Corrupt: A file's content does not match its sha256.
        Refused: The format does not support the networks or the base, or a value overflows the
            dtype.
    """
    if format_name not in {*FORMATS, own_format.FORMAT_NAME} or precision not in PRECISIONS:
        names = ", ".join([*FORMATS, own_format.FORMAT_NAME])
        known = f"formats: {names}; precisions: {', '.join(PRECISIONS)}"
        raise Refused(f"no format {format_name!r} in precision {precision!r}", known)
    if format_name == own_format.FORMAT_NAME:
        if precision != "stored":
            raise Refused("the format layerloop keeps the stored dtypes", "omit --precision")
        return own_format.write_own(checkpoint, store, folder)
    # Other programs know only the architectures of the released networks.
    preset = find_stored_preset(checkpoint.preset, checkpoint.changes)
    if replace(preset, **{column: getattr(SDXL, column) for column in _RELEASED}) != preset:
        raise Refused(
            f"other programs do not support the networks of preset {preset.name!r}",
            "presets sd15, sd21 and sdxl have the released networks; "
            "--format layerloop exports any checkpoint",
        )
    dtype = PRECISIONS[precision]
    files = write_networks(
        *load_part(store, checkpoint.files["transparency"]), preset, FORMATS[format_name], dtype
    )
    texts: dict[str, str] = {}
    skipped = [_skipped_part("backbone", "it is the model's own autoencoder")]
    # The base must be exportable; the layer modes are optional.
    for part in [SINGLE.name, *MODES]:
        if part not in checkpoint.files:
            continue
        base = load_part(store, checkpoint.files[part])
        try:
            files.append(write_base(*base, preset, format_name))
        except Refused as error:
            if part == SINGLE.name:
                raise
            skipped.append(_skipped_part(part, str(error)))
            continue
        if format_name == "peft":
            wrapped = {
                name.replace("unet.", "base_model.model.", 1): value
                for name, value in base[0].items()
            }
            config = peft_config(*base)
            files.append(
                ExportFile(
                    "adapter_model",
                    "LoRA in PEFT's names",
                    "base",
                    wrapped,
                    peft_metadata(config),
                )
            )
            # PEFT writes its configuration in place; take it through a temporary folder.
            with TemporaryDirectory() as scratch:
                config.save_pretrained(scratch)
                texts |= {file.name: file.read_text("utf-8") for file in Path(scratch).iterdir()}
    # The remaining parts are role adapters and user LoRAs.
    done = {"backbone", "transparency", SINGLE.name, *MODES}
    for part, sha256 in checkpoint.files.items():
        if part in done:
            continue
        try:
            files += _convert_other_part(
                part, *load_part(store, sha256), preset, format_name, files, texts
            )
        except Refused as error:
            skipped.append(_skipped_part(part, str(error)))
    # Write only now that every part has been converted.
    folder.mkdir(parents=True, exist_ok=True)
    written = [save_export_file(file, folder, dtype, checkpoint.id) for file in files]
    for name, text in texts.items():
        write_file_atomically(folder / name, text.encode())
    return [*written, *skipped]


def _convert_other_part(
    part: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    preset: Preset,
    form: str,
    files: Sequence[ExportFile],
    texts: dict[str, str],
) -> list[ExportFile]:
    """Convert role adapters or a user LoRA. Raises Refused if the format does not support it."""
    if metadata.get("kind") == "style":
        return [
            ExportFile(
                part,
                f"the user's LoRA {metadata['name']}, weight {metadata['weight']}",
                part,
                tensors,
            )
        ]
    if part != "layers":
        raise Refused(
            "other programs do not support this part", "--format layerloop exports everything"
        )
    # Role adapters come with a script that shows how they are used in diffusers.
    roles = write_roles(tensors, metadata, str(preset.family), form)
    base = next(
        (file.name for file in files if file.part == SINGLE.name and file.what == "LoRA"), None
    )
    names = {role: f"{name}.safetensors" for role, (name, _, _) in roles.items()}
    base_file = f"{base}.safetensors" if base else None
    texts[SCRIPT] = example_script(names, str(preset.model), str(preset.family), base_file)
    return [
        ExportFile(name, f"LoRA of the {role}", part, role_tensors, file_metadata)
        for role, (name, role_tensors, file_metadata) in roles.items()
    ]


def _skipped_part(part: str, why: str) -> WeightsFile:
    """Return the result entry of a part that is not exported, with the reason."""
    return WeightsFile("", "", f"not written: {why}", part, 0, 0)


def write_networks(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    preset: Preset,
    export_format: ExportForm,
    dtype: torch.dtype | None = None,
) -> list[ExportFile]:
    """Convert both networks of latent transparency.

    The encoder's last layer absorbs the ratio of our offset scale to the program's. It is rounded
    once, and is exact where the ratio is a power of two.

    Args:
        tensors: The stored networks.
        metadata: Their metadata, with "offset_scale".
        preset: The preset they were trained with.
        export_format: The target format.
        dtype: The output dtype, or None to keep each tensor's.
    """
    # The factor that the program will not apply, which is folded into the last layer.
    factor = float(metadata.get("offset_scale", preset.offset_scale)) / export_format.scale
    stem = export_format.stem.format(
        v1="" if preset.family == "sdxl" else f"layer_{preset.family}_", family=preset.family
    )
    # The Flux port, the only one with 16 latent channels, has alpha as the last channel.
    last = preset.latent_channels == ALPHA_LAST_CHANNELS
    files = []
    for network in ("encoder", "decoder"):
        network_tensors = {
            name.removeprefix(f"{network}."): t
            for name, t in tensors.items()
            if name.startswith(f"{network}.")
        }
        network_tensors = alpha_last(network_tensors) if last else network_tensors
        file_metadata, what = {"channels": "alpha last" if last else "alpha first"}, network
        if network == "encoder":
            network_tensors = (
                network_tensors if factor == 1 else _folded(network_tensors, factor, dtype)
            )
            file_metadata["offset_scale"], what = (
                repr(export_format.scale),
                f"encoder, offset scale {export_format.scale:g}",
            )
        files.append(
            ExportFile(f"{stem}{network}", what, "transparency", network_tensors, file_metadata)
        )
    return files


_RELEASED = (
    *(
        "stride",
        "networks",
        "encoder_widths",
        "decoder_widths",
        "decoder_layers",
        "decoder_attention",
        "decoder_groups",
    ),
    *("fold", "decoder_residual"),
)
"""The columns that define the two networks' architecture, apart from the latent channels."""


def _folded(
    encoder: Mapping[str, Tensor], factor: float, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Multiply the last layer of the encoder by a factor."""
    last = max(int(name.split(".")[1]) for name in encoder)
    folded = {
        name: value.double() * factor
        for name, value in encoder.items()
        if name.startswith(f"blocks.{last}.")
    }
    return {
        **encoder,
        **{name: safe_cast(value, dtype or encoder[name].dtype) for name, value in folded.items()},
    }


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
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], preset: Preset, form: str
) -> ExportFile:
    family, kind = str(preset.family), metadata["kind"]
    # File names follow those of the released files.
    v1 = "layer_xl_" if family == "sdxl" else f"layer_{family}_"
    match kind, form:
        case "adapter", "released" | "comfyui" if family != "sdxl":
            raise Refused(
                f"a LoRA of {family} cannot be written as {form}: for SD 1.5, LayerDiffuse in "
                "Forge and ComfyUI supports only attention sharing",
                "write it with --format kohya, and load it there as any other LoRA",
            )
        case "adapter", "released" | "comfyui":
            return ExportFile(
                f"{v1}transparent_attn",
                "low-rank patches",
                "base",
                write_patches(tensors, metadata, family),
            )
        # Adapters stay low-rank where the format allows it, and are multiplied out for diffusers.
        case "adapter", "kohya":
            return ExportFile(
                f"{v1}transparent_kohya", "LoRA", "base", write_kohya(tensors, metadata, family)
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
                f"{v1}transparent_conv", "differences", "base", write_differences(tensors, family)
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
            return ExportFile(f"{v1}transparent_unet", "the whole UNet", "base", whole)
        case "weights", "released":
            added = write_differences(subtract_weights(tensors, _start(preset)), family)
            return ExportFile(f"{v1}transparent_conv", "differences", "base", added)
        case "sharing", "released" | "comfyui":
            return ExportFile(f"{v1}transparent_attn", "attention sharing", "base", tensors)
    raise Refused(
        f"a base of kind {kind!r} cannot be written as {form}",
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
