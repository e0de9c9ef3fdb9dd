"""Lighting metrics: brightness of layers, correlations, and coverage of the intervals."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from training.metrics.lighting import (
    bootstrap_indices,
    brightness_of_layers,
    correlation,
    percentile_interval,
)


def layer(color, alpha):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = color, alpha
    return rgba


def test_brightness_is_log2_of_linear_light_where_a_layer_is_visible():
    foreground = layer((188, 188, 188), 0)
    foreground[:4, :, 3] = 255
    foreground[4:, :, :3] = 255  # invisible, so ignored
    background = layer((255, 255, 255), 255)
    background[:4, :, :3] = 0  # behind the foreground
    front, behind = brightness_of_layers(foreground, background)
    assert front == pytest.approx(np.log2(0.5029), abs=1e-3)
    assert behind == pytest.approx(0, abs=1e-6)


def test_the_correlation_is_pearsons_over_all_images():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 2)) @ [[1, 0.6], [0, 0.8]]
    images = [[tuple(values[2 * index]), tuple(values[2 * index + 1])] for index in range(6)]
    assert correlation(images) == pytest.approx(pearsonr(*values.T).statistic)
    assert correlation(images[:3]) is None
    assert correlation([*images[:3], [], []]) is None
    assert correlation([[(1.0, 2.0)]] * 5) is None


def test_bootstrap_intervals_cover_at_their_level():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(40):
        values = rng.normal(size=(60, 2)) @ [[1, 0.5], [0, 0.75**0.5]]
        images = [[tuple(row)] for row in values]
        low, high = percentile_interval(
            [
                correlation([images[index] for index in indices])
                for indices in bootstrap_indices(60)[:200]
            ]
        )
        covered += low < 0.5 < high
    assert covered >= 34
    assert all(
        np.array_equal(first, second)
        for first, second in zip(bootstrap_indices(5), bootstrap_indices(5), strict=True)
    )
    assert percentile_interval([None, None]) == (None, None)
