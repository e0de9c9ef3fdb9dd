"""The decoder: every kind of sample, key, profile and orientation becomes upright straight sRGB."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from curation.image_limits import ImageLimits
from curation.images.colors import to_eight_bits
from curation.images.decoding import TURNS, decode_image
from curation.images.headers import InvalidImage
from curation.images.pillow_images import from_path, from_pillow
from curation.scenes.formats.psd import write_psd
from curation.scenes.layer_stack import LayerStack, StackLayer
from tests.support import image_files
from tests.support.factories import image as make_image
from tests.support.image_files import (
    P3,
    chromaticities,
    coded,
    gamma,
    make_ios_png,
    make_png,
    profile_chunk,
    saved,
)

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
KINDS = [
    (color_type, bits, key, interlaced)
    for color_type, depths in DEPTHS.items()
    for bits, key, interlaced in itertools.product(depths, (False, True), (False, True))
    if not key or color_type in {0, 2, 3}
]


def refusal(data: bytes, limits: ImageLimits = ImageLimits()) -> InvalidImage:
    with pytest.raises(InvalidImage) as refused:
        decode_image(data, "", limits)
    return refused.value


@pytest.mark.parametrize(("color_type", "bits", "key", "interlaced"), KINDS)
def test_every_kind_of_png_is_decoded_at_its_own_depth(color_type, bits, key, interlaced):
    rng = np.random.default_rng(bits * 10 + color_type)
    top = 2**bits - 1
    samples = rng.integers(0, top + 1, (21, 19, CHANNELS[color_type]))
    # Colors that differ from the key by less than one 8-bit level.
    samples[:4] = np.minimum(samples[0, 0] + rng.integers(0, 2, (4, 19, 1)), top)
    clear = samples[0, 0]
    palette = rng.integers(0, 256, (top + 1, 3)).astype(np.uint8) if color_type == 3 else None
    chunks = []
    if palette is not None:
        chunks.append((b"PLTE", palette.tobytes()))
        alphas = rng.integers(0, 256, max(1, (top + 1) // 2)).astype(np.uint8)
        chunks += [(b"tRNS", alphas.tobytes())] if key else []
    elif key:
        chunks.append((b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    rgba = decode_image(make_png(samples, color_type, bits, chunks, interlaced=interlaced)).rgba

    if palette is not None:
        alpha = np.full(top + 1, 255)
        alpha[: len(alphas)] = alphas if key else 255
        expected = np.dstack([palette[samples[..., 0]], alpha[samples[..., 0]]])
    else:
        levels = np.rint(samples * (255 / top)).astype(int)
        color = levels[..., :1].repeat(3, axis=2) if color_type in {0, 4} else levels[..., :3]
        own = levels[..., -1] if color_type in {4, 6} else np.full(samples.shape[:2], 255)
        expected = np.dstack([color, np.where(key & (samples == clear).all(axis=2), 0, own)])
    expected[expected[..., 3] == 0] = 0
    assert np.array_equal(rgba, expected)


def test_sixteen_bits_are_rounded_by_value_over_257_everywhere(tmp_path):
    ramp = np.arange(65_536).reshape(256, 256)
    expected = np.rint(ramp / 257).astype(np.uint8)
    assert np.array_equal(to_eight_bits(ramp.astype(np.uint16)), expected)
    png = make_png(ramp[..., None], 0, 16)
    deep = np.dstack([ramp] * 3 + [np.full_like(ramp, 65_535)]).astype(np.uint16)
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, deep, photometric="rgb", extrasamples=["unassalpha"])
    (tmp_path / "a.png").write_bytes(png)
    with Image.open(tmp_path / "a.png") as image:
        results = [decode_image(png).rgba, from_path(tmp_path / "a.png"), from_pillow(image)]
    results += [
        decode_image(tiff.getvalue()).rgba,
        from_pillow(Image.fromarray(ramp.astype(np.uint16))),
    ]
    for rgba in results:
        assert np.array_equal(rgba[..., 0], expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_in_every_format(kind, orientation):
    rgba = make_image(3, 40, 24)
    rgba[:12, :12] = (255, 0, 0, 255)
    rgba[..., 3] |= 255 * (kind == "JPEG")
    image = Image.fromarray(rgba[..., :3] if kind == "JPEG" else rgba)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True},
               "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})  # fmt: skip
    data = saved(image, kind, exif=exif, **options)
    expected = (
        np.asarray(Image.fromarray(rgba).transpose(TURNS[orientation])) if orientation > 1 else rgba
    )
    seen = expected[..., 3] > 200
    for decoded_rgba in (decode_image(data).rgba, from_pillow(Image.open(io.BytesIO(data)))):
        assert decoded_rgba.shape == expected.shape
        assert np.abs(decoded_rgba.astype(int) - expected)[seen].mean() < (
            6 if kind in {"JPEG", "AVIF"} else 0.01
        )


def test_a_16_bit_tiff_is_upright():
    deep = make_image(3, 40, 24).astype(np.uint16) * 257
    for orientation in range(1, 9):
        out = io.BytesIO()
        tifffile.imwrite(out, deep, photometric="rgb", extrasamples=["unassalpha"],
                         extratags=[(274, 3, 1, orientation, True)])  # fmt: skip
        turned = Image.fromarray(make_image(3, 40, 24))
        expected = np.asarray(turned.transpose(TURNS[orientation]) if orientation > 1 else turned)
        decoded_rgba = decode_image(out.getvalue()).rgba
        assert np.array_equal(decoded_rgba[expected[..., 3] > 0], expected[expected[..., 3] > 0])


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_alpha_of_a_tiff_is_straight_or_divided_out_or_none(kind, bits, compression):
    rgba = make_image(7, 48, 32)
    rgba[rgba[..., 3] < 8] = 0
    top = 2**bits - 1
    samples = rgba.astype(np.float64) * (top / 255)
    if kind == "assocalpha":
        samples[..., :3] *= samples[..., 3:] / top
    samples = np.rint(samples).astype(np.uint8 if bits == 8 else np.uint16)
    out = io.BytesIO()
    if compression == "lzw":
        if bits == 16 or kind != "unassalpha":
            pytest.skip("Pillow writes LZW for 8 bits with straight alpha only")
        Image.fromarray(samples).save(out, "TIFF", compression="tiff_lzw")
    else:
        tifffile.imwrite(
            out, samples, photometric="rgb", extrasamples=[kind], compression=compression
        )
    decoded = decode_image(out.getvalue())
    assert decoded.header.alpha == (kind != "unspecified")
    decoded_rgba, seen = decoded.rgba.astype(int), rgba[..., 3] > 60
    assert np.abs(decoded_rgba[..., :3] - rgba[..., :3])[seen].max() <= (
        5 if kind == "assocalpha" and bits == 8 else 1
    )
    assert np.array_equal(
        decoded_rgba[..., 3],
        rgba[..., 3] if kind != "unspecified" else np.full_like(rgba[..., 3], 255),
    )


def test_a_tiff_of_several_pages_or_of_other_samples_is_refused_with_its_reason():
    rgba = make_image(1, 20, 20)
    pages = saved(
        Image.fromarray(rgba), "TIFF", save_all=True, append_images=[Image.fromarray(rgba)]
    )
    assert "several pages" in refusal(pages).sentence
    for samples, kind in (
        (rgba / np.float32(255), "rgb"),
        (rgba.astype(np.uint32), "rgb"),
        (rgba, "separated"),
    ):
        out = io.BytesIO()
        tifffile.imwrite(
            out, samples, photometric=kind, extrasamples=["unassalpha"] if kind == "rgb" else None
        )
        assert refusal(out.getvalue()).code == "unsupported_format"


def test_the_merged_image_of_a_photoshop_file_is_read_with_its_alpha(tmp_path: Path):
    rgba = make_image(9, 60, 40)
    write_psd(tmp_path / "a.psd", LayerStack((60, 40), [StackLayer("a", rgba, (0, 0), 255)], rgba))
    decoded = decode_image((tmp_path / "a.psd").read_bytes())
    seen = rgba[..., 3] > 60
    assert np.array_equal(decoded.rgba[..., 3], rgba[..., 3])
    assert np.abs(decoded.rgba.astype(int) - rgba)[seen].max() <= 4
    deep = bytearray((tmp_path / "a.psd").read_bytes())
    deep[23] = 16
    assert refusal(bytes(deep)).code == "unsupported_format"


def test_an_avif_keeps_its_alpha_and_its_profile():
    rgba = np.full((32, 32, 4), (200, 120, 60, 255), np.uint8)
    rgba[:8] = 0
    icc = image_files.profile(P3)
    data = saved(rgba, "AVIF", quality=100, subsampling="4:4:4", icc_profile=icc)
    decoded = decode_image(data)
    assert np.abs(decoded.rgba[20, 20].astype(int) - (213, 115, 42, 255)).max() <= 3
    assert not decoded.rgba[:8].any()
    assert set(decoded.found) == {"lossy_source", "colour_converted"}


def test_a_png_of_an_ios_app_is_divided_by_its_alpha_and_named():
    rgba = make_image(11, 40, 30)
    decoded = decode_image(make_ios_png(rgba))
    seen = rgba[..., 3] > 100
    assert np.abs(decoded.rgba.astype(int) - rgba)[seen].max() <= 3
    assert decoded.found == ("ios_png",)


@pytest.mark.parametrize("lossless", [True, False])
def test_animations_of_one_frame_are_single_images_and_of_two_are_refused(lossless):
    rgba = Image.fromarray(make_image(2, 40, 30))
    other = Image.fromarray(make_image(5, 40, 30))
    one = saved(
        rgba,
        "WEBP",
        save_all=True,
        append_images=[],
        lossless=lossless,
        duration=10,
        minimize_size=False,
    )
    if b"ANMF" not in one:  # Pillow writes a plain image where it is given no second frame
        frame = saved(rgba, "WEBP", lossless=True, exact=True)
        body = frame[12:] if frame[12:16] != b"VP8X" else frame[30:]
        anmf = (
            b"\0\0\0\0\0\0"
            + (39).to_bytes(3, "little")
            + (29).to_bytes(3, "little")
            + b"\x0a\0\0\0"
            + body
        )
        chunks = (
            struct.pack("<4sI", b"VP8X", 10) + bytes([0x12, 0, 0, 0]) + (39).to_bytes(3, "little")
        )
        chunks += (29).to_bytes(3, "little") + struct.pack("<4sI", b"ANIM", 6) + bytes(6)
        chunks += struct.pack("<4sI", b"ANMF", len(anmf)) + anmf + b"\0" * (len(anmf) % 2)
        one = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
    decoded = decode_image(one)
    assert np.array_equal(decoded.rgba[..., 3], np.asarray(rgba)[..., 3])
    for kind in ("WEBP", "PNG", "GIF"):
        assert refusal(saved(rgba, kind, save_all=True, append_images=[other])).code == "animated"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["icc", "cicp", "gamma"])
def test_gray_images_are_converted_to_srgb(bits, kind):
    top = 2**bits - 1
    samples = np.full((20, 20, 1), round(0.25 * top))
    chunks = {
        "icc": [profile_chunk(image_files.profile(power=1.0, space=b"GRAY"))],
        "cicp": [coded(1, 8)],
        "gamma": [gamma(100_000)],
    }[kind]
    decoded = decode_image(make_png(samples, 0, bits, chunks))
    assert np.abs(decoded.rgba[5, 5, :3].astype(int) - 137).max() <= 3  # a quarter of the light
    assert {"colour_converted", "odd_colour_space"} & set(decoded.found)


def test_of_several_color_chunks_the_first_of_the_specification_counts():
    samples = np.full((20, 20, 3), (200, 120, 60))
    icc = profile_chunk(image_files.profile(P3))

    def decoded(*chunks):
        return decode_image(make_png(samples, 2, 8, chunks)).rgba[3, 3, :3].tolist()

    assert decoded() == [200, 120, 60]
    p3 = decoded(coded(12, 13))
    assert np.abs(np.array(p3) - (213, 115, 42)).max() <= 1
    assert np.abs(np.array(decoded(icc)) - p3).max() <= 1
    assert decoded(coded(1, 13), icc) == [200, 120, 60]
    assert np.abs(np.array(decoded(icc, (b"sRGB", b"\0"), gamma(100_000))) - p3).max() <= 1
    assert decoded((b"sRGB", b"\0"), gamma(100_000), chromaticities(P3)) == [200, 120, 60]
    assert decoded(chromaticities(P3)) == [200, 120, 60]
    assert decoded(gamma(45_455)) == [200, 120, 60]
    assert decoded(gamma(45_455), chromaticities(image_files.SRGB)) == [200, 120, 60]
    assert np.abs(np.array(decoded(gamma(100_000))) - (229, 183, 133)).max() <= 1
    assert np.abs(np.array(decoded(gamma(45_455), chromaticities(P3))) - (214, 116, 38)).max() <= 1


@pytest.mark.parametrize(
    "chunks",
    [
        [chromaticities((0,) * 8), gamma(100_000)],
        [chromaticities((31270, 0, 1, 1, 1, 1, 1, 1)), gamma(50_000)],
        [gamma(0)],
        [(b"gAMA", b"\xff\xff\xff\xff")],
        [(b"gAMA", b"\1")],
        [coded(0, 0)],
        [coded(255, 255)],
        [(b"cICP", b"\1\1\1\1")],
        [(b"iCCP", b"")],
        [profile_chunk(b"no profile")],
        [profile_chunk(image_files.profile(space=b"GRAY"))],
        [(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff")],
        [(b"tRNS", b"")],
    ],
)
def test_broken_color_chunks_are_ignored(chunks):
    samples = np.full((20, 20, 3), (200, 120, 60))
    decoded = decode_image(make_png(samples, 2, 8, chunks))
    assert decoded.rgba[3, 3].tolist()[3] == 255
    if chunks[0][0] != b"gAMA":
        assert decoded.rgba[3, 3].tolist() == [200, 120, 60, 255]


def test_hdr_is_refused_with_its_reason():
    for transfer in (16, 18):
        assert (
            refusal(make_png(np.zeros((20, 20, 3)), 2, 8, [coded(9, transfer)])).code
            == "hdr_not_read"
        )


def test_cmyk_becomes_srgb_by_its_profile_or_the_plain_formula():
    inks = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    decoded = decode_image(saved(inks, "JPEG"))
    assert decoded.rgba[5, 5, 0] > 200
    assert decoded.rgba[5, 5, 1:3].max() < 80
    assert "odd_colour_space" in decoded.found


def test_limits_are_checked_before_a_pixel_is_decoded():
    for kind in ("PNG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG"):
        image = Image.fromarray(make_image(1, 40, 30)).convert("RGB" if kind == "JPEG" else "RGBA")
        data = saved(image, kind)
        assert refusal(data, ImageLimits(pixels=1199)).code == "too_many_pixels", kind
        assert refusal(data, ImageLimits(bytes=100)).code == "too_many_bytes", kind
    assert ImageLimits(pixels=100_000_000).memory > ImageLimits().memory


def test_images_in_memory_follow_the_same_policy(tmp_path):
    icc = image_files.profile(P3)
    plain = Image.new("RGB", (20, 20), (200, 120, 60))
    plain.info["icc_profile"] = icc
    assert np.abs(from_pillow(plain)[3, 3, :3].astype(int) - (213, 115, 42)).max() <= 1
    converted = ImageCms.profileToProfile(
        plain, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
    )
    assert np.abs(from_pillow(converted)[3, 3, :3].astype(int) - (213, 115, 42)).max() <= 1
    gray = Image.fromarray(np.full((4, 4), 300, np.uint16))
    gray.info["transparency"] = 300
    assert from_pillow(gray)[0, 0].tolist() == [1, 1, 1, 0]
    keyed = Image.new("RGB", (4, 4), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    assert from_pillow(keyed)[0, 0, 3] == 0
    with pytest.raises(InvalidImage):
        from_pillow(Image.new("F", (4, 4)))


def test_an_image_changed_after_it_was_opened_is_used_as_changed(tmp_path):
    (tmp_path / "a.png").write_bytes(
        make_png(np.full((20, 20, 3), (200, 120, 60)), 2, 8, [coded(12, 13)])
    )
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert np.abs(from_pillow(image)[3, 3, :3].astype(int) - (213, 115, 42)).max() <= 1
        image.putpixel((3, 3), (1, 2, 3))
        assert from_pillow(image)[3, 3].tolist() == [1, 2, 3, 255]
    (tmp_path / "a.png").unlink()
    assert from_pillow(image)[3, 3].tolist() == [1, 2, 3, 255]
