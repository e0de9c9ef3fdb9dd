"""Latent transparency: alpha hidden in a latent as an offset that the frozen image decoder does not notice.

Shapes: B pictures, H x W pixels, C x h x w latents; alpha_B1HW and padded_B3HW in [0, 1]; image_B3HW in [-1, 1].
Channels stand alpha first wherever the two networks meet pixels, as in the released weights.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block, get_up_block
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from training.backbone import Backbone
from training.presets import Preset


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
    pictures = rgba_B4HW.permute(0, 2, 3, 1).numpy()
    return torch.stack([torch.from_numpy(pad_colour(picture)) for picture in pictures]).permute(0, 3, 1, 2).contiguous()


def on_grey(colour_B3HW: Tensor, alpha_B1HW: Tensor) -> Tensor:
    """The image that a backbone sees: I = I_c * I_a with I_c in [-1, 1], so that transparent is mid-grey."""
    return (colour_B3HW * 2 - 1) * alpha_B1HW


class OffsetEncoder(nn.Module):
    """The latent transparency encoder E: padded colour and alpha to an offset; a fresh one gives 0 everywhere.

    Pairs of 3x3 convolutions, each pair after the first at half the size: the released layout, where `fold` is 1.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.offset_scale, self.fold = preset.offset_scale, preset.fold
        layers: list[nn.Module] = []
        width = 4 * preset.fold**2
        for level, wider in enumerate(preset.encoder_widths):
            layers += [nn.Conv2d(width, wider, 3, padding=1, stride=2 if level else 1), nn.SiLU()]
            layers += [nn.Conv2d(wider, wider, 3, padding=1), nn.SiLU()]
            width = wider
        out = nn.Conv2d(width, preset.latent_channels, 3, padding=1)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(_bias(out))
        self.blocks = nn.Sequential(*layers, out)

    def forward(self, alpha_B1HW: Tensor, padded_B3HW: Tensor) -> Tensor:
        """The offset x_offset, B x C x h x w, before it is scaled."""
        pixels_B4HW = torch.cat([alpha_B1HW, padded_B3HW], dim=1)
        offset_BCHW: Tensor = self.blocks(pixel_unshuffle(pixels_B4HW, self.fold))
        return offset_BCHW


class AlphaDecoder(nn.Module):
    """The latent transparency decoder D: the frozen decoder's image and the latent, to alpha and padded colour.

    A U-Net of diffusers blocks; the latent joins, through a convolution that starts at zero, where the feature has
    the latent's size.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        widths, groups = preset.decoder_widths, preset.decoder_groups
        attending = {len(widths) - 1 - deep for deep in range(preset.decoder_attention)}
        self.fold, self.residual, self.views = preset.fold, preset.decoder_residual, preset.decoder_views
        self.taken = preset.decoder_layers + 1  # skips that a level on the way up takes
        self.joint = (preset.stride // preset.fold).bit_length() - 1  # the level of the latent's size
        self.conv_in = nn.Conv2d(3 * self.fold**2, widths[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(preset.latent_channels, widths[max(0, self.joint - 1)], 1)
        nn.init.zeros_(self.latent_conv_in.weight)
        nn.init.zeros_(_bias(self.latent_conv_in))
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
            in_channels=widths[-1], attention_head_dim=8, add_attention=bool(attending), **shared
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

    def forward(self, image_B3HW: Tensor, latent_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha (B x 1 x H x W) and padded colour (B x 3 x H x W), about [0, 1] and not clipped."""
        image_B3HW = image_B3HW.clamp(-1, 1) / 2 + 0.5
        feature = self.conv_in(pixel_unshuffle(image_B3HW, self.fold))
        skips = (feature,)
        for level, block in enumerate(self.down_blocks):
            if level == self.joint:
                feature = feature + self.latent_conv_in(latent_BCHW)
            feature, more = block(hidden_states=feature)
            skips += more
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


def adjust(
    backbone: Backbone,
    encoder: OffsetEncoder,
    alpha_B1HW: Tensor,
    padded_B3HW: Tensor,
    keep_B: Tensor | None = None,
) -> Tensor:
    """The adjusted latent x_a = x + x_eps, unscaled, B x C x h x w (paper, section 3.1).

    x is the mean of the frozen encoder's posterior and x_eps = lambda_offset * x_std * x_offset. Where `keep_B` is 0
    the offset is dropped, where it is 1 kept.
    """
    mean_BCHW, std_BCHW = backbone.encode(on_grey(padded_B3HW, alpha_B1HW))
    offset_BCHW = encoder(alpha_B1HW, padded_B3HW)
    if keep_B is not None:
        offset_BCHW = offset_BCHW * keep_B[:, None, None, None]
    adjusted_BCHW: Tensor = mean_BCHW + encoder.offset_scale * std_BCHW * offset_BCHW
    return adjusted_BCHW


def decode_rgba(backbone: Backbone, decoder: AlphaDecoder, latent_BCHW: Tensor) -> Tensor:
    """Straight RGBA in [0, 1], B x 4 x H x W with alpha LAST, of an unscaled adjusted latent.

    In one pass, or, where the preset has 8 views, by the released estimate (`estimate_augmented`).
    """
    image_B3HW = backbone.decode(latent_BCHW)
    if decoder.views == 1:
        alpha_B1HW, colour_B3HW = decoder(image_B3HW, latent_BCHW)
        return torch.cat([colour_B3HW, alpha_B1HW], dim=1).clamp(0, 1)
    return estimate_augmented(decoder, image_B3HW, latent_BCHW)


def estimate_augmented(decoder: AlphaDecoder, image_B3HW: Tensor, latent_BCHW: Tensor) -> Tensor:
    """The median RGBA over the eight symmetries of the square, each undone after the decoder: B x 4 x H x W.

    torch's median of eight is the lower of the two in the middle, here as in the released code. Of use only where a
    latent turns with its image, as convolutional backbones' do and the linear one's does not.
    """
    estimates = []
    for flip in (False, True):
        for turns in range(4):
            image, latent = (_turn(tensor, flip, turns) for tensor in (image_B3HW, latent_BCHW))
            alpha, colour = decoder(image, latent)
            estimate = torch.rot90(torch.cat([colour, alpha], dim=1).clamp(0, 1), -turns, (2, 3))
            estimates.append(estimate.flip(3) if flip else estimate)
    return torch.stack(estimates).median(dim=0).values


def _turn(tensor: Tensor, flip: bool, turns: int) -> Tensor:
    return torch.rot90(tensor.flip(3) if flip else tensor, turns, (2, 3))


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - narrows the type; convolutions here are made with one
    return layer.bias
