"""Transparent image to transparent image: the picture becomes an adjusted latent, which is drawn over in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image
from torch import Tensor

from curation.errors import Refused
from training.pipelines.delegation import bind_arguments
from training.pipelines.images import Images, Picture, as_latents, check_output, to_rgba
from training.pipelines.text_to_image import TransparentOutput, TransparentPipeline
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import adjusted_posterior
from training.transparency.networks import Transparency
from training.transparency.padding import pad_colours


class TransparentImageToImagePipeline(TransparentPipeline):
    """Like TransparentPipeline, beginning from a picture with alpha instead of from noise.

    Made of another one's parts: `TransparentImageToImagePipeline.from_pipe(pipe)`.
    """

    def __init__(
        self, pipeline: Any, backbone: Autoencoder | None, transparency: Transparency
    ) -> None:
        """pipeline: of any class; diffusers' own image-to-image one is made of its parts. Raises Refused."""
        try:
            begun: Any = AutoPipelineForImage2Image.from_pipe(pipeline)
        except ValueError as error:
            raise Refused(
                f"diffusers has no image-to-image pipeline for {type(pipeline).__name__}"
            ) from error
        begun.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
        super().__init__(begun, backbone, transparency)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Picture | Sequence[Picture] | Tensor | None = None,
        strength: float = 0.75,
        num_inference_steps: int = 50,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        views: int | None = None,
        **arguments: Any,
    ) -> TransparentOutput | tuple[Images]:
        """Draw over a picture.

        Args:
            prompt: one, or one a picture.
            image: one picture or several of one size, any size: PIL images, arrays or tensors (`pictures.Picture`);
                or latents as output_type "latent" gives them.
            strength: how much is drawn anew, above 0, to 1 for all of it: so large a share of the steps is done, and
                one at least.
            num_inference_steps: of a whole drawing.
            output_type: as for TransparentPipeline.
            return_dict: as for TransparentPipeline.
            views: as for TransparentPipeline.
            arguments: all else as for TransparentPipeline; the picture of a ControlNet is `control_image`.

        Raises:
            Refused: for a strength outside (0, 1], and where there is no picture.
            TypeError: for an argument that the diffusers pipeline does not know.
        """
        check_output(output_type)
        if not 0 < strength <= 1:
            raise Refused(f"a strength of {strength} means nothing", "choose one above 0, up to 1")
        if image is None:
            raise Refused(
                "there is no picture to begin from",
                "give one as image=, or use TransparentPipeline",
            )
        arguments = bind_arguments(self.pipeline, (), arguments)
        while int(num_inference_steps * strength) < 1:
            num_inference_steps += 1
        normal_BCHW, size = self._begin(image)
        times = int(arguments.get("num_images_per_prompt") or 1)
        normal_BCHW = _one_each(normal_BCHW, prompt, arguments.get("prompt_embeds"), times)
        # Diffusers' image-to-image pipelines take a tensor of the latent's channels for a latent, ready and scaled.
        drawn_BCHW = self._run(
            prompt=prompt,
            image=normal_BCHW.to(self.pipeline.unet.dtype),
            strength=strength,
            num_inference_steps=num_inference_steps,
            **arguments,
        )
        return self._output(drawn_BCHW, size, output_type, views, return_dict)

    @torch.no_grad()
    def encode(self, rgba_B4HW: Tensor) -> Tensor:
        """The adjusted latents of straight RGBA in [0, 1], unscaled, B x C x h x w; nothing is sampled."""
        alpha_B1HW, padded_B3HW = rgba_B4HW[:, 3:], pad_colours(rgba_B4HW)
        encoder, straight_B3HW = (
            self.transparency.to(self.backbone.device).encoder,
            rgba_B4HW[:, :3],
        )
        return adjusted_posterior(
            self.backbone, encoder, alpha_B1HW, padded_B3HW, straight_B3HW=straight_B3HW
        )[0]

    def _begin(self, image: Picture | Sequence[Picture] | Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Latents as the denoiser knows them, and the height and width of their pictures."""
        normal_BCHW = as_latents(image, self.backbone.latent_channels)
        if normal_BCHW is not None:
            rows, columns = normal_BCHW.shape[-2:]
            return normal_BCHW, (rows * self.backbone.stride, columns * self.backbone.stride)
        rgba_B4HW = to_rgba(image)
        height, width = rgba_B4HW.shape[-2:]
        return self.normalise(self.encode(rgba_B4HW)), (height, width)


def _one_each(
    normal_BCHW: Tensor, prompt: str | list[str] | None, embedded: Tensor | None, times_each: int
) -> Tensor:
    """A picture for every result, where there are fewer: results of one prompt stand next to each other."""
    prompts = len(prompt) if isinstance(prompt, list) else 1 if embedded is None else len(embedded)
    times, rest = divmod(prompts, len(normal_BCHW))
    if rest and times:
        hint = "give one picture, or one for each prompt"
        raise Refused(f"there are {prompts} prompts for {len(normal_BCHW)} pictures", hint)
    return normal_BCHW.repeat_interleave(max(times, 1) * times_each, dim=0)
