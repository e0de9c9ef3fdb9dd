"""Shared cases have the same expected pixels in an import, in a scene and in the Python pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from curation.image_limits import ImageLimits
from curation.images.codec import decode_layer
from curation.ingest.inspection import inspect_and_encode
from curation.ingest.pair_inspection import inspect_and_encode_pair
from curation.scenes.scene_images import decode_images
from tests.conftest import SHARED
from tests.support.factories import scenes
from training.pipelines.images import to_rgba

CASES = SHARED / "cases" / "images"
TOLERANCE = 3
LOSSY = {"lossy_alpha.webp": 5}
"""The difference of lossy files decoded by libwebp and Chromium from the original."""
TALL = "tall_17to1.png"


def expected() -> dict[str, dict[str, list[int]]]:
    listed = CASES / "expected.json"
    return (
        {name: row["points"] for name, row in json.loads(listed.read_text()).items()}
        if listed.is_file()
        else {}
    )


def check(name: str, rgba: np.ndarray) -> None:
    for index, wanted in expected()[name].items():
        if index == "size":
            assert [rgba.shape[1], rgba.shape[0]] == wanted
            continue
        x, y = map(int, index.split(","))
        assert np.abs(rgba[y, x].astype(int) - wanted).max() <= LOSSY.get(name, TOLERANCE), (
            name,
            index,
            rgba[y, x],
        )


@pytest.mark.parametrize("name", expected())
def test_an_import_follows_the_color_policy(name: str) -> None:
    result = inspect_and_encode((CASES / name).read_bytes(), name)
    if name == "mask.jpg":
        assert result.code == "no_alpha"
        return
    if name == TALL:
        assert result.code == "bad_aspect"
        result = inspect_and_encode((CASES / name).read_bytes(), name, ImageLimits(aspect=20))
    assert result.layer is not None, result
    check(name, decode_layer(result.layer))


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
def test_scene_images_follow_the_color_policy() -> None:
    paths = [CASES / name for name in expected()]
    for path, rgba in decode_images(paths).items():
        check(path.name, rgba)


@pytest.mark.parametrize("name", expected())
@pytest.mark.parametrize("held", ["path", "text", "opened", "loaded"])
def test_pipelines_follow_the_color_policy(name: str, held: str) -> None:
    path = CASES / name
    if held in {"path", "text"}:
        check(name, levels(path if held == "path" else str(path)))
        return
    try:
        with Image.open(path) as image:
            if held == "loaded":
                image.load()
            check(name, levels(image))
    except (UnidentifiedImageError, OSError):
        assert name in {"bad_text_crc.png", "ios_cgbi.png"}, "Pillow itself refuses these two"


def levels(given: Image.Image | Path | str) -> np.ndarray:
    return (to_rgba(given)[0] * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
def test_backgrounds_of_pairs_follow_the_color_policy(tmp_path: Path) -> None:
    _, pair = scenes(1, 96)[0]
    with Image.open(CASES.parent / "pairs" / "bg0.jpg") as photo:
        front = Image.fromarray(next(iter(pair.values()))).resize(photo.size)
    front.save(tmp_path / "front.png")
    result = inspect_and_encode_pair(
        (tmp_path / "front.png").read_bytes(),
        (CASES.parent / "pairs/bg0.jpg").read_bytes(),
        None,
        "p",
    )
    assert result.layer is not None, result
    assert "lossy_source" in result.codes
