"""Provenance of images: exact pixels, and metadata that PNG and WebP files restore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.errors import Corrupt, NotFound, Refused
from curation.images.provenance import format_parameters, read_image, read_provenance, save_image
from tests.support.factories import image as make_image

METADATA = {
    "prompt": 'a "glass" <bottle> & smoke, 日本',
    "negative": "bad",
    "seed": "7",
    "steps": "25",
    "sampler": "ddim",
    "guidance": "7.0",
    "size": "32x24",
    "model": "some/model",
    "checkpoint": "ab" * 32,
    "version": "1.0",
}


@pytest.mark.parametrize("suffix", [".png", ".webp", ".PNG"])
def test_pixels_and_provenance_are_restored(tmp_path: Path, suffix: str) -> None:
    rgba = make_image(1)
    rgba[:5] = (200, 100, 50, 0)
    path = tmp_path / "new" / f"image{suffix}"
    save_image(path, rgba, METADATA)
    assert read_provenance(path) == METADATA
    assert np.array_equal(read_image(path), rgba)
    assert b"trainedAlgorithmicMedia" in path.read_bytes()


def test_a_png_has_the_parameters_text_of_other_programs(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", make_image(1), METADATA)
    with Image.open(tmp_path / "a.png") as image:
        parameters = image.text["parameters"]
    assert parameters == format_parameters(METADATA)
    first, second, third = parameters.splitlines()
    assert (first, second) == (METADATA["prompt"], "Negative prompt: bad")
    assert third.startswith(
        "Steps: 25, Sampler: ddim, CFG scale: 7.0, Seed: 7, Size: 32x24, Model: some/model"
    )


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=40), max_size=4))
def test_any_text_is_restored(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("provenance") / "a.webp"
    try:
        save_image(path, make_image(2, 8, 8), metadata)
    except UnicodeEncodeError:  # a lone surrogate is not valid text
        assert any(
            "\ud800" <= letter <= "\udfff"
            for text in (*metadata, *metadata.values())
            for letter in text
        )
        return
    assert read_provenance(path) == metadata


def test_files_without_provenance_and_invalid_files_have_none(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4)).save(tmp_path / "plain.png")
    with pytest.raises(NotFound, match="has no provenance"):
        read_provenance(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(NotFound, match="has no provenance"):
        read_provenance(tmp_path / "text.png")
    with pytest.raises(Corrupt):
        read_image(tmp_path / "text.png")
    for read in (read_image, read_provenance):
        with pytest.raises(NotFound, match="there is no file"):
            read(tmp_path / "nowhere.png")
    with pytest.raises(Refused, match="unsupported output format"):
        save_image(tmp_path / "a.jpg", make_image(1), METADATA)


def test_provenance_is_read_without_decoding_a_pixel(tmp_path: Path) -> None:
    """Untrusted files are read by their chunks only, so damaged pixels do not matter."""
    for suffix, chunk in ((".png", b"IDAT"), (".webp", b"VP8L")):
        path = tmp_path / f"a{suffix}"
        save_image(path, make_image(1), METADATA)
        data = path.read_bytes()
        offset = data.index(chunk) + 12
        path.write_bytes(data[:offset] + b"\xff" * 4 + data[offset + 4 :])
        assert read_provenance(path) == METADATA
