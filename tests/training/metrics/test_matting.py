"""The four matting errors, on cases with known results."""

import math

import numpy as np
import pytest

from training.metrics.matting import connectivity, gradient, matting_errors, unknown_region


def square(side=20, inner=slice(5, 15), alpha=1.0):
    matte = np.zeros((side, side), np.float32)
    matte[inner, inner] = alpha
    return matte


def test_equal_mattes_have_no_error():
    matte = np.random.default_rng(0).random((24, 24), np.float32)
    metrics = matting_errors(matte, matte)
    assert set(metrics) == {
        f"{where}_{what}"
        for where in ("alpha", "unknown")
        for what in ("sad", "mse", "grad", "conn")
    }
    assert set(metrics.values()) == {0.0}


def test_sad_is_in_thousands_and_mse_is_a_mean():
    metrics = matting_errors(square(), square(alpha=0.75))
    assert metrics["alpha_sad"] == pytest.approx(100 * 0.25 / 1000)
    assert metrics["alpha_mse"] == pytest.approx(100 * 0.0625 / 400)


def test_the_unknown_region_is_a_band_around_edges():
    region = unknown_region(square())
    # One pixel to either side of the edge: a ring of 12 x 12 less one of 8 x 8.
    assert region.sum() == 12 * 12 - 8 * 8
    assert not region[7:13, 7:13].any()
    assert not region[:4].any()
    assert not unknown_region(np.ones((9, 9), np.float32)).any()
    assert not unknown_region(np.zeros((9, 9), np.float32)).any()
    assert unknown_region(square(alpha=0.5))[4:16, 4:16].all(), "glass is unknown all over"
    assert unknown_region(square(300, slice(100, 200))).sum() == 106**2 - 94**2, (
        "a hundredth of 300 pixels to either side"
    )


def test_errors_in_the_known_region_are_not_counted_as_unknown():
    again = square()
    again[0, 0] = 0.5  # far from the edge
    again[5, 5] = 0.5  # on the edge
    metrics = matting_errors(square(), again)
    assert metrics["alpha_sad"] == pytest.approx(0.001)
    assert metrics["unknown_sad"] == pytest.approx(0.0005)
    assert metrics["unknown_mse"] == pytest.approx(0.25 / 80)
    whole = matting_errors(np.ones((9, 9), np.float32), np.full((9, 9), 0.5, np.float32))
    assert [whole[f"unknown_{name}"] for name in ("sad", "mse", "grad", "conn")] == [0, 0, 0, 0]
    assert whole["alpha_sad"] == pytest.approx(0.0405)


def test_the_gradient_of_a_slope_is_the_sum_of_the_filter():
    slope = np.tile(np.arange(40, dtype=np.float32) / 40, (40, 1))
    index = np.arange(-4, 5)
    bell = np.exp(-(index**2) / (2 * 1.4**2))
    expected = (
        (bell / np.linalg.norm(bell)).sum()
        * (index**2 * bell).sum()
        / np.linalg.norm(index * bell)
        / 40
    )
    assert gradient(slope)[10:30, 10:30] == pytest.approx(expected, rel=1e-4)
    assert gradient(slope.T)[10:30, 10:30] == pytest.approx(expected, rel=1e-4)
    assert np.abs(gradient(np.full((20, 20), 0.5, np.float32))).max() < 1e-6, (
        "edges are repeated outwards"
    )


def test_the_gradient_of_a_point_has_unit_energy_in_both_directions():
    point = np.zeros((21, 21), np.float32)
    point[10, 10] = 1
    # Two filters of unit energy: their squares add up to two, in thousands.
    assert matting_errors(np.zeros_like(point), point)["alpha_grad"] == pytest.approx(
        0.002, rel=1e-5
    )


def test_an_unconnected_island_counts_its_alpha():
    truth = np.zeros((12, 12), np.float32)
    truth[1:6, 1:11] = 1
    again = truth.copy()
    again[8:10, 8:10] = 0.6
    # The island is not connected: its level is 0, so d = 0.6 >= 0.15 on four pixels.
    assert connectivity(truth, again)[8:10, 8:10] == pytest.approx(0.6)
    assert matting_errors(truth, again)["alpha_conn"] == pytest.approx(4 * 0.6 / 1000)


def test_a_small_deviation_of_the_connected_region_is_ignored():
    truth, again = square(), square(alpha=0.9)
    # The level is 0.9 all over the square: truth exceeds it by 0.1 < 0.15.
    assert matting_errors(truth, again)["alpha_conn"] == 0
    # Here it is 0.7: truth exceeds it by 0.3.
    assert matting_errors(truth, square(alpha=0.7))["alpha_conn"] == pytest.approx(100 * 0.3 / 1000)


def test_corners_do_not_connect():
    truth = np.zeros((8, 8), np.float32)
    truth[:4, :4] = truth[4:6, 4:6] = 1
    assert connectivity(truth, truth)[4:6, 4:6].sum() == 0, "the truth's own islands are no error"
    again = truth.copy()
    again[4:6, 4:6] = 0.5
    # Both are measured from level 0: |1 - 0.5| on four pixels.
    assert connectivity(truth, again).sum() == pytest.approx(2.0)


def test_without_a_shared_region_every_level_is_0():
    empty, full = np.zeros((6, 6), np.float32), np.ones((6, 6), np.float32)
    assert matting_errors(full, empty)["alpha_conn"] == pytest.approx(0.036)
    assert math.isclose(matting_errors(full, empty)["alpha_mse"], 1)
