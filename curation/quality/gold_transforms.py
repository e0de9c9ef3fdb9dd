"""Transformations of a sample's layers into gold that is not recognized as a known sample."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from curation.domain import LayerRole, Prompt
from curation.ports import RGBA, Layers
from curation.screening.defects import add_defect
from curation.screening.measurements import measure_pair_candidate, measure_single
from curation.screening.pairs.defects import PAIR_DEFECTS, add_pair_defect

CHANGED_PIXELS: Final = 16
"""Number of pixels that are changed by one level of 255 in every gold item, invisibly."""


Size = tuple[int, int] | None
"""Width and height in pixels; None keeps the size of the sample."""


Transformed = tuple[Layers, dict[str, float | None]]


def transform_single(
    layers: Layers,
    prompt: Prompt,
    size: Size,
    defect: str | None,
    severity: float,
    rng: np.random.Generator,
) -> Transformed:
    """Resize, damage and disguise a layer, and measure it."""
    rgba = fit_into(layers[LayerRole.foreground], size)
    rgba = rgba if defect is None else add_defect(rgba, defect, severity, rng)
    rgba = _disguise(rgba, rng)
    return {LayerRole.foreground: rgba}, measure_single(rgba, prompt.text)


def transform_pair(
    layers: Layers,
    prompt: Prompt,
    size: Size,
    defect: str | None,
    severity: float,
    rng: np.random.Generator,
) -> Transformed:
    """Resize, disguise and damage a pair, and measure it."""
    # Clean copies are blended again too: an inexact blended image would reveal them.
    fitted = {role: crop_to_fill(rgba, size) for role, rgba in layers.items()}
    for role in (LayerRole.foreground, LayerRole.background):
        fitted[role] = _disguise(fitted[role], rng)
    transformed = add_pair_defect(fitted, defect or next(iter(PAIR_DEFECTS)), severity, rng)
    return transformed, measure_pair_candidate(transformed, prompt)


def _disguise(rgba: RGBA, rng: np.random.Generator) -> RGBA:
    """Return a visually equal image with other pixel values, and so with another hash.

    A clean copy must not be recognizable by its hash, so some visible pixels change by one level.
    Hidden pixels (alpha 0) continue the nearest colors, as in generated layers; in imported ones
    they are 0.
    """
    # Some visible pixels move by one level of 255, toward the middle so that none overflows.
    changed = rgba.copy()
    seen = np.flatnonzero(rgba[..., 3])
    chosen = rng.choice(seen, min(CHANGED_PIXELS, len(seen)), replace=False)
    flat = changed.reshape(-1, 4)
    flat[chosen, 1] = np.where(flat[chosen, 1] < 128, flat[chosen, 1] + 1, flat[chosen, 1] - 1)
    # Colors spread over the hidden pixels from ever wider surroundings, weighted by alpha.
    hidden = rgba[..., 3] == 0
    if not seen.size or not hidden.any():
        return changed
    alpha = rgba[..., 3].astype(np.float32)
    color = changed[..., :3].astype(np.float32) * alpha[..., None]
    width, missing = 3, hidden.copy()
    while missing.any():
        weight = cv2.blur(alpha, (width, width))
        spread = cv2.blur(color, (width, width)) / np.maximum(weight, 1e-6)[..., None]
        found = missing & (weight > 1e-3)
        changed[..., :3][found] = np.clip(np.rint(spread[found]), 0, 255).astype(np.uint8)
        missing &= ~found
        width = 2 * width + 1
        if width > 2 * max(rgba.shape):
            break
    return changed


def fit_into(rgba: RGBA, size: Size) -> RGBA:
    """Scale a layer to fit into a canvas of (width, height) pixels, centered.

    Args:
        rgba: H x W x 4 uint8, straight alpha.
        size: The size of the canvas; None returns the layer unchanged.

    Returns:
        The layer on a transparent canvas, resampled with premultiplied colors.
    """
    height, width = rgba.shape[:2]
    if size is None or size == (width, height):
        return rgba
    scale = min(size[0] / width, size[1] / height)
    small = _resample(rgba, scale)
    canvas = np.zeros((size[1], size[0], 4), np.uint8)
    left, top = (size[0] - small.shape[1]) // 2, (size[1] - small.shape[0]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def crop_to_fill(rgba: RGBA, size: Size) -> RGBA:
    """Scale a layer of a pair to fill (width, height) pixels, and crop it at the center.

    Args:
        rgba: H x W x 4 uint8, straight alpha.
        size: The target size; None returns the layer unchanged.

    Returns:
        The layer without empty margins, which a background must not have.
    """
    height, width = rgba.shape[:2]
    if size is None or size == (width, height):
        return rgba
    large = _resample(rgba, max(size[0] / width, size[1] / height))
    left, top = (large.shape[1] - size[0]) // 2, (large.shape[0] - size[1]) // 2
    return large[top : top + size[1], left : left + size[0]]


def _resample(rgba: RGBA, scale: float) -> RGBA:
    height, width = rgba.shape[:2]
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    premultiplied = rgba.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    small = cv2.resize(
        premultiplied, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    small[..., :3] = np.divide(
        255 * small[..., :3], small[..., 3:], where=small[..., 3:] > 0, out=small[..., :3] * 0
    )
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)
