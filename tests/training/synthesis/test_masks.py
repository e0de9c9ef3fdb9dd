"""Inpainting masks of pairs: around the subject, and behind it with a margin."""

from __future__ import annotations

import numpy as np
import pytest

from training.synthesis.masks import erosion_pixels, mask_around, mask_behind


def square(alpha=255, side=1024, start=400, size=200):
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[start : start + size, start : start + size] = (200, 30, 30, alpha)
    return rgba


def test_mask_around_covers_all_pixels_with_alpha_below_1():
    mask = mask_around(square())
    assert not mask[400:600, 400:600].any()
    assert mask.sum() == mask.size - 200 * 200
    assert mask_around(
        square(alpha=200)
    ).all()  # translucent pixels are painted too, and composited later
    assert not mask_around(square(alpha=252))[500, 500]  # 1 up to the error of a network
    assert mask_around(square(alpha=249))[500, 500]


def test_mask_behind_covers_the_subject_and_eight_pixels_around_it():
    """The kept background is eroded by 8 pixels."""
    mask = mask_behind(square(), 8)
    assert mask[392:608, 392:608].all()
    assert mask.sum() == 216 * 216
    assert not (
        ~mask_around(square()) & ~mask_behind(square(), 8)
    ).any()  # no pixel of the subject is kept
    assert mask_behind(square(), 0).sum() == 200 * 200


@pytest.mark.parametrize(
    ("side", "pixels"), [(1024, 8), (512, 4), (2048, 16), (64, 1), (96, 1), (192, 2)]
)
def test_the_margin_scales_with_the_image(side, pixels):
    assert erosion_pixels((side // 2, side), 8) == pixels
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[side // 2, side // 2] = 255
    assert mask_behind(rgba, 8).sum() == (2 * pixels + 1) ** 2


def test_soft_edges_and_translucent_pixels_belong_to_the_subject():
    rgba = square(side=128, start=40, size=40)
    rgba[39, 40:80, 3] = 20  # a soft edge of one pixel
    assert mask_behind(rgba, 8)[38].any()
    assert not mask_behind(rgba, 8)[37].any()
    assert mask_behind(square(alpha=60), 8).sum() == 216 * 216


def test_faint_noise_and_image_borders_do_not_erode_the_background():
    rgba = square()
    rgba[..., 3] = np.maximum(
        rgba[..., 3], np.random.default_rng(0).integers(0, 6, (1024, 1024), np.uint8)
    )
    assert mask_behind(rgba, 8).sum() == 216 * 216
    assert not mask_behind(np.zeros((64, 64, 4), np.uint8), 8).any()
    assert mask_behind(square(side=100, start=0, size=100), 8).all()
