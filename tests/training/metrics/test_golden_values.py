"""Golden values of every metric for two fixed images, so that no definition changes unnoticed."""

import cv2
import numpy as np
import pytest
import torch

from curation.images.codec import BACKGROUNDS
from training.metrics.compositing import composite_jpeg, composite_metrics, published_metrics
from training.metrics.matting import matting_errors

GOLDEN = {
    "psnr": 27.0237,
    "ssim": 0.868721,
    "psnr_jpeg": 27.4005,
    "ssim_jpeg": 0.964400,
    "alpha_sad": 0.186827,
    "alpha_mse": 0.00525456,
    "alpha_grad": 0.0998383,
    "alpha_conn": 0.209363,
    "unknown_sad": 0.108635,
    "unknown_mse": 0.0107202,
    "unknown_grad": 0.0927852,
    "unknown_conn": 0.0893980,
}


def pair():
    """Return a soft disc with a translucent corner, and a degraded copy, 1 x 4 x 64 x 64 each."""
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.float32)
    cv2.circle(mask, (30, 34), 18, 1.0, -1)
    mask[4:20, 40:60] = 0.5
    truth = np.dstack(
        [*np.indices((64, 64), np.float32) / 63, np.full((64, 64), 0.3), cv2.blur(mask, (5, 5))]
    )
    again = np.roll(truth, 1, axis=1) + rng.normal(0, 0.02, truth.shape)
    again[..., 3] *= 0.9
    rounded = [np.rint(image.clip(0, 1) * 255) / 255 for image in (truth, again)]
    return [torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in rounded]


def metrics():
    truth, again = pair()
    found = {name: row["magenta"].item() for name, row in composite_metrics(truth, again).items()}
    blends = (composite_jpeg(image, BACKGROUNDS["magenta"]) for image in (truth, again))
    found |= {name: value.item() for name, value in published_metrics(*blends).items()}
    return found | matting_errors(truth[0, 3].numpy(), again[0, 3].numpy())


def test_every_metric_has_its_golden_value():
    # Libraries of JPEG differ in a level here and there.
    assert metrics() == pytest.approx(GOLDEN, rel=2e-3)
