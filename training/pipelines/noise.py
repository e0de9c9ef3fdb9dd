"""Starting noise of diffusers' pipelines, drawn as they draw it, so that it can be replayed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.draw_batches import starting_noise
from training.pipelines.text_to_image import TransparentPipeline
from training.transparency.tiling import round_up


def latent_shape(pipe: TransparentPipeline, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the shape of one latent, C x h x w.

    Args:
        pipe: The pipeline.
        size: Height and width in pixels; latents have whole strides.
    """
    stride = pipe.autoencoder.stride
    height, width = (round_up(side, stride) // stride for side in size)
    return pipe.autoencoder.latent_channels, height, width


def noise_rows(
    pipe: TransparentPipeline,
    generators: Sequence[torch.Generator],
    size: tuple[int, int],
    layers: int = 1,
) -> Tensor:
    """Return the starting noise of images, a row for each layer of each image.

    Args:
        pipe: The pipeline.
        generators: One generator per image, which is advanced.
        size: Height and width in pixels.
        layers: Number of layers that are generated together.

    Returns:
        Noise in the denoiser's dtype, B x C x h x w, on the CPU.
    """
    shape, dtype = latent_shape(pipe, size), pipe.pipeline.unet.dtype
    return torch.cat(
        [starting_noise(generator, (layers, *shape), dtype) for generator in generators]
    )
