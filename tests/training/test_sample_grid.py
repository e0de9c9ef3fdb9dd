"""Sample sheets: what is drawn where, and that there and back keeps shape and range."""

import io

import numpy as np
import torch
from PIL import Image

from training.presets.presets import PRESETS
from training.sample_grid import GAP, LEAST, TEXT, checkerboard, draw_sheet, pixels
from training.transparency.autoencoder import fit_backbone
from training.transparency.codec import reconstruct
from training.transparency.networks import Transparency
from training.transparency.padding import on_grey
from training.transparency.train import reconstruction_rows

MICRO = PRESETS["micro"]


def test_a_sheet_shows_pictures_over_a_checkerboard_with_their_alpha_below():
    red = np.zeros((32, 32, 4), np.uint8)
    red[:, :16] = (255, 0, 0, 255)
    sheet = np.asarray(Image.open(io.BytesIO(draw_sheet([[red, red], [red]], [["one", "two"]]))))
    assert sheet.shape == (GAP + 2 * (2 * LEAST + TEXT + 2 * GAP), GAP + 2 * (LEAST + GAP), 3)
    tile = sheet[GAP : GAP + LEAST, GAP : GAP + LEAST]
    assert (tile[:, : LEAST // 2] == (255, 0, 0)).all()
    assert np.array_equal(tile[:, LEAST // 2 :], checkerboard(LEAST)[:, LEAST // 2 :])
    alpha = sheet[GAP + LEAST : GAP + 2 * LEAST, GAP : GAP + LEAST]
    assert (alpha[:, : LEAST // 2] == 255).all()
    assert (alpha[:, LEAST // 2 :] == 0).all()
    caption = sheet[GAP + 2 * LEAST : GAP + 2 * LEAST + TEXT, GAP : GAP + LEAST]
    assert caption.min() < 100  # there is ink


def test_there_and_back_keeps_shape_and_range_with_and_without_the_offset():
    torch.manual_seed(0)
    rgba = torch.rand(3, 4, 32, 32)
    backbone, networks = fit_backbone(MICRO, on_grey(rgba[:, :3], rgba[:, 3:])), Transparency(MICRO)
    torch.nn.init.ones_(networks.encoder.blocks[-1].bias)
    torch.nn.init.normal_(networks.decoder.latent_conv_in.weight)
    with_offset, without = (reconstruct(backbone, networks, rgba, offset=offset) for offset in (True, False))
    assert with_offset.shape == rgba.shape
    assert with_offset.min() >= 0
    assert with_offset.max() <= 1
    assert not torch.equal(with_offset, without)
    assert [len(row) for row in reconstruction_rows(backbone, networks, rgba)] == [3, 3]
    assert np.array_equal(pixels(rgba)[0], (rgba[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))
