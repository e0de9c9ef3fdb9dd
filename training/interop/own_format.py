"""Layerloop's own format of a checkpoint: its stored files as they are, and a JSON file that describes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from curation.domain import Checkpoint
from curation.errors import NotFound, Refused
from curation.object_store import sha256_of
from curation.ports import FoundFile, ObjectStore
from training.external_weights import read_header
from training.safetensors_io import FORMAT, read_metadata

NAME = "layerloop"
CARD = "checkpoint.json"
_VERSION = "layerloop checkpoint 1"
_MOST_CARD = 1 << 20  # bytes
_SHEET = "sheet.png"


def write_own(checkpoint: Checkpoint, store: ObjectStore, folder: Path) -> list[FoundFile]:
    """Write every part of a checkpoint, to the bit, its sample sheet, and `checkpoint.json`.

    The JSON file is written last: a folder that has it is whole. Raises NotFound, Corrupt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    for part, sha256 in checkpoint.files.items():
        _write(folder / f"{part}.safetensors", store.get(sha256))
    if checkpoint.sheet is not None:
        _write(folder / _SHEET, store.get(checkpoint.sheet))
    card = {one.name: getattr(checkpoint, one.name) for one in fields(checkpoint)}
    card |= {name: dict(card[name]) for name in ("files", "evaluation", "changes")}
    text = json.dumps({"format": _VERSION, "id": checkpoint.id, **card}, indent=2, sort_keys=True)
    _write(folder / CARD, f"{text}\n".encode())
    return [
        _found(part, folder / f"{part}.safetensors", sha) for part, sha in checkpoint.files.items()
    ]


def find_own(files: Sequence[Path]) -> Path | None:
    """The folder of Layerloop's own format that is meant: it, or a file in it, alone. None for anything else."""
    if len(files) != 1:
        return None
    folder = files[0] if files[0].is_dir() else files[0].parent
    named = files[0].is_dir() or files[0].name == CARD
    return folder if named and (folder / CARD).is_file() else None


def read_own(folder: Path, store: ObjectStore | None) -> tuple[Checkpoint, list[FoundFile]]:
    """The checkpoint that a folder of `write_own` holds; nothing is stored before all of it was checked.

    Raises NotFound where a file is missing; Refused where one is not what `checkpoint.json` says.
    """
    card = _read_card(folder / CARD)
    checkpoint = _checkpoint(card, folder)
    found = []
    for part, sha256 in checkpoint.files.items():
        path = _regular(folder, f"{part}.safetensors")
        if sha256_of(path) != sha256:
            raise Refused(
                f"{path} is not the file that {CARD} names",
                "it was cut short or changed; copy it again",
            )
        read_header(path)  # safetensors, whole
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            file.seek(0)
            read_metadata(file.read(8 + length), sha256)
        found.append(_found(part, path, sha256))
    sheet = _regular(folder, _SHEET) if checkpoint.sheet is not None else None
    if sheet is not None and sha256_of(sheet) != checkpoint.sheet:
        raise Refused(f"{sheet} is not the file that {CARD} names", "copy it again")
    if store is not None:
        for part in checkpoint.files:
            store.put(folder / f"{part}.safetensors")
        if sheet is not None:
            store.put(sheet)
    return checkpoint, found


def _read_card(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            card = json.loads(file.read(_MOST_CARD))
        version = card["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{path} cannot be read: {error}", "export the checkpoint again") from error
    if version != _VERSION:
        raise Refused(
            f"{path} has format {str(version)[:80]!r}, not {_VERSION!r}", "upgrade Layerloop"
        )
    return dict(card)


def _checkpoint(card: Mapping[str, Any], folder: Path) -> Checkpoint:
    try:
        files, changes = (
            {str(k): str(v) for k, v in card[name].items()} for name in ("files", "changes")
        )
        checkpoint = Checkpoint(
            files=files,
            recipe=str(card["recipe"]),
            preset=str(card["preset"]),
            snapshot=_digest(card["snapshot"]),
            parent=_digest(card["parent"]),
            seed=int(card["seed"]),
            code_version=str(card["code_version"]),
            evaluation={str(name): float(value) for name, value in card["evaluation"].items()},
            sheet=_digest(card["sheet"]),
            changes=changes,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Refused(
            f"{folder / CARD} lacks something: {error}", "export the checkpoint again"
        ) from error
    if any(not part.replace("_", "").replace("-", "").isalnum() for part in files):
        raise Refused(
            f"{folder / CARD} names parts that cannot be files", "export the checkpoint again"
        )
    if checkpoint.id != card.get("id"):
        raise Refused(
            f"{folder / CARD} was changed: it is not of the checkpoint whose id it has",
            "export it again",
        )
    return checkpoint


def _digest(value: object) -> str | None:
    if value is None:
        return None
    text = str(value)
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:80]!r} is no sha256")
    return text


def _regular(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise NotFound(f"there is no file {path}, which {CARD} names", "copy the whole folder")
    return path


def _found(part: str, path: Path, sha256: str) -> FoundFile:
    header = read_header(path)
    return FoundFile(
        str(path), sha256, f"{part}, {FORMAT}", part, len(header.shapes), header.parameters
    )


def _write(path: Path, data: bytes) -> None:
    """Write under another name, then rename: what has the name is whole."""
    half = path.with_name(f"{path.name}.half")
    half.write_bytes(data)
    shutil.move(half, path)
