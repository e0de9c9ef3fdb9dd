"""Pairs of layers as pixels: blending to the bit, and how well foreground, background and blend belong together.

Layers are H x W x 4 uint8, straight sRGB, all of one size. F, B and C are the colours of foreground, background and
blended image in 0..255, a is the foreground's alpha in 0..1, s the longer side.
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

SIDE: Final = 256
"""Leakage, seams and harmony are measured at this longer side, so that their cost has a bound."""
SEEN: Final = 0.02
"""Alpha above which a foreground is there."""
REACH: Final = 0.03
"""Seams are looked for so far from the mask's contour on both sides, as a share of s; 8 px of 1,024 are 0.008."""
STRETCH: Final = 9
"""Along a contour steps are averaged over about so many pixels: a seam goes on, a texture does not."""
ALONG: Final = 16
"""Pixels of a contour below which it is too short to tell a seam from chance."""


def composite(foreground: RGBA, background: RGBA) -> RGBA:
    """Foreground over background, straight alpha in and out, each channel the exact value rounded to nearest.

    alpha = a + b (1 - a), colour = (F a + B b (1 - a)) / alpha (Porter and Duff 1984), computed in whole numbers, so
    that everybody gets the same bits; over an opaque background that is F a + B (1 - a). Colour 0 where alpha is 0.
    Raises Refused for layers of two sizes.
    """
    _check(foreground, background)
    a = foreground[..., 3:].astype(np.int32)
    under = background[..., 3:].astype(np.int32) * (255 - a)  # of 255 * 255, as is a * 255
    whole = a * 255 + under
    mixed = (
        foreground[..., :3].astype(np.int32) * (a * 255)
        + background[..., :3].astype(np.int32) * under
    )
    colour = (2 * mixed + whole) // np.maximum(2 * whole, 1)
    return np.concatenate([colour, (whole + 127) // 255], axis=2).astype(np.uint8)


def blended_error(foreground: RGBA, background: RGBA, blended: RGBA) -> float:
    """How far the blended image is from foreground over background: root mean square over R, G and B, 0..255 levels.

    0 where it is exactly that; psnr = 20 log10(255 / error). Raises Refused for layers of several sizes.
    """
    _check(foreground, background, blended)
    made = composite(foreground, background)[..., :3].astype(np.float32)
    return float(np.sqrt(np.mean((made - blended[..., :3]) ** 2)))


def leakage(foreground: RGBA, background: RGBA) -> float:
    """Whether the background still contains the subject: 0 where it does not, 1 where it is there in full.

    U is B with everything under a > 0.02 (and 1 % of s around) filled smoothly from its surroundings. With
    D = a (F - U), what the subject would change, and R = B - U, what the background has there of its own, both slightly
    blurred: leakage = min(<dR, dD> / <dD, dD>, <dR, dD> / (|dR| |dD|)) over the horizontal and vertical differences d,
    cut at 0. The first is how strongly the subject shows (a ghost of half strength has 0.5), the second how surely it
    is this subject and not a texture of the background's own. It sees the subject in its own place only: another one
    that an inpainting has invented there is none. 0 for an empty foreground. Raises Refused for layers of two sizes.
    """
    _check(foreground, background)
    front, back = _shrink(foreground), _shrink(background)
    alpha = front[..., 3:] / 255
    seen = alpha[..., 0] > SEEN
    if not seen.any():
        return 0.0
    around = _fill(back[..., :3], _grow(seen, 0.01 * max(seen.shape)))
    subject = _edges(alpha * (front[..., :3] - around))
    own = _edges(back[..., :3] - around)
    shared, strength, size = (
        float((own * subject).sum()),
        float((subject**2).sum()),
        float((own**2).sum()),
    )
    if strength < 1e-3 or size < 1e-3:
        return 0.0
    return float(np.clip(min(shared / strength, shared / np.sqrt(strength * size)), 0, 1))


def seam_energy(foreground: RGBA, background: RGBA, blended: RGBA) -> float:
    """The trace that inpainting leaves along the mask: 0 for none, above about 1 people see it; without an upper bound.

    An inpainted region ends at the mask's contour or, where the mask was eroded or dilated (paper, section 4: by 8 px),
    beside it. For every distance t within 3 % of s from the contour of a > 0.02, on both sides, e(t) is the median over
    that ring of |the colour's derivative across the contour|, averaged along it over STRETCH pixels first: in levels a
    pixel, and blind to a horizon that crosses the ring. The energy is the largest e(t) / (1 + the median of e) - 1, so
    that a strong texture must be outdone by a strong seam. It is looked for in the background on both sides, and in the
    blended image outside, beyond the subject's soft edge.
    0 where there is no contour or too little of it. Raises Refused for layers of several sizes.
    """
    _check(foreground, background, blended)
    alpha, behind, whole = (_shrink(layer) for layer in (foreground, background, blended))
    seen = alpha[..., 3] / 255 > SEEN
    if not seen.any() or seen.all():
        return 0.0
    outside = cv2.distanceTransform((~seen).view(np.uint8), cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(seen.view(np.uint8), cv2.DIST_L2, 5)
    distance = outside - inside
    across = [_derivative(distance, axis) for axis in (0, 1)]
    steps = max(3, round(REACH * max(seen.shape)))
    found = _standing_out(behind, across, distance, range(-steps, steps + 1))
    return max(0.0, found, _standing_out(whole, across, distance, range(3, 2 * steps + 3)))


def harmony(foreground: RGBA, background: RGBA) -> float:
    """How much light and colour of the layers disagree: 0 for not at all, without an upper bound.

    After Xue, Agarwala, Dorsey and Rushmeier (2012, Understanding and improving the realism of image composites), who
    found luminance, colour temperature and saturation, compared in their shadows, middles and highlights, to decide
    how real composites look. Each is measured of what is visible (a > 0.5) and of the background where a < 0.5; per
    statistic the means of the lowest, middle and highest third are compared, and the differences averaged. The answer
    is the root mean square of the three in units of UNITS. Luminance is log2 of CIE Y from linear sRGB (0.002..1),
    temperature that of McCamy (1992) in mireds, saturation that of HSV. 0 where either side is empty.

    A red ball on a lawn disagrees in any light: photographs measure 1 to 4. So it compares sets of pairs, and says
    little of one. Raises Refused for layers of two sizes.
    """
    _check(foreground, background)
    front, back = _shrink(foreground), _shrink(background)
    solid = front[..., 3] > 127
    if min(np.count_nonzero(solid), np.count_nonzero(~solid)) < 9:
        return 0.0
    ours, theirs = _light(front[solid][:, :3]), _light(back[~solid][:, :3])
    apart = [
        np.mean(np.abs(_thirds(ours[name]) - _thirds(theirs[name]))) / unit
        for name, unit in UNITS.items()
    ]
    return float(np.sqrt(np.mean(np.square(apart))))


UNITS: Final = {"luminance": 1.0, "temperature": 40.0, "saturation": 0.2}
"""What counts as one unit of disagreement: a stop, 40 mireds (a mild colour filter), a fifth of all saturation."""


def _check(*layers: RGBA) -> None:
    sizes = {layer.shape[:2] for layer in layers}
    if len(sizes) > 1:
        told = " and ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise Refused(
            f"the layers of a pair have several sizes: {told}", "draw or cut them to one size"
        )


def _shrink(layer: RGBA) -> Plane:
    """At most SIDE long, as floats; colours are averaged with their alpha, so that hidden ones do not bleed in."""
    height, width = layer.shape[:2]
    scale = SIDE / max(height, width)
    straight = layer.astype(np.float32)
    if scale >= 1:
        return straight
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    alpha = cv2.resize(straight[..., 3], size, interpolation=cv2.INTER_AREA)[..., None]
    colour = cv2.resize(straight[..., :3] * straight[..., 3:], size, interpolation=cv2.INTER_AREA)
    return np.concatenate([colour / np.maximum(alpha, 1e-3), alpha], axis=2)


def _grow(mask: Mask, pixels: float) -> Mask:
    """The mask and everything within so many pixels of it, at least one."""
    grown: Mask = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5) <= max(1.0, pixels)
    return grown


def _fill(colour: Plane, hole: Mask) -> Plane:
    """The H x W x 3 image with a hole filled from around it, coarse where it is wide (pull and push over a pyramid)."""
    known = (~hole).astype(np.float32)[..., None]
    height, width = hole.shape
    if min(height, width) < 2 or not hole.any():
        mean = (colour * known).sum((0, 1)) / max(float(known.sum()), 1e-6)
        return np.where(hole[..., None], mean, colour).astype(np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    weight = cv2.resize(known[..., 0], half, interpolation=cv2.INTER_AREA)[..., None]
    small = cv2.resize(colour * known, half, interpolation=cv2.INTER_AREA) / np.maximum(
        weight, 1e-6
    )
    coarse = _fill(small.astype(np.float32), weight[..., 0] < 1e-3)
    wide = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(hole[..., None], wide, colour)


def _edges(image: Plane) -> Plane:
    """Horizontal and vertical differences of the image, blurred by a pixel so that half of one matters little."""
    soft = np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), np.float32)
    return np.stack([_derivative(soft, 0), _derivative(soft, 1)])


