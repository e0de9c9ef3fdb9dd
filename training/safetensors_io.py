"""Weights as safetensors objects whose metadata records how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from curation.domain import TrainingRequest, canonical_json
from curation.errors import Refused
from curation.ports import ObjectStore

FORMAT = "layerloop weights 1"
METADATA_KEY = "layerloop"
"""The only metadata key written: safetensors writes several keys in random order, and equal weights
must give equal bytes."""

Metadata = dict[str, str]


def part_metadata(
    part: str, request: TrainingRequest, code_version: str, **more: object
) -> Metadata:
    """Build the metadata of a part's file; every value is text, as safetensors requires.

    Args:
        part: The part of the checkpoint.
        request: The training request.
        code_version: The version of the code.
        more: Further values.
    """
    metadata: dict[str, object] = {
        "part": part,
        "recipe": request.recipe,
        "preset": request.preset,
        "snapshot": request.snapshot,
        "parent": request.parent.id if request.parent else "",
        "seed": request.seed,
        "code_version": code_version,
        "changes": canonical_json(dict(request.changes)),
    }
    return {name: str(value) for name, value in (metadata | more).items()}


def save_part(
    store: ObjectStore, part: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> str:
    """Store one part's tensors and return the sha256 of the file."""
    separate = unshare_storage(
        {name: tensor.detach().cpu() for name, tensor in sorted(tensors.items())}
    )
    return store.put(
        save(separate, {METADATA_KEY: canonical_json({**metadata, "format": FORMAT, "part": part})})
    )


def unshare_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with a storage each, as safetensors requires; only shared ones are copied."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        # Views, strided tensors and shared storages need a copy.
        storage = tensor.untyped_storage()
        has_own_storage = (
            tensor.is_contiguous()
            and storage.nbytes() == tensor.nbytes
            and storage.data_ptr() not in seen
        )
        seen.add(storage.data_ptr())
        separate[name] = tensor if has_own_storage else tensor.contiguous().clone()
    return separate


def load_part(store: ObjectStore, sha256: str) -> tuple[dict[str, Tensor], Metadata]:
    """Load a part's tensors and metadata.

    Raises:
        NotFound: The file does not exist.
        Corrupt: Its content does not match its sha256.
        Refused: It is not a safetensors file written by Layerloop.
    """
    data = store.get(sha256)
    metadata = read_metadata(data, sha256)
    try:
        return load(data), metadata
    except (SafetensorError, ValueError, KeyError) as error:
        raise Refused(f"weights {sha256[:12]} are broken: {error}", "store them again") from error


def layerloop_metadata(metadata: Mapping[str, str]) -> Metadata:
    """Return Layerloop's metadata from a safetensors header; empty for files of other programs."""
    try:
        own = json.loads(metadata.get(METADATA_KEY, "{}"))
        return {str(name): str(value) for name, value in own.items()}
    except (ValueError, AttributeError):
        return {}


def read_metadata(data: bytes, sha256: str) -> Metadata:
    """Read Layerloop's metadata from the bytes of a safetensors file. Raises Refused."""
    hint = "only safetensors files written by Layerloop can be read; pickled weights are never read"
    # A safetensors file begins with the header's length in eight bytes, then its JSON.
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA_KEY])
        found = dict(metadata)["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(
            f"object {sha256[:12]} is not a safetensors file of weights ({error})", hint
        ) from error
    if found != FORMAT:
        raise Refused(
            f"weights {sha256[:12]} have format {found!r}, not {FORMAT!r}", "upgrade Layerloop"
        )
    return {str(name): str(value) for name, value in metadata.items()}
