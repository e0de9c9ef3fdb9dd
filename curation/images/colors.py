"""The color policy: all images are converted to sRGB by their color metadata, as in Chromium.

The first of these counts: cICP, an ICC profile, the sRGB chunk, gAMA with cHRM (PNG specification,
third edition, 4.3). cHRM without gAMA is ignored; gAMA of 1 / 2.2 alone, or with the primaries of
sRGB, means sRGB.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from curation.images.headers import ColorInfo, InvalidImage

Samples = NDArray[Any]
"""Samples of 8 or 16 bits, uint8 or uint16."""
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Convert = Callable[[Samples], Bytes]
"""Converts N x M x 3 samples of 8 or 16 bits to 8-bit sRGB; in a gray image all three are equal."""

SRGB: Final = (0.3127, 0.3290, 0.6400, 0.3300, 0.3000, 0.6000, 0.1500, 0.0600)
"""x and y of white, red, green and blue."""
D65: Final = (0.3127, 0.3290)
PRIMARIES: Final[dict[int, tuple[float, ...]]] = {
    1: SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""Primaries by their codes in ITU-T H.273."""
UNSPECIFIED: Final = 2
SRGB_TRANSFER: Final = 13
GAMMAS: Final = {1: 2.4, 4: 2.2, 5: 2.8, 6: 2.4, 8: 1.0, 14: 2.4, 15: 2.4}
"""Exponents of transfer functions by their codes in H.273; 2.4 for video, as in Chromium."""
HDR: Final = {16, 18}  # PQ and HLG

BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
MAX_IGNORED_DIFFERENCE: Final = 2
"""A conversion that changes no color by more than this number of levels is skipped."""

CONVERTED, NOT_PROFILE, BROKEN_PROFILE = "colour_converted", "odd_colour_space", "bad_icc"


@dataclass(frozen=True)
class ColorSpace:
    """Primaries, and the exponent of the transfer function (None is sRGB's curve)."""

    primaries: tuple[float, ...] = SRGB
    power: float | None = None


def choose_conversion(
    info: ColorInfo, *, gray: bool, from_cmyk: bool = False
) -> tuple[Convert | None, list[str]]:
    """Choose the conversion of an image's samples to sRGB.

    Args:
        info: The color metadata of the file.
        gray: The samples are gray, so that a profile must be one for gray.
        from_cmyk: The samples have been converted from CMYK by the profile already.

    Returns:
        The conversion, None if the samples are sRGB already; and the codes of remarks.

    Raises:
        InvalidImage: The colors are HDR, which sRGB cannot represent.
    """
    found: list[str] = []
    # cICP and ICC profiles come first; a broken profile falls through to the other chunks.
    if info.cicp is not None and info.cicp[2] == 0:
        space = _coded_space(info.cicp[0], info.cicp[1])
        return _with_code(_by_space(space, gray), NOT_PROFILE) if space else (None, [NOT_PROFILE])
    if info.icc is not None and not from_cmyk:
        try:
            return _with_code(_by_profile(info.icc, gray), CONVERTED)
        except Exception:  # a broken profile may raise anything
            found.append(BROKEN_PROFILE)

    # gAMA with or without cHRM; close to sRGB nothing is converted.
    if info.srgb or info.gamma is None or info.gamma <= 0:
        return None, found
    primaries = info.chromaticities or SRGB
    near = np.abs(np.array(primaries) - SRGB).max() < 0.001
    if near and abs(info.gamma - 1 / 2.2) < 0.01:
        return None, found
    convert, remarks = _with_code(
        _by_space(ColorSpace(SRGB if near else primaries, 1 / info.gamma), gray), NOT_PROFILE
    )
    return convert, found + remarks


def _with_code(convert: Convert | None, code: str) -> tuple[Convert | None, list[str]]:
    return convert, [code] if convert else []


def to_eight_bits(samples: Samples) -> Bytes:
    """Round 16-bit samples to 8 bits by value / 257; return 8-bit samples unchanged."""
    if samples.dtype == np.uint8:
        return samples
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _coded_space(primaries: int, transfer: int) -> ColorSpace | None:
    """Return the color space of two H.273 codes, None if unknown. Raises InvalidImage for HDR."""
    if transfer in HDR:
        raise InvalidImage(
            "hdr_not_read",
            "HDR colors (PQ or HLG) are not supported: save it in sRGB or Display P3",
        )
    if UNSPECIFIED in {primaries, transfer}:
        return ColorSpace()
    known = primaries in PRIMARIES and transfer in {*GAMMAS, SRGB_TRANSFER}
    return ColorSpace(PRIMARIES[primaries], GAMMAS.get(transfer)) if known else None


