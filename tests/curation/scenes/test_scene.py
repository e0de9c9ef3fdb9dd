"""Scene files: their valid fields, and the error for everything invalid."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.errors import LayerloopError, NotFound, Refused
from curation.scenes.scene import Background, FitMode, Scene, SceneLayer, load_scene, parse_scene
from curation.scenes.sizes import parse_size

FOREST = '[background]\nprompt = "a forest"\n'
FOX = '[[layers]]\nprompt = "a fox"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "scene.toml"
    path.write_text(text, "utf-8")
    return path


def test_every_field_of_a_scene_file_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4, 4), 200, np.uint8)).save(tmp_path / "lamp.png")
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(tmp_path / "photo.jpg")
    path = write(
        tmp_path,
        """
        size = "320x240"
        whole = "a fox by a lamp in a forest"
        seed = 40
        [background]
        file = "photo.jpg"
        prompt = " a forest "
        fit = "contain"
        colour = "#102030"
        [[layers]]
        prompt = "a fox"
        seed = 3
        [[layers]]
        file = "lamp.png"
        name = "the lamp"
        opacity = 0.5
        position = [-4, 10]
        scale = 2
        [[layers]]
        prompt = "an owl"
        """,
    )
    assert load_scene(path) == Scene(
        Background("a forest", tmp_path / "photo.jpg", (16, 32, 48), FitMode.contain),
        (
            SceneLayer("a fox", "a fox", None, 3),
            SceneLayer("the lamp", None, tmp_path / "lamp.png", 41, 128, (-4, 10), 2),
            SceneLayer("an owl", "an owl", None, 42),
        ),
        "a fox by a lamp in a forest",
        "320x240",
        40,
    )
    assert [layer.seed for layer in load_scene(path, 7).layers] == [3, 8, 9]
    assert load_scene(path).files == [tmp_path / "photo.jpg", tmp_path / "lamp.png"]


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        (FOX, "no background", "[background]"),
        (FOREST, "no layers", "[[layers]]"),
        (FOREST + "[layers]\nprompt = 'a fox'\n", "layers is {", "a list"),
        ("layers = [1]\n" + FOREST, "no layers", "[[layers]]"),
        ("backround = 1\n" + FOREST + FOX, "'backround'", "'background'"),
        ("zebra = 1\n" + FOREST + FOX, "'zebra'", "known keys: size, whole"),
        (
            FOREST + "[[layers]]\npromt = 'a fox'\n",
            "layer 1 has an unknown key 'promt'",
            "'prompt'",
        ),
        (
            FOREST + FOX + "[[layers]]\nname = 'owl'\n",
            "layer 2 has neither a prompt nor a file",
            "give one",
        ),
        (FOREST + "[[layers]]\nprompt = '  '\n", "prompt is empty", ""),
        (FOREST + "[[layers]]\nprompt = 5\n", "prompt is 5", "a text in quotes"),
        (FOREST + FOX + "opacity = 1.5\n", "opacity is 1.5", "[0, 1]"),
        (FOREST + FOX + "opacity = nan\n", "opacity is nan", "[0, 1]"),
        (FOREST + FOX + "opacity = true\n", "opacity is True", "a number"),
        (FOREST + FOX + "seed = -1\n", "seed is -1", "[0, "),
        (FOREST + FOX + "seed = 1.5\n", "seed is 1.5", "a whole number"),
        (FOREST + FOX + "position = [1, 2]\n", "has a position", "leave position out"),
        (FOREST + FOX + "scale = 2\n", "has a scale", "leave scale out"),
        (FOREST + "[[layers]]\nfile = 'here.png'\nseed = 4\n", "has a seed", "leave seed out"),
        (
            FOREST + "[[layers]]\nfile = 'here.png'\nposition = [1]\n",
            "position is [1]",
            "two whole numbers",
        ),
        (
            FOREST + "[[layers]]\nfile = 'here.png'\nposition = [1, 2.5]\n",
            "position is",
            "two whole numbers",
        ),
        (FOREST + "[[layers]]\nfile = 'here.png'\nscale = 0\n", "scale is 0", "[0.001, 100]"),
        ("[background]\n" + FOX, "is empty", "a file or a colour"),
        (
            "[background]\nprompt = 'sky'\ncolour = 'blue'\n" + FOX,
            "a prompt and a colour",
            "give either",
        ),
        ("[background]\ncolour = 'blau'\n" + FOX, "invalid color 'blau'", "#87ceeb"),
        ("[background]\ncolour = '#11223344'\n" + FOX, "is transparent", "opaque"),
        ("[background]\nprompt = 'sky'\nfit = 'cover'\n" + FOX, "a fit but no file", ""),
        (
            "[background]\nfile = 'here.png'\nfit = 'stretch'\n" + FOX,
            "fit is 'stretch'",
            "cover or contain",
        ),
        ("size = 'big'\n" + FOREST + FOX, "invalid size 'big'", "832x1216"),
        ("size = 512\n" + FOREST + FOX, "size is 512", "a text in quotes"),
        ("whole = \n" + FOREST + FOX, "is not valid TOML", "layers-and-scenes"),
        (FOREST + FOX * 101, "101 layers", ""),
    ],
)
def test_invalid_scene_files_are_refused_with_the_reason(
    tmp_path: Path, text: str, says: str, hint: str
) -> None:
    Image.new("RGBA", (4, 4)).save(tmp_path / "here.png")
    with pytest.raises(Refused) as refused:
        load_scene(write(tmp_path, text))
    assert says in refused.value.message
    assert hint in refused.value.hint


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        load_scene(tmp_path / "scene.toml")
    with pytest.raises(NotFound, match=r"layer 1, there is no file .*lamp\.png"):
        load_scene(write(tmp_path, FOREST + "[[layers]]\nfile = 'lamp.png'\n"))
    with pytest.raises(Refused, match="is a folder"):
        load_scene(tmp_path)
    (tmp_path / "scene.toml").write_bytes(b"\xe9\x81")
    with pytest.raises(Refused, match="utf-8"):
        load_scene(tmp_path / "scene.toml")


def test_layer_names_are_cleaned_and_shortened(tmp_path: Path) -> None:
    text = (
        FOREST
        + '[[layers]]\nprompt = "a\\u0001fox\\nruns"\n'
        + f"[[layers]]\nprompt = '{'x' * 300}'\n"
    )
    first, second = load_scene(write(tmp_path, text)).layers
    assert first.name == "a fox runs"
    assert len(second.name) == 100
    assert len(second.prompt) == 300
    with pytest.raises(Refused, match="NUL"):
        load_scene(write(tmp_path, FOREST + '[[layers]]\nprompt = "a\\u0000fox"\n'))


KEYS = [
    "size",
    "whole",
    "seed",
    "background",
    "layers",
    "prompt",
    "file",
    "name",
    "opacity",
    "scale",
    "position",
    "x",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_any_file_is_a_scene_or_a_refusal(table: dict) -> None:
    with suppress(LayerloopError):
        assert parse_scene(table, Path("nowhere")).layers


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, (None, None)),
        ("832x1216", ((832, 1216), None)),
        (" 64×32 ", ((64, 32), None)),
        ("2:3", (None, 2 / 3)),
    ],
)
def test_sizes_are_parsed(text: str | None, size: tuple) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0x0", "7x64", "3:0", "64", "64x", "x64", "1e3x64"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(Refused, match="invalid size"):
        parse_size(text)
