"""Trimaps and the detection of a subject, on synthetic images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.matting.trimaps import BAND, UNKNOWN, find_subject, make_trimap


def disc(side=200, radius=50):
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), radius, 1, -1)
    return mask.astype(bool)


def test_inside_is_1_outside_0_and_the_outline_unknown():
    mask = disc()
    trimap = make_trimap(mask)
    assert set(np.unique(trimap)) == {0, UNKNOWN, 1}
    assert mask[trimap == 1].all()
    assert not mask[trimap == 0].any()
    reach = BAND * 200
    row = trimap[100]
    assert (
        abs(np.count_nonzero(row == UNKNOWN) / 2 - 2 * reach) <= 1.5
    )  # to each side of the outline
    assert row[100] == 1
    assert row[0] == 0


def test_thin_subjects_keep_a_known_part_and_borders_are_no_outline():
    thin = np.zeros((200, 200), bool)
    thin[20:180, 100:103] = True
    assert (make_trimap(thin) == 1).any()
    cut = np.zeros((100, 100), bool)
    cut[50:] = True
    trimap = make_trimap(cut)
    assert (trimap[-1] == 1).all()
    assert (trimap[0] == 0).all()


@pytest.mark.parametrize(
    ("mask", "value"), [(np.zeros((40, 30), bool), 0), (np.ones((40, 30), bool), 1)]
)
def test_empty_and_full_masks_have_no_outline(mask, value):
    assert (make_trimap(mask) == value).all()


def test_the_subject_is_found_on_a_plain_and_on_a_busy_background():
    mask, rng = disc(), np.random.default_rng(0)
    for background in (np.full((200, 200, 3), 128), rng.normal((60, 120, 60), 12, (200, 200, 3))):
        image = np.where(mask[..., None], rng.normal((200, 60, 40), 12, (200, 200, 3)), background)
        image = np.clip(image, 0, 255).astype(np.uint8)
        found = find_subject(image)
        assert (found & mask).sum() / (found | mask).sum() > 0.97
        assert np.array_equal(found, find_subject(image))


@pytest.mark.parametrize("size", [(32, 32), (17, 90), (64, 64)])
def test_uniform_and_small_images_raise_no_error(size):
    for level in (0, 128, 255):
        assert find_subject(np.full((*size, 3), level, np.uint8)).shape == size