def _derivative(image: Plane, axis: int) -> Plane:
    """Central differences along an axis, smoothed across it (Scharr), in units of the image per pixel."""
    return np.asarray(cv2.Scharr(image, cv2.CV_32F, 1 - axis, axis) / 32, np.float32)


def _standing_out(image: Plane, across: list[Plane], distance: Plane, rings: range) -> float:
    """How far the ring with the strongest steps across the contour stands out of the others; see seam_energy."""
    steps = sum(_derivative(image[..., :3], axis) * across[axis][..., None] for axis in (0, 1))
    near = np.rint(distance).astype(int)
    means = []
    for ring in rings:
        at = (near == ring).astype(np.float32)
        if np.count_nonzero(at) >= ALONG:
            kept = cv2.blur(np.dstack([steps * at[..., None], at]), (STRETCH, STRETCH))[at > 0]
            means.append(
                float(np.median(np.sqrt(np.mean(np.square(kept[:, :3] / kept[:, 3:]), axis=1))))
            )
    return max(means) / (1 + float(np.median(means))) - 1 if len(means) >= 5 else 0.0


def _light(colours: Plane) -> dict[str, Plane]:
    """Luminance (log2 Y), colour temperature (mireds) and saturation (HSV) of N sRGB colours in 0..255."""
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    x, y, z = (linear @ row for row in _XYZ)
    total = np.maximum(x + y + z, 1e-6)
    # Blacks have no colour: theirs is white's, so that they pull no mean.
    dark = y < 0.002
    chroma_x, chroma_y = np.where(dark, 0.3127, x / total), np.where(dark, 0.3290, y / total)
    n = (0.3320 - chroma_x) / np.maximum(
        chroma_y - 0.1858, 1e-3
    )  # the slope of an isotherm; deep blues are coldest
    kelvin = np.clip(((449 * n + 3525) * n + 6823.3) * n + 5520.33, 1667, 25_000)
    high, low = srgb.max(axis=1), srgb.min(axis=1)
    return {
        "luminance": np.log2(np.clip(y, 0.002, 1)),
        "temperature": 1e6 / kelvin,
        "saturation": (high - low) / np.maximum(high, 1e-3),
    }


def _thirds(values: Plane) -> Plane:
    """The means of the lowest, middle and highest third: shadows, middles and highlights."""
    return np.array([part.mean() for part in np.array_split(np.sort(values), 3)], np.float32)


_XYZ: Final = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)  # of linear sRGB
