"""Upscaling of transparent images with new detail ("hires fix"): resized, then lightly redrawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.pipelines.image_to_image import TransparentImageToImagePipeline
from training.pipelines.images import ImageInput, ImageOutput, as_latents, resize_rgba, to_rgba
from training.pipelines.text_to_image import TransparentOutput


class TransparentUpscalePipeline(TransparentImageToImagePipeline):
    """Enlarges images and redraws them lightly.

    Models generate best at their training size: generate there, then enlarge the result with this.
    """

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: ImageInput | Sequence[ImageInput] | Tensor | None = None,
        strength: float = 0.35,
        num_inference_steps: int = 50,
        *,
        upscale: float = 1.5,
        **arguments: Any,
    ) -> TransparentOutput | tuple[ImageOutput]:
        """Enlarge images and redraw them.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                One prompt, or one per image.
            image (`ImageInput`, `Sequence[ImageInput]` or `torch.Tensor`):
                As for `TransparentImageToImagePipeline`; latents are decoded first.
            strength (`float`, *optional*, defaults to 0.35):
                In (0, 1]; low, to keep composition and alpha. Above 0.5 the image becomes another
                one.
            num_inference_steps (`int`, *optional*, defaults to 50):
                The number of denoising steps at strength 1.
            upscale (`float`, *optional*, defaults to 1.5):
                The factor of height and width.
            arguments (`Any`):
                As for `TransparentImageToImagePipeline`.

        Returns:
            As `TransparentImageToImagePipeline`.

        Raises:
            Refused: The strength is outside (0, 1], or there is no image.
            TypeError: The diffusers pipeline does not have the argument.
        """
        if image is not None:
            rgba_B4HW = self._pixels(image)
            height, width = (max(1, round(side * upscale)) for side in rgba_B4HW.shape[-2:])
            image = resize_rgba(rgba_B4HW, height, width)
        return super().__call__(prompt, image, strength, num_inference_steps, **arguments)

    def _pixels(self, image: ImageInput | Sequence[ImageInput] | Tensor) -> Tensor:
        """Convert images or scaled latents to RGBA."""
        scaled_BCHW = as_latents(image, self.autoencoder.latent_channels)
        if scaled_BCHW is None:
            return to_rgba(image)
        rows, columns = (side * self.autoencoder.stride for side in scaled_BCHW.shape[-2:])
        rgba_B4HW = self.decode(self.unscale_latents(scaled_BCHW), (rows, columns), "pt").images
        assert isinstance(rgba_B4HW, Tensor)  # noqa: S101 - narrows: output_type "pt"
        return rgba_B4HW
