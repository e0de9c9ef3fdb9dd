"""Hostile and unusual files: each has one outcome and one code, and none raises."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from curation.images.codec import decode_layer, pixel_hash
from curation.ingest.inspection import ImageLimits, inspect_and_encode
from curation.ingest.inspection_result import FINDINGS, InspectionOutcome
from tests.conftest import SHARED


def disc(size: int = 64, color: tuple[int, int, int] = (200, 60, 40)) -> np.ndarray:
    """Return a soft disc on nothing, its colors graded so that turning and mixing channels show."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    alpha = np.clip((size * 0.33 - np.hypot(x - size / 2, y - size / 2)) / 3 + 0.5, 0, 1)
    rgb = np.stack([np.full_like(x, color[0]), color[1] + x, color[2] + y], axis=-1)
    rgba = np.rint(np.dstack([rgb, alpha * 255])).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def saved(rgba: np.ndarray, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """Return the PNG with one more chunk behind its header."""
    return png[:33] + chunk(kind, body) + png[33:]


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory) -> Path:
    archive = SHARED / "bad_inputs.tar.gz"
    if not archive.is_file():
        pytest.skip("the folder 'shared' with the bad inputs is not beside this checkout")
    folder = tmp_path_factory.mktemp("bad")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "bad_inputs"


CHANGED = {
    "gamma_linear.png": {"same_visible_pixels_as": "gamma_linear.png"},  # its gamma is applied
    "layers.psd": {"code": "no_alpha"},  # its merged picture is read, and is opaque
}
"""Rows of the table of bad inputs that were written for an import that read less."""


def expected() -> list[dict]:
    listed = SHARED / "bad_inputs_expected.json"
    if not listed.is_file():
        return []
    rows = [row | CHANGED.get(row["file"], {}) for row in json.loads(listed.read_text())["files"]]
    return [row for row in rows if not row["file"].endswith((".zip", ".jsonl"))]


@pytest.mark.parametrize(
    "row", expected(), ids=lambda row: row["file"][:40].encode("ascii", "replace").decode()
)
def test_every_bad_input_has_its_outcome_and_code(bad_inputs, row):
    found = inspect_and_encode((bad_inputs / row["file"]).read_bytes(), row["file"])
    alone = row["decision"] if row["decision"] != "duplicate" else "accept"
    assert (found.outcome, found.code) == (alone, row["code"] if alone != "accept" else "")
    assert (found.layer is None) == (found.outcome is InspectionOutcome.reject)
    assert found.sentence or found.outcome is InspectionOutcome.accept
    if "same_visible_pixels_as" in row:
        assert (
            found.visible
            == inspect_and_encode(
                (bad_inputs / row["same_visible_pixels_as"]).read_bytes(), ""
            ).visible
        )


def test_a_good_layer_is_kept_exactly():
    rgba = disc()
    found = inspect_and_encode(saved(rgba), "disc.png")
    assert (found.outcome, found.codes, found.width, found.height) == (
        InspectionOutcome.accept,
        (),
        64,
        64,
    )
    assert np.array_equal(decode_layer(found.layer), rgba)
    assert found.visible == pixel_hash(rgba)


def test_sixteen_bits_are_rounded_not_cut():
    deep = disc().astype(np.uint16) * 257
    deep[..., :3] = np.where(
        deep[..., 3:] > 0, np.minimum(deep[..., :3] + 200, 65535), 0
    )  # 200/257 rounds up, >> 8 would not
    ok, png = cv2.imencode(".png", deep[..., [2, 1, 0, 3]])
    found = inspect_and_encode(png.tobytes(), "deep.png")
    assert ok
    assert np.array_equal(decode_layer(found.layer), np.rint(deep / 257).astype(np.uint8))
    assert "16 bits" in found.sentence


def test_a_bomb_is_refused_by_its_header_alone():
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"not even deflate")
        + chunk(b"IEND", b"")
    )
    assert inspect_and_encode(png, "bomb.png").code == "too_many_pixels"
    assert (
        inspect_and_encode(saved(disc()), "d.png", ImageLimits(pixels=64 * 64 - 1)).code
        == "too_many_pixels"
    )
    assert (
        inspect_and_encode(saved(disc()), "d.png", ImageLimits(bytes=100)).code == "too_many_bytes"
    )


def test_texts_are_never_inflated_and_never_kept():
    bomb = with_chunk(saved(disc()), b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))
    found = inspect_and_encode(bomb, "bomb.png")
    assert found.codes == ("text_chunk_dropped",)
    assert np.array_equal(decode_layer(found.layer), disc())
    webp = saved(disc(), "WEBP", lossless=True, exact=True, xmp=b"<x onload='alert(1)'/>")
    assert inspect_and_encode(webp, "x.webp").codes == ("text_chunk_dropped",)


