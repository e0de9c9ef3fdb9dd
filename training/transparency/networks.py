"""The networks of latent transparency: the offset encoder and the alpha decoder.

Shapes: B images, H x W pixels, C x h x w latents; alpha_B1HW and padded_B3HW in [0, 1]; image_B3HW
in [-1, 1]. Alpha is the first channel of the networks' pixels, as in the released weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block, get_up_block
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from curation.errors import Refused
from training.presets.preset import Preset
from training.transparency.paper_encoder import paper_encoder_blocks


class OffsetEncoder(nn.Module):
    """The latent transparency encoder E, from padded color and alpha to an offset; initially 0.

    "light": pairs of 3x3 convolutions, each pair after the first at half the size, which is the
    released architecture where `fold` is 1. "heavy": Stable Diffusion's image encoder
    (`paper_encoder_blocks`).
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.offset_scale, self.fold, self.tile = preset.offset_scale, preset.fold, preset.tile
        self.blocks = (
            paper_encoder_blocks(preset) if preset.networks == "heavy" else _light_blocks(preset)
        )

    def forward(self, alpha_B1HW: Tensor, padded_B3HW: Tensor) -> Tensor:
        """Return the unscaled offset x_offset, B x C x h x w."""
        pixels_B4HW = torch.cat([alpha_B1HW, padded_B3HW], dim=1)
        offset_BCHW: Tensor = self.blocks(pixel_unshuffle(pixels_B4HW, self.fold))
        return offset_BCHW


def _light_blocks(preset: Preset) -> nn.Module:
    """Build the light encoder, with its last convolution initialized to zero."""
    layers: list[nn.Module] = []
    width = 4 * preset.fold**2
    for level, wider in enumerate(preset.encoder_widths):
        layers += [nn.Conv2d(width, wider, 3, padding=1, stride=2 if level else 1), nn.SiLU()]
        layers += [nn.Conv2d(wider, wider, 3, padding=1), nn.SiLU()]
        width = wider
    out = nn.Conv2d(width, preset.latent_channels, 3, padding=1)
    # A zero offset leaves the autoencoder unchanged at the start.
    nn.init.zeros_(out.weight)
    nn.init.zeros_(_bias(out))
    return nn.Sequential(*layers, out)


