"""Files of a saved training state: shards of tensors with their sha256, verified when read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from curation.domain import canonical_json
from curation.errors import Corrupt
from curation.object_store import compute_sha256, fsync_path
from training.safetensors_io import unshare_storage

STATE_FILE = "state.json"
"""The file with the metadata and the sha256 of all shards."""

SHARD_BYTES = 256 << 20
"""Size at which a shard ends: equal shards of two states are one object in the object store."""


@dataclass(frozen=True)
class TrainingState:
    """The state of a stage after some number of images: tensors, and metadata as JSON."""

    images: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def write_state(folder: Path, state: TrainingState) -> None:
    """Write a state into an empty folder and sync it.

    Tensors are grouped by part (the first component of their names), so that a part that did not
    change since the last state has equal files.

    Args:
        folder: The folder, which the caller publishes by a rename.
        state: The state; its tensors may be on any device.
    """
    files = []
    for name, tensors in _shards(state.tensors):
        save_file(unshare_storage(tensors), folder / name)
        files.append(name)
    # Hashing releases the interpreter lock, so that several shards are hashed at once.
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(_sync_and_hash, (folder / name for name in files)))
    named = dict(zip(files, hashes, strict=True))
    metadata = {**state.metadata, "images": state.images, "files": named}
    checked = {"metadata": metadata, "sha256": _sha256(metadata)}
    (folder / STATE_FILE).write_text(canonical_json(checked))
    for path in (folder / STATE_FILE, folder):
        fsync_path(path)


def read_state(folder: Path, *, verify: bool = True) -> TrainingState:
    """Read a state from its folder.

    Args:
        folder: The folder.
        verify: Whether to compare all files with their sha256.

    Raises:
        Corrupt: A file is missing or damaged.
    """
    try:
        checked = json.loads((folder / STATE_FILE).read_text())
        metadata = dict(checked["metadata"])
        if checked["sha256"] != _sha256(metadata):
            raise Corrupt(f"{folder / STATE_FILE} is damaged")
        images, files = int(metadata["images"]), metadata.pop("files")
        if verify:
            _verify(folder, files)
        tensors: dict[str, Tensor] = {}
        for name in files:
            tensors |= load_file(folder / name)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise Corrupt(f"the saved state in {folder} is damaged: {error}") from error
    return TrainingState(images, tensors, metadata)


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    """Compare files with their sha256. Raises Corrupt."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(compute_sha256, (folder / name for name in files))
        for (name, sha256), actual in zip(files.items(), found, strict=True):
            if actual != sha256:
                raise Corrupt(f"{folder / name} is damaged: its sha256 is not {sha256}")


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield file names and tensors of at most SHARD_BYTES or one tensor, part by part."""
    shard: dict[str, Tensor] = {}
    part, number, size = "", 0, 0
    for name, tensor in sorted(tensors.items()):
        tensor_part = name.partition("/")[0]
        tensor_size = tensor.numel() * tensor.element_size()
        # Close the shard where the part ends or the shard is full.
        if shard and (tensor_part != part or size + tensor_size > SHARD_BYTES):
            yield f"{part}-{number:03d}.safetensors", shard
            shard, size = {}, 0
            number = number + 1 if tensor_part == part else 0
        part = tensor_part
        shard[name] = tensor.detach().cpu()
        size += tensor_size
    if shard:
        yield f"{part}-{number:03d}.safetensors", shard


def _sync_and_hash(path: Path) -> str:
    fsync_path(path)
    return compute_sha256(path)


def _sha256(metadata: Mapping[str, Any]) -> str:
    """Return the sha256 of metadata as canonical JSON."""
    return compute_sha256(canonical_json(metadata).encode())
