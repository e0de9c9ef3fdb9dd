"""Cutting out by closed-form matting: alpha and colours come back, of hairs and of real layers, within stated errors."""

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


def hairy(side=128):
    """Return a red disc with forty antialiased hairs of about a pixel."""
    fine, centre = np.zeros((side * 8, side * 8), np.uint8), side * 4
    cv2.circle(fine, (centre, centre), side * 2, 255, -1)
    for turn in np.linspace(0, 2 * np.pi, 40, endpoint=False):
        end = (int(centre + side * 3 * np.cos(turn)), int(centre + side * 3 * np.sin(turn)))
        cv2.line(fine, (centre, centre), end, 255, 9)
    alpha = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return np.dstack([np.full((side, side, 3), (200, 40, 30), np.uint8), alpha])


def test_hairs_come_back_with_their_own_colour(capsys):
    rgba = hairy()
    alpha = rgba[..., 3] / 255
    far = cv2.distanceTransform((alpha < 0.5).astype(np.uint8), cv2.DIST_L2, 5) > 6
    body = cv2.erode((alpha > 0.99).astype(np.uint8), np.ones((7, 7))) > 0
    trimap = np.where(body, 1, np.where(far, 0, UNKNOWN)).astype(np.float32)
    image = composite_over(rgba, GREEN)
    cut = extract_subject(image, trimap)
    error = np.abs(cut[..., 3] / 255 - alpha)
    hairs = (trimap == UNKNOWN) & (alpha > 0.3)
    assert error.mean() < 0.01
    assert error[hairs].mean() < 0.06
    color = np.abs(cut[..., :3].astype(int) - rgba[..., :3])[hairs].mean()
    assert color < 12
    assert (
        np.abs(image.astype(int) - rgba[..., :3])[hairs].mean() > 2 * color
    )  # what a cut by alpha alone would keep
    assert not cut[cut[..., 3] == 0].any()
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def real(shared):
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


def test_real_layers_over_a_known_background_come_back(real):
    """With the trimap of their own alpha: what matting can do at the best."""
    errors, colors = [], []
    for rgba in real:
        alpha = (rgba[..., 3] / 255).astype(np.float32)
        trimap = np.where(unknown_region(alpha), UNKNOWN, np.round(alpha)).astype(np.float32)
        cut = extract_subject(composite_over(rgba, GREEN), trimap)
        errors.append(np.abs(cut[..., 3] / 255 - alpha).mean())
        colors.append(np.abs(cut[..., :3].astype(int) - rgba[..., :3])[alpha > 0.5].mean())
    assert np.mean(errors) < 0.01
    assert max(errors) < 0.03
    assert np.mean(colors) < 6


def test_real_layers_come_back_without_any_help(real):
    """With the trimap that is found: as a command would do it."""
    shares = []
    for rgba in real:
        image, alpha = composite_over(rgba, GREEN), rgba[..., 3] / 255
        again = extract_subject(image, make_trimap(find_subject(image)))[..., 3] / 255
        shares.append(np.minimum(alpha, again).sum() / np.maximum(alpha, again).sum())
    assert np.median(shares) > 0.9
    assert np.mean(shares) > 0.8


@pytest.mark.parametrize(("known", "alpha"), [(1.0, 255), (0.0, 0), (UNKNOWN, 0)])
def test_a_trimap_that_knows_one_thing_alone_is_its_own_answer(known, alpha):
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    cut = extract_subject(image, np.full((20, 24), known, np.float32))
    assert (cut[..., 3] == alpha).all()
    assert np.array_equal(cut[..., :3], image if alpha else np.zeros_like(image))
