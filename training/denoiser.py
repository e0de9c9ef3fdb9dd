"""The network that denoises adjusted latents under a prompt: diffusers' conditional UNet, sized by the preset."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from training.presets import Preset


class Denoiser(nn.Module):
    """Latents, times and text states to a prediction of the noise or of v, whichever the preset trains."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy_BCHW: Tensor, time_B: Tensor, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """A prediction of the shape of `noisy`; times are training steps, 0..999."""
        predicted: Tensor = self.unet(
            noisy_BCHW, time_B, encoder_hidden_states=states_BLD, encoder_attention_mask=mask_BL, return_dict=False
        )[0]
        return predicted


def build_denoiser(preset: Preset) -> Denoiser:
    """A fresh denoiser of the preset's sizes, or the UNet of the diffusers model it names (safetensors only).

    Raises OSError where a named model cannot be had.
    """
    if preset.model is not None:
        return Denoiser(UNet2DConditionModel.from_pretrained(preset.model, subfolder="unet", use_safetensors=True))
    return Denoiser(UNet2DConditionModel(**unet_config(preset)))


def unet_config(preset: Preset) -> dict[str, Any]:
    """The arguments of UNet2DConditionModel for a preset."""
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


def count_parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def speed_up(network: nn.Module) -> nn.Module:
    """The memory layout in which a CPU's and a GPU's convolutions run fastest."""
    return network.to(memory_format=torch.channels_last)
