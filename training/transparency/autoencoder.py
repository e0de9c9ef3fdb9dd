"""The frozen autoencoder under latent transparency: a linear one fitted in seconds, or Stable Diffusion's."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, unfold

from curation.errors import NotFound, Refused
from training.presets.preset import Preset
from training.pretrained.loading import load_index, load_model

FITTED_AT_ONCE = 256  # images


class Autoencoder(nn.Module):
    """An image autoencoder that is never trained here; images are B x 3 x H x W in [-1, 1], transparent is 0 (grey).

    Latents are unscaled; `(latent - shift) * scale` has about unit variance and is what a denoiser sees.
    """

    latent_channels: int
    stride: int
    scale: float
    shift: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where it wants what it is given."""
        return next(chain(self.parameters(), self.buffers())).device

    @abstractmethod
    def encode(self, image_B3HW: Tensor, *, tile: int = 0) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, each B x C x H/stride x W/stride.

        Images of more than tile x tile pixels may be taken in tiles of that side, to save memory; 0 is never.
        """

    @abstractmethod
    def decode(self, latent_BCHW: Tensor, *, tile: int = 0) -> Tensor:
        """The image of a latent, B x 3 x H x W, not clipped; `tile` as for `encode`."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What a file of this backbone's tensors needs to be opened again."""


