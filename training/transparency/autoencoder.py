"""The frozen autoencoder under latent transparency: a fitted linear one, or Stable Diffusion's."""

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

FIT_BATCH = 256  # images per batch of the fit


class Autoencoder(nn.Module):
    """A frozen image autoencoder.

    Images are B x 3 x H x W in [-1, 1], where transparent is 0 (gray). Latents are unscaled;
    `(latent - shift) * scale` has about unit variance and is the denoiser's input.
    """

    latent_channels: int
    stride: int
    scale: float
    shift: float = 0.0

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return next(chain(self.parameters(), self.buffers())).device

    @abstractmethod
    def encode(self, image_B3HW: Tensor, *, tile: int = 0) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the posterior, each B x C x H/stride x W/stride.

        Args:
            image_B3HW: Images in [-1, 1].
            tile: Images of more than tile x tile pixels may be encoded in tiles of that size to
                save memory; 0 turns tiling off.
        """

    @abstractmethod
    def decode(self, latent_BCHW: Tensor, *, tile: int = 0) -> Tensor:
        """Decode latents to images, B x 3 x H x W, not clipped.

        Args:
            latent_BCHW: Unscaled latents.
            tile: As for `encode`.
        """

    @abstractmethod
    def metadata(self) -> dict[str, str]:
        """Return the metadata to open the autoencoder from its stored tensors."""


class LinearAutoencoder(Autoencoder):
    """Probabilistic PCA of image patches (Tipping and Bishop, 1999): exact posterior, 28 to 31 dB.

    latent = (patch - mean) @ basis / gain and back; `gain` is a power of each component's standard
    deviation. The posterior's standard deviation is that of the model, sigma / gain, where sigma^2
    is the mean variance of the omitted components.
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
        """Project every patch onto the components."""
        del tile  # it takes no more memory than the image
        # The projection of patches is a convolution with the patch size as its stride.
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

    def metadata(self) -> dict[str, str]:
        """Return sizes and scale."""
        return {
            "kind": "linear",
            "stride": str(self.stride),
            "latent_channels": str(self.latent_channels),
            "scale": repr(self.scale),
        }

    def _patches(self, rows: Tensor) -> Tensor:
        return rows.view(-1, 3, self.stride, self.stride)


