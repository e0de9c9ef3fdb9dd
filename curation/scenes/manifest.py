"""The account of a scene's folder: its layers and steps, their files' hashes, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from curation.errors import Corrupt
from curation.object_store import sha256_of, sync

MANIFEST = "manifest.json"
LAYERED: Final = {"psd": "scene.psd", "ora": "scene.ora", "tiff": "scene.tiff"}
"""A whole scene as one file, by its format; written on request, once the scene is complete."""
VERSION = 1
NEW = ".new-"
"""How the names of files begin that are not whole yet."""


@dataclass(frozen=True)
class KeptLayer:
    """A layer's file: straight RGBA of `size` (width, height) with its upper left corner at `offset` (x, y)."""

    place: int  # 0 is the background, n the n-th layer from below
    name: str
    role: str  # "background" or "foreground"
    source: str  # "drawn", "file" or "colour"
    prompt: str | None
    seed: int | None
    file: str
    sha256: str  # of the file
    size: Sequence[int]
    offset: Sequence[int]
    opacity: int  # 0..255, not yet in the file's alpha


@dataclass(frozen=True)
class KeptStep:
    """What one step left: its layers, and the blend of all layers up to them.

    `key` is the hash of all that decided it, earlier steps included: equal keys are equal pictures.
    """

    key: str
    layers: Sequence[KeptLayer]
    blended: str
    sha256: str  # of the blended file


@dataclass(frozen=True)
class Manifest:
    """A scene's folder so far; `complete` when no step is left. `made` is what the generator says of itself."""

    version: str  # of Layerloop
    size: Sequence[int]  # of the canvas: width, height
    asked: str | None  # the size in the scene's own words
    whole: str | None
    checkpoint: str | None
    preset: str | None
    made: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[KeptStep] = ()
    complete: bool = False

    @property
    def layers(self) -> list[KeptLayer]:
        """All layers so far, from below."""
        return [layer for step in self.steps for layer in step.layers]

    @property
    def names(self) -> list[str]:
        """Every file that it speaks of."""
        return [layer.file for layer in self.layers] + [step.blended for step in self.steps]

    def as_json(self) -> dict[str, Any]:
        """The manifest as it stands in its file."""
        return {"manifest": VERSION, **asdict(self)}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none. Raises Corrupt where it is broken."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _manifest(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(
            f"{folder / MANIFEST} is broken: {error}", "give another --out, or remove the folder"
        ) from error


def _manifest(row: dict[str, Any]) -> Manifest:
    """The inverse of `as_json`. Raises ValueError, KeyError, TypeError, AttributeError on anything else."""
    if row.pop("manifest") != VERSION:
        raise ValueError("another version of Layerloop wrote it")
    steps = tuple(
        KeptStep(**step | {"layers": tuple(map(_layer, step["layers"]))}) for step in row["steps"]
    )
    manifest = Manifest(**row | {"steps": steps, "size": tuple(row["size"])})
    if any(Path(name).name != name for name in manifest.names):
        raise ValueError("it names files elsewhere")
    return manifest


def _layer(row: dict[str, Any]) -> KeptLayer:
    return KeptLayer(**row | {"size": tuple(row["size"]), "offset": tuple(row["offset"])})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put the manifest in place of the one before: whole, or not at all."""
    text = json.dumps(manifest.as_json(), ensure_ascii=False, indent=2) + "\n"
    write_whole(folder / MANIFEST, lambda path: path.write_text(text, "utf-8"))


def write_whole(target: Path, write: Callable[[Path], object]) -> str:
    """Let `write` make a file beside the target, then name it: whole or not at all, durable. Returns its sha256."""
    new = target.with_name(NEW + target.name)
    write(new)
    sync(new)
    name = sha256_of(new)
    new.replace(target)
    sync(target.parent)
    return name


def begun(folder: Path) -> list[str]:
    """The files that were begun here and never got their names."""
    return [path.name for path in folder.glob(f"{NEW}*")]


def intact(folder: Path, step: KeptStep) -> bool | None:
    """Whether a step's files have the bytes that were written; None where one is missing and none was changed."""
    missing = False
    wanted = {**{layer.file: layer.sha256 for layer in step.layers}, step.blended: step.sha256}
    for name, sha256 in wanted.items():
        try:
            if sha256_of(folder / name) != sha256:
                return False
        except FileNotFoundError:
            missing = True
    return None if missing else True
