"""The paper's offset encoder, with the architecture of Stable Diffusion's image encoder."""

from __future__ import annotations

from diffusers.models.autoencoders.vae import Encoder
from torch import nn

from training.presets.preset import Preset


def paper_encoder_blocks(preset: Preset) -> nn.Module:
    """Build the paper's encoder (section 3.1).

    It maps B x 4 x H x W, alpha first, to an offset B x C x H/8 x W/8. It is diffusers' encoder of
    AutoencoderKL, 34.15 M parameters at its widths, without the log variance; its last convolution
    is initialized to zero.
    """
    blocks = Encoder(
        in_channels=4 * preset.fold**2,
        out_channels=preset.latent_channels,
        down_block_types=("DownEncoderBlock2D",) * len(preset.encoder_widths),
        block_out_channels=preset.encoder_widths,
        layers_per_block=2,
        norm_num_groups=preset.decoder_groups,
        double_z=False,
    )
    for tensor in blocks.conv_out.parameters():
        nn.init.zeros_(tensor)
    return blocks
