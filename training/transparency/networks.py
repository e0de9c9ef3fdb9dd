"""The networks of latent transparency: an encoder of offsets, and a decoder that finds alpha again.

Shapes: B pictures, H x W pixels, C x h x w latents; alpha_B1HW and padded_B3HW in [0, 1]; image_B3HW in [-1, 1].
Channels stand alpha first wherever the two networks meet pixels, as in the released weights.
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
from training.transparency.paper_encoder import heavy_blocks


class OffsetEncoder(nn.Module):
    """The latent transparency encoder E: padded colour and alpha to an offset; a fresh one gives 0 everywhere.

    Light, pairs of 3x3 convolutions, each pair after the first at half the size: the released layout, where `fold` is
    1. Heavy, the image encoder of Stable Diffusion (`heavy_blocks`).
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.offset_scale, self.fold, self.tile = preset.offset_scale, preset.fold, preset.tile
        self.blocks = heavy_blocks(preset) if preset.networks == "heavy" else _light_blocks(preset)

    def forward(self, alpha_B1HW: Tensor, padded_B3HW: Tensor) -> Tensor:
        """The offset x_offset, B x C x h x w, before it is scaled."""
        pixels_B4HW = torch.cat([alpha_B1HW, padded_B3HW], dim=1)
        offset_BCHW: Tensor = self.blocks(pixel_unshuffle(pixels_B4HW, self.fold))
        return offset_BCHW


def _light_blocks(preset: Preset) -> nn.Module:
    layers: list[nn.Module] = []
    width = 4 * preset.fold**2
    for level, wider in enumerate(preset.encoder_widths):
        layers += [nn.Conv2d(width, wider, 3, padding=1, stride=2 if level else 1), nn.SiLU()]
        layers += [nn.Conv2d(wider, wider, 3, padding=1), nn.SiLU()]
        width = wider
    out = nn.Conv2d(width, preset.latent_channels, 3, padding=1)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(_bias(out))
    return nn.Sequential(*layers, out)


class AlphaDecoder(nn.Module):
    """The latent transparency decoder D: the frozen decoder's image and the latent, to alpha and padded colour.

    A U-Net of diffusers blocks; the latent joins through a convolution that starts at zero. In the light one, as
    released, that is before the first level of the latent's size; in the heavy one (appendix B) in the middle block,
    which alone attends, as Stable Diffusion's own does.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        widths, groups, heavy = (
            preset.decoder_widths,
            preset.decoder_groups,
            preset.networks == "heavy",
        )
        attending = {len(widths) - 1 - deep for deep in range(preset.decoder_attention)}
        self.fold, self.residual = preset.fold, preset.decoder_residual
        self.views, self.tile = preset.decoder_views, preset.tile
        self.unit = lcm(
            preset.fold * 2 ** (len(widths) - 1), preset.stride
        )  # height and width are multiples of it
        self.taken = preset.decoder_layers + 1  # skips that a level on the way up takes
        self.joint = (
            len(widths) if heavy else (preset.stride // preset.fold).bit_length() - 1
        )  # the latent's level
        self.conv_in = nn.Conv2d(3 * self.fold**2, widths[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(preset.latent_channels, widths[max(0, self.joint - 1)], 1)
        nn.init.zeros_(self.latent_conv_in.weight)
        nn.init.zeros_(_bias(self.latent_conv_in))
        # A latent of 8 x 8 patches knows more of its pixels than convolutions after upsampling soon learn to tell.
        self.unfolded = preset.stride // preset.fold if preset.decoder_unfold else 0
        if self.unfolded:
            self.latent_unfold_in = nn.Conv2d(
                preset.latent_channels, widths[0] * self.unfolded**2, 1
            )
            nn.init.zeros_(self.latent_unfold_in.weight)
            nn.init.zeros_(_bias(self.latent_unfold_in))
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
        if self.residual:  # a fresh one gives the decoded image as it is, half transparent
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(_bias(self.conv_out))
            nn.init.constant_(_bias(self.conv_out)[: self.fold**2], 0.5)

    def forward(self, image_B3HW: Tensor, latent_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha (B x 1 x H x W) and padded colour (B x 3 x H x W), about [0, 1] and not clipped."""
        image_B3HW = image_B3HW.clamp(-1, 1) / 2 + 0.5
        feature = self.conv_in(pixel_unshuffle(image_B3HW, self.fold))
        if self.unfolded:
            feature = feature + pixel_shuffle(self.latent_unfold_in(latent_BCHW), self.unfolded)
        skips = (feature,)
        for level, block in enumerate(self.down_blocks):
            if level == self.joint:
                feature = feature + self.latent_conv_in(latent_BCHW)
            feature, more = block(hidden_states=feature)
            skips += more
        if self.joint == len(self.down_blocks):
            feature = feature + self.latent_conv_in(latent_BCHW)
        feature = self.mid_block(feature)
        for block in self.up_blocks:
            feature = block(hidden_states=feature, res_hidden_states_tuple=skips[-self.taken :])
            skips = skips[: -self.taken]
        out_B4HW = pixel_shuffle(self.conv_out(silu(self.conv_norm_out(feature))), self.fold)
        alpha_B1HW, colour_B3HW = out_B4HW[:, :1], out_B4HW[:, 1:]
        return alpha_B1HW, colour_B3HW + image_B3HW if self.residual else colour_B3HW


class Transparency(nn.Module):
    """Both networks of latent transparency: the part of a checkpoint that is called "transparency"."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset  # of which these are the networks' columns
        self.encoder = OffsetEncoder(preset)
        self.decoder = AlphaDecoder(preset)


def open_transparency(
    preset: Preset, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None
) -> Transparency:
    """The two networks of latent transparency from their tensors, frozen. Raises Refused where sizes differ.

    Offsets are scaled as the file's facts say, and where they say nothing as the preset does.
    """
    networks = Transparency(preset)
    try:
        networks.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise Refused(
            f"the stored weights do not fit preset {preset.name!r}: {str(error)[:200]}",
            "a preset's sizes changed since they were trained; begin again without a parent",
        ) from error
    networks.encoder.offset_scale = float((facts or {}).get("offset_scale", preset.offset_scale))
    return networks.eval().requires_grad_(False)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - narrows the type; convolutions here are made with one
    return layer.bias