class KLAutoencoder(Autoencoder):
    """Stable Diffusion's autoencoder (diffusers AutoencoderKL) with the interface of Autoencoder.

    It computes in the dtype of its weights, regardless of autocast, and returns the dtype of its
    input. Weights that overflow in half precision according to their configuration (force_upcast,
    such as SDXL's, which gives NaN) are converted to float32 first, as in diffusers; bfloat16 is
    kept.
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
        """The device of the weights, or of their execution where a pipeline offloads them."""
        # accelerate's offloading hooks know the device on which a module runs.
        hooks = (getattr(module, "_hf_hook", None) for module in self.autoencoder.modules())
        flat = (inner for hook in hooks if hook for inner in getattr(hook, "hooks", (hook,)))
        devices = (getattr(inner, "execution_device", None) for inner in flat)
        return next(
            (torch.device(device) for device in devices if device is not None), super().device
        )

    def encode(self, image_B3HW: Tensor, *, tile: int = 0) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the posterior, without sampling."""
        pixels = image_B3HW.shape[-2] * image_B3HW.shape[-1]
        with self._tiled(pixels, tile), torch.autocast(image_B3HW.device.type, enabled=False):
            posterior = self.autoencoder.encode(image_B3HW.to(self._dtype())).latent_dist
        return posterior.mean.to(image_B3HW.dtype), posterior.std.to(image_B3HW.dtype)

    def decode(self, latent_BCHW: Tensor, *, tile: int = 0) -> Tensor:
        """Decode with the autoencoder's decoder."""
        pixels = latent_BCHW.shape[-2] * latent_BCHW.shape[-1] * self.stride**2
        with self._tiled(pixels, tile), torch.autocast(latent_BCHW.device.type, enabled=False):
            image_B3HW: Tensor = self.autoencoder.decode(latent_BCHW.to(self._dtype())).sample
        return image_B3HW.to(latent_BCHW.dtype)

    def metadata(self) -> dict[str, str]:
        """Return the complete configuration of the autoencoder."""
        config = {
            name: value
            for name, value in self.autoencoder.config.items()
            if not name.startswith("_")
        }
        return {"kind": "autoencoder_kl", "config": json.dumps(config)}

    @contextmanager
    def _tiled(self, pixels: int, side: int) -> Iterator[None]:
        """Use diffusers' tiling, blended over a quarter of a tile, above side x side pixels.

        Tiling that the user turned on (`enable_vae_tiling`) is not changed.
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
        """Return the dtype to compute in, converting weights that overflow in float16."""
        if self.autoencoder.dtype == torch.float16 and self.autoencoder.config["force_upcast"]:
            self.autoencoder.float()
        dtype: torch.dtype = self.autoencoder.dtype
        return dtype


def fit_autoencoder(preset: Preset, images_B3HW: Tensor) -> Autoencoder:
    """Make the autoencoder of a first training: the preset's model, or a fitted linear one.

    Deterministic.

    Args:
        preset: The preset.
        images_B3HW: Premultiplied images in [-1, 1] to fit to; unused for a pretrained model.

    Raises:
        NotFound: The model does not exist.
        Refused: The model cannot be read.
    """
    if preset.model is not None:
        return load_autoencoder(preset.model, preset.variant)
    stride, channels = preset.stride, preset.latent_channels
    # PCA: the eigenvectors of the covariance of patches, by descending variance.
    mean, covariance = _moments(images_B3HW, stride)
    variance, axes = torch.linalg.eigh(covariance)
    variance, axes = variance.flip(0).clamp_min(1e-12), axes.flip(1)
    # The sign of an eigenvector is arbitrary: fix it, so that latents are equal on any machine.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    gain = variance[:channels] ** (preset.whitening / 2)
    # The scale gives the latents unit variance on average.
    autoencoder = LinearAutoencoder(
        stride, channels, scale=float((variance[:channels] / gain**2).mean() ** -0.5)
    )
    autoencoder.mean.copy_(mean)
    autoencoder.basis.copy_(axes[:, :channels].T)
    autoencoder.gain.copy_(gain)
    # Sigma is the deviation that the omitted components leave unexplained.
    autoencoder.sigma.copy_(
        variance[channels:].mean().sqrt() if channels < len(variance) else torch.tensor(1e-3)
    )
    return autoencoder.eval().requires_grad_(False)


def _moments(images_B3HW: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Compute mean and covariance of the images' patches in float64.

    Images are processed in batches, since their patches take five times the memory.
    """
    width = 3 * stride**2
    count, total, products = 0, torch.zeros(width).double(), torch.zeros(width, width).double()
    for some_B3HW in torch.split(images_B3HW, FIT_BATCH):
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
    """Load a diffusers AutoencoderKL in float32, with any number of latent channels.

    Args:
        model: A hub id or folder of a pipeline, whose `vae` is used, or of an autoencoder alone;
            safetensors only.
        variant: The variant of the files, such as "fp16".

    Raises:
        NotFound: The model does not exist.
        Refused: The model cannot be read.
    """
    from diffusers import AutoencoderKL

    return KLAutoencoder(
        load_model(AutoencoderKL, model, _subfolder(model), variant, dtype=torch.float32)
    )


def _subfolder(model: str) -> str | None:
    """Return the subfolder of the autoencoder, or None if the model is an autoencoder alone."""
    folder = Path(model)
    if folder.is_dir():
        return None if (folder / "config.json").is_file() else "vae"
    try:
        load_index(model)
    except NotFound:
        return None
    return "vae"


def open_autoencoder(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Autoencoder:
    """Build an autoencoder from its stored file, frozen.

    Args:
        tensors: The stored tensors.
        metadata: The file's metadata, with "kind".

    Raises:
        Refused: The kind is unknown.
    """
    autoencoder: Autoencoder
    match metadata.get("kind"):
        case "linear":
            autoencoder = LinearAutoencoder(
                int(metadata["stride"]), int(metadata["latent_channels"]), float(metadata["scale"])
            )
        case "autoencoder_kl":
            from diffusers import AutoencoderKL

            build: Any = AutoencoderKL.from_config
            autoencoder = KLAutoencoder(build(json.loads(metadata["config"])))
        case kind:
            raise Refused(f"unknown kind of autoencoder {kind!r}", "upgrade Layerloop")
    autoencoder.load_state_dict(dict(tensors))
    return autoencoder.eval().requires_grad_(False)
