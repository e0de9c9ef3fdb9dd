"""What is inpainted of a pair, on planted alphas: around the subject, and behind it with a margin."""

from __future__ import annotations

import numpy as np
import pytest

from training.synthesis.masks import erosion_pixels, mask_around, mask_behind


def square(alpha=255, side=1024, at=400, size=200):
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[at : at + size, at : at + size] = (200, 30, 30, alpha)
    return rgba


def test_around_is_everything_under_alpha_1():
    mask = mask_around(square())
    assert not mask[400:600, 400:600].any()
    assert mask.sum() == mask.size - 200 * 200
    assert mask_around(
        square(alpha=200)
    ).all()  # glass is painted around too; it is laid over again
    assert not mask_around(square(alpha=252))[500, 500]  # a network's 1
    assert mask_around(square(alpha=249))[500, 500]


def test_behind_is_the_subject_and_eight_pixels_around_it():
    """The alpha mask inverted, then eroded by 8: the kept background shrinks, the hole grows."""
    mask = mask_behind(square(), 8)
    assert mask[392:608, 392:608].all()
    assert mask.sum() == 216 * 216
    assert not (
        ~mask_around(square()) & ~mask_behind(square(), 8)
    ).any()  # nothing of the subject is kept
    assert mask_behind(square(), 0).sum() == 200 * 200


@pytest.mark.parametrize(
    ("side", "pixels"), [(1024, 8), (512, 4), (2048, 16), (64, 1), (96, 1), (192, 2)]
)
def test_the_margin_grows_with_the_picture(side, pixels):
    assert erosion_pixels((side // 2, side), 8) == pixels
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[side // 2, side // 2] = 255
    assert mask_behind(rgba, 8).sum() == (2 * pixels + 1) ** 2


def test_soft_edges_and_glass_belong_to_the_subject():
    rgba = square(side=128, at=40, size=40)
    rgba[39, 40:80, 3] = 20  # a hair's width of soft edge
    assert mask_behind(rgba, 8)[38].any()
    assert not mask_behind(rgba, 8)[37].any()
    assert mask_behind(square(alpha=60), 8).sum() == 216 * 216


def test_a_networks_faint_noise_is_no_subject_and_a_border_erodes_nothing():
    rgba = square()
    rgba[..., 3] = np.maximum(
        rgba[..., 3], np.random.default_rng(0).integers(0, 6, (1024, 1024), np.uint8)
    )
    assert mask_behind(rgba, 8).sum() == 216 * 216
    assert not mask_behind(np.zeros((64, 64, 4), np.uint8), 8).any()
    assert mask_behind(square(side=100, at=0, size=100), 8).all()
