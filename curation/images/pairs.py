"""Compositing of layer pairs, and metrics of how well foreground, background and blend match.

Layers are H x W x 4 uint8, straight sRGB, all of one size. F, B and C are the colors of foreground,
background and blended image in 0..255, a is the foreground's alpha in 0..1, s the longer side.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.errors import Refused
from curation.ports import RGBA

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

MEASURED_SIZE: Final = 256
"""Leakage, seams and harmony are measured at this longer side, to bound their cost."""
MIN_ALPHA: Final = 0.02
"""Alpha above which a pixel belongs to the foreground."""
REACH: Final = 0.03
"""Distance from the mask's contour within which seams are searched, as a share of s."""
CONTOUR_WINDOW: Final = 9
"""Window in pixels for averaging along a contour: a seam continues along it, a texture does not."""
MIN_CONTOUR: Final = 16
"""Minimum number of pixels of a contour for detecting a seam."""


def composite(foreground: RGBA, background: RGBA) -> RGBA:
    """Composite foreground over background with straight alpha, exactly rounded to nearest.

    alpha = a + b (1 - a), color = (F a + B b (1 - a)) / alpha (Porter and Duff, 1984); over an
    opaque background that is F a + B (1 - a). Computed in integers, so that all machines give equal
    bits.

    Args:
        foreground: H x W x 4 uint8, straight alpha.
        background: H x W x 4 uint8, straight alpha.

    Returns:
        H x W x 4 uint8, straight alpha, with color 0 where alpha is 0.

    Raises:
        Refused: The layers differ in size.
    """
    _check(foreground, background)
    # Weights in units of 1 / 255^2.
    a = foreground[..., 3:].astype(np.int32)
    background_weight = background[..., 3:].astype(np.int32) * (255 - a)
    total = a * 255 + background_weight
    mixed = (
        foreground[..., :3].astype(np.int32) * (a * 255)
        + background[..., :3].astype(np.int32) * background_weight
    )
    color = (2 * mixed + total) // np.maximum(2 * total, 1)
    return np.concatenate([color, (total + 127) // 255], axis=2).astype(np.uint8)


def blended_error(foreground: RGBA, background: RGBA, blended: RGBA) -> float:
    """Compute the RMS error of a blended image against the composite of its layers.

    Args:
        foreground: H x W x 4 uint8.
        background: H x W x 4 uint8.
        blended: H x W x 4 uint8.

    Returns:
        The error over R, G and B in levels of 0..255; PSNR is 20 log10(255 / error).

    Raises:
        Refused: The layers differ in size.
    """
    _check(foreground, background, blended)
    composed = composite(foreground, background)[..., :3].astype(np.float32)
    return float(np.sqrt(np.mean((composed - blended[..., :3]) ** 2)))


def leakage(foreground: RGBA, background: RGBA) -> float:
    """Measure how much of the subject is still visible in the background.

    U is B with the region a > 0.02 (and 1 % of s around it) filled smoothly from its surroundings.
    D = a (F - U) is the change that the subject would make, R = B - U the content of the background
    in that region, both slightly blurred. Over the horizontal and vertical differences d:
    leakage = min(<dR, dD> / <dD, dD>, <dR, dD> / (|dR| |dD|)), at least 0. The first term is the
    strength of the subject (0.5 for a half-transparent ghost), the second its similarity, which is
    low for a texture of the background. Only the subject in its own position counts, not another
    object that inpainting invented.

    Args:
        foreground: H x W x 4 uint8.
        background: H x W x 4 uint8.

    Returns:
        0 (not visible, or an empty foreground) to 1 (fully visible).

    Raises:
        Refused: The layers differ in size.
    """
    _check(foreground, background)
    front, back = _shrink(foreground), _shrink(background)
    alpha = front[..., 3:] / 255
    visible = alpha[..., 0] > MIN_ALPHA
    if not visible.any():
        return 0.0
    # U, dD and dR of the docstring.
    filled = _fill(back[..., :3], _grow(visible, 0.01 * max(visible.shape)))
    subject = _edges(alpha * (front[..., :3] - filled))
    content = _edges(back[..., :3] - filled)

    # Inner products.
    shared = float((content * subject).sum())
    strength = float((subject**2).sum())
    size = float((content**2).sum())
    if strength < 1e-3 or size < 1e-3:
        return 0.0
    return float(np.clip(min(shared / strength, shared / np.sqrt(strength * size)), 0, 1))


def seam_energy(foreground: RGBA, background: RGBA, blended: RGBA) -> float:
    """Measure the seam that inpainting leaves along the mask.

    An inpainted region ends at the mask's contour or, if the mask was eroded or dilated (by 8 px in
    section 4 of the paper), near it. For every distance t within 3 % of s from the contour of
    a > 0.02, e(t) is the median over that ring of the absolute color derivative across the contour,
    averaged along it over CONTOUR_WINDOW pixels first, in levels per pixel; a horizon that crosses
    the ring does not count. The energy is the largest e(t) / (1 + median of e) - 1, so that a
    strong texture needs a stronger seam. The background is searched on both sides of the contour,
    the blended image outside of it, beyond the subject's soft edge.

    Args:
        foreground: H x W x 4 uint8.
        background: H x W x 4 uint8.
        blended: H x W x 4 uint8.

    Returns:
        0 for no seam or too short a contour, above about 1 for a visible seam; unbounded.

    Raises:
        Refused: The layers differ in size.
    """
    _check(foreground, background, blended)
    front, behind, blend = (_shrink(layer) for layer in (foreground, background, blended))
    visible = front[..., 3] / 255 > MIN_ALPHA
    if not visible.any() or visible.all():
        return 0.0

    # The signed distance to the contour and its gradient, the direction across the contour.
    outside = cv2.distanceTransform((~visible).view(np.uint8), cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(visible.view(np.uint8), cv2.DIST_L2, 5)
    distance = outside - inside
    across = [_derivative(distance, axis) for axis in (0, 1)]

    # The strongest ring in either image.
    steps = max(3, round(REACH * max(visible.shape)))
    background_seam = _ring_contrast(behind, across, distance, range(-steps, steps + 1))
    blend_seam = _ring_contrast(blend, across, distance, range(3, 2 * steps + 3))
    return max(0.0, background_seam, blend_seam)


def harmony(foreground: RGBA, background: RGBA) -> float:
    """Measure the mismatch of light and color between foreground and background.

    After Xue, Agarwala, Dorsey and Rushmeier (2012, Understanding and improving the realism of
    image composites), who found that luminance, color temperature and saturation of shadows,
    midtones and highlights determine how real composites look. Each is measured in the foreground
    where a > 0.5 and in the background elsewhere; the means of the lowest, middle and highest third
    are compared and the differences averaged. Luminance is log2 of CIE Y from linear sRGB
    (0.002..1), temperature is McCamy's (1992) in mireds, saturation is that of HSV.

    A red ball on a lawn mismatches in any light: photographs measure 1 to 4. Use it to compare sets
    of pairs rather than single ones.

    Args:
        foreground: H x W x 4 uint8.
        background: H x W x 4 uint8.

    Returns:
        The root mean square of the three differences in UNITS, unbounded; 0 for an empty layer.

    Raises:
        Refused: The layers differ in size.
    """
    _check(foreground, background)
    front, back = _shrink(foreground), _shrink(background)
    solid = front[..., 3] > 127
    if min(np.count_nonzero(solid), np.count_nonzero(~solid)) < 9:
        return 0.0
    front_statistics, back_statistics = _light(front[solid][:, :3]), _light(back[~solid][:, :3])
    differences = [
        np.mean(np.abs(_thirds(front_statistics[name]) - _thirds(back_statistics[name]))) / unit
        for name, unit in UNITS.items()
    ]
    return float(np.sqrt(np.mean(np.square(differences))))


UNITS: Final = {"luminance": 1.0, "temperature": 40.0, "saturation": 0.2}
"""One unit of mismatch: a stop of luminance, 40 mireds (a mild color filter), 0.2 of saturation."""


def _check(*layers: RGBA) -> None:
    sizes = {layer.shape[:2] for layer in layers}
    if len(sizes) > 1:
        sizes_text = " and ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise Refused(
            f"the layers of a pair differ in size: {sizes_text}", "resize or crop them to one size"
        )


def _shrink(layer: RGBA) -> Plane:
    """Shrink a layer to at most MEASURED_SIZE pixels, as floats, by premultiplied averages."""
    height, width = layer.shape[:2]
    scale = MEASURED_SIZE / max(height, width)
    straight = layer.astype(np.float32)
    if scale >= 1:
        return straight
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    alpha = cv2.resize(straight[..., 3], size, interpolation=cv2.INTER_AREA)[..., None]
    color = cv2.resize(straight[..., :3] * straight[..., 3:], size, interpolation=cv2.INTER_AREA)
    return np.concatenate([color / np.maximum(alpha, 1e-3), alpha], axis=2)


def _grow(mask: Mask, pixels: float) -> Mask:
    """Dilate a mask by a number of pixels, at least one."""
    grown: Mask = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5) <= max(1.0, pixels)
    return grown


def _fill(color: Plane, hole: Mask) -> Plane:
    """Fill a hole of an H x W x 3 image smoothly from its surroundings (push-pull pyramid)."""
    known = (~hole).astype(np.float32)[..., None]
    height, width = hole.shape
    if min(height, width) < 2 or not hole.any():
        mean = (color * known).sum((0, 1)) / max(float(known.sum()), 1e-6)
        return np.where(hole[..., None], mean, color).astype(np.float32)
    # Pull: average the known pixels to half the size, and fill the remaining hole there.
    half = ((width + 1) // 2, (height + 1) // 2)
    weight = cv2.resize(known[..., 0], half, interpolation=cv2.INTER_AREA)[..., None]
    small = cv2.resize(color * known, half, interpolation=cv2.INTER_AREA) / np.maximum(weight, 1e-6)
    coarse = _fill(small.astype(np.float32), weight[..., 0] < 1e-3)
    # Push: enlarge the result into the hole.
    enlarged = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(hole[..., None], enlarged, color)


def _edges(image: Plane) -> Plane:
    """Return horizontal and vertical derivatives, blurred by a pixel against subpixel shifts."""
    soft = np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), np.float32)
    return np.stack([_derivative(soft, 0), _derivative(soft, 1)])


