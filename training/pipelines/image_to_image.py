"""Transparent image to transparent image: the picture becomes an adjusted latent, which is drawn over in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image
from torch import Tensor

from curation.errors import Refused
from training.pipelines.pictures import Picture, to_rgba
from training.pipelines.text_to_image import TransparentOutput, TransparentPipeline
from training.transparency.backbone import Backbone
from training.transparency.coding import adjusted_posterior
from training.transparency.networks import Transparency
from training.transparency.padding import pad_colours


class TransparentImageToImagePipeline(TransparentPipeline):
    """Like TransparentPipeline, beginning from a picture with alpha instead of from noise.

    Made of the same parts: `TransparentImageToImagePipeline(pipe.pipeline, pipe.backbone, pipe.transparency)`.
    """

    def __init__(self, pipeline: Any, backbone: Backbone | None, transparency: Transparency) -> None:
        """pipeline: of any class; diffusers' own image-to-image one is made of its parts. Raises Refused."""
        try:
            begun: Any = AutoPipelineForImage2Image.from_pipe(pipeline)
        except ValueError as error:
            raise Refused(f"diffusers has no image-to-image pipeline for {type(pipeline).__name__}") from error
        super().__init__(begun, backbone, transparency)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Picture | Sequence[Picture] | Tensor | None = None,
        *,
        strength: float = 0.75,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        views: int | None = None,
        **arguments: Any,
    ) -> TransparentOutput:
        """Draw over a picture.

        image: one picture or several of one size, any size; PIL images, arrays or tensors (`pictures.Picture`).
        strength: how much is drawn anew, above 0, to 1 for all of it: so large a share of the steps is done, and one at
        least. All else as for TransparentPipeline; the picture of a ControlNet is `control_image`. Raises Refused.
        """
        if not 0 < strength <= 1:
            raise Refused(f"a strength of {strength} means nothing", "choose one above 0, up to 1")
        if image is None:
            raise Refused("there is no picture to begin from", "give one as image=, or use TransparentPipeline")
        while int(num_inference_steps * strength) < 1:
            num_inference_steps += 1
        rgba_B4HW = to_rgba(image)
        normal_BCHW = self.normalise(self.encode(rgba_B4HW)).to(self.pipeline.unet.dtype)
        # Diffusers' image-to-image pipelines take a tensor of the latent's channels for a latent, ready and scaled.
        drawn_BCHW = self.pipeline(
            prompt=prompt,
            image=normal_BCHW,
            strength=strength,
            num_inference_steps=num_inference_steps,
            output_type="latent",
            return_dict=False,
            **arguments,
        )[0]
        height, width = rgba_B4HW.shape[-2:]
        return self.decode(self.restore(drawn_BCHW), (height, width), output_type, views)

    @torch.no_grad()
    def encode(self, rgba_B4HW: Tensor) -> Tensor:
        """The adjusted latents of straight RGBA in [0, 1], unscaled, B x C x h x w; nothing is sampled."""
        alpha_B1HW, padded_B3HW = rgba_B4HW[:, 3:], pad_colours(rgba_B4HW)
        encoder, straight_B3HW = self.transparency.to(self.backbone.device).encoder, rgba_B4HW[:, :3]
        return adjusted_posterior(self.backbone, encoder, alpha_B1HW, padded_B3HW, straight_B3HW=straight_B3HW)[0]
