"""Files of an export: tensors in a chosen precision, written to safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from curation.domain import canonical_json
from curation.errors import Refused
from curation.object_store import compute_sha256
from curation.ports import WeightsFile
from training.safetensors_io import METADATA_KEY

PRECISIONS = {"stored": None, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class ExportFile:
    """A file to be written, without its extension."""

    name: str
    what: str
    part: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def save_export_file(
    file: ExportFile, folder: Path, dtype: torch.dtype | None, checkpoint: str
) -> WeightsFile:
    """Write a file under a temporary name, then rename it, so that it is never incomplete."""
    tensors = {name: _cast(value, name, dtype) for name, value in sorted(file.tensors.items())}
    # Report values that underflow to 0 in the target dtype.
    underflows = sum(
        int(((tensors[name] == 0) & (value != 0).to(tensors[name].device)).sum())
        for name, value in file.tensors.items()
    )
    what = (
        f"{file.what}; {underflows:,} values underflow to 0 in {precision_name(dtype)}"
        if underflows
        else file.what
    )
    metadata_values = {**file.metadata, "checkpoint": checkpoint}
    # Files with diffusers' adapter metadata have that alone, as diffusers writes them.
    metadata = (
        {METADATA_KEY: canonical_json(metadata_values)}
        if "lora_adapter_metadata" not in metadata_values
        else dict(file.metadata)
    )
    # Write, then rename.
    target = folder / f"{file.name}.safetensors"
    partial = target.with_suffix(".half")
    save_file(tensors, partial, metadata)
    partial.replace(target)
    count = sum(value.numel() for value in tensors.values())
    return WeightsFile(str(target), compute_sha256(target), what, file.part, len(tensors), count)


def precision_name(dtype: torch.dtype | None) -> str:
    """Return the name of a precision in PRECISIONS."""
    return next((name for name, candidate in PRECISIONS.items() if candidate == dtype), str(dtype))


def _cast(value: Tensor, name: str, dtype: torch.dtype | None) -> Tensor:
    """Convert a tensor's dtype. Raises Refused if a value overflows."""
    cast = value.detach().to(dtype or value.dtype).contiguous()
    if not torch.isfinite(cast).all():
        raise Refused(
            f"{name} has values beyond the range of {cast.dtype}", "write it with --precision fp32"
        )
    return cast.clone()
