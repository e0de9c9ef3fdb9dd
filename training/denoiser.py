"""The denoiser of adjusted latents under a prompt: diffusers' conditional UNet, sized by the preset, and its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from curation.errors import Refused
from training.presets import Preset
from training.text import TextEncoder


class Denoiser(nn.Module):
    """Text encoder and UNet: the part of a checkpoint that is called "base".

    It works on normalised latents, about zero mean and unit variance in every channel; `centre` and `spread` (C) are
    those of the adjusted latents it first learnt from. A linear backbone's first components would else drown the rest.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.text = TextEncoder(preset)
        self.unet: Any = UNet2DConditionModel(**unet_config(preset))
        self.register_buffer("centre", torch.zeros(preset.latent_channels))
        self.register_buffer("spread", torch.ones(preset.latent_channels))
        self.centre: Tensor
        self.spread: Tensor

    def forward(self, noisy_BCHW: Tensor, time_B: Tensor, texts: Sequence[str]) -> Tensor:
        """What the preset trains it to predict, noise or v; times are training steps, 0 to 999; "" is no prompt."""
        states_BLD, mask_BL = self.text(texts)
        return self.predict(noisy_BCHW, time_B, states_BLD, mask_BL)

    def predict(self, noisy_BCHW: Tensor, time_B: Tensor, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The same under text that is encoded already: a drawing encodes its prompts once."""
        predicted: Tensor = self.unet(
            noisy_BCHW, time_B, encoder_hidden_states=states_BLD, encoder_attention_mask=mask_BL, return_dict=False
        )[0]
        return predicted

    def measure(self, latent_BCHW: Tensor) -> None:
        """Take centre and spread from adjusted latents."""
        self.centre.copy_(latent_BCHW.mean((0, 2, 3)))
        self.spread.copy_(latent_BCHW.std((0, 2, 3)).clamp_min(1e-6))

    def normalise(self, latent_BCHW: Tensor) -> Tensor:
        """Adjusted latents as the UNet knows them."""
        return (latent_BCHW - self.centre[:, None, None]) / self.spread[:, None, None]

    def restore(self, normal_BCHW: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return normal_BCHW * self.spread[:, None, None] + self.centre[:, None, None]


def open_denoiser(preset: Preset, tensors: Mapping[str, Tensor]) -> Denoiser:
    """A denoiser from its stored tensors, frozen. Raises Refused where the sizes are not the preset's."""
    denoiser = Denoiser(preset)
    try:
        denoiser.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise Refused(
            f"the stored base does not fit preset {preset.name!r}: {str(error)[:200]}",
            "a preset's sizes changed since it was trained; begin again without a parent",
        ) from error
    return denoiser.eval().requires_grad_(False)


def unet_config(preset: Preset) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DConditionModel for a preset."""
    attends = preset.unet_attention
    return {
        "sample_size": preset.image_size // preset.stride,
        "in_channels": preset.latent_channels,
        "out_channels": preset.latent_channels,
        "block_out_channels": preset.unet_channels,
        "layers_per_block": preset.unet_layers,
        "down_block_types": tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        "cross_attention_dim": preset.text_width,
        # What diffusers calls attention_head_dim is the number of heads (its issue 2011).
        "attention_head_dim": tuple(max(1, channels // preset.unet_head_width) for channels in preset.unet_channels),
        "norm_num_groups": min(32, preset.unet_channels[0] // 4),
    }


def noise_schedule(preset: Preset) -> DDIMScheduler:
    """The 1,000 noise levels of Stable Diffusion, in training and in drawing.

    With zero_terminal_snr the last level is pure noise (Lin et al., 2024, arXiv 2305.08891), so that a drawing can
    begin from pure noise without the mean colour of the training set shining through; it needs v_prediction.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=preset.prediction,
        rescale_betas_zero_snr=preset.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
    )
