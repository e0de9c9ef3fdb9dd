"""User LoRAs as parts of a checkpoint: stored with a weight, and fused when it is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from curation.domain import Checkpoint, canonical_json
from curation.errors import Refused
from curation.object_store import compute_sha256
from curation.ports import LoraFile, ObjectStore
from training.checkpoint import LORA_PREFIX
from training.external_weights import WeightsHeader, read_header, read_tensors
from training.interop.adapters import read_lora
from training.interop.denoiser_weights import check_base
from training.interop.formats import WeightFormat, recognize
from training.interop.relatives import is_text_encoder_key
from training.presets.presets import find_stored_preset
from training.pretrained.families import find_family
from training.safetensors_io import save_part

StoredLora = tuple[Mapping[str, Tensor], Mapping[str, str]]


def add_loras(checkpoint: Checkpoint, store: ObjectStore, styles: Sequence[LoraFile]) -> Checkpoint:
    """Store LoRAs beside a checkpoint's weights (the port LAYERLOOP_LORA_LOADER).

    The result has its own id and the given checkpoint as its parent; generated candidates refer to
    it.

    Args:
        checkpoint: A checkpoint of a pretrained family.
        store: The store to write to.
        styles: LoRA files of any program, for UNet and text encoders, in the order of application.

    Raises:
        NotFound: A file does not exist.
        Refused: A file is not a LoRA or not for this model, or the denoiser is a built-in one.
    """
    preset = find_stored_preset(checkpoint.preset, checkpoint.changes)
    if preset.family is None or find_family(preset.family).denoiser is None:
        hint = "use a checkpoint of the presets sd15, sd21 or sdxl"
        raise Refused(
            f"the preset {preset.name!r} has a built-in denoiser, which does not support LoRAs",
            hint,
        )
    # Check all files before anything is stored, and continue the numbers of existing LoRAs.
    headers = [read_header(style.path) for style in styles]
    for header in headers:
        _check(header, preset)
    numbers = [
        int(part.removeprefix(LORA_PREFIX))
        for part in checkpoint.files
        if part.startswith(LORA_PREFIX)
    ]
    # Each LoRA becomes a part of its own, with the file's metadata.
    files = dict(checkpoint.files)
    for index, (style, header) in enumerate(
        zip(styles, headers, strict=True), max(numbers, default=0) + 1
    ):
        metadata = {
            "kind": "style",
            "name": style.path.name,
            "weight": repr(float(style.weight)),
            "sha256": compute_sha256(style.path),
            "header": canonical_json(dict(header.metadata)),
        }
        part = f"{LORA_PREFIX}{index}"
        files[part] = save_part(store, part, read_tensors(header, header.shapes), metadata)
    return replace(checkpoint, files=files, parent=checkpoint.id, evaluation={}, sample_grid=None)


def apply_loras(pipeline: Any, styles: Sequence[StoredLora]) -> None:
    """Fuse stored LoRAs into a diffusers pipeline, in place. Raises Refused if one does not fit."""
    if not styles:
        return
    names = [f"style_{index}" for index in range(len(styles))]
    for name, (tensors, metadata) in zip(names, styles, strict=True):
        # diffusers reads rank and alpha from the metadata of a file, so write one.
        with TemporaryDirectory() as folder:
            save_file(
                dict(tensors),
                Path(folder) / "lora.safetensors",
                json.loads(metadata["header"]) or None,
            )
            try:
                pipeline.load_lora_weights(
                    folder, weight_name="lora.safetensors", adapter_name=name
                )
            except (ValueError, RuntimeError, KeyError, OSError) as error:
                hint = "is it for another family of models?"
                raise Refused(
                    f"the LoRA {metadata['name']} does not fit: {str(error)[:200]}", hint
                ) from error
    # Fuse all at once with their weights, then drop the adapter layers.
    pipeline.set_adapters(names, [float(metadata["weight"]) for _, metadata in styles])
    pipeline.fuse_lora(adapter_names=names)
    pipeline.unload_lora_weights()


def describe_loras(styles: Sequence[StoredLora]) -> dict[str, str]:
    """Describe the LoRAs of a generation: name, first digits of the file's sha256, weight."""
    described = [
        f"{metadata['name']} {metadata['sha256'][:12]}:{float(metadata['weight']):g}"
        for _, metadata in styles
    ]
    return {"lora": ", ".join(described)} if described else {}


def _check(header: WeightsHeader, preset: Any) -> None:
    """Check that a file is a LoRA whose UNet part fits the preset's model. Raises Refused."""
    # Text-encoder tensors are allowed, and not checked.
    of_unet = {
        name: shape for name, shape in header.shapes.items() if not is_text_encoder_key(name)
    }
    if not of_unet:
        return
    layout = recognize(replace(header, shapes=of_unet))
    if layout is not WeightFormat.lora:
        hint = "import weights of transparency with: layerloop checkpoint import"
        raise Refused(f"{header.path} is {layout}, not a style LoRA", hint)
    check_base(*read_lora(replace(header, shapes=of_unet)), preset)
