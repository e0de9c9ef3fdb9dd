"""Candidates of the synthetic domain with planted defects of graded severity."""

from __future__ import annotations

import cv2
import numpy as np

from curation.ports import RGBA
from curation.synthetic.shapes import draw_subject, sample_subject

DEFECTS = ("haze", "grain", "specks", "holes", "cropped", "halo", "faint", "opaque")


def draw_candidate(seed: int, index: int, sound: float, size: int = 64) -> tuple[RGBA, str]:
    """Return a layer and its prompt, without defects with probability `sound`."""
    rng = np.random.default_rng([seed, index, 5])
    subject = sample_subject(rng)
    rgba = draw_subject(subject, rng, size)
    text = subject.text
    if rng.random() < sound:
        return rgba, text
    if rng.random() < 0.2:
        text = sample_subject(rng).text  # the prompt of another subject
    return plant_some(rgba, rng), text


def plant_some(rgba: RGBA, rng: np.random.Generator) -> RGBA:
    """Return the layer with one to three defects of any severity."""
    for name in rng.choice(DEFECTS, rng.integers(1, 4), replace=False):
        rgba = plant(rgba, str(name), float(rng.uniform(0.25, 1)), rng)
    return rgba


def plant(rgba: RGBA, name: str, severity: float, rng: np.random.Generator) -> RGBA:
    """Return the layer with one defect of a severity in 0..1."""
    height, width = rgba.shape[:2]
    color, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3].astype(np.float32) / 255
    if name == "haze":
        alpha = np.maximum(
            alpha,
            0.25 * severity * cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), 4),
        )
    elif name == "grain":
        alpha = np.clip(
            alpha
            + 0.25 * severity * rng.standard_normal((height, width), np.float32) * (alpha > 0.02),
            0,
            1,
        )
    elif name == "specks":
        for _ in range(int(4 + 30 * severity)):
            position = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.circle(alpha, position, 1, float(rng.uniform(0.3, 1)), -1)
    elif name == "holes":
        for _ in range(int(1 + 5 * severity)):
            inside = np.argwhere(alpha > 0.5)
            if len(inside):
                y, x = inside[rng.integers(len(inside))]
                cv2.circle(
                    alpha, (int(x), int(y)), max(1, round(0.06 * severity * height)), 0.0, -1
                )
    elif name == "cropped":
        step = round((0.15 + 0.35 * severity) * width)
        alpha, color = np.roll(alpha, step, 1), np.roll(color, step, 1)
        alpha[:, :step] = 0
    elif name == "halo":
        ring = (
            cv2.dilate(alpha, np.ones((3, 3), np.uint8), iterations=1 + round(2 * severity)) - alpha
        )
        color = np.where((ring > 0.05)[..., None], 255 * severity + color * (1 - severity), color)
        alpha = np.maximum(alpha, 0.8 * ring)
    elif name == "faint":
        alpha = alpha * (1 - 0.7 * severity)
    elif name == "opaque":
        alpha = np.maximum(alpha, severity)
    return np.dstack([color, 255 * alpha]).round().clip(0, 255).astype(np.uint8)
