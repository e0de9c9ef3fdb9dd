"""Text to transparent images: a diffusers pipeline draws the latent, latent transparency makes a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from curation.errors import Refused
from training.pipelines.loading import Files, learn, load_transparency
from training.pipelines.pictures import Images, present
from training.pretrained.loading import load_index, load_pipeline
from training.transparency.backbone import Backbone, KLBackbone, load_autoencoder
from training.transparency.coding import decode_rgba
from training.transparency.networks import Transparency
from training.transparency.tiles import whole


@dataclass(frozen=True)
class TransparentOutput:
    """What a call gives."""

    images: Images
    """RGBA: as of `pictures.Images`, or latents ("latent")."""
    latents: Tensor
    """The adjusted latents, unscaled, B x C x h x w: what both decoders are given."""


class TransparentPipeline:
    """A text-to-image pipeline of diffusers whose pictures are transparent.

    pipe = TransparentPipeline.from_pretrained(
        "stabilityai/stable-diffusion-xl-base-1.0",
        transparency=["ld_diffusers_sdxl_vae_transparent_encoder.safetensors", "..._decoder.safetensors"],
        adapter="ld_diffusers_sdxl_attn.safetensors",
    ).to("cuda")
    pipe("a glass bottle").images[0].save("bottle.png")

    `pipeline` is the diffusers pipeline, of any class that gives latents, ControlNet's among them: schedulers, LoRAs,
    IP-Adapters, offloading and progress are set on it by its own methods.
    """

    def __init__(self, pipeline: Any, backbone: Backbone | None, transparency: Transparency) -> None:
        """backbone: the frozen autoencoder; by default the pipeline's own. Raises Refused where channels differ."""
        self.pipeline, self.transparency = pipeline, transparency
        self.backbone = backbone or KLBackbone(pipeline.vae)
        channels = transparency.decoder.latent_conv_in.in_channels
        if channels != self.backbone.latent_channels:
            raise Refused(
                f"latent transparency of {channels} channels, a model of {self.backbone.latent_channels}",
                "give the encoder and the decoder of the model's family",
            )

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        transparency: Transparency | Files,
        adapter: Files | None = None,
        *,
        offset_scale: float | None = None,
        kind: str | None = None,
        variant: str | None = None,
        **options: Any,
    ) -> Self:
        """A pipeline from files.

        model: a hub id or a folder. transparency: both networks (`load_transparency`). adapter: what the UNet was
        taught: released or own files, in order (`learn`). kind: a diffusers class instead of the model's own, such as
        "StableDiffusionXLControlNetPipeline". options go to its from_pretrained: dtype, controlnet and so on. The
        autoencoder is loaded in float32, since SDXL's gives NaN in half precision. Raises NotFound, Refused.
        """
        backbone = load_autoencoder(model, variant)
        networks = load_transparency(transparency, backbone.latent_channels, offset_scale)
        kind = kind or str(load_index(model)["_class_name"])
        pipeline = load_pipeline(model, kind, variant, vae=backbone.autoencoder, **options)
        if adapter is not None:
            learn(pipeline.unet, adapter)
        return cls(pipeline, backbone, networks)

    def to(self, device: torch.device | str) -> Self:
        """Everything moves there; types stay as they are (`dtype` of from_pretrained sets the denoiser's)."""
        self.pipeline.to(device)
        self.backbone.to(device)
        self.transparency.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        views: int | None = None,
        **arguments: Any,
    ) -> TransparentOutput:
        """Draw.

        height, width: in pixels, any; the latent is drawn at the next multiples of the stride and the picture cropped.
        output_type: "pil", "np", "pt" or "latent". views: passes of the alpha decoder, 1 or 8 for their median; by
        default as the networks were trained. All else goes to the diffusers pipeline as it is: negative_prompt,
        num_images_per_prompt, generator (one, or one a picture), num_inference_steps, guidance_scale, callbacks,
        ControlNet's image, ip_adapter_image and so on.
        """
        stride = self.backbone.stride
        sizes = {name: whole(side, stride) for name, side in (("height", height), ("width", width)) if side}
        normal_BCHW = self.pipeline(prompt=prompt, output_type="latent", return_dict=False, **sizes, **arguments)[0]
        latent_BCHW = self.restore(normal_BCHW)
        rows, columns = latent_BCHW.shape[-2:]
        return self.decode(latent_BCHW, (height or rows * stride, width or columns * stride), output_type, views)

    @torch.no_grad()
    def decode(
        self, latent_BCHW: Tensor, size: tuple[int, int], output_type: str = "pil", views: int | None = None
    ) -> TransparentOutput:
        """Pictures of unscaled adjusted latents, each decoded alone: a batch takes no more memory than its largest."""
        if output_type == "latent":
            return TransparentOutput(latent_BCHW, latent_BCHW)
        decoder = self.transparency.to(self.backbone.device).decoder  # which offloading does not know
        parts = [
            decode_rgba(self.backbone, decoder, one, views=views, size=size) for one in torch.split(latent_BCHW, 1)
        ]
        return TransparentOutput(present(torch.cat(parts), output_type), latent_BCHW)

    def restore(self, normal_BCHW: Tensor) -> Tensor:
        """Latents as the denoiser knows them, unscaled, float32."""
        return normal_BCHW.float() / self.backbone.scale + self.backbone.shift

    def normalise(self, latent_BCHW: Tensor) -> Tensor:
        """The inverse of `restore`."""
        return (latent_BCHW - self.backbone.shift) * self.backbone.scale
