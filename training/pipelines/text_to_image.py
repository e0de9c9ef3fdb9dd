"""Text-to-image generation with alpha: a diffusers pipeline's latent is decoded to RGBA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from curation.errors import Refused
from training.pipelines.delegation import DelegatingPipeline, bind_arguments
from training.pipelines.images import ImageOutput, check_output, to_output_type
from training.pipelines.loading import Files, load_transparency, merge_files
from training.pipelines.saving import TRANSPARENCY, save_transparency, saved_part
from training.pretrained.loading import load_index, load_pipeline
from training.transparency.autoencoder import Autoencoder, KLAutoencoder, load_autoencoder
from training.transparency.codec import decode_rgba
from training.transparency.networks import Transparency
from training.transparency.tiling import round_up


@dataclass
class TransparentOutput(BaseOutput):
    """Output of a transparent pipeline, indexed as in diffusers: `out[0]`, `out["images"]`."""

    images: ImageOutput
    """RGBA images (`images.Images`), or scaled latents as in diffusers ("latent")."""
    latents: Tensor
    """The unscaled adjusted latents, B x C x h x w: the input of both decoders."""


class TransparentPipeline(DelegatingPipeline):
    """A diffusers text-to-image pipeline whose images are transparent.

    `pipeline` is the underlying diffusers pipeline, of any class that returns latents, including
    ControlNet's. Its attributes and methods are available here too: schedulers, LoRAs, IP-Adapters,
    offloading, tiling and progress bars are set as usual.

    Example:
        pipe = TransparentPipeline.from_pretrained(
            "stabilityai/stable-diffusion-xl-base-1.0",
            transparency=["ld_diffusers_sdxl_vae_transparent_encoder.safetensors", "..."],
            adapter="ld_diffusers_sdxl_attn.safetensors",
        ).to("cuda")
        pipe("a glass bottle").images[0].save("bottle.png")
    """

    _own: ClassVar[frozenset[str]] = frozenset({"pipeline", "autoencoder", "transparency"})

    def __init__(
        self, pipeline: Any, autoencoder: Autoencoder | None, transparency: Transparency
    ) -> None:
        """Make the pipeline.

        Args:
            pipeline (`DiffusionPipeline`):
                The diffusers pipeline.
            autoencoder (`Autoencoder` or `None`):
                The frozen autoencoder; None uses the pipeline's own.
            transparency (`Transparency`):
                The two networks of latent transparency.

        Raises:
            Refused: The latent channels of the networks and the autoencoder differ.
        """
        self.pipeline, self.transparency = pipeline, transparency
        self.autoencoder = _matching(autoencoder or KLAutoencoder(pipeline.vae), transparency)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        transparency: Transparency | Files | None = None,
        adapter: Files | None = None,
        *,
        offset_scale: float | None = None,
        kind: str | None = None,
        variant: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a pipeline from files.

        The autoencoder is loaded in float32, since SDXL's overflows to NaN in half precision.

        Args:
            model (`str`):
                A hub id or a folder.
            transparency (`Transparency`, `str`, `Path` or a sequence of paths, *optional*):
                Both networks (`load_transparency`); by default those that `save_pretrained` wrote.
            adapter (`str`, `Path` or a sequence of paths, *optional*):
                Weights to merge into the UNet: released or own files, in order (`merge_files`).
            offset_scale (`float`, *optional*):
                The offset scale of the encoder, if its file does not state it.
            kind (`str`, *optional*):
                A diffusers class instead of the model's own, such as
                "StableDiffusionXLControlNetPipeline".
            variant (`str`, *optional*):
                The variant of the model's files, such as "fp16".
            options (`Any`):
                All other arguments of the class's `from_pretrained`: `dtype`, `controlnet` and so
                on.

        Raises:
            NotFound: The model or a file does not exist.
            Refused: A file does not fit the model.
        """
        kind = kind or str(load_index(model)["_class_name"])
        source = saved_part(model, TRANSPARENCY) if transparency is None else transparency
        autoencoder = load_autoencoder(model, variant)
        networks = load_transparency(source, autoencoder.latent_channels, offset_scale)
        pipeline = load_pipeline(model, kind, variant, vae=autoencoder.autoencoder, **options)
        if adapter is not None:
            merge_files(pipeline.unet, adapter)
        return cls(pipeline, autoencoder, networks)

    @classmethod
    def from_pipe(cls, pipe: TransparentPipeline) -> Self:
        """Make a pipeline of this class from the shared components of another. Raises Refused."""
        pipeline = cls(pipe.pipeline, pipe.autoencoder, pipe.transparency)
        pipeline.pipeline.set_progress_bar_config(
            **getattr(pipe.pipeline, "_progress_bar_config", {})
        )
        return pipeline

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Save the diffusers pipeline and both networks to a folder that `from_pretrained` reads.

        Args:
            folder (`str` or `Path`):
                The output folder; created if needed.
            options (`Any`):
                The options of `DiffusionPipeline.save_pretrained`.
        """
        self.pipeline.save_pretrained(folder, **options)
        save_transparency(self.transparency, Path(folder))

    @torch.no_grad()
    def __call__(
        self,
        *args: Any,
        output_type: str = "pil",
        return_dict: bool = True,
        views: int | None = None,
        **kwargs: Any,
    ) -> TransparentOutput | tuple[ImageOutput]:
        """Generate images: `pipe(prompt, height, width, ...)`.

        Args:
            args (`Any`):
                Positional arguments in the order of the diffusers pipeline, with the prompt first.
            output_type (`str`, *optional*, defaults to `"pil"`):
                "pil", "np" (float32 in [0, 1]), "pt", or "latent" (scaled, as in diffusers).
            return_dict (`bool`, *optional*, defaults to `True`):
                False returns a tuple whose first element is the images.
            views (`int`, *optional*):
                Passes of the alpha decoder: 1, or 8 for the median over the symmetries of the
                square; by default the preset's.
            kwargs (`Any`):
                All other arguments of the diffusers pipeline: `negative_prompt`,
                `num_images_per_prompt`, `generator`, `num_inference_steps`, `guidance_scale`,
                callbacks, ControlNet's `image`, `ip_adapter_image` and so on. `height` and `width`
                may be any number of pixels: the latent is generated at the next multiples of the
                stride, and the image cropped.

        Returns:
            `TransparentOutput`, or a tuple with the images if `return_dict` is False.

        Raises:
            Refused: The output_type or the number of views is invalid.
            TypeError: The diffusers pipeline does not have the argument.
        """
        check_output(output_type)
        arguments = bind_arguments(self.pipeline, args, kwargs)
        # Round the size up to whole latent pixels; the decoded image is cropped to it.
        stride = self.autoencoder.stride
        height, width = (arguments.pop(name, None) for name in ("height", "width"))
        sizes = {
            name: round_up(side, stride)
            for name, side in (("height", height), ("width", width))
            if side
        }
        scaled_BCHW = self._run(**arguments, **sizes)
        latent_height, latent_width = scaled_BCHW.shape[-2:]
        size = height or latent_height * stride, width or latent_width * stride
        return self._output(scaled_BCHW, size, output_type, views, return_dict)

    def _run(self, **arguments: Any) -> Tensor:
        """Run the diffusers pipeline and return scaled latents."""
        scaled_BCHW: Tensor = self.pipeline(**arguments, output_type="latent", return_dict=False)[0]
        return scaled_BCHW

    def _output(
        self,
        scaled_BCHW: Tensor,
        size: tuple[int, int],
        output_type: str,
        views: int | None,
        return_dict: bool,
    ) -> TransparentOutput | tuple[ImageOutput]:
        """Decode scaled latents to the output type."""
        latent_BCHW = self.unscale_latents(scaled_BCHW)
        if output_type == "latent":
            out = TransparentOutput(scaled_BCHW, latent_BCHW)
        else:
            out = self.decode(latent_BCHW, size, output_type, views)
        return out if return_dict else (out.images,)

    @torch.no_grad()
    def decode(
        self,
        latent_BCHW: Tensor,
        size: tuple[int, int],
        output_type: str = "pil",
        views: int | None = None,
    ) -> TransparentOutput:
        """Decode unscaled adjusted latents to images, one at a time to bound memory.

        Args:
            latent_BCHW (`torch.Tensor`):
                The latents, B x C x h x w.
            size (`tuple[int, int]`):
                Height and width to crop to.
            output_type (`str`, *optional*, defaults to `"pil"`):
                "pil", "np" or "pt".
            views (`int`, *optional*):
                Passes of the alpha decoder, 1 or 8; by default the preset's.
        """
        # diffusers' offloading does not move these networks.
        decoder = self.transparency.to(self.autoencoder.device).decoder
        parts = [
            decode_rgba(self.autoencoder, decoder, latent, views=views, size=size)
            for latent in torch.split(latent_BCHW, 1)
        ]
        return TransparentOutput(to_output_type(torch.cat(parts), output_type), latent_BCHW)

    def unscale_latents(self, scaled_BCHW: Tensor) -> Tensor:
        """Convert scaled latents, as in the denoiser, to unscaled float32 latents."""
        return scaled_BCHW.float() / self.autoencoder.scale + self.autoencoder.shift

    def scale_latents(self, latent_BCHW: Tensor) -> Tensor:
        """Convert unscaled latents to scaled latents: the inverse of `restore`."""
        return (latent_BCHW - self.autoencoder.shift) * self.autoencoder.scale

    def _assign(self, name: str, value: Any) -> None:
        """Replace the autoencoder of the decoding too. Raises Refused if its channels differ."""
        if name == "vae":
            self.autoencoder = _matching(KLAutoencoder(value), self.transparency)
        super()._assign(name, value)

    def _follow(self, device: torch.device) -> None:
        self.autoencoder.to(device)
        self.transparency.to(device)


def _matching(autoencoder: Autoencoder, transparency: Transparency) -> Autoencoder:
    """Return the autoencoder if its channels are the networks'. Raises Refused."""
    channels = transparency.decoder.latent_conv_in.in_channels
    if channels != autoencoder.latent_channels:
        raise Refused(
            f"latent transparency has {channels} channels, the model {autoencoder.latent_channels}",
            "give the encoder and the decoder for the model's family",
        )
    return autoencoder
