"""Scene files: a TOML description of a background and layers, validated on reading."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import ImageColor

from curation.errors import NotFound, Refused
from curation.input_files import read_text
from curation.scenes.sizes import parse_size

MAX_FILE_BYTES = 1 << 20  # bytes of a scene's file
MAX_LAYERS = 100
MAX_NAME_LENGTH = 100
MAX_SEED = 2**63 - 1


class FitMode(StrEnum):
    """How an image becomes a background of another size."""

    cover = "cover"  # fills the canvas; the excess is cropped on both sides
    contain = "contain"  # is shown completely; the rest has the background's color


@dataclass(frozen=True)
class Background:
    """The lowest layer: generated from `prompt`, the image `file`, or `colour` alone.

    `prompt` may also describe a file. `colour` (sRGB, 0..255) also shows through transparent parts
    of a file and beyond its borders; white by default.
    """

    prompt: str | None = None
    file: Path | None = None
    colour: tuple[int, int, int] | None = None
    fit: FitMode = FitMode.cover

    @property
    def drawn(self) -> bool:
        """Whether it is generated."""
        return self.file is None and self.colour is None


@dataclass(frozen=True)
class SceneLayer:
    """One layer: generated from `prompt`, or the image `file`, which `prompt` may describe.

    `opacity` is 0..255, as in layered files. `position` is the upper left corner of the file in
    canvas pixels (None: centered); `scale` its scale factor (None: 1, or smaller to fit the
    canvas).
    """

    name: str
    prompt: str | None = None
    file: Path | None = None
    seed: int = 0
    opacity: int = 255
    position: tuple[int, int] | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Scene:
    """A background and the layers over it, lowest first.

    `size` is written as in `parse_size`; None selects the checkpoint's own.
    """

    background: Background
    layers: Sequence[SceneLayer]
    whole: str | None = None  # the prompt of the finished scene
    size: str | None = None
    seed: int = 0

    @property
    def files(self) -> list[Path]:
        """The user's own image files."""
        files = [self.background.file, *(layer.file for layer in self.layers)]
        return list(dict.fromkeys(file for file in files if file is not None))


def load_scene(path: Path, seed: int | None = None) -> Scene:
    """Read a scene file.

    Args:
        path: The TOML file.
        seed: Overrides the scene's own RNG seed.

    Raises:
        NotFound: There is no such file, or a file in it is missing.
        Refused: The file is invalid; the error names the key.
    """
    text = read_text(path, MAX_FILE_BYTES)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(
            f"{path} is not valid TOML: {error}", "docs/guides/layers-and-scenes.md shows a scene"
        ) from error
    except RecursionError as error:
        raise Refused(
            f"{path} is nested too deeply", "docs/guides/layers-and-scenes.md shows a scene"
        ) from error
    if "\\x00" in repr(table):
        raise Refused(f"{path} contains a NUL character", "write the text without \\u0000")
    return parse_scene(table, path.parent, seed)


def parse_scene(table: Mapping[str, Any], folder: Path, seed: int | None = None) -> Scene:
    """Build a scene from the parsed table of its file.

    Args:
        table: The table.
        folder: The folder that relative file names refer to.
        seed: Overrides the scene's own RNG seed.

    Raises:
        NotFound: A file is missing.
        Refused: A key or a value is invalid.
    """
    _check(
        table,
        "the scene",
        {"size": str, "whole": str, "seed": int, "background": dict, "layers": list},
    )
    if "background" not in table:
        raise Refused(
            "the scene has no background",
            "add a table [background] with a prompt, a file or a colour",
        )
    # Each layer is validated below; here only their number.
    given = table.get("layers", [])
    if not given or not all(isinstance(item, dict) for item in given):
        raise Refused(
            "the scene has no layers", "add a table [[layers]] with a prompt or a file for each"
        )
    if len(given) > MAX_LAYERS:
        raise Refused(f"the scene has {len(given)} layers, more than {MAX_LAYERS}")
    if "size" in table:
        parse_size(table["size"])
    seed = _seed(table, "the scene", 0) if seed is None else seed
    return Scene(
        _background(table["background"], folder),
        tuple(_layer(item, index, seed, folder) for index, item in enumerate(given, 1)),
        _text(table, "the scene", "whole"),
        table.get("size"),
        seed,
    )


