"""Transparent images enlarged with new detail ("hires fix"): resized with their alpha, then lightly drawn over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.pipelines.image_to_image import TransparentImageToImagePipeline
from training.pipelines.pictures import Picture, enlarge, to_rgba
from training.pipelines.text_to_image import TransparentOutput


class TransparentUpscalePipeline(TransparentImageToImagePipeline):
    """Models draw best at the size they were trained at: draw there, then enlarge the result through this."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Picture | Sequence[Picture] | Tensor | None = None,
        *,
        upscale: float = 1.5,
        strength: float = 0.35,
        **arguments: Any,
    ) -> TransparentOutput:
        """Enlarge pictures `upscale` times and draw them over.

        strength: low, since composition and alpha are there already; above 0.5 the picture becomes another one. All
        else as for TransparentImageToImagePipeline.
        """
        if image is not None:
            rgba_B4HW = to_rgba(image)
            height, width = (max(1, round(side * upscale)) for side in rgba_B4HW.shape[-2:])
            image = enlarge(rgba_B4HW, height, width)
        return super().__call__(prompt, image, strength=strength, **arguments)
