"""Comparison grids: images beside their reconstructions."""

import io

import numpy as np
from PIL import Image

from tests.support.factories import image
from training.evaluation.comparison import TILE_SIZE, comparison_grid
from training.sample_grid import GAP, TEXT


def test_each_row_shows_truth_reconstruction_and_difference_four_times():
    truth = image(1, 32, 32)
    reconstructed = truth.copy()
    reconstructed[..., 3] = 255
    grid = np.asarray(
        Image.open(io.BytesIO(comparison_grid([truth, truth], [truth, reconstructed])))
    )
    assert grid.shape == (2 * (TILE_SIZE + GAP) + GAP + TEXT, 12 * (TILE_SIZE + GAP) + GAP, 3)

    def tile(row, column):
        top, left = TEXT + GAP + row * (TILE_SIZE + GAP), GAP + column * (TILE_SIZE + GAP)
        return grid[top : top + TILE_SIZE, left : left + TILE_SIZE]

    assert all(tile(0, column).max() == 0 for column in (2, 5, 8, 11)), (
        "equal images have no difference"
    )
    assert all(np.array_equal(tile(0, column), tile(0, column + 1)) for column in (0, 3, 6, 9))
    assert tile(1, 10).min() == 255
    assert tile(1, 11).max() == 252
    assert np.array_equal(tile(1, 9), tile(0, 9))


def test_images_of_any_size_fit():
    images = [image(1, 64, 40), image(2, 300, 200)]
    assert Image.open(io.BytesIO(comparison_grid(images, images))).format == "PNG"
