"""A scene as a person writes it: a TOML file with a background and layers, checked before anything is opened."""

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
from curation.scenes.sizes import read_size

MAX_FILE = 1 << 20  # bytes of a scene's file
MAX_LAYERS = 100
LONGEST_NAME = 100
LARGEST_SEED = 2**63 - 1


class Fit(StrEnum):
    """How a picture becomes the background of another size."""

    cover = "cover"  # fills the canvas; what stands over is cut off on both sides
    contain = "contain"  # is seen whole; the rest is the background's colour


@dataclass(frozen=True)
class Background:
    """What lies lowest: drawn from `prompt`; or the picture `file`, which `prompt` may describe; or `colour` alone.

    `colour` (sRGB, 0..255) also shows where a file is transparent or does not reach; white by default.
    """

    prompt: str | None = None
    file: Path | None = None
    colour: tuple[int, int, int] | None = None
    fit: Fit = Fit.cover

    @property
    def drawn(self) -> bool:
        """Whether a generator draws it."""
        return self.file is None and self.colour is None


@dataclass(frozen=True)
class SceneLayer:
    """One layer: drawn from `prompt`, or the picture `file`, which `prompt` may describe.

    `opacity` is 0..255, as layered files keep it. `position` is where the file's upper left corner lies, in pixels of
    the canvas (None: centred); `scale` its enlargement (None: 1, or what makes it fit in).
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
    """Layers from the lowest to the uppermost over a background; `size` as in `read_size`, None is the checkpoint's."""

    background: Background
    layers: Sequence[SceneLayer]
    whole: str | None = None  # what the finished scene shows
    size: str | None = None
    seed: int = 0

    @property
    def files(self) -> list[Path]:
        """The user's own pictures that it shows."""
        files = [self.background.file, *(layer.file for layer in self.layers)]
        return list(dict.fromkeys(file for file in files if file is not None))


def read_scene(path: Path, seed: int | None = None) -> Scene:
    """Read a scene's file; `seed` overrules the scene's own. Raises NotFound; Refused, naming what is wrong."""
    text = read_text(path, MAX_FILE)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{path} is no TOML: {error}", "the README shows a scene") from error
    except RecursionError as error:
        raise Refused(f"{path} is nested too deeply", "the README shows a scene") from error
    if "\\x00" in repr(table):
        raise Refused(f"{path} holds a NUL in a text", "write the text without \\u0000")
    return make_scene(table, path.parent, seed)


def make_scene(table: Mapping[str, Any], folder: Path, seed: int | None = None) -> Scene:
    """A scene from the table in its file; files in it are named from `folder`. Raises NotFound, Refused."""
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
    given = table.get("layers", [])
    if not given or not all(isinstance(one, dict) for one in given):
        raise Refused(
            "the scene has no layers", "add a table [[layers]] with a prompt or a file for each"
        )
    if len(given) > MAX_LAYERS:
        raise Refused(f"the scene has {len(given)} layers, more than {MAX_LAYERS}")
    if "size" in table:
        read_size(table["size"])
    seed = _seed(table, "the scene", 0) if seed is None else seed
    return Scene(
        _background(table["background"], folder),
        tuple(_layer(one, place, seed, folder) for place, one in enumerate(given, 1)),
        _text(table, "the scene", "whole"),
        table.get("size"),
        seed,
    )


def _background(table: Mapping[str, Any], folder: Path) -> Background:
    where = "[background]"
    _check(table, where, {"prompt": str, "file": str, "colour": str, "fit": str})
    prompt, file = _text(table, where, "prompt"), _file(table, where, folder)
    colour = _colour(table["colour"]) if "colour" in table else None
    if prompt is None and file is None and colour is None:
        raise Refused(f"{where} says nothing of itself", "give it a prompt, a file or a colour")
    if file is None and prompt is not None and colour is not None:
        raise Refused(
            f"{where} has a prompt and a colour",
            "draw it from the prompt, or leave it plain: give one",
        )
    if file is None and "fit" in table:
        raise Refused(f"{where} has a fit and no file", "a fit says how a file fills the canvas")
    fit = table.get("fit", Fit.cover)
    if fit not in set(Fit):
        raise Refused(f"in {where}, fit is {fit!r}", f"it takes {' or '.join(Fit)}")
    return Background(prompt, file, colour, Fit(fit))


