"""Image-to-image generation with alpha: an image's adjusted latent is partly regenerated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoPipelineForImage2Image
from torch import Tensor

from curation.errors import Refused
from training.pipelines.delegation import bind_arguments
from training.pipelines.images import ImageInput, ImageOutput, as_latents, check_output, to_rgba
from training.pipelines.text_to_image import TransparentOutput, TransparentPipeline
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import adjusted_posterior
from training.transparency.networks import Transparency
from training.transparency.padding import pad_colors


class TransparentImageToImagePipeline(TransparentPipeline):
    """A TransparentPipeline that starts from an image with alpha instead of noise.

    Make it from the components of another pipeline with
    `TransparentImageToImagePipeline.from_pipe(pipe)`.
    """

    def __init__(
        self, pipeline: Any, autoencoder: Autoencoder | None, transparency: Transparency
    ) -> None:
        """Make the pipeline.

        Args:
            pipeline (`DiffusionPipeline`):
                A pipeline of any class; diffusers' image-to-image pipeline is made from its
                components.
            autoencoder (`Autoencoder` or `None`):
                The frozen autoencoder; None uses the pipeline's own.
            transparency (`Transparency`):
                The two networks of latent transparency.

        Raises:
            Refused: diffusers has no image-to-image pipeline for the class, or channels differ.
        """
        try:
            image_to_image: Any = AutoPipelineForImage2Image.from_pipe(pipeline)
        except ValueError as error:
            raise Refused(
                f"diffusers has no image-to-image pipeline for {type(pipeline).__name__}"
            ) from error
        image_to_image.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
        super().__init__(image_to_image, autoencoder, transparency)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: ImageInput | Sequence[ImageInput] | Tensor | None = None,
        strength: float = 0.75,
        num_inference_steps: int = 50,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        views: int | None = None,
        **arguments: Any,
    ) -> TransparentOutput | tuple[ImageOutput]:
        """Generate from an image.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                One prompt, or one per image.
            image (`ImageInput`, `Sequence[ImageInput]` or `torch.Tensor`):
                One image or several of one size, of any size: PIL images, paths, arrays or tensors
                (`images.ImageInput`); or latents as returned with `output_type="latent"`.
            strength (`float`, *optional*, defaults to 0.75):
                How much the image is changed, in (0, 1]. It is the share of the steps that are run,
                and at least one is.
            num_inference_steps (`int`, *optional*, defaults to 50):
                The number of denoising steps at strength 1.
            output_type (`str`, *optional*, defaults to `"pil"`):
                As for `TransparentPipeline`.
            return_dict (`bool`, *optional*, defaults to `True`):
                As for `TransparentPipeline`.
            views (`int`, *optional*):
                As for `TransparentPipeline`.
            arguments (`Any`):
                All other arguments of the diffusers pipeline; the image of a ControlNet is
                `control_image`.

        Returns:
            `TransparentOutput`, or a tuple with the images if `return_dict` is False.

        Raises:
            Refused: The strength is outside (0, 1], there is no image, or the counts do not match.
            TypeError: The diffusers pipeline does not have the argument.
        """
        check_output(output_type)
        if not 0 < strength <= 1:
            raise Refused(f"invalid strength {strength}", "choose a value above 0 and up to 1")
        if image is None:
            raise Refused(
                "there is no image to start from",
                "pass image=, or use TransparentPipeline",
            )
        arguments = bind_arguments(self.pipeline, (), arguments)
        # At a low strength diffusers would run no step: raise the number of steps.
        while int(num_inference_steps * strength) < 1:
            num_inference_steps += 1
        scaled_BCHW, size = self._initial_latents(image)
        images_per_prompt = int(arguments.get("num_images_per_prompt") or 1)
        scaled_BCHW = _repeat_for_prompts(
            scaled_BCHW, prompt, arguments.get("prompt_embeds"), images_per_prompt
        )
        # diffusers' image-to-image pipelines take a tensor with the latent's channels as a scaled
        # latent and do not encode it again.
        generated_BCHW = self._run(
            prompt=prompt,
            image=scaled_BCHW.to(self.pipeline.unet.dtype),
            strength=strength,
            num_inference_steps=num_inference_steps,
            **arguments,
        )
        return self._output(generated_BCHW, size, output_type, views, return_dict)

    @torch.no_grad()
    def encode(self, rgba_B4HW: Tensor) -> Tensor:
        """Encode images to unscaled adjusted latents, without sampling the posterior.

        Args:
            rgba_B4HW (`torch.Tensor`):
                Straight RGBA in [0, 1], B x 4 x H x W.

        Returns:
            `torch.Tensor`: The latents, B x C x h x w.
        """
        alpha_B1HW, padded_B3HW = rgba_B4HW[:, 3:], pad_colors(rgba_B4HW)
        encoder, straight_B3HW = (
            self.transparency.to(self.autoencoder.device).encoder,
            rgba_B4HW[:, :3],
        )
        return adjusted_posterior(
            self.autoencoder, encoder, alpha_B1HW, padded_B3HW, straight_B3HW=straight_B3HW
        )[0]

    def _initial_latents(
        self, image: ImageInput | Sequence[ImageInput] | Tensor
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return scaled latents to start from, and the height and width of their images."""
        scaled_BCHW = as_latents(image, self.autoencoder.latent_channels)
        if scaled_BCHW is not None:
            rows, columns = scaled_BCHW.shape[-2:]
            return scaled_BCHW, (rows * self.autoencoder.stride, columns * self.autoencoder.stride)
        rgba_B4HW = to_rgba(image)
        height, width = rgba_B4HW.shape[-2:]
        return self.normalize(self.encode(rgba_B4HW)), (height, width)


def _repeat_for_prompts(
    scaled_BCHW: Tensor,
    prompt: str | list[str] | None,
    embedded: Tensor | None,
    images_per_prompt: int,
) -> Tensor:
    """Repeat latents so that there is one per result; results of one prompt are adjacent."""
    prompts = len(prompt) if isinstance(prompt, list) else 1 if embedded is None else len(embedded)
    per_image, remainder = divmod(prompts, len(scaled_BCHW))
    if remainder and per_image:
        hint = "give one image, or one for each prompt"
        raise Refused(f"there are {prompts} prompts for {len(scaled_BCHW)} images", hint)
    return scaled_BCHW.repeat_interleave(max(per_image, 1) * images_per_prompt, dim=0)
