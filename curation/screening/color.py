"""Perceptual color: CIE Lab, and color differences by CIEDE2000."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]


def srgb_to_lab(rgb: Plane) -> Plane:
    """Return N sRGB colors in 0..1 as CIE L*a*b* under D65."""
    return np.asarray(
        cv2.cvtColor(np.ascontiguousarray(rgb, np.float32)[None], cv2.COLOR_RGB2Lab)[0], np.float32
    )


def ciede2000(first: Plane, second: Plane) -> Plane:
    """Return the color differences of N pairs of Lab colors (Sharma, Wu, Dalal 2005, eqs. 2-22)."""
    # G corrects a* for the low chroma of neutral colors (equations 2-7).
    mean_chroma = (np.hypot(first[:, 1], first[:, 2]) + np.hypot(second[:, 1], second[:, 2])) / 2
    g = 0.5 * (1 - np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7)))
    (l1, c1, h1), (l2, c2, h2) = (_polar(color, g) for color in (first, second))
    # Differences and means of hue go the short way around the circle (equations 8-14).
    hue_difference = (h2 - h1 + 540) % 360 - 180
    hue_difference = np.where(c1 * c2 == 0, 0, hue_difference)
    hue_step = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(hue_difference) / 2)
    mean_lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(c1 * c2 == 0, h1 + h2, (h1 + hue_difference / 2) % 360)
    # Weighting functions, and the rotation term for blue (equations 15-22).
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    s_l = 1 + 0.015 * (mean_lightness - 50) ** 2 / np.sqrt(20 + (mean_lightness - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    r_c = 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    r_t = -r_c * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    d_l, d_c, d_h = (l2 - l1) / s_l, (c2 - c1) / s_c, hue_step / s_h
    difference: Plane = np.sqrt(np.maximum(d_l**2 + d_c**2 + d_h**2 + r_t * d_c * d_h, 0))
    return difference


def _polar(color: Plane, g: Plane) -> tuple[Plane, Plane, Plane]:
    """Return lightness, chroma and hue in degrees, with a* scaled by 1 + G (equations 5-7)."""
    a = color[:, 1] * (1 + g)
    return color[:, 0], np.hypot(a, color[:, 2]), np.degrees(np.arctan2(color[:, 2], a)) % 360
