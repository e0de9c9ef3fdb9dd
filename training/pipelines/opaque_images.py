"""Opaque images in a transparent pipeline: coded by the frozen autoencoder alone."""

from __future__ import annotations

import torch
from torch import Tensor

from training.pipelines.text_to_image import TransparentPipeline


def decode_opaque(pipe: TransparentPipeline, latent_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Decode unscaled latents by the frozen autoencoder alone, to RGBA in [0, 1] with alpha 1.

    Args:
        pipe (`TransparentPipeline`):
            The pipeline whose autoencoder is used.
        latent_BCHW (`torch.Tensor`):
            Unscaled latents; each is decoded separately, to bound memory.
        size (`tuple[int, int]`):
            Height and width to crop to.
    """
    autoencoder, tile = pipe.autoencoder, pipe.transparency.decoder.tile
    parts = [
        autoencoder.decode(latent.float().to(autoencoder.device), tile=tile)
        for latent in torch.split(latent_BCHW, 1)
    ]
    color_B3HW = (torch.cat(parts) / 2 + 0.5).clamp(0, 1)[..., : size[0], : size[1]]
    return torch.cat([color_B3HW, torch.ones_like(color_B3HW[:, :1])], dim=1)


def encode_opaque(pipe: TransparentPipeline, image_B3HW: Tensor) -> Tensor:
    """Encode images to scaled plain latents, one at a time, without sampling the posterior."""
    autoencoder, tile = pipe.autoencoder, pipe.transparency.encoder.tile
    parts = [
        autoencoder.encode(image.to(autoencoder.device), tile=tile)[0]
        for image in torch.split(image_B3HW, 1)
    ]
    return pipe.scale_latents(torch.cat(parts))
