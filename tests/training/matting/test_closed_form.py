"""Closed-form matting: errors of alpha and colors, on thin hairs and on real layers."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from curation.images.codec import composite_over, decode_layer
from curation.images.layer_masks import downscale
from training.matting.closed_form import extract_subject
from training.matting.trimaps import UNKNOWN, find_subject, make_trimap
from training.metrics.matting import unknown_region

GREEN = (60, 160, 90)


def disc_with_hairs(side=128):
    """Return a red disc with forty antialiased hairs of about a pixel."""
    fine, centre = np.zeros((side * 8, side * 8), np.uint8), side * 4
    cv2.circle(fine, (centre, centre), side * 2, 255, -1)
    for angle in np.linspace(0, 2 * np.pi, 40, endpoint=False):
        end = (int(centre + side * 3 * np.cos(angle)), int(centre + side * 3 * np.sin(angle)))
        cv2.line(fine, (centre, centre), end, 255, 9)
    alpha = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return np.dstack([np.full((side, side, 3), (200, 40, 30), np.uint8), alpha])


def test_hairs_are_extracted_with_their_color(capsys):
    rgba = disc_with_hairs()
    alpha = rgba[..., 3] / 255
    outside = cv2.distanceTransform((alpha < 0.5).astype(np.uint8), cv2.DIST_L2, 5) > 6
    body = cv2.erode((alpha > 0.99).astype(np.uint8), np.ones((7, 7))) > 0
    trimap = np.where(body, 1, np.where(outside, 0, UNKNOWN)).astype(np.float32)
    image = composite_over(rgba, GREEN)
    matted = extract_subject(image, trimap)
    error = np.abs(matted[..., 3] / 255 - alpha)
    hairs = (trimap == UNKNOWN) & (alpha > 0.3)
    assert error.mean() < 0.01
    assert error[hairs].mean() < 0.06
    color = np.abs(matted[..., :3].astype(int) - rgba[..., :3])[hairs].mean()
    assert color < 12
    assert (
        np.abs(image.astype(int) - rgba[..., :3])[hairs].mean() > 2 * color
    )  # the error without color estimation
    assert not matted[matted[..., 3] == 0].any()
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def real_layers(shared):
    rows = map(json.loads, (shared / "seed_rgba" / "metadata.jsonl").read_text().splitlines())
    layers = []
    for row in rows:
        if "animals" not in row["category"]:
            continue
        rgba = downscale(decode_layer((shared / "seed_rgba" / row["file_name"]).read_bytes()), 112)
        alpha = rgba[..., 3] / 255
        if (
            min(rgba.shape[:2]) >= 64
            and np.mean(alpha > 0.95) > 0.1
            and np.mean(alpha < 0.05) > 0.2
        ):
            layers.append(rgba)
        if len(layers) == 10:
            break
    return layers


def test_real_layers_are_extracted_with_the_true_trimap(real_layers):
    """The trimap is derived from the true alpha."""
    errors, colors = [], []
    for rgba in real_layers:
        alpha = (rgba[..., 3] / 255).astype(np.float32)
        trimap = np.where(unknown_region(alpha), UNKNOWN, np.round(alpha)).astype(np.float32)
        matted = extract_subject(composite_over(rgba, GREEN), trimap)
        errors.append(np.abs(matted[..., 3] / 255 - alpha).mean())
        colors.append(np.abs(matted[..., :3].astype(int) - rgba[..., :3])[alpha > 0.5].mean())
    assert np.mean(errors) < 0.01
    assert max(errors) < 0.03
    assert np.mean(colors) < 6


def test_real_layers_are_extracted_with_a_found_trimap(real_layers):
    """The trimap is found by GrabCut, as in the command."""
    shares = []
    for rgba in real_layers:
        image, alpha = composite_over(rgba, GREEN), rgba[..., 3] / 255
        matted = extract_subject(image, make_trimap(find_subject(image)))[..., 3] / 255
        shares.append(np.minimum(alpha, matted).sum() / np.maximum(alpha, matted).sum())
    assert np.median(shares) > 0.9
    assert np.mean(shares) > 0.8


@pytest.mark.parametrize(("value", "alpha"), [(1.0, 255), (0.0, 0), (UNKNOWN, 0)])
def test_a_uniform_trimap_gives_a_uniform_alpha(value, alpha):
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    matted = extract_subject(image, np.full((20, 24), value, np.float32))
    assert (matted[..., 3] == alpha).all()
    assert np.array_equal(matted[..., :3], image if alpha else np.zeros_like(image))
