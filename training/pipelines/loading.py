"""What a transparent pipeline is made of, from files: both networks, and what a UNet was taught."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curation.errors import NotFound, Refused
from training.denoiser.finetuned_weights import teach
from training.external_weights import Header, read_header, read_tensors
from training.interop import read_transparency
from training.interop.adapters import merged, pairs
from training.interop.denoiser_weights import read_base_file
from training.interop.formats import WeightFormat, recognise_parts
from training.interop.modes import MODES
from training.pipelines.saving import read_columns
from training.presets.presets import PRESETS, find_preset
from training.safetensors_io import facts_in
from training.transparency.networks import Transparency, open_transparency

Files = str | Path | Sequence[str | Path]


def load_transparency(
    source: Transparency | Files, channels: int = 4, offset_scale: float | None = None
) -> Transparency:
    """Both networks of latent transparency, frozen, float32.

    source: the networks themselves, a safetensors file of a checkpoint's part, released files (a decoder, and an
    encoder where pictures are to be encoded), or a folder of either. channels: of the latents. offset_scale: what the
    encoder was trained with, where its file does not say (300 for LayerDiffuse_Diffusers). Raises NotFound, Refused.
    """
    if isinstance(source, Transparency):
        return source
    headers = [read_header(path) for path in _paths(source)]
    for header in headers:
        if facts_in(header.metadata).get("part") == "transparency":
            return _open_part(header, offset_scale)
    wanted = {WeightFormat.encoder, WeightFormat.decoder}
    several = (
        isinstance(source, str | Path) and Path(source).is_dir()
    )  # there may be other files in a folder
    files = [header.path for header in headers if not several or _is_one_of(header, wanted)]
    return read_transparency(
        files, replace(PRESETS["sdxl"], latent_channels=channels), offset_scale
    )[0]


def learn(unet: Any, files: Files) -> None:
    """Put what released files, LoRAs or a checkpoint's base taught into a UNet, in place, for drawing.

    Adapters are added to the weights (W + alpha / rank * B A): a user's own LoRAs, loaded before or after, stay what
    the pipeline's own methods make of them, and the order does not matter. Raises NotFound, Refused.
    """
    for path in _paths(files):
        tensors, facts = read_base_file(path)
        if "mode" in facts:
            hint = "give it to the pipeline of its mode, such as ForegroundToBlendedPipeline, as layers="
            raise Refused(f"{path} draws no foreground alone: it is {MODES[facts['mode']]}", hint)
        merge(unet, tensors, facts, path)


def merge(
    unet: Any,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, str],
    source: object = "the stored base",
) -> None:
    """`learn` of tensors that are read already. Raises Refused where they do not fit the UNet."""
    if facts["kind"] == "adapter":
        scale = float(facts["alpha"]) / float(facts["rank"])
        tensors = {
            f"{module}.weight": merged(down, up, scale)
            for module, (down, up) in pairs(tensors).items()
        }
        facts = {"kind": "difference"}
    try:
        teach(unet, tensors, facts)
    except RuntimeError as error:
        hint = "is it for another family of models?"
        raise Refused(f"{source} does not fit this UNet: {str(error)[:200]}", hint) from error
    unet.requires_grad_(False)


def _paths(source: Files) -> list[Path]:
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


def _is_one_of(header: Header, wanted: set[WeightFormat]) -> bool:
    try:
        return any(layout in wanted for layout, _ in recognise_parts(header))
    except Refused:
        return False


def _open_part(header: Header, offset_scale: float | None) -> Transparency:
    facts = facts_in(header.metadata)
    preset = read_columns(facts) or find_preset(
        facts["preset"], json.loads(facts.get("changes", "{}"))
    )
    with torch.no_grad():
        networks = open_transparency(preset, read_tensors(header, header.shapes), facts)
    if offset_scale is not None:
        networks.encoder.offset_scale = offset_scale
    return networks
