"""Latent transparency: alpha hidden in a latent as an offset that the frozen image decoder does not notice.

Shapes: B pictures, H x W pixels, C x h x w latents; alpha_B1HW and padded_B3HW in [0, 1]; image_B3HW in [-1, 1].
Channels stand alpha first wherever the two networks meet pixels, as in the released weights.
"""

from __future__ import annotations

from itertools import chain
from math import lcm
from typing import Any

import cv2
import numpy as np
import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block, get_up_block
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from curation.errors import Refused
from training.backbone import Backbone
from training.heavy import heavy_blocks
from training.preset import Preset
from training.tiles import in_tiles, mirror_to, whole
from training.views import estimate_augmented, estimate_once


def pad_colour(rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colours of a straight H x W x 4 image in [0, 1], with those that cannot be seen filled in: H x W x 3.

    The paper's iterated Gaussian filter, done as its authors' code does it, by a pyramid of ratio 1.2: each level
    paints over the coarser one by its alpha. Equals the input where alpha is 1; 0 where nothing is visible at all.
    """
    levels = _pyramid(np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1, dtype=np.float32))
    seen = levels[-1].sum(axis=(0, 1))
    colour = np.broadcast_to(seen[:3] / max(float(seen[3]), 1e-8), (*levels[-1].shape[:2], 3)).astype(np.float32)
    for level in reversed(levels):
        height, width = level.shape[:2]
        coarse = np.asarray(cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR))
        colour = level[..., :3] + coarse.reshape(height, width, 3) * (1 - level[..., 3:])
    return colour.clip(0, 1)


def _pyramid(premultiplied: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    levels = [premultiplied]
    while min(levels[-1].shape[:2]) > 1:
        height, width = levels[-1].shape[:2]
        size = (int(width / 1.2), int(height / 1.2))
        levels.append(np.asarray(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA)))
    return levels


def pad_colours(rgba_B4HW: Tensor) -> Tensor:
    """`pad_colour` of every picture of a batch of straight RGBA in [0, 1]: B x 3 x H x W."""
    pictures = rgba_B4HW.permute(0, 2, 3, 1).float().cpu().numpy()
    padded_BHW3 = torch.stack([torch.from_numpy(pad_colour(picture)) for picture in pictures])
    return padded_BHW3.permute(0, 3, 1, 2).contiguous().to(rgba_B4HW)


def on_grey(colour_B3HW: Tensor, alpha_B1HW: Tensor) -> Tensor:
    """The image that a backbone sees: I = I_c * I_a with I_c in [-1, 1], so that transparent is mid-grey."""
    return (colour_B3HW * 2 - 1) * alpha_B1HW


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
        widths, groups, heavy = preset.decoder_widths, preset.decoder_groups, preset.networks == "heavy"
        attending = {len(widths) - 1 - deep for deep in range(preset.decoder_attention)}
        self.fold, self.residual = preset.fold, preset.decoder_residual
        self.views, self.tile = preset.decoder_views, preset.tile
        self.unit = lcm(preset.fold * 2 ** (len(widths) - 1), preset.stride)  # height and width are multiples of it
        self.taken = preset.decoder_layers + 1  # skips that a level on the way up takes
        self.joint = len(widths) if heavy else (preset.stride // preset.fold).bit_length() - 1  # the latent's level
        self.conv_in = nn.Conv2d(3 * self.fold**2, widths[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(preset.latent_channels, widths[max(0, self.joint - 1)], 1)
        nn.init.zeros_(self.latent_conv_in.weight)
        nn.init.zeros_(_bias(self.latent_conv_in))
        # A latent of 8 x 8 patches knows more of its pixels than convolutions after upsampling soon learn to tell.
        self.unfolded = preset.stride // preset.fold if preset.decoder_unfold else 0
        if self.unfolded:
            self.latent_unfold_in = nn.Conv2d(preset.latent_channels, widths[0] * self.unfolded**2, 1)
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
        self.encoder = OffsetEncoder(preset)
        self.decoder = AlphaDecoder(preset)


def adjusted_posterior(
    backbone: Backbone,
    encoder: OffsetEncoder,
    alpha_B1HW: Tensor,
    padded_B3HW: Tensor,
    keep_B: Tensor | None = None,
    straight_B3HW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the adjusted posterior, unscaled, float32, each B x C x h x w (section 3.1).

    The mean is x + x_eps, with x that of the frozen encoder and x_eps = lambda_offset * x_std * x_offset; the offset
    moves no deviation, so x_std is the frozen encoder's. Where `keep_B` is 0 the offset is dropped, where 1 kept.
    The backbone sees the padded colour over grey (the paper's I), or the straight one where it is given, as in the
    released code; they differ where alpha is partial, by 0.01 in the mean.
    Pictures may have any size: h = ceil(H / stride), and a last row or column that is not full is mirrored into.
    """
    size = tuple(whole(length, backbone.stride) for length in alpha_B1HW.shape[-2:])
    alpha_B1HW, padded_B3HW = mirror_to(alpha_B1HW, *size), mirror_to(padded_B3HW, *size)
    seen_B3HW = padded_B3HW if straight_B3HW is None else mirror_to(straight_B3HW, *size)
    image_B3HW = on_grey(seen_B3HW, alpha_B1HW)
    mean_BCHW, std_BCHW = backbone.encode(image_B3HW.float().to(_weight(backbone).device), tile=encoder.tile)
    with torch.autocast(mean_BCHW.device.type, enabled=False):  # an offset is small beside the mean it is added to
        pictures = (alpha_B1HW.to(_weight(encoder)), padded_B3HW.to(_weight(encoder)))
        offset_BCHW = in_tiles(encoder, pictures, side=encoder.tile, unit=backbone.stride).to(mean_BCHW)
        if keep_B is not None:
            offset_BCHW = offset_BCHW * keep_B.to(mean_BCHW)[:, None, None, None]
        return mean_BCHW + encoder.offset_scale * std_BCHW * offset_BCHW, std_BCHW


def adjust(
    backbone: Backbone,
    encoder: OffsetEncoder,
    alpha_B1HW: Tensor,
    padded_B3HW: Tensor,
    keep_B: Tensor | None = None,
) -> Tensor:
    """The adjusted latent x_a, unscaled, B x C x h x w: the mean of `adjusted_posterior`."""
    return adjusted_posterior(backbone, encoder, alpha_B1HW, padded_B3HW, keep_B)[0]


def decode_rgba(
    backbone: Backbone,
    decoder: AlphaDecoder,
    latent_BCHW: Tensor,
    *,
    views: int | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Straight RGBA in [0, 1], float32, B x 4 x H x W with alpha LAST, of an unscaled adjusted latent of any h x w.

    views: 1 for a single pass, 8 for the released estimate (`estimate_augmented`); by default the preset's. size: H and
    W of the picture that the latent is of, where they are no multiples of the stride. Raises Refused for other views.
    """
    estimate = {1: estimate_once, 8: estimate_augmented}.get(views or decoder.views)
    if estimate is None:
        raise Refused(f"a picture cannot be decoded in {views} views", "choose 1, or 8 for their median")
    image_B3HW = backbone.decode(latent_BCHW.float().to(_weight(backbone).device), tile=decoder.tile)
    height, width = image_B3HW.shape[-2:]
    rows, columns = whole(height, decoder.unit), whole(width, decoder.unit)
    image_B3HW = mirror_to(image_B3HW.to(_weight(decoder)), rows, columns)
    latent_BCHW = mirror_to(latent_BCHW.to(image_B3HW), rows // backbone.stride, columns // backbone.stride)

    def decode(image_B3HW: Tensor, latent_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        out_B4HW = in_tiles(decoder, (image_B3HW, latent_BCHW), side=decoder.tile, unit=decoder.unit)
        return out_B4HW[:, :1], out_B4HW[:, 1:]

    rgba_B4HW = estimate(decode, image_B3HW, latent_BCHW)
    height, width = size or (height, width)
    return rgba_B4HW[..., :height, :width].float()


def _weight(module: nn.Module) -> Tensor:
    """One of the module's tensors, whose device and type are the module's."""
    return next(chain(module.parameters(), module.buffers()))


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - narrows the type; convolutions here are made with one
    return layer.bias