def _derivative(image: Plane, axis: int) -> Plane:
    """Compute Scharr derivatives along an axis, in units of the image per pixel."""
    return np.asarray(cv2.Scharr(image, cv2.CV_32F, 1 - axis, axis) / 32, np.float32)


def _ring_contrast(image: Plane, across: list[Plane], distance: Plane, rings: range) -> float:
    """Return the energy of the strongest ring relative to the median one; see `seam_energy`."""
    steps = sum(_derivative(image[..., :3], axis) * across[axis][..., None] for axis in (0, 1))
    near = np.rint(distance).astype(int)
    means = []
    for ring in rings:
        # The mean of the steps over the ring's pixels in a window, then their RMS over channels.
        on_ring = (near == ring).astype(np.float32)
        if np.count_nonzero(on_ring) >= MIN_CONTOUR:
            summed = np.dstack([steps * on_ring[..., None], on_ring])
            kept = cv2.blur(summed, (CONTOUR_WINDOW, CONTOUR_WINDOW))[on_ring > 0]
            mean_steps = kept[:, :3] / kept[:, 3:]
            means.append(float(np.median(np.sqrt(np.mean(np.square(mean_steps), axis=1)))))
    return max(means) / (1 + float(np.median(means))) - 1 if len(means) >= 5 else 0.0


