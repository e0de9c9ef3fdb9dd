"""Parts of a picture painted anew by an inpainting model of diffusers; all else stays as it is, to the level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image

from training.draw_batches import generator_of
from training.pretrained.loading import load_model, load_pipeline
from training.synthesis.masks import Mask

Picture = NDArray[np.uint8]
"""An opaque picture, H x W x 3."""


def open_inpainter(
    model: str,
    variant: str | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Inpainter:
    """Any model that diffusers can inpaint with and whose autoencoder is Stable Diffusion's kind.

    One that was trained to inpaint (nine channels in: noise, mask and what is seen) or one that draws from text (four):
    of that the known part is put back between two steps. Raises NotFound, Refused.
    """
    autoencoder = load_model(AutoencoderKL, model, "vae", variant, dtype=dtype)
    pipeline = load_pipeline(
        model, "AutoPipelineForInpainting", variant, vae=autoencoder, dtype=dtype
    )
    pipeline.set_progress_bar_config(disable=True)
    return Inpainter(pipeline.to(device), Path(model).name if Path(model).is_dir() else model)


class Inpainter:
    """An inpainting pipeline of diffusers and its model's name."""

    def __init__(self, pipeline: Any, name: str) -> None:
        self.pipeline, self.name = pipeline, name

    @torch.no_grad()
    def fill(
        self,
        picture: Picture,
        mask: Mask,
        text: str,
        seed: int,
        *,
        steps: int,
        guidance: float,
        negative: str | None,
    ) -> Picture:
        """The picture (any size) with the masked part painted after a text; the same each time, on one machine.

        Drawn alone, in whole latent pixels, from pure noise; what lies outside the mask is the picture's own. Nothing
        that lies under it is seen: it is mid-grey to the model, and a latent pixel is painted where any pixel of it is.
        Without both a model of four channels keeps a rim of the subject that is to go.
        """
        if not mask.any():
            return picture
        height, width = mask.shape
        stride = self.pipeline.vae_scale_factor
        more = ((0, -height % stride), (0, -width % stride))
        cells = np.pad(mask, more, "edge").reshape(
            -(-height // stride), stride, -(-width // stride), stride
        )
        coarse = cells.any(axis=(1, 3)).repeat(stride, axis=0).repeat(stride, axis=1)
        seen = np.where(mask[..., None], np.uint8(128), picture)
        drawn = self.pipeline(
            prompt=text,
            negative_prompt=negative,
            image=Image.fromarray(np.pad(seen, (*more, (0, 0)), "edge")),
            mask_image=Image.fromarray(coarse.astype(np.uint8) * 255),
            height=coarse.shape[0],
            width=coarse.shape[1],
            strength=1.0,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator_of(seed),
            output_type="np",
        ).images[0]
        painted = np.rint(drawn[:height, :width] * 255).astype(np.uint8)
        return np.where(mask[..., None], painted, picture)