def _background(table: Mapping[str, Any], folder: Path) -> Background:
    where = "[background]"
    _check(table, where, {"prompt": str, "file": str, "colour": str, "fit": str})
    prompt, file = _text(table, where, "prompt"), _file(table, where, folder)
    color = _color(table["colour"]) if "colour" in table else None
    if prompt is None and file is None and color is None:
        raise Refused(f"{where} is empty", "give it a prompt, a file or a colour")
    if file is None and prompt is not None and color is not None:
        raise Refused(
            f"{where} has both a prompt and a colour",
            "give either a prompt or a colour",
        )
    if file is None and "fit" in table:
        raise Refused(f"{where} has a fit but no file", "fit sets how a file fills the canvas")
    fit = table.get("fit", FitMode.cover)
    if fit not in set(FitMode):
        raise Refused(f"in {where}, fit is {fit!r}", f"use {' or '.join(FitMode)}")
    return Background(prompt, file, color, FitMode(fit))


def _layer(table: Mapping[str, Any], index: int, seed: int, folder: Path) -> SceneLayer:
    where = f"layer {index}"
    keys = {
        "name": str,
        "prompt": str,
        "file": str,
        "seed": int,
        "opacity": float,
        "position": list,
        "scale": float,
    }
    _check(table, where, keys)
    prompt, file = _text(table, where, "prompt"), _file(table, where, folder)
    if prompt is None and file is None:
        raise Refused(f"{where} has neither a prompt nor a file", "give one of them")
    # Keys that would have no effect are errors, so that nobody relies on them.
    for key in ("position", "scale") if file is None else ("seed",):
        if key in table:
            reason = "covers the whole canvas" if file is None else "is a file"
            raise Refused(f"{where} has a {key}, but {reason}", f"leave {key} out")
    opacity = table.get("opacity", 1.0)
    if not 0 <= opacity <= 1:
        raise Refused(f"in {where}, opacity is {opacity}", "it lies in [0, 1]")
    scale = table.get("scale")
    if scale is not None and not 0.001 <= scale <= 100:
        raise Refused(
            f"in {where}, scale is {scale}", "it lies in [0.001, 100]; 1 is the file's own size"
        )
    name = _text(table, where, "name") or prompt or (file.stem if file else "")
    # Names go into layered files and file names: printable characters only.
    name = (
        "".join(letter if letter.isprintable() else " " for letter in name)[
            :MAX_NAME_LENGTH
        ].strip()
        or where
    )
    return SceneLayer(
        name,
        prompt,
        file,
        _seed(table, where, seed + index - 1),
        round(opacity * 255),
        _position(table, where),
        scale,
    )


def _check(table: Mapping[str, Any], where: str, keys: Mapping[str, type]) -> None:
    """Raise Refused for unknown keys, suggesting a similar one, and for wrong types."""
    type_names = {
        str: "a text in quotes",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    for key, value in table.items():
        if key not in keys:
            close = difflib.get_close_matches(key, keys, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(keys)}"
            raise Refused(f"{where} has an unknown key {key!r}", hint)
        wanted = keys[key]
        # TOML distinguishes 1 and 1.0, people do not; bool is a subclass of int in Python.
        valid = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(
            value, bool
        )
        if not valid:
            raise Refused(f"in {where}, {key} is {value!r}", f"it must be {type_names[wanted]}")


def _text(table: Mapping[str, Any], where: str, key: str) -> str | None:
    if key not in table:
        return None
    text = str(table[key]).strip()
    if not text:
        raise Refused(f"in {where}, {key} is empty", f"write something, or leave {key} out")
    return text


def _seed(table: Mapping[str, Any], where: str, otherwise: int) -> int:
    seed = int(table.get("seed", otherwise))
    if not 0 <= seed <= MAX_SEED:
        raise Refused(f"in {where}, seed is {seed}", f"it lies in [0, {MAX_SEED}]")
    return seed


def _file(table: Mapping[str, Any], where: str, folder: Path) -> Path | None:
    text = _text(table, where, "file")
    if text is None:
        return None
    path = folder / Path(text).expanduser()
    if not path.is_file():
        raise NotFound(
            f"in {where}, there is no file {path}",
            "paths are relative to the scene file",
        )
    return path


def _position(table: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    given = table.get("position")
    if given is None:
        return None
    valid = all(
        isinstance(item, int) and not isinstance(item, bool) and abs(item) <= 100_000
        for item in given
    )
    if len(given) != 2 or not valid:
        raise Refused(
            f"in {where}, position is {given!r}", "it must be two whole numbers, like [40, -12]"
        )
    return given[0], given[1]


def _color(text: str) -> tuple[int, int, int]:
    try:
        color = ImageColor.getrgb(text)
    except ValueError as error:
        raise Refused(f"invalid color {text!r}", "write it like '#87ceeb' or 'skyblue'") from error
    if len(color) == 4:
        raise Refused(
            f"the color {text!r} is transparent", "a background is opaque: write it like '#87ceeb'"
        )
    return color
