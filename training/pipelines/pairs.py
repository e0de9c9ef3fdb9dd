"""The pipelines of layers, one class a mode: each says what it is given and what it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from curation.domain import LayerRole
from training.pipelines.images import Images, Picture
from training.pipelines.layers import LayersOutput, LayersPipeline

Text = str | Sequence[str]
Pictures = Picture | Sequence[Picture] | Tensor
Output = LayersOutput | tuple[Images | None, ...]
FOREGROUND, BACKGROUND, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended

# The arguments that all of them share are said once, in LayersTogetherPipeline.


class LayersTogetherPipeline(LayersPipeline):
    """A foreground, a background and both blended, drawn together: SD 1.5 with layer_sd15_joint.

    pipe = LayersTogetherPipeline.from_pretrained(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "folder-of-both-networks", "layer_sd15_joint.safetensors"
    ).to("cuda")
    drawn = pipe("an apple on a table", foreground_prompt="an apple", background_prompt="a table in a room")
    drawn.foreground[0].save("apple.png")
    """

    modes = ("joint",)

    def __call__(
        self,
        prompt: Text | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        foreground_prompt: Text | None = None,
        background_prompt: Text | None = None,
        **arguments: Any,
    ) -> Output:
        """Draw.

        prompt: the whole picture's, and a layer's where it has none of its own; one, or one a picture. height, width:
        in pixels, any; given layers are fitted to them (made to cover, and cut), and without them decide the size.
        output_type: "pil", "np", "pt" or "latent". return_dict: without it a tuple of foreground, background and
        blended. views: passes of the alpha decoder. negative_prompt, generator (one, or one a picture), prompt_embeds,
        latents, num_images_per_prompt and stop_at as of `LayersPipeline.draw`; all else goes to the diffusers pipeline:
        num_inference_steps, guidance_scale, callbacks and so on. Raises Refused, TypeError.
        """
        texts = {
            FOREGROUND: foreground_prompt or prompt,
            BACKGROUND: background_prompt or prompt,
            BLENDED: prompt,
        }
        return self._call(texts, {}, height=height, width=width, **arguments)


class ForegroundToBlendedPipeline(LayersPipeline):
    """A picture around a foreground that is given: SDXL with layer_xl_fg2ble.

    pipe("a dog in a room", foreground=Image.open("dog.png")).blended[0].save("room.png")
    """

    modes = ("fg2ble",)

    def __call__(
        self,
        prompt: Text | None = None,
        foreground: Pictures | None = None,
        height: int | None = None,
        width: int | None = None,
        **arguments: Any,
    ) -> Output:
        """foreground: with alpha, any size, one for all or one a picture. All else as of LayersTogetherPipeline."""
        return self._call(
            {BLENDED: prompt}, {FOREGROUND: foreground}, height=height, width=width, **arguments
        )


class BackgroundToBlendedPipeline(LayersPipeline):
    """A picture that happens in a background that is given, any photograph: SDXL with layer_xl_bg2ble."""

    modes = ("bg2ble",)

    def __call__(
        self,
        prompt: Text | None = None,
        background: Pictures | None = None,
        height: int | None = None,
        width: int | None = None,
        **arguments: Any,
    ) -> Output:
        """background: any size, one for all or one a picture. All else as of LayersTogetherPipeline."""
        return self._call(
            {BLENDED: prompt}, {BACKGROUND: background}, height=height, width=width, **arguments
        )


class ForegroundToBackgroundPipeline(LayersPipeline):
    """The background of a foreground that is given: SDXL with layer_xl_fgble2bg, SD 1.5 with layer_sd15_fg2bg.

    SDXL takes two steps: ForegroundToBlendedPipeline draws the blended picture, which this one takes apart. SD 1.5
    draws background and blended at once.
    """

    modes = ("fgble2bg", "fg2bg")

    def __call__(
        self,
        prompt: Text | None = None,
        foreground: Pictures | None = None,
        blended: Pictures | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        blended_prompt: Text | None = None,
        **arguments: Any,
    ) -> Output:
        """prompt: the background's. blended: for SDXL alone, blended_prompt for SD 1.5 alone, `prompt` without one.

        All else as of LayersTogetherPipeline.
        """
        texts = {BACKGROUND: prompt, BLENDED: blended_prompt or prompt}
        given = {FOREGROUND: foreground, BLENDED: blended}
        return self._call(texts, given, height=height, width=width, **arguments)


class BackgroundToForegroundPipeline(LayersPipeline):
    """A foreground for a background that is given: SDXL with layer_xl_bgble2fg, SD 1.5 with layer_sd15_bg2fg.

    SDXL takes two steps: BackgroundToBlendedPipeline draws the blended picture, which this one takes apart. SD 1.5
    draws foreground and blended at once.
    """

    modes = ("bgble2fg", "bg2fg")

    def __call__(
        self,
        prompt: Text | None = None,
        background: Pictures | None = None,
        blended: Pictures | None = None,
        height: int | None = None,
        width: int | None = None,
        *,
        blended_prompt: Text | None = None,
        **arguments: Any,
    ) -> Output:
        """prompt: the foreground's. blended: for SDXL alone, blended_prompt for SD 1.5 alone, `prompt` without one.

        All else as of LayersTogetherPipeline.
        """
        texts = {FOREGROUND: prompt, BLENDED: blended_prompt or prompt}
        given = {BACKGROUND: background, BLENDED: blended}
        return self._call(texts, given, height=height, width=width, **arguments)
