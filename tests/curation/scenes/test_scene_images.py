"""Users' images: any photograph, upright and in sRGB; hostile files are refused."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from curation.errors import Refused
from curation.image_limits import DEFAULT_LIMITS
from curation.scenes.scene import FitMode
from curation.scenes.scene_images import (
    cover,
    decode_bytes,
    decode_images,
    fit_background,
    place_image,
)
from tests.support.factories import image


def test_users_images_are_decoded_in_a_confined_process(tmp_path: Path) -> None:
    rgba = image(1)
    rgba[:4, :, :3] = 77  # hidden colors
    Image.fromarray(rgba).save(tmp_path / "layer.png")
    Image.fromarray(rgba).save(tmp_path / "layer.webp", lossless=True, exact=True)
    sideways = Image.new("RGB", (60, 40), (200, 30, 30))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    paths = [tmp_path / "layer.png", tmp_path / "layer.webp", tmp_path / "photo.jpg"]
    read = decode_images(paths)
    for path in paths[:2]:
        assert np.array_equal(read[path], np.where(rgba[..., 3:] > 0, rgba, 0))
    assert read[paths[2]].shape == (60, 40, 4)
    assert (read[paths[2]][..., 3] == 255).all()
    assert np.abs(read[paths[2]][30, 20, :3].astype(int) - (200, 30, 30)).max() <= 3
    assert decode_images([]) == {}


def test_the_colors_of_a_photograph_become_srgb(tmp_path: Path) -> None:
    swapped = ImageCms.createProfile("XYZ")
    plain = Image.new("RGB", (20, 20), (120, 90, 60))
    plain.save(tmp_path / "a.jpg", icc_profile=b"no profile at all")
    assert decode_images([tmp_path / "a.jpg"])[tmp_path / "a.jpg"].shape == (20, 20, 4)
    plain.save(tmp_path / "b.jpg", icc_profile=ImageCms.ImageCmsProfile(swapped).tobytes())
    assert decode_images([tmp_path / "b.jpg"])[tmp_path / "b.jpg"].shape == (20, 20, 4)
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    converted = decode_images([tmp_path / "c.jpg"])[tmp_path / "c.jpg"]
    assert converted[5, 5, 0] > 200
    assert converted[5, 5, 1:3].max() < 80


def bomb() -> bytes:
    """Return a PNG whose header declares 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body))
            + kind
            + body
            + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        )

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(image(1)[..., :3]).save(whole)
    frames = [Image.new("RGBA", (8, 8), (n, 0, 0, 255)) for n in (0, 200)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    files = {
        "pickle.png": (pickle.dumps({"a": 1}), "not an image"),
        "bomb.png": (bomb(), "more than 40 million"),
        "empty.png": (b"", "is empty"),
        "cut.jpg": (whole.read_bytes()[:300], "pixels"),
        "broken.jpg": (b"\xff\xd8\xff\xe0" + bytes(40), "cannot be decoded"),
        "moving.webp": ((tmp_path / "moving.webp").read_bytes(), "several frames"),
        "drawing.svg": (b"<svg/>", "SVG files are not supported"),
        "layers.psd": (b"8BPS" + bytes(40), "save it as PNG"),
        "scan.tiff": (b"II*\0" + bytes(40), "cannot be decoded"),
    }
    for name, (data, expected) in files.items():
        (tmp_path / name).write_bytes(data)
        message = decode_bytes(data, name, DEFAULT_LIMITS)
        assert isinstance(message, str), name
        assert expected in message, (name, message)
    with pytest.raises(Refused, match=r"pickle\.png cannot be used: .* not an image"):
        decode_images([whole, tmp_path / "pickle.png"])
    with pytest.raises(Refused, match="is a folder"):
        decode_images([tmp_path])


def test_a_background_covers_or_is_seen_whole() -> None:
    wide = np.zeros((10, 40, 4), np.uint8)
    wide[..., 3] = 255
    wide[:, :10], wide[:, 30:] = (255, 0, 0, 255), (0, 0, 255, 255)
    covering = cover(wide, (20, 20))
    assert covering.shape == (20, 20, 4)
    assert covering[..., :3].max() < 40  # the red and blue sides are cut off
    whole = fit_background(wide, (20, 20), FitMode.contain)
    assert whole.shape == (20, 20, 4)
    assert (whole[:7, :, 3] == 0).all()
    assert (whole[-7:, :, 3] == 0).all()
    assert whole[10, 0, :3].tolist() == [255, 0, 0]
    assert whole[10, -1, :3].tolist() == [0, 0, 255]


def test_layers_keep_their_size_or_are_fitted() -> None:
    rgba = image(3, 40, 20)
    same, offset = place_image(rgba, (100, 60), None, None)
    assert np.array_equal(same, rgba)
    assert offset == (30, 20)
    smaller, offset = place_image(rgba, (20, 60), None, None)
    assert smaller.shape == (10, 20, 4)
    assert offset == (0, 25)
    larger, offset = place_image(rgba, (20, 60), (-7, 3), 2.0)
    assert larger.shape == (40, 80, 4)
    assert offset == (-7, 3)
    with pytest.raises(Refused, match="too large at scale 100"):
        place_image(np.zeros((1000, 1000, 4), np.uint8), (100, 100), None, 100)


def test_scaling_weights_colors_by_alpha() -> None:
    """A white disc on clear black stays white to its edge: no dark fringe."""
    y, x = np.mgrid[:64, :64]
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[np.hypot(x - 32, y - 32) < 20] = 255
    scaled, _ = place_image(rgba, (100, 100), None, 0.4)
    edge = (scaled[..., 3] > 20) & (scaled[..., 3] < 235)
    assert edge.sum() > 20
    assert scaled[edge][:, :3].min() >= 250
