"""Encoding and decoding of held-out layers, and the metrics of what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from curation.domain import Progress
from curation.ports import ProgressCallback
from training.checkpoint import LoadedCheckpoint
from training.data.dataset import LayerDataset
from training.metrics.compositing import psnr, psnr_inside
from training.transparency.codec import adjusted_posterior, decode_rgba
from training.transparency.padding import over_gray, pad_colors

BATCH, PIXELS = 32, 32 * 128 * 128
"""Largest number of images per batch, and of their pixels; a batch has at least one image."""


@dataclass(frozen=True)
class RoundTrip:
    """A batch and its round trip; B x 3 images are premultiplied over gray, in [0, 1]."""

    truth_B4HW: Tensor  # straight RGBA in [0, 1]
    reconstructed_B4HW: Tensor  # its reconstruction, quantized to 8 bits
    image_B3HW: Tensor  # input of the autoencoder
    plain_B3HW: Tensor  # decoded from the latent without offset
    adjusted_B3HW: Tensor  # decoded from the adjusted latent
    plain_BCHW: Tensor  # latents, unscaled
    adjusted_BCHW: Tensor
    std_BCHW: Tensor
    inside_B1HW: Tensor  # bool, False in letterbox margins


@torch.no_grad()
def round_trip(
    checkpoint: LoadedCheckpoint,
    rgba_B4HW: Tensor,
    views: int | None = None,
    inside_B1HW: Tensor | None = None,
) -> RoundTrip:
    """Encode and decode images.

    Args:
        checkpoint: The checkpoint's networks.
        rgba_B4HW: Straight RGBA in [0, 1], of any size.
        views: Number of views in test-time augmentation, as in `decode_rgba`.
        inside_B1HW: The image area without margins; all pixels by default.
    """
    size = (rgba_B4HW.shape[-2], rgba_B4HW.shape[-1])
    alpha_B1HW, padded_B3HW = rgba_B4HW[:, 3:], pad_colors(rgba_B4HW).to(rgba_B4HW)
    networks, autoencoder = checkpoint.transparency, checkpoint.autoencoder
    # An offset scale of 0 gives the posterior of the unadjusted autoencoder.
    none_B = torch.zeros(len(rgba_B4HW), device=rgba_B4HW.device)
    plain_BCHW, std_BCHW = adjusted_posterior(
        autoencoder, networks.encoder, alpha_B1HW, padded_B3HW, none_B
    )
    adjusted_BCHW, _ = adjusted_posterior(autoencoder, networks.encoder, alpha_B1HW, padded_B3HW)
    # Decode to RGBA by our decoder, and to RGB by the frozen one.
    again_B4HW = decode_rgba(autoencoder, networks.decoder, adjusted_BCHW, views=views, size=size)
    plain_B3HW, adjusted_B3HW = (
        autoencoder.decode(latent, tile=networks.decoder.tile)[..., : size[0], : size[1]].float()
        / 2
        + 0.5
        for latent in (plain_BCHW, adjusted_BCHW)
    )
    return RoundTrip(
        truth_B4HW=rgba_B4HW,
        reconstructed_B4HW=(again_B4HW * 255).round() / 255,
        image_B3HW=over_gray(padded_B3HW, alpha_B1HW) / 2 + 0.5,
        plain_B3HW=plain_B3HW,
        adjusted_B3HW=adjusted_B3HW,
        plain_BCHW=plain_BCHW,
        adjusted_BCHW=adjusted_BCHW,
        std_BCHW=std_BCHW,
        inside_B1HW=torch.ones_like(alpha_B1HW, dtype=torch.bool)
        if inside_B1HW is None
        else inside_B1HW,
    )


def round_trip_metrics(round_trip: RoundTrip) -> dict[str, Tensor]:
    """Compute the alpha and identity metrics of each image of a batch (see `evaluate`)."""
    error_BHW = (round_trip.reconstructed_B4HW[:, 3] - round_trip.truth_B4HW[:, 3]).abs()
    plain, adjusted = (
        psnr(round_trip.image_B3HW, image)
        for image in (round_trip.plain_B3HW, round_trip.adjusted_B3HW)
    )
    return {
        "psnr_inside": psnr_inside(
            round_trip.truth_B4HW, round_trip.reconstructed_B4HW, round_trip.inside_B1HW
        ),
        "alpha_sad": error_BHW.sum((1, 2)) / 1000,
        "alpha_mse": (error_BHW**2).mean((1, 2)),
        "identity_psnr": adjusted,
        "identity_harm_db": plain - adjusted,
    }


def batches(
    images: LayerDataset, indices: range, on_progress: ProgressCallback
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and their areas without margins in batches, on the fastest device.

    A batch is as large as BATCH and PIXELS allow.

    Args:
        images: The images.
        indices: Their indices.
        on_progress: Progress callback.

    Yields:
        Images, B x 4 x S x S, and masks, B x 1 x S x S bool.
    """
    count = max(1, min(BATCH, PIXELS // images.size**2))
    device = fastest_device()
    for start in range(0, len(indices), count):
        on_progress(Progress("evaluate", start, len(indices)))
        batch = indices[start : start + count]
        yield images.load_batch(batch).to(device), images.inside_masks(batch).to(device)
    on_progress(Progress("evaluate", len(indices), len(indices)))


def move_to_device(checkpoint: LoadedCheckpoint, device: torch.device) -> None:
    """Move the autoencoder and the transparency networks to a device."""
    checkpoint.autoencoder.to(device)
    checkpoint.transparency.to(device)


def fastest_device() -> torch.device:
    """Return the accelerator if torch has one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
