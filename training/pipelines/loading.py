"""Loading of a transparent pipeline's components: both networks, and weights of the UNet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curation.errors import NotFound, Refused
from training.denoiser.finetuned_weights import load_finetuned
from training.external_weights import WeightsHeader, read_header, read_tensors
from training.interop import read_transparency
from training.interop.adapters import lora_delta, matrices_by_module
from training.interop.denoiser_weights import read_denoiser_file
from training.interop.formats import WeightFormat, recognize_parts
from training.interop.modes import MODES
from training.pipelines.saving import read_saved_preset
from training.presets.presets import PRESETS, find_preset
from training.safetensors_io import layerloop_metadata
from training.transparency.networks import Transparency, open_transparency

Files = str | Path | Sequence[str | Path]


def load_transparency(
    source: Transparency | Files, channels: int = 4, offset_scale: float | None = None
) -> Transparency:
    """Load both networks of latent transparency, frozen, in float32.

    Args:
        source (`Transparency`, `str`, `Path` or a sequence of paths):
            The networks themselves, a safetensors file of a checkpoint's part, released files (a
            decoder, and an encoder if images are to be encoded), or a folder with either.
        channels (`int`, *optional*, defaults to 4):
            The latent channels.
        offset_scale (`float`, *optional*):
            The offset scale that the encoder was trained with, if its file does not state it (300
            for LayerDiffuse_Diffusers).

    Raises:
        NotFound: A file does not exist.
        Refused: A file is not supported.
    """
    if isinstance(source, Transparency):
        return source
    headers = [read_header(path) for path in _paths(source)]
    # A part of a checkpoint has everything in one file.
    for header in headers:
        if layerloop_metadata(header.metadata).get("part") == "transparency":
            return _open_part(header, offset_scale)
    formats = {WeightFormat.encoder, WeightFormat.decoder}
    # A folder may have other weight files too.
    from_folder = isinstance(source, str | Path) and Path(source).is_dir()
    files = [header.path for header in headers if not from_folder or _is_one_of(header, formats)]
    return read_transparency(
        files, replace(PRESETS["sdxl"], latent_channels=channels), offset_scale
    )[0]


def merge_files(unet: Any, files: Files) -> None:
    """Merge released files, LoRAs or a checkpoint's base into a UNet, in place, for generation.

    Adapters are added to the weights (W + alpha / rank * B A). User LoRAs that are loaded before or
    after with the pipeline's own methods are not affected, and the order does not matter.

    Args:
        unet (`UNet2DConditionModel`):
            The UNet to change.
        files (`str`, `Path` or a sequence of paths):
            The files, in order.

    Raises:
        NotFound: A file does not exist.
        Refused: A file does not fit the UNet, or belongs to a layer mode.
    """
    for path in _paths(files):
        tensors, metadata = read_denoiser_file(path)
        if "mode" in metadata:
            hint = "pass it as layers= to its mode's pipeline, such as ForegroundToBlendedPipeline"
            raise Refused(
                f"{path} does not generate single foregrounds: it is {MODES[metadata['mode']]}",
                hint,
            )
        merge_weights(unet, tensors, metadata, path)


def merge_weights(
    unet: Any,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    source: object = "the stored base",
) -> None:
    """Merge tensors that are already read into a UNet, in place, as `learn` does.

    Args:
        unet (`UNet2DConditionModel`):
            The UNet to change.
        tensors (`Mapping[str, torch.Tensor]`):
            The tensors of an adapter, differences, weights or attention sharing.
        metadata (`Mapping[str, str]`):
            Their metadata, with "kind".
        source (`object`, *optional*):
            The name of the source in errors.

    Raises:
        Refused: The tensors do not fit the UNet.
    """
    # Multiply adapters out in float32 before adding them.
    if metadata["kind"] == "adapter":
        scale = float(metadata["alpha"]) / float(metadata["rank"])
        tensors = {
            f"{module}.weight": lora_delta(down, up, scale)
            for module, (down, up) in matrices_by_module(tensors).items()
        }
        metadata = {"kind": "difference"}
    try:
        load_finetuned(unet, tensors, metadata)
    except RuntimeError as error:
        hint = "is it for another family of models?"
        raise Refused(f"{source} does not fit this UNet: {str(error)[:200]}", hint) from error
    unet.requires_grad_(False)


def _paths(source: Files) -> list[Path]:
    """Return the weight files of a source. Raises NotFound for a folder without any."""
    if not isinstance(source, str | Path):
        return [Path(path) for path in source]
    if not Path(source).is_dir():
        return [Path(source)]
    found = sorted(Path(source).glob("*.safetensors"))
    if not found:
        raise NotFound(
            f"there are no safetensors files in {source}",
            "give the files of an encoder and a decoder",
        )
    return found


def _is_one_of(header: WeightsHeader, formats: set[WeightFormat]) -> bool:
    try:
        return any(layout in formats for layout, _ in recognize_parts(header))
    except Refused:
        return False


def _open_part(header: WeightsHeader, offset_scale: float | None) -> Transparency:
    """Load both networks from the part "transparency" of a checkpoint."""
    metadata = layerloop_metadata(header.metadata)
    preset = read_saved_preset(metadata) or find_preset(
        metadata["preset"], json.loads(metadata.get("changes", "{}"))
    )
    with torch.no_grad():
        networks = open_transparency(preset, read_tensors(header, header.shapes), metadata)
    if offset_scale is not None:
        networks.encoder.offset_scale = offset_scale
    return networks
