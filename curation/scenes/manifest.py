"""The manifest of a scene's folder: layers, steps, file hashes and generation metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from curation.errors import Corrupt
from curation.object_store import compute_sha256, fsync_path

MANIFEST = "manifest.json"
LAYERED_FILE_NAMES: Final = {"psd": "scene.psd", "ora": "scene.ora", "tiff": "scene.tiff"}
"""File names of layered exports by format; written on request once the scene is complete."""
MANIFEST_VERSION = 1
TEMPORARY_PREFIX = ".new-"
"""The name prefix of unfinished files."""


@dataclass(frozen=True)
class LayerEntry:
    """A layer's file: straight RGBA of `size` (width, height) at `offset` (x, y) of the canvas."""

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
class StepEntry:
    """The result of one step: its layers, and the blend of all layers up to them.

    `key` is the hash of everything that determines it, earlier steps included: equal keys mean
    equal images.
    """

    key: str
    layers: Sequence[LayerEntry]
    blended: str
    sha256: str  # of the blended file


@dataclass(frozen=True)
class SceneManifest:
    """The state of a scene's folder; `complete` if no step is left.

    `made` is the generator's metadata (LayerGenerator.describe).
    """

    version: str  # of Layerloop
    size: Sequence[int]  # of the canvas: width, height
    asked: str | None  # the size as written in the scene file
    whole: str | None
    checkpoint: str | None
    preset: str | None
    made: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[StepEntry] = ()
    complete: bool = False

    @property
    def layers(self) -> list[LayerEntry]:
        """All layers so far, lowest first."""
        return [layer for step in self.steps for layer in step.layers]

    @property
    def names(self) -> list[str]:
        """The names of all files in the manifest."""
        return [layer.file for layer in self.layers] + [step.blended for step in self.steps]

    def as_json(self) -> dict[str, Any]:
        """Return the content of the manifest file."""
        return {"manifest": MANIFEST_VERSION, **asdict(self)}


def read_manifest(folder: Path) -> SceneManifest | None:
    """Return the manifest of a folder, or None if it has none. Raises Corrupt."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _manifest(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(
            f"{folder / MANIFEST} is invalid: {error}", "give another --out, or remove the folder"
        ) from error


def _manifest(row: dict[str, Any]) -> SceneManifest:
    """Return the inverse of `as_json`.

    Raises ValueError, KeyError, TypeError or AttributeError for any other data.
    """
    if row.pop("manifest") != MANIFEST_VERSION:
        raise ValueError("it was written by another version of Layerloop")
    steps = tuple(
        StepEntry(**step | {"layers": tuple(map(_layer, step["layers"]))}) for step in row["steps"]
    )
    manifest = SceneManifest(**row | {"steps": steps, "size": tuple(row["size"])})
    # A manifest may come from elsewhere; it must not make us read or delete other files.
    if any(Path(name).name != name for name in manifest.names):
        raise ValueError("it names files outside its folder")
    return manifest


def _layer(row: dict[str, Any]) -> LayerEntry:
    return LayerEntry(**row | {"size": tuple(row["size"]), "offset": tuple(row["offset"])})


def write_manifest(folder: Path, manifest: SceneManifest) -> None:
    """Replace the manifest atomically."""
    text = json.dumps(manifest.as_json(), ensure_ascii=False, indent=2) + "\n"
    write_atomically(folder / MANIFEST, lambda path: path.write_text(text, "utf-8"))


def write_atomically(target: Path, write: Callable[[Path], object]) -> str:
    """Write a file atomically and durably, and return its SHA-256.

    Args:
        target: The path of the finished file.
        write: A function that writes a temporary file beside the target.
    """
    temporary = target.with_name(TEMPORARY_PREFIX + target.name)
    write(temporary)
    fsync_path(temporary)
    digest = compute_sha256(temporary)
    # Rename only after the data is on disk, then make the new name durable too.
    temporary.replace(target)
    fsync_path(target.parent)
    return digest


def unfinished_files(folder: Path) -> list[str]:
    """Return the names of unfinished files in a folder."""
    return [path.name for path in folder.glob(f"{TEMPORARY_PREFIX}*")]


def is_step_intact(folder: Path, step: StepEntry) -> bool | None:
    """Return whether a step's files are unchanged.

    Returns None if a file is missing and none was changed.
    """
    # A changed file counts more than a missing one, since it may be the user's own work.
    missing = False
    wanted = {**{layer.file: layer.sha256 for layer in step.layers}, step.blended: step.sha256}
    for name, sha256 in wanted.items():
        try:
            if compute_sha256(folder / name) != sha256:
                return False
        except FileNotFoundError:
            missing = True
    return None if missing else True