class AlphaDecoder(nn.Module):
    """The latent transparency decoder D, from decoded image and latent to alpha and padded color.

    A U-Net of diffusers blocks, into which the latent is added by a zero-initialized convolution.
    In the light, released one this is before the first level of the latent's resolution; in the
    heavy one (appendix B) it is in the middle block, the only one with attention, as in Stable
    Diffusion's autoencoder.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        widths, groups, heavy = (
            preset.decoder_widths,
            preset.decoder_groups,
            preset.networks == "heavy",
        )
        attending = {len(widths) - 1 - depth for depth in range(preset.decoder_attention)}
        self.fold, self.residual = preset.fold, preset.decoder_residual
        self.views, self.tile = preset.decoder_views, preset.tile
        self.alpha_floor = preset.alpha_floor
        # Height and width must be multiples of the unit.
        self.unit = lcm(preset.fold * 2 ** (len(widths) - 1), preset.stride)
        self.skips_per_block = preset.decoder_layers + 1  # skip connections of each up block
        # The level at which the latent is added.
        self.latent_level = (
            len(widths) if heavy else (preset.stride // preset.fold).bit_length() - 1
        )
        self.conv_in = nn.Conv2d(3 * self.fold**2, widths[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(
            preset.latent_channels, widths[max(0, self.latent_level - 1)], 1
        )
        nn.init.zeros_(self.latent_conv_in.weight)
        nn.init.zeros_(_bias(self.latent_conv_in))
        # A latent of 8 x 8 patches has detail that convolutions after upsampling are slow to learn:
        # unfold it to pixels directly.
        self.unfold_factor = preset.stride // preset.fold if preset.decoder_unfold else 0
        if self.unfold_factor:
            self.latent_unfold_in = nn.Conv2d(
                preset.latent_channels, widths[0] * self.unfold_factor**2, 1
            )
            nn.init.zeros_(self.latent_unfold_in.weight)
            nn.init.zeros_(_bias(self.latent_unfold_in))
        # The U-Net's down, middle and up blocks.
        shared: dict[str, Any] = {
            "temb_channels": None,
            "resnet_eps": 1e-5,
            "resnet_act_fn": "silu",
            "resnet_groups": groups,
        }
        self.down_blocks = nn.ModuleList(
            get_down_block(
                "AttnDownBlock2D" if level in attending else "DownBlock2D",
                num_layers=preset.decoder_layers,
                in_channels=widths[max(0, level - 1)],
                out_channels=width,
                add_downsample=level < len(widths) - 1,
                attention_head_dim=8,
                downsample_padding=1,
                **shared,
            )
            for level, width in enumerate(widths)
        )
        self.mid_block = UNetMidBlock2D(
            in_channels=widths[-1],
            attention_head_dim=widths[-1] if heavy else 8,
            add_attention=heavy or bool(attending),
            **shared,
        )
        self.up_blocks = nn.ModuleList(
            get_up_block(
                "AttnUpBlock2D" if level in attending else "UpBlock2D",
                num_layers=preset.decoder_layers + 1,
                in_channels=widths[max(0, level - 1)],
                out_channels=widths[level],
                prev_output_channel=widths[min(len(widths) - 1, level + 1)],
                add_upsample=level > 0,
                attention_head_dim=8,
                **shared,
            )
            for level in reversed(range(len(widths)))
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 4 * self.fold**2, 3, padding=1)
        # Initially the output is the decoded image with alpha 0.5.
        if self.residual:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(_bias(self.conv_out))
            nn.init.constant_(_bias(self.conv_out)[: self.fold**2], 0.5)

    def forward(self, image_B3HW: Tensor, latent_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Recover alpha and padded color.

        Args:
            image_B3HW: The frozen decoder's image, about [-1, 1].
            latent_BCHW: The unscaled adjusted latent.

        Returns:
            Alpha (B x 1 x H x W) and color (B x 3 x H x W), about [0, 1] and not clipped.
        """
        image_B3HW = image_B3HW.clamp(-1, 1) / 2 + 0.5
        feature = self.conv_in(pixel_unshuffle(image_B3HW, self.fold))
        if self.unfold_factor:
            feature = feature + pixel_shuffle(
                self.latent_unfold_in(latent_BCHW), self.unfold_factor
            )
        # Down, keeping the skip connections, and up again.
        skips = (feature,)
        for level, block in enumerate(self.down_blocks):
            if level == self.latent_level:
                feature = feature + self.latent_conv_in(latent_BCHW)
            feature, new_skips = block(hidden_states=feature)
            skips += new_skips
        if self.latent_level == len(self.down_blocks):
            feature = feature + self.latent_conv_in(latent_BCHW)
        feature = self.mid_block(feature)
        for block in self.up_blocks:
            feature = block(
                hidden_states=feature, res_hidden_states_tuple=skips[-self.skips_per_block :]
            )
            skips = skips[: -self.skips_per_block]
        out_B4HW = pixel_shuffle(self.conv_out(silu(self.conv_norm_out(feature))), self.fold)
        alpha_B1HW, color_B3HW = out_B4HW[:, :1], out_B4HW[:, 1:]
        return alpha_B1HW, color_B3HW + image_B3HW if self.residual else color_B3HW


class Transparency(nn.Module):
    """Both networks of latent transparency: the part "transparency" of a checkpoint."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset  # defines the networks' architecture
        self.encoder = OffsetEncoder(preset)
        self.decoder = AlphaDecoder(preset)


def open_transparency(
    preset: Preset, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Transparency:
    """Build the two networks of latent transparency from their tensors, frozen.

    Args:
        preset: The preset whose networks they are.
        tensors: The stored tensors.
        metadata: The file's metadata, whose "offset_scale" takes precedence over the preset's.

    Raises:
        Refused: Shapes differ from the preset's.
    """
    networks = Transparency(preset)
    try:
        networks.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise Refused(
            f"the stored weights do not fit preset {preset.name!r}: {str(error)[:200]}",
            "the preset's sizes have changed since training; train again without a parent",
        ) from error
    networks.encoder.offset_scale = float((metadata or {}).get("offset_scale", preset.offset_scale))
    return networks.eval().requires_grad_(False)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - narrows the type; these convolutions have a bias
    return layer.bias
