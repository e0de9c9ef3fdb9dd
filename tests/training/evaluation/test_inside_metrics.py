"""PSNR inside the image: letterbox margins have no influence."""

import numpy as np
import pytest
import torch

from curation.domain import Kind, LayerRole, Sample, Split
from curation.images.codec import encode_layer, pixel_hash
from training.data.dataset import LayerDataset
from training.data.letterbox import letterbox, letterbox_area
from training.metrics.compositing import composite_metrics, psnr_inside

SIDE = 64


def stored(store, *shapes):
    samples = []
    for number, shape in enumerate(shapes):
        rgba = np.random.default_rng(number).integers(0, 256, (*shape, 4), np.uint8)
        layers = {LayerRole.foreground: store.put(encode_layer(rgba))}
        known = ("noise", "CC0-1.0", "test", Split.heldout, 0, pixel_hash(rgba))
        samples.append(Sample(f"{number:032x}", Kind.single, *known, layers))
    return LayerDataset(store, samples, SIDE, in_memory=False)


def test_letterbox_margins_are_ignored(store):
    images = stored(store, (64, 64), (16, 64), (64, 30), (7, 5))
    truth_B4HW = images.load_batch(range(4))
    inside_B1HW = images.inside_masks(range(4))
    assert [int(mask.sum()) for mask in inside_B1HW] == [64 * 64, 16 * 64, 64 * 30, 64 * 46]
    noise_B4HW = (
        truth_B4HW + 0.1 * torch.rand(truth_B4HW.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(0, 1)
    again_B4HW = torch.where(inside_B1HW, noise_B4HW, truth_B4HW)
    worse_B4HW = torch.where(inside_B1HW, noise_B4HW, torch.ones(()))
    inside_B = psnr_inside(truth_B4HW, again_B4HW, inside_B1HW)
    assert torch.equal(inside_B, psnr_inside(truth_B4HW, worse_B4HW, inside_B1HW))
    whole_B = torch.stack(list(composite_metrics(truth_B4HW, again_B4HW)["psnr"].values())).mean(0)
    assert inside_B[0] == pytest.approx(float(whole_B[0]), abs=1e-4)
    # A quarter of the square is image: exact margins add 10 log10(4) dB.
    assert float(whole_B[1] - inside_B[1]) == pytest.approx(10 * np.log10(4), abs=1e-3)


def test_the_mask_covers_the_image_area():
    for shape in ((30, 64), (64, 30), (10, 200), (64, 64), (3, 100)):
        opaque = np.full((*shape, 4), 255, np.uint8)
        placed = letterbox(opaque, SIDE)[..., 3] == 255
        top, left, height, width = letterbox_area(shape, (SIDE, SIDE))
        wanted = np.zeros((SIDE, SIDE), bool)
        wanted[top : top + height, left : left + width] = True
        assert (placed == wanted).all(), shape
