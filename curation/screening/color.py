"""Colour as people see it: CIE Lab, and the difference of two colours by CIEDE2000."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]


def lab(rgb: Plane) -> Plane:
    """N sRGB colours in 0..1 as CIE L*a*b* under D65."""
    return np.asarray(
        cv2.cvtColor(np.ascontiguousarray(rgb, np.float32)[None], cv2.COLOR_RGB2Lab)[0], np.float32
    )


def ciede2000(first: Plane, second: Plane) -> Plane:
    """Colour difference of N pairs of Lab colours (Sharma, Wu, Dalal 2005, equations 2-22)."""
    mean_chroma = (np.hypot(first[:, 1], first[:, 2]) + np.hypot(second[:, 1], second[:, 2])) / 2
    g = 0.5 * (1 - np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7)))
    (l1, c1, h1), (l2, c2, h2) = (_polar(colour, g) for colour in (first, second))
    turn = (h2 - h1 + 540) % 360 - 180
    turn = np.where(c1 * c2 == 0, 0, turn)
    hue_way = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(c1 * c2 == 0, h1 + h2, (h1 + turn / 2) % 360)
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    r_c = 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    r_t = -r_c * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    d_l, d_c, d_h = (l2 - l1) / s_l, (c2 - c1) / s_c, hue_way / s_h
    difference: Plane = np.sqrt(np.maximum(d_l**2 + d_c**2 + d_h**2 + r_t * d_c * d_h, 0))
    return difference


def _polar(colour: Plane, g: Plane) -> tuple[Plane, Plane, Plane]:
    """Lightness, chroma and hue in degrees, a* stretched by 1 + G (equations 5-7)."""
    a = colour[:, 1] * (1 + g)
    return colour[:, 0], np.hypot(a, colour[:, 2]), np.degrees(np.arctan2(colour[:, 2], a)) % 360
