"""Transparent images enlarged with new detail ("hires fix"): resized with their alpha, then lightly drawn over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.pipelines.image_to_image import TransparentImageToImagePipeline
from training.pipelines.images import Images, Picture, as_latents, enlarge, to_rgba
from training.pipelines.text_to_image import TransparentOutput


class TransparentUpscalePipeline(TransparentImageToImagePipeline):
    """Models draw best at the size they were trained at: draw there, then enlarge the result through this."""

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Picture | Sequence[Picture] | Tensor | None = None,
        strength: float = 0.35,
        num_inference_steps: int = 50,
        *,
        upscale: float = 1.5,
        **arguments: Any,
    ) -> TransparentOutput | tuple[Images]:
        """Enlarge pictures `upscale` times and draw them over.

        strength: low, since composition and alpha are there already; above 0.5 the picture becomes another one. All
        else as for TransparentImageToImagePipeline; latents are decoded first. Raises Refused, TypeError.
        """
        if image is not None:
            rgba_B4HW = self._pixels(image)
            height, width = (max(1, round(side * upscale)) for side in rgba_B4HW.shape[-2:])
            image = enlarge(rgba_B4HW, height, width)
        return super().__call__(prompt, image, strength, num_inference_steps, **arguments)

    def _pixels(self, image: Picture | Sequence[Picture] | Tensor) -> Tensor:
        normal_BCHW = as_latents(image, self.backbone.latent_channels)
        if normal_BCHW is None:
            return to_rgba(image)
        rows, columns = (side * self.backbone.stride for side in normal_BCHW.shape[-2:])
        rgba_B4HW = self.decode(self.restore(normal_BCHW), (rows, columns), "pt").images
        assert isinstance(rgba_B4HW, Tensor)  # noqa: S101 - narrows: output_type "pt"
        return rgba_B4HW