class LinearAutoencoder(Autoencoder):
    """Probabilistic PCA of image patches (Tipping and Bishop, 1999): exact posterior, no training, 28 to 31 dB.

    latent = (patch - mean) @ basis / gain and back; `gain` is a power of each component's spread. The posterior's
    standard deviation is that of the model, sigma / gain, where sigma^2 is the mean variance of what is left out.
    """

    def __init__(self, stride: int, latent_channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.stride, self.latent_channels, self.scale = stride, latent_channels, scale
        self.register_buffer("mean", torch.zeros(3 * stride**2))
        self.register_buffer("basis", torch.zeros(latent_channels, 3 * stride**2))
        self.register_buffer("gain", torch.ones(latent_channels))
        self.register_buffer("sigma", torch.zeros(()))
        self.mean: Tensor
        self.basis: Tensor
        self.gain: Tensor
        self.sigma: Tensor

    def encode(self, image_B3HW: Tensor, *, tile: int = 0) -> tuple[Tensor, Tensor]:
        """Project every patch on the components."""
        del tile  # its memory is that of the picture
        analysis = self._patches(self.basis / self.gain[:, None])
        shift = (self.basis @ self.mean) / self.gain
        latent_BCHW = conv2d(image_B3HW, analysis, stride=self.stride) - shift[:, None, None]
        std_BCHW = (self.sigma / self.gain)[:, None, None].expand_as(latent_BCHW)
        return latent_BCHW, std_BCHW

    def decode(self, latent_BCHW: Tensor, *, tile: int = 0) -> Tensor:
        """Sum the components of every patch."""
        del tile
        synthesis = self._patches(self.basis * self.gain[:, None])
        image_B3HW = conv_transpose2d(latent_BCHW, synthesis, stride=self.stride)
        rows, columns = latent_BCHW.shape[-2:]
        return image_B3HW + self._patches(self.mean[None])[0].repeat(1, rows, columns)

    def facts(self) -> dict[str, str]:
        """Sizes and scale."""
        return {
            "kind": "linear",
            "stride": str(self.stride),
            "latent_channels": str(self.latent_channels),
            "scale": repr(self.scale),
        }

    def _patches(self, rows: Tensor) -> Tensor:
        return rows.view(-1, 3, self.stride, self.stride)


class KLAutoencoder(Autoencoder):
    """Stable Diffusion's autoencoder (diffusers AutoencoderKL) behind the same four words.

    It computes in the type of its own weights, whatever autocast is around it, and answers in the type it is asked
    in. Weights that their configuration knows to overflow in half precision (force_upcast, as SDXL's, whose images
    come out as NaN) are taken to float32 first, as diffusers does; bfloat16 is left alone.
    """

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.latent_channels = int(autoencoder.config["latent_channels"])
        self.stride = 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
        self.scale = float(autoencoder.config["scaling_factor"])
        self.shift = float(autoencoder.config.get("shift_factor") or 0.0)

    @property
    def device(self) -> torch.device:
        """Where its weights are, or will be fetched to where a pipeline has offloaded them (accelerate's hooks)."""
        hooks = (getattr(module, "_hf_hook", None) for module in self.autoencoder.modules())
        each = (one for hook in hooks if hook for one in getattr(hook, "hooks", (hook,)))
        fetched = (getattr(one, "execution_device", None) for one in each)
        return next((torch.device(place) for place in fetched if place is not None), super().device)

    def encode(self, image_B3HW: Tensor, *, tile: int = 0) -> tuple[Tensor, Tensor]:
        """The posterior's moments; nothing is sampled."""
        pixels = image_B3HW.shape[-2] * image_B3HW.shape[-1]
        with self._tiled(pixels, tile), torch.autocast(image_B3HW.device.type, enabled=False):
            posterior = self.autoencoder.encode(image_B3HW.to(self._dtype())).latent_dist
        return posterior.mean.to(image_B3HW.dtype), posterior.std.to(image_B3HW.dtype)

    def decode(self, latent_BCHW: Tensor, *, tile: int = 0) -> Tensor:
        """The autoencoder's image."""
        pixels = latent_BCHW.shape[-2] * latent_BCHW.shape[-1] * self.stride**2
        with self._tiled(pixels, tile), torch.autocast(latent_BCHW.device.type, enabled=False):
            image_B3HW: Tensor = self.autoencoder.decode(latent_BCHW.to(self._dtype())).sample
        return image_B3HW.to(latent_BCHW.dtype)

    def facts(self) -> dict[str, str]:
        """The whole configuration of the autoencoder."""
        config = {
            name: value
            for name, value in self.autoencoder.config.items()
            if not name.startswith("_")
        }
        return {"kind": "autoencoder_kl", "config": json.dumps(config)}

    @contextmanager
    def _tiled(self, pixels: int, side: int) -> Iterator[None]:
        """Let diffusers' own tiling, blended over a quarter of a tile, take what is larger than a square of `side`.

        Tiling that was turned on outside (`enable_vae_tiling`) stays as it is.
        """
        vae = self.autoencoder
        if vae.use_tiling or not 0 < side * side < pixels:
            yield
            return
        before = vae.tile_sample_min_size, vae.tile_latent_min_size
        vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = (
            True,
            side,
            side // self.stride,
        )
        try:
            yield
        finally:
            vae.use_tiling = False
            vae.tile_sample_min_size, vae.tile_latent_min_size = before

    def _dtype(self) -> torch.dtype:
        if self.autoencoder.dtype == torch.float16 and self.autoencoder.config["force_upcast"]:
            self.autoencoder.float()
        dtype: torch.dtype = self.autoencoder.dtype
        return dtype


def fit_backbone(preset: Preset, images_B3HW: Tensor) -> Autoencoder:
    """The backbone of a first training: loaded where the preset names a model, else fitted to the images given.

    images: premultiplied, B x 3 x H x W in [-1, 1]. Deterministic. Raises NotFound, Refused for the model.
    """
    if preset.model is not None:
        return load_autoencoder(preset.model, preset.variant)
    stride, kept = preset.stride, preset.latent_channels
    mean, covariance = _moments(images_B3HW, stride)
    variance, axes = torch.linalg.eigh(covariance)
    variance, axes = variance.flip(0).clamp_min(1e-12), axes.flip(1)
    # An eigenvector's sign is arbitrary; fix it, so that the same images give the same latents on any machine.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    gain = variance[:kept] ** (preset.whitening / 2)
    backbone = LinearAutoencoder(
        stride, kept, scale=float((variance[:kept] / gain**2).mean() ** -0.5)
    )
    backbone.mean.copy_(mean)
    backbone.basis.copy_(axes[:, :kept].T)
    backbone.gain.copy_(gain)
    backbone.sigma.copy_(
        variance[kept:].mean().sqrt() if kept < len(variance) else torch.tensor(1e-3)
    )
    return backbone.eval().requires_grad_(False)


def _moments(images_B3HW: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the images' patches, float64, some images at a time: patches are five times as large."""
    width = 3 * stride**2
    count, total, products = 0, torch.zeros(width).double(), torch.zeros(width, width).double()
    for some_B3HW in torch.split(images_B3HW, FITTED_AT_ONCE):
        patches = (
            unfold(some_B3HW, stride, stride=stride).transpose(1, 2).reshape(-1, width).double()
        )
        count, total, products = (
            count + len(patches),
            total + patches.sum(0),
            products + patches.T @ patches,
        )
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def load_autoencoder(model: str, variant: str | None = None) -> KLAutoencoder:
    """A diffusers AutoencoderKL of any channels, float32, from the `vae` of a model or from a folder of its own.

    model: a hub id or a folder; safetensors only. Raises NotFound, Refused.
    """
    from diffusers import AutoencoderKL

    return KLAutoencoder(
        load_model(AutoencoderKL, model, _place(model), variant, dtype=torch.float32)
    )


def _place(model: str) -> str | None:
    """The subfolder of the autoencoder; None where the model is nothing else."""
    folder = Path(model)
    if folder.is_dir():
        return None if (folder / "config.json").is_file() else "vae"
    try:
        load_index(model)
    except NotFound:
        return None
    return "vae"


def open_backbone(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Autoencoder:
    """A backbone from the tensors and metadata of its stored file. Raises Refused for an unknown kind."""
    backbone: Autoencoder
    match facts.get("kind"):
        case "linear":
            backbone = LinearAutoencoder(
                int(facts["stride"]), int(facts["latent_channels"]), float(facts["scale"])
            )
        case "autoencoder_kl":
            from diffusers import AutoencoderKL

            build: Any = AutoencoderKL.from_config
            backbone = KLAutoencoder(build(json.loads(facts["config"])))
        case kind:
            raise Refused(f"no backbone of kind {kind!r} is known", "upgrade Layerloop")
    backbone.load_state_dict(dict(tensors))
    return backbone.eval().requires_grad_(False)