def _by_space(space: ColorSpace, gray: bool) -> Convert | None:
    """Return the conversion by curve and matrix, None if it changes nearly nothing."""
    matrix = np.eye(3) if gray or space.primaries == SRGB else _to_srgb_matrix(space.primaries)
    plain = bool(np.allclose(matrix, np.eye(3), atol=1e-4))
    tables: dict[int, Bytes | NDArray[np.float32]] = {}

    # One lookup table per bit depth, computed when it is needed first.
    def convert(samples: Samples) -> Bytes:
        top = np.iinfo(samples.dtype).max
        if top not in tables:
            light = _to_light(np.linspace(0, 1, top + 1), space.power)
            tables[top] = _to_levels(light) if plain else light.astype(np.float32)
        values = tables[top][samples]
        if plain:
            return np.asarray(values, np.uint8)
        return _to_levels(np.clip(values @ matrix.T.astype(np.float32), 0, 1))

    return _unless_same(convert)


def _unless_same(convert: Convert) -> Convert | None:
    """Return the conversion, None if it changes no color of a test grid visibly."""
    levels = np.linspace(0, 255, 6, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(6, 36, 3)
    converted = convert(grid).astype(int)
    return None if np.abs(converted - grid).max() <= MAX_IGNORED_DIFFERENCE else convert


def _to_light(values: Floats, power: float | None) -> Floats:
    if power is not None:
        return np.asarray(values**power)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _to_levels(light: NDArray[np.floating]) -> Bytes:
    """Encode linear light in 0..1 as sRGB in 0..255, rounded."""
    values = np.where(
        light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055
    )
    levels: Bytes = np.rint(values * 255).astype(np.uint8)
    return levels


def _to_srgb_matrix(primaries: tuple[float, ...]) -> Floats:
    """Return the matrix from linear light in these primaries to sRGB's, with Bradford adaptation.

    Raises:
        ValueError: The primaries span no color space.
    """
    own, target = _to_xyz(primaries), _to_xyz(SRGB)
    white, target_white = (BRADFORD @ matrix.sum(axis=1) for matrix in (own, target))
    adapted = np.linalg.inv(BRADFORD) @ np.diag(target_white / white) @ BRADFORD
    matrix = np.linalg.inv(target) @ adapted @ own
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 100:
        raise ValueError("the primaries span no color space")
    return np.asarray(matrix)


def _to_xyz(primaries: tuple[float, ...]) -> Floats:
    """Return the matrix whose columns are the primaries in XYZ, scaled to add up to white."""
    x, y = np.array(primaries[::2]), np.array(primaries[1::2])
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    return np.asarray(xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0]))


def _by_profile(icc: bytes, gray: bool) -> Convert | None:
    """Return the conversion by an ICC profile, None if it changes nearly nothing.

    Raises:
        ValueError: The profile is of another color space or device class.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    space, device_class = profile.profile.xcolor_space.strip(), profile.profile.device_class.strip()
    if space != ("GRAY" if gray else "RGB") or device_class not in {"mntr", "scnr", "prtr", "spac"}:
        raise ValueError(f"a profile of {space} ({device_class})")
    mode = "L" if gray else "RGB"
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")

    def convert(samples: Samples) -> Bytes:
        levels = np.ascontiguousarray(to_eight_bits(samples))
        image = Image.fromarray(np.ascontiguousarray(levels[..., 0]) if gray else levels)
        return np.asarray(ImageCms.applyTransform(image, transform))

    if not gray:
        return _unless_same(convert)
    # A gray profile is tested on all levels of gray.
    grays = np.repeat(np.arange(0, 256, dtype=np.uint8)[None, :, None], 3, axis=2)
    return (
        None
        if np.abs(convert(grays).astype(int) - grays).max() <= MAX_IGNORED_DIFFERENCE
        else convert
    )


def cmyk_to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, list[str]]:
    """Convert a CMYK image to sRGB.

    Args:
        image: The CMYK image.
        icc: Its ICC profile; without a valid one the naive formula is used.

    Returns:
        The image, and the codes of remarks.
    """
    if icc is not None:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(
                image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted, [CONVERTED]
        except Exception:  # a broken profile may raise anything
            return image.convert("RGB"), [BROKEN_PROFILE]
    return image.convert("RGB"), [NOT_PROFILE]
