"""Layer pipelines, one class per mode, with the inputs and outputs of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from curation.domain import LayerRole
from training.pipelines.images import ImageInput, ImageOutput
from training.pipelines.layers import LayersOutput, LayersPipeline

Prompts = str | Sequence[str]
ImageInputs = ImageInput | Sequence[ImageInput] | Tensor
Output = LayersOutput | tuple[ImageOutput | None, ...]
FOREGROUND, BACKGROUND, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended

# The arguments that all classes share are documented in LayersTogetherPipeline.


class LayersTogetherPipeline(LayersPipeline):
    """Generates a foreground, a background and both blended together: SD 1.5 with layer_sd15_joint.

    Example:
        pipe = LayersTogetherPipeline.from_pretrained(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "folder-of-both-networks",
            "layer_sd15_joint.safetensors",
        ).to("cuda")
        out = pipe(
            "an apple on a table",
            foreground_prompt="an apple",
            background_prompt="a table in a room",
        )
        out.foreground[0].save("apple.png")
    """

    modes = ("joint",)

    def __call__(
        self,
        prompt: Prompts | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        foreground_prompt: Prompts | None = None,
        background_prompt: Prompts | None = None,
        **arguments: Any,
    ) -> Output:
        """Generate layers together.

        Args:
            prompt (`str` or `Sequence[str]`, *optional*):
                The prompt of the whole image, and of a layer without its own; one, or one per
                image.
            height (`int`, *optional*):
                Height in pixels, any number. Given layers are resized to cover the size and
                cropped; without a size theirs is used.
            width (`int`, *optional*):
                Width in pixels, any number.
            foreground_prompt (`str` or `Sequence[str]`, *optional*):
                The prompt of the foreground.
            background_prompt (`str` or `Sequence[str]`, *optional*):
                The prompt of the background.
            arguments (`Any`):
                `output_type` ("pil", "np", "pt" or "latent"), `return_dict` (False returns a tuple
                of foreground, background and blended), `views` (passes of the alpha decoder, 1 or
                8), the arguments of `LayersPipeline.draw` (`negative_prompt`, `generator`,
                `prompt_embeds`, `latents`, `num_images_per_prompt`, `stop_at`), and those of the
                diffusers pipeline (`num_inference_steps`, `guidance_scale`, callbacks and so on).

        Returns:
            `LayersOutput`, or a tuple of foreground, background and blended if `return_dict` is
            False.

        Raises:
            Refused: There is no prompt, or counts or sizes do not match.
            TypeError: The diffusers pipeline does not have the argument.
        """
        texts = {
            FOREGROUND: foreground_prompt or prompt,
            BACKGROUND: background_prompt or prompt,
            BLENDED: prompt,
        }
        return self._call(texts, {}, height=height, width=width, **arguments)


class ForegroundToBlendedPipeline(LayersPipeline):
    """Generates a whole image around a given foreground: SDXL with layer_xl_fg2ble.

    Example:
        out = pipe("a dog in a room", foreground=Image.open("dog.png"))
        out.blended[0].save("room.png")
    """

    modes = ("fg2ble",)

    def __call__(
        self,
        prompt: Prompts | None = None,
        foreground: ImageInputs | None = None,
        height: int | None = None,
        width: int | None = None,
        **arguments: Any,
    ) -> Output:
        """Generate an image around a foreground.

        Args:
            prompt (`str` or `Sequence[str]`, *optional*):
                The prompt of the whole image.
            foreground (`ImageInput`, a sequence of them or `torch.Tensor`):
                The foreground with alpha, of any size; one for all images or one per image.
            height (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            width (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            arguments (`Any`):
                As for `LayersTogetherPipeline`.

        Returns:
            As `LayersTogetherPipeline`.

        Raises:
            Refused: There is no foreground or prompt, or counts or sizes do not match.
            TypeError: The diffusers pipeline does not have the argument.
        """
        return self._call(
            {BLENDED: prompt}, {FOREGROUND: foreground}, height=height, width=width, **arguments
        )


class BackgroundToBlendedPipeline(LayersPipeline):
    """Generates a whole image on a given background: SDXL with layer_xl_bg2ble."""

    modes = ("bg2ble",)

    def __call__(
        self,
        prompt: Prompts | None = None,
        background: ImageInputs | None = None,
        height: int | None = None,
        width: int | None = None,
        **arguments: Any,
    ) -> Output:
        """Generate an image on a background.

        Args:
            prompt (`str` or `Sequence[str]`, *optional*):
                The prompt of the whole image.
            background (`ImageInput`, a sequence of them or `torch.Tensor`):
                The background, of any size; one for all images or one per image.
            height (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            width (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            arguments (`Any`):
                As for `LayersTogetherPipeline`.

        Returns:
            As `LayersTogetherPipeline`.

        Raises:
            Refused: There is no background or prompt, or counts or sizes do not match.
            TypeError: The diffusers pipeline does not have the argument.
        """
        return self._call(
            {BLENDED: prompt}, {BACKGROUND: background}, height=height, width=width, **arguments
        )


class ForegroundToBackgroundPipeline(LayersPipeline):
    """Generates the background of a given foreground.

    SDXL uses layer_xl_fgble2bg, in two steps: ForegroundToBlendedPipeline generates the blended
    image, from which this pipeline extracts the background. SD 1.5 uses layer_sd15_fg2bg and
    generates background and blended image together.
    """

    modes = ("fgble2bg", "fg2bg")

    def __call__(
        self,
        prompt: Prompts | None = None,
        foreground: ImageInputs | None = None,
        blended: ImageInputs | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        blended_prompt: Prompts | None = None,
        **arguments: Any,
    ) -> Output:
        """Generate the background of a foreground.

        Args:
            prompt (`str` or `Sequence[str]`, *optional*):
                The prompt of the background.
            foreground (`ImageInput`, a sequence of them or `torch.Tensor`):
                The foreground with alpha, of any size; one for all images or one per image.
            blended (`ImageInput`, a sequence of them or `torch.Tensor`, *optional*):
                The blended image, required for SDXL and not accepted for SD 1.5.
            height (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            width (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            blended_prompt (`str` or `Sequence[str]`, *optional*):
                SD 1.5 only: the prompt of the blended image; by default `prompt`.
            arguments (`Any`):
                As for `LayersTogetherPipeline`.

        Returns:
            As `LayersTogetherPipeline`.

        Raises:
            Refused: A layer or the prompt is missing, or counts or sizes do not match.
            TypeError: The diffusers pipeline does not have the argument.
        """
        texts = {BACKGROUND: prompt, BLENDED: blended_prompt or prompt}
        given = {FOREGROUND: foreground, BLENDED: blended}
        return self._call(texts, given, height=height, width=width, **arguments)


class BackgroundToForegroundPipeline(LayersPipeline):
    """Generates a foreground for a given background.

    SDXL uses layer_xl_bgble2fg, in two steps: BackgroundToBlendedPipeline generates the blended
    image, from which this pipeline extracts the foreground. SD 1.5 uses layer_sd15_bg2fg and
    generates foreground and blended image together.
    """

    modes = ("bgble2fg", "bg2fg")

    def __call__(
        self,
        prompt: Prompts | None = None,
        background: ImageInputs | None = None,
        blended: ImageInputs | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        blended_prompt: Prompts | None = None,
        **arguments: Any,
    ) -> Output:
        """Generate a foreground for a background.

        Args:
            prompt (`str` or `Sequence[str]`, *optional*):
                The prompt of the foreground.
            background (`ImageInput`, a sequence of them or `torch.Tensor`):
                The background, of any size; one for all images or one per image.
            blended (`ImageInput`, a sequence of them or `torch.Tensor`, *optional*):
                The blended image, required for SDXL and not accepted for SD 1.5.
            height (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            width (`int`, *optional*):
                As for `LayersTogetherPipeline`.
            blended_prompt (`str` or `Sequence[str]`, *optional*):
                SD 1.5 only: the prompt of the blended image; by default `prompt`.
            arguments (`Any`):
                As for `LayersTogetherPipeline`.

        Returns:
            As `LayersTogetherPipeline`.

        Raises:
            Refused: A layer or the prompt is missing, or counts or sizes do not match.
            TypeError: The diffusers pipeline does not have the argument.
        """
        texts = {FOREGROUND: prompt, BLENDED: blended_prompt or prompt}
        given = {BACKGROUND: background, BLENDED: blended}
        return self._call(texts, given, height=height, width=width, **arguments)
