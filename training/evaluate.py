"""The figures of a checkpoint on pictures it never trained on: how well layers come back, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from curation.domain import Checkpoint, Progress, Split
from curation.layers import BACKGROUNDS
from curation.manifest import read_samples
from curation.ports import ObjectStore, Report
from training.data import Pictures, load_split
from training.parts import Parts, open_parts
from training.sheets import reconstruct
from training.transparency import adjust, on_grey, pad_colours

HIGHER_IS_BETTER: dict[str, bool] = {
    "psnr": True,
    "ssim": True,
    "alpha_sad": False,
    "alpha_mse": False,
    "identity_psnr": True,
    "identity_harm_db": False,
    "noise_mse": False,
}
"""Which way each figure improves."""

BATCH = 32


def evaluate(checkpoint: Checkpoint, snapshot: str, store: ObjectStore, report: Report) -> dict[str, float]:
    """The figures of a checkpoint on the held-out split of a snapshot, at the preset's image size.

    psnr (dB), ssim: mean over the nine backgrounds of curation.layers (AlphaVAE, arXiv 2507.09308, section 3.1) of
    truth against reconstruction, both 8-bit RGBA, blended and compared without loss (no JPEG on the way).
    alpha_sad: sum |d alpha| / 1000 of a picture; alpha_mse: mean (d alpha)^2; alpha in [0, 1], over all pixels.
    identity_psnr (dB): premultiplied image against what the frozen decoder makes of the adjusted latent;
    identity_harm_db: how many dB of it the offset costs (positive is worse).
    noise_mse: the denoiser's held-out loss, where the checkpoint has one. Raises NotFound, Corrupt, Refused.
    """
    parts = open_parts(checkpoint, store)
    preset = parts.preset
    pictures = load_split(store, snapshot, Split.heldout, preset.image_size, in_memory=preset.in_memory)
    measured = [_measure(parts, batch) for batch in _batches(pictures, report)]
    figures = {name: float(torch.cat([row[name] for row in measured]).mean()) for name in measured[0]}
    if parts.base is not None:
        from training.train_base import validation_loss

        figures["noise_mse"] = validation_loss(parts.base, preset, parts.backbone, parts.transparency, pictures)
    return figures


def has_heldout(store: ObjectStore, snapshot: str) -> bool:
    """Whether a snapshot has any picture to evaluate on."""
    return any(sample.split == Split.heldout for sample in read_samples(store, snapshot))


def _batches(pictures: Pictures, report: Report) -> Iterator[Tensor]:
    for start in range(0, len(pictures), BATCH):
        report(Progress("evaluate", start, len(pictures)))
        yield pictures.take(range(start, min(start + BATCH, len(pictures))))
    report(Progress("evaluate", len(pictures), len(pictures)))


@torch.no_grad()
def _measure(parts: Parts, rgba_B4HW: Tensor) -> dict[str, Tensor]:
    """Every figure for every picture of a batch, each of shape B."""
    again_B4HW = (reconstruct(parts.backbone, parts.transparency, rgba_B4HW) * 255).round() / 255
    error_BHW = (again_B4HW[:, 3] - rgba_B4HW[:, 3]).abs()
    blends = [_blend_figures(rgba_B4HW, again_B4HW, colour) for colour in BACKGROUNDS.values()]
    return {
        "psnr": torch.stack([psnr for psnr, _ in blends]).mean(0),
        "ssim": torch.stack([ssim for _, ssim in blends]).mean(0),
        "alpha_sad": error_BHW.sum((1, 2)) / 1000,
        "alpha_mse": (error_BHW**2).mean((1, 2)),
    } | _identity_figures(parts, rgba_B4HW)


def _blend_figures(truth_B4HW: Tensor, again_B4HW: Tensor, colour: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    below_131 = (torch.tensor(colour) / 255).view(3, 1, 1)
    truth, again = (rgba[:, :3] * rgba[:, 3:] + below_131 * (1 - rgba[:, 3:]) for rgba in (truth_B4HW, again_B4HW))
    return psnr_of(truth, again), torch.stack([_ssim(*pair) for pair in zip(truth, again, strict=True)])


def _ssim(truth_CHW: Tensor, again_CHW: Tensor) -> Tensor:
    """With the window of Wang et al. (2004): Gaussian, sigma 1.5; the border that it does not cover is left out."""
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pair = truth_CHW.double().numpy(), again_CHW.double().numpy()
    measure: Any = structural_similarity  # scikit-image leaves it untyped
    return torch.tensor(measure(*pair, channel_axis=0, data_range=1.0, **wang))


def _identity_figures(parts: Parts, rgba_B4HW: Tensor) -> dict[str, Tensor]:
    alpha, padded = rgba_B4HW[:, 3:], pad_colours(rgba_B4HW)
    image = on_grey(padded, alpha) / 2 + 0.5
    none = torch.zeros(len(alpha))
    plain, adjusted = (
        psnr_of(
            image,
            parts.backbone.decode(adjust(parts.backbone, parts.transparency.encoder, alpha, padded, keep)) / 2 + 0.5,
        )
        for keep in (none, None)
    )
    return {"identity_psnr": adjusted, "identity_harm_db": plain - adjusted}


def psnr_of(truth_BCHW: Tensor, again_BCHW: Tensor) -> Tensor:
    """Peak signal to noise per picture in dB for values in [0, 1]; equal pictures count as 100 dB."""
    mse_B = ((again_BCHW.clamp(0, 1) - truth_BCHW) ** 2).flatten(1).mean(1)
    return -10 * torch.log10(mse_B.clamp_min(1e-10))
