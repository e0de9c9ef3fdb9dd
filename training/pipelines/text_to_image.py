"""Text to transparent images: a diffusers pipeline draws the latent, latent transparency makes a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from curation.errors import Refused
from training.pipelines.delegation import DelegatingPipeline, bind_arguments
from training.pipelines.images import Images, check_output, present
from training.pipelines.loading import Files, learn, load_transparency
from training.pipelines.saving import TRANSPARENCY, find_saved, save_transparency
from training.pretrained.loading import load_index, load_pipeline
from training.transparency.autoencoder import Autoencoder, KLAutoencoder, load_autoencoder
from training.transparency.codec import decode_rgba
from training.transparency.networks import Transparency
from training.transparency.tiling import whole


@dataclass
class TransparentOutput(BaseOutput):
    """What a call returns; also indexed as diffusers' outputs are: `out[0]`, `out["images"]`."""

    images: Images
    """RGBA: as of `pictures.Images`, or latents as the denoiser knows them ("latent"), scaled as diffusers' are."""
    latents: Tensor
    """The adjusted latents, unscaled, B x C x h x w: what both decoders are given."""


class TransparentPipeline(DelegatingPipeline):
    """A text-to-image pipeline of diffusers whose pictures are transparent.

    pipe = TransparentPipeline.from_pretrained(
        "stabilityai/stable-diffusion-xl-base-1.0",
        transparency=["ld_diffusers_sdxl_vae_transparent_encoder.safetensors", "..._decoder.safetensors"],
        adapter="ld_diffusers_sdxl_attn.safetensors",
    ).to("cuda")
    pipe("a glass bottle").images[0].save("bottle.png")

    `pipeline` is the diffusers pipeline, of any class that gives latents, ControlNet's among them. Its attributes and
    methods are this one's too: schedulers, LoRAs, IP-Adapters, offloading, tiling and progress are set as ever.
    """

    _own: ClassVar[frozenset[str]] = frozenset({"pipeline", "backbone", "transparency"})

    def __init__(
        self, pipeline: Any, backbone: Autoencoder | None, transparency: Transparency
    ) -> None:
        """backbone: the frozen autoencoder; by default the pipeline's own. Raises Refused where channels differ."""
        self.pipeline, self.transparency = pipeline, transparency
        self.backbone = _matching(backbone or KLAutoencoder(pipeline.vae), transparency)

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
        """A pipeline from files.

        model: a hub id or a folder. transparency: both networks (`load_transparency`); without it those that
        `save_pretrained` wrote into the folder. adapter: what the UNet was taught: released or own files, in order
        (`learn`). kind: a diffusers class instead of the model's own, such as "StableDiffusionXLControlNetPipeline".
        options go to its from_pretrained: dtype, controlnet and so on. The autoencoder is loaded in float32, since
        SDXL's gives NaN in half precision. Raises NotFound, Refused.
        """
        kind = kind or str(load_index(model)["_class_name"])
        source = find_saved(model, TRANSPARENCY) if transparency is None else transparency
        backbone = load_autoencoder(model, variant)
        networks = load_transparency(source, backbone.latent_channels, offset_scale)
        pipeline = load_pipeline(model, kind, variant, vae=backbone.autoencoder, **options)
        if adapter is not None:
            learn(pipeline.unet, adapter)
        return cls(pipeline, backbone, networks)

    @classmethod
    def from_pipe(cls, pipe: TransparentPipeline) -> Self:
        """Make a pipeline of this class from the parts of another one, which are shared. Raises Refused."""
        made = cls(pipe.pipeline, pipe.backbone, pipe.transparency)
        made.pipeline.set_progress_bar_config(**getattr(pipe.pipeline, "_progress_bar_config", {}))
        return made

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write the diffusers pipeline, as it is now, and both networks beside it; `from_pretrained` reads the folder.

        Args:
            folder: where to; made if need be.
            options: those of `DiffusionPipeline.save_pretrained`.
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
    ) -> TransparentOutput | tuple[Images]:
        """Draw: `pipe(prompt, height, width, ...)`.

        All arguments are those of the diffusers pipeline: negative_prompt, num_images_per_prompt, generator (one, or
        one a picture), num_inference_steps, guidance_scale, callbacks, ControlNet's image, ip_adapter_image and so on.

        Args:
            args: in the order of the diffusers pipeline, the prompt first.
            output_type: "pil", "np" (float32), "pt" or "latent" (scaled, as diffusers gives them).
            return_dict: without it a tuple whose first element is the images.
            views: passes of the alpha decoder, 1 or 8 for their median; by default as the networks were trained.
            kwargs: height and width among them may be any number of pixels: the latent is drawn at the next multiples
                of the stride and the picture cropped.

        Raises:
            Refused: for an unknown output_type or number of views.
            TypeError: for an argument that the diffusers pipeline does not know.
        """
        check_output(output_type)
        arguments = bind_arguments(self.pipeline, args, kwargs)
        stride = self.backbone.stride
        height, width = (arguments.pop(name, None) for name in ("height", "width"))
        sizes = {
            name: whole(side, stride)
            for name, side in (("height", height), ("width", width))
            if side
        }
        normal_BCHW = self._run(**arguments, **sizes)
        rows, columns = normal_BCHW.shape[-2:]
        size = height or rows * stride, width or columns * stride
        return self._output(normal_BCHW, size, output_type, views, return_dict)

    def _run(self, **arguments: Any) -> Tensor:
        """Draw with the diffusers pipeline: latents as the denoiser knows them."""
        normal_BCHW: Tensor = self.pipeline(**arguments, output_type="latent", return_dict=False)[0]
        return normal_BCHW

    def _output(
        self,
        normal_BCHW: Tensor,
        size: tuple[int, int],
        output_type: str,
        views: int | None,
        return_dict: bool,
    ) -> TransparentOutput | tuple[Images]:
        latent_BCHW = self.restore(normal_BCHW)
        if output_type == "latent":
            out = TransparentOutput(normal_BCHW, latent_BCHW)
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
        """Pictures of unscaled adjusted latents, each decoded alone: a batch takes no more memory than its largest."""
        decoder = self.transparency.to(
            self.backbone.device
        ).decoder  # which offloading does not know
        parts = [
            decode_rgba(self.backbone, decoder, one, views=views, size=size)
            for one in torch.split(latent_BCHW, 1)
        ]
        return TransparentOutput(present(torch.cat(parts), output_type), latent_BCHW)

    def restore(self, normal_BCHW: Tensor) -> Tensor:
        """Latents as the denoiser knows them, unscaled, float32."""
        return normal_BCHW.float() / self.backbone.scale + self.backbone.shift

    def normalise(self, latent_BCHW: Tensor) -> Tensor:
        """The inverse of `restore`."""
        return (latent_BCHW - self.backbone.shift) * self.backbone.scale

    def _assign(self, name: str, value: Any) -> None:
        """Another autoencoder decodes too. Raises Refused where its latents have other channels."""
        if name == "vae":
            self.backbone = _matching(KLAutoencoder(value), self.transparency)
        super()._assign(name, value)

    def _follow(self, device: torch.device) -> None:
        self.backbone.to(device)
        self.transparency.to(device)


def _matching(backbone: Autoencoder, transparency: Transparency) -> Autoencoder:
    channels = transparency.decoder.latent_conv_in.in_channels
    if channels != backbone.latent_channels:
        raise Refused(
            f"latent transparency of {channels} channels, a model of {backbone.latent_channels}",
            "give the encoder and the decoder of the model's family",
        )
    return backbone
