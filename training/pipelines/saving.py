"""Pipelines written into a folder of diffusers: the two networks and a mode's weights stand beside its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from curation.domain import canonical_json
from curation.errors import Refused
from training.presets.preset import Preset
from training.presets.presets import PRESETS
from training.safetensors_io import FORMAT, KEY, apart
from training.transparency.networks import Transparency

TRANSPARENCY, LAYERS = "transparency", "layers"
"""The subfolders that `save_pretrained` adds to those of diffusers."""

_FILE = "model.safetensors"

_COLUMNS = (
    *(
        "stride",
        "latent_channels",
        "offset_scale",
        "networks",
        "encoder_widths",
        "decoder_widths",
        "decoder_layers",
    ),
    *(
        "decoder_attention",
        "decoder_groups",
        "fold",
        "decoder_views",
        "decoder_unfold",
        "decoder_residual",
        "tile",
    ),
)
"""The columns of a preset that decide what the two networks are."""


def find_saved(model: str, part: str) -> Path:
    """The file of a part in a folder that `save_pretrained` wrote. Raises Refused where the folder has none."""
    path = Path(model) / part / _FILE
    if not path.is_file():
        hint = f"give it as {part}=, or a folder that save_pretrained of such a pipeline wrote"
        raise Refused(f"{model} is a plain model: there is no {part}/{_FILE} in it", hint)
    return path


def save_transparency(networks: Transparency, folder: Path) -> None:
    """Write both networks with what they need to be opened again."""
    columns = {name: getattr(networks.preset, name) for name in _COLUMNS}
    facts = {
        "offset_scale": repr(networks.encoder.offset_scale),
        "columns": canonical_json(columns),
    }
    _save(folder, TRANSPARENCY, networks.state_dict(), facts)


def read_columns(facts: Mapping[str, str]) -> Preset | None:
    """The preset of networks that `save_transparency` wrote, None for any other file. Raises Refused."""
    if "columns" not in facts:
        return None
    try:
        told = json.loads(facts["columns"])
        columns: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        return replace(PRESETS["sdxl"], **columns)
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(
            "the saved networks do not say what they are", "save the pipeline again"
        ) from error


def save_layers(tensors: Mapping[str, Tensor], facts: Mapping[str, str], folder: Path) -> None:
    """Write the weights of a mode."""
    _save(folder, LAYERS, tensors, facts)


def _save(folder: Path, part: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    written = apart({name: value.detach().cpu() for name, value in sorted(tensors.items())})
    save_file(
        written,
        folder / part / _FILE,
        {KEY: canonical_json({**facts, "part": part, "format": FORMAT})},
    )
