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
)
from training.interop.export_base import write_base
from training.interop.export_files import PRECISIONS, ExportFile, save_export_file
from training.interop.layer_adapters import SCRIPT, example_script, write_roles
from training.interop.modes import MODES, SINGLE
from training.interop.transparency_weights import ALPHA_LAST_CHANNELS, alpha_last
from training.presets.preset import Preset
from training.presets.presets import SDXL, find_stored_preset
from training.safetensors_io import load_part


@dataclass(frozen=True)
class ExportForm:
    """A program's file format: a row of FORMATS."""

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
        format_name: A name in FORMATS, or "layerloop", which keeps every checkpoint bit for bit.
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
