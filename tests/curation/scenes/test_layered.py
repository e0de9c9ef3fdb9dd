"""Layered files, read back by other programs than wrote them: every pixel, name, place and opacity, and the order."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import photoshopapi
import psd_tools
import pyora
import pytest
import tifffile
from defusedxml import ElementTree
from PIL import Image

from curation.errors import Refused
from curation.images.codec import composite_over
from curation.images.pairs import composite
from curation.ports import RGBA
from curation.scenes.blending import apply_opacity, new_canvas, place_on_canvas
from curation.scenes.formats.ora import write_ora
from curation.scenes.formats.psd import write_psd
from curation.scenes.formats.tiff import write_tiff
from curation.scenes.layer_stack import LayerStack, StackLayer
from curation.scenes.layered_files import WRITERS, parse_formats
from curation.scenes.manifest import LAYERED_FILE_NAMES
from tests.support.factories import image
from tests.support.pair_generator import gradient

SIZE = (48, 40)


def stack(background: RGBA) -> LayerStack:
    sheets = [
        StackLayer("background", background, (0, 0), 255),
        StackLayer("a fox & an <owl>", image(1, *SIZE), (0, 0), 255),
        StackLayer("lampe à huile, 日本のランプ", image(2, 20, 30), (-7, 25), 128),
        StackLayer("x" * 100, image(3, 9, 11), (44, -3), 77),
    ]
    merged = new_canvas(SIZE)
    for sheet in sheets:
        merged = composite(
            place_on_canvas(apply_opacity(sheet.rgba, sheet.opacity), sheet.offset, SIZE), merged
        )
    return LayerStack(SIZE, sheets, merged)


OPAQUE = stack(gradient("sky", SIZE))
SEE_THROUGH = stack(image(9, *SIZE))
BOTH = pytest.mark.parametrize("drawn", [OPAQUE, SEE_THROUGH], ids=["opaque", "see-through"])


@BOTH
def test_psd_files_are_read_by_photoshopapi(tmp_path: Path, drawn: LayerStack) -> None:
    """PhotoshopAPI reads layers with a parser of its own (C++)."""
    write_psd(tmp_path / "a.psd", drawn)
    read = photoshopapi.LayeredFile.read(str(tmp_path / "a.psd"))
    assert (read.width, read.height) == SIZE
    assert len(read.layers) == len(drawn.layers)
    for layer, sheet in zip(reversed(read.layers), drawn.layers, strict=True):  # uppermost first
        assert layer.name == sheet.name
        assert round(layer.opacity * 255) == sheet.opacity
        assert (layer.center_x - layer.width / 2, layer.center_y - layer.height / 2) == sheet.offset
        planes = layer.get_image_data()
        assert np.array_equal(np.stack([planes[n] for n in (0, 1, 2, -1)], axis=-1), sheet.rgba)


@BOTH
def test_psd_files_are_read_by_pillow(tmp_path: Path, drawn: LayerStack) -> None:
    """Pillow: the blended picture, and where the layers lie."""
    write_psd(tmp_path / "a.psd", drawn)
    with Image.open(tmp_path / "a.psd") as image:
        found = [(mode, box) for _, mode, box, _ in image.layers]
        assert found == [
            ("RGBA", (x, y, x + s.rgba.shape[1], y + s.rgba.shape[0]))
            for s in drawn.layers
            for x, y in [s.offset]
        ]
        assert np.array_equal(
            np.asarray(image.convert("RGB")), composite_over(drawn.merged, (255, 255, 255))
        )
        if drawn is OPAQUE:
            assert image.mode == "RGB"
        else:
            assert np.array_equal(np.asarray(image)[..., 3], drawn.merged[..., 3])


@BOTH
def test_psd_blends_to_what_we_blended(tmp_path: Path, drawn: LayerStack) -> None:
    write_psd(tmp_path / "a.psd", drawn)
    document = psd_tools.PSDImage.open(tmp_path / "a.psd")
    assert [layer.kind for layer in document] == ["pixel"] * 4
    assert not any(layer.has_mask() for layer in document)
    blended = np.asarray(document.composite(force=True, color=0, alpha=0).convert("RGBA")).astype(
        int
    )
    difference = np.abs(blended - drawn.merged)[drawn.merged[..., 3] > 32]
    assert difference.max() <= 2


@BOTH
def test_ora_files_are_read_by_another_program(tmp_path: Path, drawn: LayerStack) -> None:
    write_ora(tmp_path / "a.ora", drawn)
    read = pyora.Project.load(str(tmp_path / "a.ora"))
    assert read.dimensions == SIZE
    for layer, sheet in zip(
        reversed(list(read.children)), drawn.layers, strict=True
    ):  # uppermost first
        assert layer.name == sheet.name
        assert layer.offsets == sheet.offset
        assert layer.opacity == pytest.approx(sheet.opacity / 255, abs=1e-6)
        assert np.array_equal(np.asarray(layer.get_image_data(raw=True)), sheet.rgba)
    rendered = np.asarray(read.get_image_data()).astype(int)  # blended by pyora itself
    assert np.abs(rendered - drawn.merged)[drawn.merged[..., 3] > 32].max() <= 2


@BOTH
def test_ora_keeps_the_rules_of_its_format(tmp_path: Path, drawn: LayerStack) -> None:
    write_ora(tmp_path / "a.ora", drawn)
    assert (tmp_path / "a.ora").read_bytes()[30:54] == b"mimetypeimage/openraster"
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        first, *rest = archive.infolist()
        assert (first.filename, first.compress_type, first.extra) == (
            "mimetype",
            zipfile.ZIP_STORED,
            b"",
        )
        assert {"stack.xml", "mergedimage.png", "Thumbnails/thumbnail.png"} < {
            one.filename for one in rest
        }
        image = ElementTree.fromstring(archive.read("stack.xml"))
        assert (image.tag, image.get("w"), image.get("h")) == ("image", "48", "40")
        layers = image.findall("./stack/layer")
        assert [one.get("name") for one in layers] == [
            sheet.name for sheet in reversed(drawn.layers)
        ]
        assert {one.get("composite-op") for one in layers} == {"svg:src-over"}
        for one, sheet in zip(layers, reversed(drawn.layers), strict=True):
            with Image.open(io.BytesIO(archive.read(one.get("src")))) as png:
                assert (png.format, png.mode) == ("PNG", "RGBA")
                assert np.array_equal(np.asarray(png), sheet.rgba)
        with Image.open(io.BytesIO(archive.read("mergedimage.png"))) as merged:
            assert np.array_equal(np.asarray(merged), drawn.merged)
        with Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png"))) as small:
            assert max(small.size) <= 256


def test_a_large_thumbnail_is_made_small(tmp_path: Path) -> None:
    large = gradient("sky", (900, 300))
    write_ora(
        tmp_path / "a.ora", LayerStack((900, 300), [StackLayer("sky", large, (0, 0), 255)], large)
    )
    with zipfile.ZipFile(tmp_path / "a.ora") as archive:
        assert Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png"))).size == (256, 85)


@BOTH
def test_tiff_files_are_read_by_another_program(tmp_path: Path, drawn: LayerStack) -> None:
    write_tiff(tmp_path / "a.tiff", drawn)
    with tifffile.TiffFile(tmp_path / "a.tiff") as read:
        assert len(read.pages) == len(drawn.layers)
        for page, sheet in zip(read.pages, drawn.layers, strict=True):
            assert page.extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)
            assert page.photometric == tifffile.PHOTOMETRIC.RGB
            assert page.tags["PageName"].value == sheet.name
            assert page.tags["NewSubfileType"].value == tifffile.FILETYPE.PAGE
            assert np.array_equal(page.asarray(), place_on_canvas(sheet.rgba, sheet.offset, SIZE))
            output = json.loads(page.description)
            assert (output["name"], tuple(output["offset"])) == (sheet.name, sheet.offset)
            assert round(output["opacity"] * 255) == sheet.opacity
            assert tuple(output["size"]) == (sheet.rgba.shape[1], sheet.rgba.shape[0])


@pytest.mark.parametrize("kind", WRITERS)
def test_equal_scenes_are_equal_files(tmp_path: Path, kind: str) -> None:
    for name in "ab":
        WRITERS[kind](tmp_path / name, OPAQUE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_formats_are_found_by_file_name() -> None:
    assert set(WRITERS) == set(LAYERED_FILE_NAMES)
    assert parse_formats(None) == []
    assert parse_formats("PSD, ora,psd") == ["psd", "ora"]
    with pytest.raises(Refused, match="unknown layered format 'xcf'"):
        parse_formats("psd,xcf")
