"""Weights as safetensors objects that explain themselves: how they came to be travels in the file's own metadata."""

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
KEY = "layerloop"
"""The one metadata key we write: safetensors keeps several in random order, and equal weights must have equal bytes."""

Metadata = dict[str, str]


def describe(part: str, order: TrainingRequest, code_version: str, **more: object) -> Metadata:
    """The metadata of a part's file: every value is text, since safetensors knows nothing else."""
    facts: dict[str, object] = {
        "part": part,
        "recipe": order.recipe,
        "preset": order.preset,
        "snapshot": order.snapshot,
        "parent": order.parent.id if order.parent else "",
        "seed": order.seed,
        "code_version": code_version,
        "changes": canonical_json(dict(order.changes)),
    }
    return {name: str(value) for name, value in (facts | more).items()}


def save_part(
    store: ObjectStore, part: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> str:
    """Store one part's tensors and return the sha256 that names the file."""
    alone = apart({name: tensor.detach().cpu() for name, tensor in sorted(tensors.items())})
    return store.put(
        save(alone, {KEY: canonical_json({**metadata, "format": FORMAT, "part": part})})
    )


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each with a storage to itself, as a file's tensors must have; copied are those alone that have none."""
    seen: set[int] = set()
    alone = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        own = (
            tensor.is_contiguous()
            and storage.nbytes() == tensor.nbytes
            and storage.data_ptr() not in seen
        )
        seen.add(storage.data_ptr())
        alone[name] = tensor if own else tensor.contiguous().clone()
    return alone


def load_part(store: ObjectStore, sha256: str) -> tuple[dict[str, Tensor], Metadata]:
    """A part's tensors and metadata. Raises NotFound, Corrupt; Refused for anything that is not our safetensors."""
    data = store.get(sha256)
    metadata = read_metadata(data, sha256)
    try:
        return load(data), metadata
    except (SafetensorError, ValueError, KeyError) as error:
        raise Refused(f"weights {sha256[:12]} are broken: {error}", "store them again") from error


def facts_in(metadata: Mapping[str, str]) -> Metadata:
    """What a file written by Layerloop says of itself in a safetensors header's metadata; nothing for any other."""
    try:
        facts = json.loads(metadata.get(KEY, "{}"))
        return {str(name): str(value) for name, value in facts.items()}
    except (ValueError, AttributeError):
        return {}


def read_metadata(data: bytes, sha256: str) -> Metadata:
    """The text metadata in a safetensors header: eight bytes of length, then JSON. Raises Refused."""
    hint = "only safetensors files written by Layerloop are read; pickled weights never are"
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
        found = dict(metadata)["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(
            f"object {sha256[:12]} is no safetensors file of weights ({error})", hint
        ) from error
    if found != FORMAT:
        raise Refused(
            f"weights {sha256[:12]} have format {found!r}, not {FORMAT!r}", "upgrade Layerloop"
        )
    return {str(name): str(value) for name, value in metadata.items()}
