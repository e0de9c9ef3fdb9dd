"""The built-in denoiser, trained from scratch: a text encoder and the network of the preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from training.denoiser.denoiser import Conditions, Denoiser
from training.denoiser.text import TextEncoder
from training.denoiser.transformer import DiffusionTransformer
from training.presets.preset import Preset


class BuiltinDenoiser(Denoiser):
    """A text encoder and a network of our own, trained from scratch.

    Normalized latents have zero mean per channel and unit variance overall; `centre` (C) and
    `spread` are the mean and standard deviation of the latents that training began with. Channels
    keep their proportions, so that strong ones, which carry the content of an image, emerge from
    the noise before weak ones do (docs/experiments/base.md).
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.text = TextEncoder(preset)
        self.network = _NETWORKS[preset.denoiser](preset)
        self.register_buffer("centre", torch.zeros(preset.latent_channels))
        self.register_buffer("spread", torch.ones(()))
        self.centre: Tensor
        self.spread: Tensor

    def encode(self, texts: Sequence[str], sizes_B6: Tensor | None = None) -> Conditions:
        """Encode words by the hashing tokenizer; sizes are ignored."""
        del sizes_B6
        return Conditions(*self.text(texts))

    def predict(self, noisy_BCHW: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        """Return the network's prediction."""
        predicted: Tensor = self.network(
            noisy_BCHW, time_B, conditions.states_BLD, conditions.mask_BL
        )
        return predicted

    def fit_scale(self, latent_BCHW: Tensor) -> None:
        """Set mean and standard deviation from adjusted latents."""
        self.centre.copy_(latent_BCHW.mean((0, 2, 3)))
        self.spread.copy_(self._centered(latent_BCHW).square().mean().sqrt().clamp_min(1e-6))

    def normalize(self, latent_BCHW: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation."""
        return self._centered(latent_BCHW) / self.spread

    def denormalize(self, normalized_BCHW: Tensor) -> Tensor:
        """Invert `normalize`."""
        return normalized_BCHW * self.spread + self.centre[:, None, None]

    def schedule(self) -> Any:
        """Return the noise schedule of the preset."""
        return noise_schedule(self.preset)

    def finetuned_state_dict(self) -> dict[str, Tensor]:
        """Return all tensors: text encoder, network, mean and standard deviation."""
        return dict(self.state_dict())

    def load_finetuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Load fine-tuned tensors."""
        self.load_state_dict(dict(tensors))

    def metadata(self) -> dict[str, str]:
        """Return the kind; all sizes are the preset's."""
        return {"kind": "own"}

    def _centered(self, latent_BCHW: Tensor) -> Tensor:
        return latent_BCHW - self.centre[:, None, None]


class ConditionalUNet(nn.Module):
    """Diffusers' UNet2DConditionModel, the network of Stable Diffusion, with four arguments."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        unet: Any = UNet2DConditionModel  # diffusers' constructors carry no types
        self.unet = unet(**unet_config(preset))

    def forward(
        self, noisy_BCHW: Tensor, time_B: Tensor, states_BLD: Tensor, mask_BL: Tensor
    ) -> Tensor:
        """Return a prediction of the shape of `noisy`, with cross-attention to all words."""
        predicted: Tensor = self.unet(
            noisy_BCHW,
            time_B,
            encoder_hidden_states=states_BLD,
            encoder_attention_mask=mask_BL,
            return_dict=False,
        )[0]
        return predicted


_NETWORKS: dict[str, type[nn.Module]] = {
    "transformer": DiffusionTransformer,
    "unet": ConditionalUNet,
}
"""Networks by name: the transformer for tiny latents (docs/experiments/base.md), or the UNet."""


def unet_config(preset: Preset) -> dict[str, Any]:
    """Return the arguments of diffusers' UNet2DConditionModel for a preset."""
    cross_attention = preset.unet_attention
    return {
        "sample_size": preset.image_size // preset.stride,
        "in_channels": preset.latent_channels,
        "out_channels": preset.latent_channels,
        "block_out_channels": preset.unet_channels,
        "layers_per_block": preset.unet_layers,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in cross_attention
        ),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(cross_attention)
        ),
        "cross_attention_dim": preset.text_width,
        # diffusers' attention_head_dim is the number of heads here (its issue 2011).
        "attention_head_dim": tuple(
            max(1, channels // preset.unet_head_width) for channels in preset.unet_channels
        ),
        "norm_num_groups": min(32, preset.unet_channels[0] // 4),
    }


def noise_schedule(preset: Preset) -> Any:
    """Return Stable Diffusion's 1,000 noise levels for training and sampling: a DDIMScheduler.

    With zero_terminal_snr the last level is pure noise (Lin et al., 2024, arXiv 2305.08891), so
    that sampling from pure noise is not biased to the mean color of the training set; this needs
    v_prediction.
    """
    schedule: Any = DDIMScheduler
    return schedule(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=preset.prediction,
        rescale_betas_zero_snr=preset.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
    )
