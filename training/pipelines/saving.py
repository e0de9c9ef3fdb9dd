"""Saving of transparent pipelines: diffusers' folder, with both networks and a mode's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from curation.checkpoints.former_columns import present_columns
from curation.domain import canonical_json
from curation.errors import Refused
from training.presets.preset import Preset
from training.presets.presets import PRESETS
from training.safetensors_io import FORMAT, METADATA_KEY, unshare_storage
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
        "alpha_floor",
        "decoder_unfold",
        "decoder_residual",
        "tile",
    ),
)
"""The preset's columns that define the two networks."""


def saved_part(model: str, part: str) -> Path:
    """Return the file of a part that `save_pretrained` added to a folder.

    Raises:
        Refused: The folder has no such part.
    """
    path = Path(model) / part / _FILE
    if not path.is_file():
        hint = f"pass {part}=, or a folder that save_pretrained of such a pipeline wrote"
        raise Refused(f"{model} is a plain model without {part}/{_FILE}", hint)
    return path


def save_transparency(networks: Transparency, folder: Path) -> None:
    """Save both networks with the preset's columns to open them again."""
    columns = {name: getattr(networks.preset, name) for name in _COLUMNS}
    metadata = {
        "offset_scale": repr(networks.encoder.offset_scale),
        "columns": canonical_json(columns),
    }
    _save(folder, TRANSPARENCY, networks.state_dict(), metadata)


def read_saved_preset(metadata: Mapping[str, str]) -> Preset | None:
    """Return the preset of networks saved by `save_transparency`, or None for other files.

    Raises:
        Refused: The saved columns are invalid.
    """
    if "columns" not in metadata:
        return None
    try:
        stored = json.loads(metadata["columns"])
        columns: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in present_columns(stored).items()
        }
        return replace(PRESETS["sdxl"], **columns)
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(
            "the columns of the saved networks are invalid", "save the pipeline again"
        ) from error


def save_layers(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], folder: Path) -> None:
    """Save the weights of a mode.

    Args:
        tensors: The weights.
        metadata: Their metadata, with "kind" and "mode".
        folder: The folder of the pipeline.
    """
    _save(folder, LAYERS, tensors, metadata)


def _save(
    folder: Path, part: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors as a part of the folder."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    written = unshare_storage(
        {name: value.detach().cpu() for name, value in sorted(tensors.items())}
    )
    save_file(
        written,
        folder / part / _FILE,
        {METADATA_KEY: canonical_json({**metadata, "part": part, "format": FORMAT})},
    )
