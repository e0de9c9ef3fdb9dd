"""The file of a layers pipeline: the weights of one mode, released or saved by us."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from curation.errors import Refused
from training.external_weights import read_header, read_tensors
from training.interop.denoiser_weights import read_denoiser_file
from training.pipelines.loading import Files
from training.pipelines.saving import LAYERS
from training.safetensors_io import layerloop_metadata


def read_layer_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the weights of a mode, as released or written by `save_pretrained`. Raises Refused."""
    header = read_header(path)
    metadata = layerloop_metadata(header.metadata)
    if (
        metadata.get("part") == LAYERS
        and "kind" in metadata
        and metadata["kind"] in {"weights", "sharing"}
    ):
        return read_tensors(header, header.shapes), metadata
    return read_denoiser_file(path)


def single_path(files: Files) -> Path:
    """Return the path of a single file. Raises Refused for several."""
    if not isinstance(files, str | Path):
        raise Refused(
            "a pipeline has the weights of a single mode",
            "pass one file, and make a pipeline for each mode",
        )
    return Path(files)
