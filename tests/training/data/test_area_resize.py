"""Area averages and linear interpolation: exact, and equal to OpenCV's up to rounding."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.area_resize import make_taps, resize_area

SIZES = [(768, 512), (1000, 333), (640, 512), (513, 512), (7, 3), (40, 1), (5, 5)]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_shrinking_equals_opencv(old: int, new: int) -> None:
    image = np.random.default_rng(old).random((old, old + 3, 4), dtype=np.float32)
    expected = cv2.resize(image, (new, new), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resize_area(image, new, new), expected, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(new, old) for old, new in SIZES])
def test_enlarging_equals_opencv(old: int, new: int) -> None:
    image = np.random.default_rng(old).random((old, old, 4), dtype=np.float32)
    expected = cv2.resize(image, (new, new), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_area(image, new, new), expected, atol=2e-6)


def test_an_area_average_is_the_mean_of_whole_blocks() -> None:
    image = np.random.default_rng(0).random((12, 8, 3), dtype=np.float32)
    blocks = image.reshape(4, 3, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize_area(image, 4, 4), blocks, atol=1e-6)


@given(st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None)
def test_weights_sum_to_one_and_every_pixel_counts(old: int, new: int) -> None:
    taps = make_taps(old, new)
    total = sum(weights.astype(np.float64) for _, weights in taps)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    share = np.zeros(old)
    for index, weights in taps:
        np.add.at(share, index, weights)
    if new < old:
        np.testing.assert_allclose(share, new / old, atol=1e-4)