def _light(colors: Plane) -> dict[str, Plane]:
    """Compute luminance (log2 Y), temperature (mireds) and saturation (HSV) of N sRGB colors."""
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    x, y, z = (linear @ row for row in _XYZ)
    total = np.maximum(x + y + z, 1e-6)
    # Black has no chromaticity; white's keeps it from shifting the mean.
    dark = y < 0.002
    chroma_x, chroma_y = np.where(dark, 0.3127, x / total), np.where(dark, 0.3290, y / total)
    # McCamy's polynomial in the slope of the isotherm.
    n = (0.3320 - chroma_x) / np.maximum(chroma_y - 0.1858, 1e-3)
    kelvin = np.clip(((449 * n + 3525) * n + 6823.3) * n + 5520.33, 1667, 25_000)
    high, low = srgb.max(axis=1), srgb.min(axis=1)
    return {
        "luminance": np.log2(np.clip(y, 0.002, 1)),
        "temperature": 1e6 / kelvin,
        "saturation": (high - low) / np.maximum(high, 1e-3),
    }


def _thirds(values: Plane) -> Plane:
    """Return the means of the lowest, middle and highest third: shadows, midtones, highlights."""
    return np.array([part.mean() for part in np.array_split(np.sort(values), 3)], np.float32)


# From linear sRGB to XYZ.
_XYZ: Final = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)