def test_a_foreign_profile_is_applied_and_srgb_is_left_alone():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(srgb)
    entries = {
        bytes(srgb[at : at + 4]): at
        for at in range(132, 132 + 12 * struct.unpack(">I", srgb[128:132])[0], 12)
    }
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    kept = inspect_and_encode(saved(disc(), icc_profile=srgb), "srgb.png")
    assert kept.codes == ()
    assert np.array_equal(decode_layer(kept.layer), disc())
    turned = inspect_and_encode(saved(disc(), icc_profile=bytes(swapped)), "swapped.png")
    assert turned.codes == ("colour_converted",)
    pixel, was = decode_layer(turned.layer)[32, 32].astype(int), disc()[32, 32].astype(int)
    assert np.abs(pixel - was[[1, 0, 2, 3]]).max() <= 2
    assert inspect_and_encode(saved(disc(), icc_profile=b"\0" * 200), "broken.png").codes == (
        "bad_icc",
    )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_turns_the_image_upright(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = inspect_and_encode(saved(disc()[:48], kind, exif=exif, **options), "turned")
    assert (found.width, found.height) == (48, 64)
    assert np.array_equal(decode_layer(found.layer), np.rot90(disc()[:48], -1))


def test_the_format_is_read_from_the_content_instead_of_the_name():
    assert inspect_and_encode(saved(disc()), "x.jpg").outcome is InspectionOutcome.accept
    jpeg = saved(disc()[..., :3], "JPEG")
    assert inspect_and_encode(jpeg, "x.png").code == "no_alpha"
    assert "despite its file extension" in inspect_and_encode(jpeg, "x.png").sentence
    assert (
        inspect_and_encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "x.svg").code
        == "unsupported_format"
    )
    assert (
        inspect_and_encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "x.png").code
        == "not_an_image"
    )


def test_a_still_gif_is_taken_and_a_moving_one_is_not():
    rgba = disc()
    rgba[..., 3] = np.where(rgba[..., 3] > 127, 255, 0)
    still, other = Image.fromarray(rgba), Image.fromarray(rgba[::-1])
    out = io.BytesIO()
    still.save(out, "GIF")
    assert "binary_alpha" in inspect_and_encode(out.getvalue(), "x.gif").codes
    out = io.BytesIO()
    still.save(out, "GIF", save_all=True, append_images=[other])
    assert inspect_and_encode(out.getvalue(), "x.gif").code == "animated"


def test_a_gif_frame_larger_than_its_screen_is_refused():
    out = io.BytesIO()
    rgba = disc()
    rgba[..., 3] = np.where(rgba[..., 3] > 127, 255, 0)
    Image.fromarray(rgba).save(out, "GIF")
    data = bytearray(out.getvalue())
    frame = data.index(b"\x2c\0\0\0\0\x40\0\x40\0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert inspect_and_encode(bytes(data), "x.gif").code == "corrupt"


def test_hidden_noise_is_named_and_hidden_padding_is_not():
    padded, noisy = disc(), disc()
    clear = padded[..., 3] == 0
    padded[clear, :3] = 255
    noisy[clear, :3] = np.random.default_rng(0).integers(0, 256, (int(clear.sum()), 3))
    for rgba, codes in ((padded, ()), (noisy, ("hidden_rgb",))):
        found = inspect_and_encode(saved(rgba), "x.png")
        assert found.codes == codes
        assert np.array_equal(decode_layer(found.layer), disc())


def test_the_worst_finding_decides_and_all_are_kept():
    cut = with_chunk(saved(disc()[:, :32].copy()), b"tEXt", b"a\0b")
    found = inspect_and_encode(cut, "cut.png")
    assert found.outcome is InspectionOutcome.review
    assert found.codes == ("cut_at_border", "text_chunk_dropped")
    assert all(FINDINGS[code][1] in found.sentence for code in found.codes)


GOOD = [saved(disc(24)), saved(disc(24), "WEBP", lossless=True), saved(disc(24), "GIF")]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=12),
    st.data(),
)
def test_damaged_bytes_never_raise(good, damage, data):
    broken = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for at, value in damage:
        if broken:
            broken[at % len(broken)] = value
    found = inspect_and_encode(bytes(broken), "broken.png")
    assert (found.layer is None) == (found.outcome is InspectionOutcome.reject)
    if found.layer is not None:
        assert pixel_hash(decode_layer(found.layer)) == found.visible


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"iCCP", b"eXIf", b"IEND"]
            ),
            st.binary(max_size=40),
        ),
        max_size=6,
    )
)
def test_chunks_in_any_order_never_raise(chunks):
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)
    assert inspect_and_encode(png, "x.png").outcome is InspectionOutcome.reject
