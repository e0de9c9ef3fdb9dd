"""Layered files are read by other programs: every pixel, name, offset and opacity, and the order."""

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
    layers = [
        StackLayer("background", background, (0, 0), 255),
        StackLayer("a fox & an <owl>", image(1, *SIZE), (0, 0), 255),
        StackLayer("lampe à huile, 日本のランプ", image(2, 20, 30), (-7, 25), 128),
        StackLayer("x" * 100, image(3, 9, 11), (44, -3), 77),
    ]
    merged = new_canvas(SIZE)
    for layer_ in layers:
        merged = composite(
            place_on_canvas(apply_opacity(layer_.rgba, layer_.opacity), layer_.offset, SIZE), merged
        )
    return LayerStack(SIZE, layers, merged)


OPAQUE = stack(gradient("sky", SIZE))
TRANSLUCENT = stack(image(9, *SIZE))
EACH_STACK = pytest.mark.parametrize("drawn", [OPAQUE, TRANSLUCENT], ids=["opaque", "see-through"])


@EACH_STACK
def test_psd_files_are_read_by_photoshopapi(tmp_path: Path, drawn: LayerStack) -> None:
    """PhotoshopAPI reads layers with a parser of its own (C++)."""
    write_psd(tmp_path / "a.psd", drawn)
    read = photoshopapi.LayeredFile.read(str(tmp_path / "a.psd"))
    assert (read.width, read.height) == SIZE
    assert len(read.layers) == len(drawn.layers)
    for layer, layer_ in zip(reversed(read.layers), drawn.layers, strict=True):  # uppermost first
        assert layer.name == layer_.name
        assert round(layer.opacity * 255) == layer_.opacity
        assert (
            layer.center_x - layer.width / 2,
            layer.center_y - layer.height / 2,
        ) == layer_.offset
        planes = layer.get_image_data()
        assert np.array_equal(np.stack([planes[n] for n in (0, 1, 2, -1)], axis=-1), layer_.rgba)


@EACH_STACK
def test_psd_files_are_read_by_pillow(tmp_path: Path, drawn: LayerStack) -> None:
    """Pillow reads the merged image and the boxes of the layers."""
    write_psd(tmp_path / "a.psd", drawn)
    with Image.open(tmp_path / "a.psd") as image:
        found = [(mode, box) for _, mode, box, _ in image.layers]
        assert found == [
            ("RGBA", (x, y, x + layer_.rgba.shape[1], y + layer_.rgba.shape[0]))
            for layer_ in drawn.layers
            for x, y in [layer_.offset]
        ]
        assert np.array_equal(
            np.asarray(image.convert("RGB")), composite_over(drawn.merged, (255, 255, 255))
        )
        if drawn is OPAQUE:
            assert image.mode == "RGB"
        else:
            assert np.array_equal(np.asarray(image)[..., 3], drawn.merged[..., 3])


@EACH_STACK
def test_psd_tools_blends_layers_to_the_merged_image(tmp_path: Path, drawn: LayerStack) -> None:
    write_psd(tmp_path / "a.psd", drawn)
    document = psd_tools.PSDImage.open(tmp_path / "a.psd")
    assert [layer.kind for layer in document] == ["pixel"] * 4
    assert not any(layer.has_mask() for layer in document)
    blended = np.asarray(document.composite(force=True, color=0, alpha=0).convert("RGBA")).astype(
        int
    )
    difference = np.abs(blended - drawn.merged)[drawn.merged[..., 3] > 32]
    assert difference.max() <= 2


@EACH_STACK
def test_ora_files_are_read_by_another_program(tmp_path: Path, drawn: LayerStack) -> None:
    write_ora(tmp_path / "a.ora", drawn)
    read = pyora.Project.load(str(tmp_path / "a.ora"))
    assert read.dimensions == SIZE
    for layer, layer_ in zip(
        reversed(list(read.children)), drawn.layers, strict=True
    ):  # uppermost first
        assert layer.name == layer_.name
        assert layer.offsets == layer_.offset
        assert layer.opacity == pytest.approx(layer_.opacity / 255, abs=1e-6)
        assert np.array_equal(np.asarray(layer.get_image_data(raw=True)), layer_.rgba)
    rendered = np.asarray(read.get_image_data()).astype(int)  # blended by pyora itself
    assert np.abs(rendered - drawn.merged)[drawn.merged[..., 3] > 32].max() <= 2


@EACH_STACK
def test_ora_files_follow_the_specification(tmp_path: Path, drawn: LayerStack) -> None:
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
            element.filename for element in rest
        }
        image = ElementTree.fromstring(archive.read("stack.xml"))
        assert (image.tag, image.get("w"), image.get("h")) == ("image", "48", "40")
        layers = image.findall("./stack/layer")
        assert [element.get("name") for element in layers] == [
            layer_.name for layer_ in reversed(drawn.layers)
        ]
        assert {element.get("composite-op") for element in layers} == {"svg:src-over"}
        for element, layer_ in zip(layers, reversed(drawn.layers), strict=True):
            with Image.open(io.BytesIO(archive.read(element.get("src")))) as png:
                assert (png.format, png.mode) == ("PNG", "RGBA")
                assert np.array_equal(np.asarray(png), layer_.rgba)
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


@EACH_STACK
def test_tiff_files_are_read_by_another_program(tmp_path: Path, drawn: LayerStack) -> None:
    write_tiff(tmp_path / "a.tiff", drawn)
    with tifffile.TiffFile(tmp_path / "a.tiff") as read:
        assert len(read.pages) == len(drawn.layers)
        for page, layer_ in zip(read.pages, drawn.layers, strict=True):
            assert page.extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)
            assert page.photometric == tifffile.PHOTOMETRIC.RGB
            assert page.tags["PageName"].value == layer_.name
            assert page.tags["NewSubfileType"].value == tifffile.FILETYPE.PAGE
            assert np.array_equal(page.asarray(), place_on_canvas(layer_.rgba, layer_.offset, SIZE))
            metadata = json.loads(page.description)
            assert (metadata["name"], tuple(metadata["offset"])) == (layer_.name, layer_.offset)
            assert round(metadata["opacity"] * 255) == layer_.opacity
            assert tuple(metadata["size"]) == (layer_.rgba.shape[1], layer_.rgba.shape[0])


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
