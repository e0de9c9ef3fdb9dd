"""Sample grids: where images are drawn; a round trip keeps shape and range."""

import io

import numpy as np
import torch
from PIL import Image

from training.presets.presets import PRESETS
from training.sample_grid import GAP, MIN_TILE, TEXT, checkerboard, render_grid, to_uint8_images
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.codec import reconstruct
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray
from training.transparency.train import reconstruction_rows

MICRO = PRESETS["micro"]


def test_a_grid_shows_images_over_a_checkerboard_with_their_alpha_below():
    red = np.zeros((32, 32, 4), np.uint8)
    red[:, :16] = (255, 0, 0, 255)
    grid = np.asarray(Image.open(io.BytesIO(render_grid([[red, red], [red]], [["one", "two"]]))))
    assert grid.shape == (GAP + 2 * (2 * MIN_TILE + TEXT + 2 * GAP), GAP + 2 * (MIN_TILE + GAP), 3)
    tile = grid[GAP : GAP + MIN_TILE, GAP : GAP + MIN_TILE]
    assert (tile[:, : MIN_TILE // 2] == (255, 0, 0)).all()
    assert np.array_equal(tile[:, MIN_TILE // 2 :], checkerboard(MIN_TILE)[:, MIN_TILE // 2 :])
    alpha = grid[GAP + MIN_TILE : GAP + 2 * MIN_TILE, GAP : GAP + MIN_TILE]
    assert (alpha[:, : MIN_TILE // 2] == 255).all()
    assert (alpha[:, MIN_TILE // 2 :] == 0).all()
    caption = grid[GAP + 2 * MIN_TILE : GAP + 2 * MIN_TILE + TEXT, GAP : GAP + MIN_TILE]
    assert caption.min() < 100  # the text is drawn


def test_a_round_trip_keeps_shape_and_range_with_and_without_the_offset():
    torch.manual_seed(0)
    rgba = torch.rand(3, 4, 32, 32)
    autoencoder, networks = (
        fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:])),
        Transparency(MICRO),
    )
    torch.nn.init.ones_(networks.encoder.blocks[-1].bias)
    torch.nn.init.normal_(networks.decoder.latent_conv_in.weight)
    with_offset, without = (
        reconstruct(autoencoder, networks, rgba, offset=offset) for offset in (True, False)
    )
    assert with_offset.shape == rgba.shape
    assert with_offset.min() >= 0
    assert with_offset.max() <= 1
    assert not torch.equal(with_offset, without)
    assert [len(row) for row in reconstruction_rows(autoencoder, networks, rgba)] == [3, 3]
    assert np.array_equal(
        to_uint8_images(rgba)[0], (rgba[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    )
