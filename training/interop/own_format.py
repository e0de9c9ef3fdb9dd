"""Layerloop's own checkpoint format: the stored files unchanged, and a JSON description."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from curation.domain import Checkpoint
from curation.errors import NotFound, Refused
from curation.object_store import compute_sha256
from curation.ports import ObjectStore, WeightsFile
from training.external_weights import read_header
from training.safetensors_io import FORMAT, read_metadata

FORMAT_NAME = "layerloop"
MANIFEST = "checkpoint.json"
_VERSION = "layerloop checkpoint 1"
_MAX_MANIFEST_BYTES = 1 << 20
_SHEET = "sheet.png"


def write_own(checkpoint: Checkpoint, store: ObjectStore, folder: Path) -> list[WeightsFile]:
    """Write every part of a checkpoint unchanged, its sample grid, and `checkpoint.json`.

    The JSON file is written last, so that a folder that has it is complete.

    Raises:
        NotFound: A file does not exist in the store.
        Corrupt: A file's content does not match its sha256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Remove an old manifest first: the folder is incomplete until the new one is written.
    (folder / MANIFEST).unlink(missing_ok=True)
    for part, sha256 in checkpoint.files.items():
        _write(folder / f"{part}.safetensors", store.get(sha256))
    if checkpoint.sample_grid is not None:
        _write(folder / _SHEET, store.get(checkpoint.sample_grid))
    # The manifest repeats the checkpoint's fields and its id, to verify them on import.
    manifest = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    manifest["sheet"] = manifest.pop("sample_grid")  # the name of the format's first version
    manifest |= {name: dict(manifest[name]) for name in ("files", "evaluation", "changes")}
    text = json.dumps(
        {"format": _VERSION, "id": checkpoint.id, **manifest}, indent=2, sort_keys=True
    )
    _write(folder / MANIFEST, f"{text}\n".encode())
    return [
        _weights_file(part, folder / f"{part}.safetensors", sha)
        for part, sha in checkpoint.files.items()
    ]


def find_own(files: Sequence[Path]) -> Path | None:
    """Return the folder of a checkpoint in Layerloop's format; None if the path is not one."""
    if len(files) != 1:
        return None
    folder = files[0] if files[0].is_dir() else files[0].parent
    is_candidate = files[0].is_dir() or files[0].name == MANIFEST
    return folder if is_candidate and (folder / MANIFEST).is_file() else None


def read_own(folder: Path, store: ObjectStore | None) -> tuple[Checkpoint, list[WeightsFile]]:
    """Read the checkpoint in a folder written by `write_own`.

    Args:
        folder: The folder.
        store: The store to write to after all files have been checked; None to only check.

    Raises:
        NotFound: A file is missing.
        Refused: A file does not match `checkpoint.json`.
    """
    manifest = _read_manifest(folder / MANIFEST)
    checkpoint = _checkpoint(manifest, folder)
    found = []
    # Check every part before anything is stored.
    for part, sha256 in checkpoint.files.items():
        path = _regular(folder, f"{part}.safetensors")
        if compute_sha256(path) != sha256:
            raise Refused(
                f"{path} does not match {MANIFEST}",
                "it was cut short or changed; copy it again",
            )
        read_header(path)  # a complete safetensors file
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            file.seek(0)
            read_metadata(file.read(8 + length), sha256)
        found.append(_weights_file(part, path, sha256))
    # The sample grid is optional.
    sheet = _regular(folder, _SHEET) if checkpoint.sample_grid is not None else None
    if sheet is not None and compute_sha256(sheet) != checkpoint.sample_grid:
        raise Refused(f"{sheet} does not match {MANIFEST}", "copy it again")
    if store is not None:
        for part in checkpoint.files:
            store.put(folder / f"{part}.safetensors")
        if sheet is not None:
            store.put(sheet)
    return checkpoint, found


def _read_manifest(path: Path) -> Mapping[str, Any]:
    """Read and check the format of `checkpoint.json`. Raises Refused."""
    try:
        with path.open("rb") as file:
            manifest = json.loads(file.read(_MAX_MANIFEST_BYTES))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{path} cannot be read: {error}", "export the checkpoint again") from error
    if version != _VERSION:
        raise Refused(
            f"{path} has format {str(version)[:80]!r}, not {_VERSION!r}", "upgrade Layerloop"
        )
    return dict(manifest)


def _checkpoint(manifest: Mapping[str, Any], folder: Path) -> Checkpoint:
    """Build the checkpoint that `checkpoint.json` describes. Raises Refused."""
    try:
        files, changes = (
            {str(k): str(v) for k, v in manifest[name].items()} for name in ("files", "changes")
        )
        checkpoint = Checkpoint(
            files=files,
            recipe=str(manifest["recipe"]),
            preset=str(manifest["preset"]),
            snapshot=_parse_sha256(manifest["snapshot"]),
            parent=_parse_sha256(manifest["parent"]),
            seed=int(manifest["seed"]),
            code_version=str(manifest["code_version"]),
            evaluation={str(name): float(value) for name, value in manifest["evaluation"].items()},
            sample_grid=_parse_sha256(manifest["sheet"]),
            changes=changes,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Refused(
            f"{folder / MANIFEST} is incomplete: {error}", "export the checkpoint again"
        ) from error
    # Part names become file names: allow no path separators.
    if any(not part.replace("_", "").replace("-", "").isalnum() for part in files):
        raise Refused(f"{folder / MANIFEST} has invalid part names", "export the checkpoint again")
    # The id is a hash of the fields, so it reveals any change.
    if checkpoint.id != manifest.get("id"):
        raise Refused(
            f"{folder / MANIFEST} was changed: its id does not match its content",
            "export it again",
        )
    return checkpoint


def _parse_sha256(value: object) -> str | None:
    """Validate a sha256 or None. Raises ValueError."""
    if value is None:
        return None
    text = str(value)
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:80]!r} is not a sha256")
    return text


def _regular(folder: Path, name: str) -> Path:
    """Return a regular file of the folder. Raises NotFound for links and missing files."""
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise NotFound(f"there is no file {path}, which {MANIFEST} names", "copy the whole folder")
    return path


def _weights_file(part: str, path: Path, sha256: str) -> WeightsFile:
    header = read_header(path)
    return WeightsFile(
        str(path), sha256, f"{part}, {FORMAT}", part, len(header.shapes), header.parameters
    )


def _write(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename, so that the file is never incomplete."""
    partial = path.with_name(f"{path.name}.half")
    partial.write_bytes(data)
    shutil.move(partial, path)
