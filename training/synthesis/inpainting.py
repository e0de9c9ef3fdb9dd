"""Inpainting with a diffusers model; pixels outside the mask are unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image

from training.draw_batches import seeded_generator
from training.pretrained.loading import load_model, load_pipeline
from training.synthesis.masks import Mask

ImageArray = NDArray[np.uint8]
"""An opaque image, H x W x 3."""


def open_inpainter(
    model: str,
    variant: str | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Inpainter:
    """Load a model for inpainting.

    It is either trained for inpainting (nine input channels: noise, mask and masked image) or a
    text-to-image model (four channels), for which the known pixels are restored at each step.

    Args:
        model: A hub id or folder of a model with Stable Diffusion's kind of autoencoder.
        variant: The variant of the files, such as "fp16".
        device: The device.
        dtype: The compute dtype.

    Raises:
        NotFound: The model does not exist.
        Refused: The model cannot be read.
    """
    autoencoder = load_model(AutoencoderKL, model, "vae", variant, dtype=dtype)
    pipeline = load_pipeline(
        model, "AutoPipelineForInpainting", variant, vae=autoencoder, dtype=dtype
    )
    pipeline.set_progress_bar_config(disable=True)
    return Inpainter(pipeline.to(device), Path(model).name if Path(model).is_dir() else model)


class Inpainter:
    """A diffusers inpainting pipeline and the name of its model."""

    def __init__(self, pipeline: Any, name: str) -> None:
        self.pipeline, self.name = pipeline, name

    @torch.no_grad()
    def fill(
        self,
        image: ImageArray,
        mask: Mask,
        prompt: str,
        seed: int,
        *,
        steps: int,
        guidance: float,
        negative_prompt: str | None,
    ) -> ImageArray:
        """Inpaint the masked part of an image; deterministic on one machine.

        The model sees mid-gray under the mask, and a latent pixel is inpainted if any of its pixels
        is masked. Otherwise a model with four channels leaves a rim of the removed subject.

        Args:
            image: An image of any size, H x W x 3 uint8.
            mask: H x W; true where to inpaint.
            prompt: The prompt.
            seed: The seed of the noise.
            steps: The number of denoising steps.
            guidance: The guidance scale.
            negative_prompt: The negative prompt, or None.

        Returns:
            The image; its pixels outside the mask are unchanged.
        """
        if not mask.any():
            return image
        # Pad to whole latent pixels, and extend the mask to them.
        height, width = mask.shape
        stride = self.pipeline.vae_scale_factor
        padding = ((0, -height % stride), (0, -width % stride))
        cells = np.pad(mask, padding, "edge").reshape(
            -(-height // stride), stride, -(-width // stride), stride
        )
        coarse = cells.any(axis=(1, 3)).repeat(stride, axis=0).repeat(stride, axis=1)
        masked = np.where(mask[..., None], np.uint8(128), image)
        # Strength 1 starts from pure noise.
        generated = self.pipeline(
            prompt=prompt,
            negative_prompt=negative_prompt,
            image=Image.fromarray(np.pad(masked, (*padding, (0, 0)), "edge")),
            mask_image=Image.fromarray(coarse.astype(np.uint8) * 255),
            height=coarse.shape[0],
            width=coarse.shape[1],
            strength=1.0,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=seeded_generator(seed),
            output_type="np",
        ).images[0]
        # Keep the original pixels outside the mask exactly.
        painted = np.rint(generated[:height, :width] * 255).astype(np.uint8)
        return np.where(mask[..., None], painted, image)