def _layer(table: Mapping[str, Any], place: int, seed: int, folder: Path) -> SceneLayer:
    where = f"layer {place}"
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
        raise Refused(f"{where} has no prompt", "say what it shows, or give a file")
    for key in ("position", "scale") if file is None else ("seed",):
        if key in table:
            what = "is drawn over the whole canvas" if file is None else "is a file and not drawn"
            raise Refused(f"{where} has a {key}, but {what}", f"leave {key} out")
    opacity = table.get("opacity", 1.0)
    if not 0 <= opacity <= 1:
        raise Refused(f"in {where}, opacity is {opacity}", "it goes from 0 to 1")
    scale = table.get("scale")
    if scale is not None and not 0.001 <= scale <= 100:
        raise Refused(
            f"in {where}, scale is {scale}", "it is 1 for the file's own size, and at most 100"
        )
    name = _text(table, where, "name") or prompt or (file.stem if file else "")
    name = (
        "".join(letter if letter.isprintable() else " " for letter in name)[:LONGEST_NAME].strip()
        or where
    )
    return SceneLayer(
        name,
        prompt,
        file,
        _seed(table, where, seed + place - 1),
        round(opacity * 255),
        _position(table, where),
        scale,
    )


def _check(table: Mapping[str, Any], where: str, keys: Mapping[str, type]) -> None:
    """Unknown keys with the nearest that means something, and values of another kind. Raises Refused."""
    words = {
        str: "a text in quotes",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(keys)}"
            raise Refused(f"{where} has a key {key!r} that means nothing", hint)
        wanted = keys[key]
        right = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(
            value, bool
        )
        if not right:
            raise Refused(f"in {where}, {key} is {value!r}", f"it takes {words[wanted]}")


def _text(table: Mapping[str, Any], where: str, key: str) -> str | None:
    if key not in table:
        return None
    text = str(table[key]).strip()
    if not text:
        raise Refused(f"in {where}, {key} is empty", f"write something, or leave {key} out")
    return text


def _seed(table: Mapping[str, Any], where: str, otherwise: int) -> int:
    seed = int(table.get("seed", otherwise))
    if not 0 <= seed <= LARGEST_SEED:
        raise Refused(f"in {where}, seed is {seed}", "it is a whole number from 0 on")
    return seed


def _file(table: Mapping[str, Any], where: str, folder: Path) -> Path | None:
    text = _text(table, where, "file")
    if text is None:
        return None
    path = folder / Path(text).expanduser()
    if not path.is_file():
        raise NotFound(
            f"in {where}, there is no file {path}",
            "files are looked for beside the scene's own file",
        )
    return path


def _position(table: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    given = table.get("position")
    if given is None:
        return None
    whole = all(
        isinstance(one, int) and not isinstance(one, bool) and abs(one) <= 100_000 for one in given
    )
    if len(given) != 2 or not whole:
        raise Refused(
            f"in {where}, position is {given!r}", "it takes two whole numbers, like [40, -12]"
        )
    return given[0], given[1]


def _colour(text: str) -> tuple[int, int, int]:
    try:
        colour = ImageColor.getrgb(text)
    except ValueError as error:
        raise Refused(f"{text!r} is no colour", "write it like '#87ceeb' or 'skyblue'") from error
    if len(colour) == 4:
        raise Refused(
            f"the colour {text!r} is transparent", "a background is opaque: write it like '#87ceeb'"
        )
    return colour
