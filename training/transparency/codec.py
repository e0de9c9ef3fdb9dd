"""Encoding of images to adjusted latents, with alpha as an offset, and decoding to RGBA.

Shapes are as in training.transparency.networks.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import AlphaDecoder, OffsetEncoder, Transparency
from training.transparency.padding import over_gray, pad_colors
from training.transparency.tiling import mirror_pad, round_up, run_tiled
from training.transparency.tta import estimate_augmented, estimate_once


def adjusted_posterior(
    autoencoder: Autoencoder,
    encoder: OffsetEncoder,
    alpha_B1HW: Tensor,
    padded_B3HW: Tensor,
    keep_B: Tensor | None = None,
    straight_B3HW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the adjusted posterior (section 3.1).

    The mean is x + x_eps, with x the frozen encoder's mean and x_eps = lambda_offset * x_std *
    x_offset; the offset does not change the deviation, so x_std is the frozen encoder's. Images may
    have any size: h = ceil(H / stride), and an incomplete last row or column is mirror-padded.

    Args:
        autoencoder: The frozen autoencoder.
        encoder: The offset encoder.
        alpha_B1HW: Alpha in [0, 1].
        padded_B3HW: Padded color in [0, 1].
        keep_B: 0 drops an image's offset, 1 keeps it; by default all are kept.
        straight_B3HW: If given, the frozen encoder is fed this color over gray, as in the released
            code, instead of the padded color (the paper's I). They differ where alpha is partial,
            by 0.01 in the mean.

    Returns:
        Mean and standard deviation, unscaled, float32, each B x C x h x w.
    """
    # Mirror-pad to whole latent pixels.
    size = tuple(round_up(length, autoencoder.stride) for length in alpha_B1HW.shape[-2:])
    alpha_B1HW, padded_B3HW = mirror_pad(alpha_B1HW, *size), mirror_pad(padded_B3HW, *size)
    color_B3HW = padded_B3HW if straight_B3HW is None else mirror_pad(straight_B3HW, *size)
    image_B3HW = over_gray(color_B3HW, alpha_B1HW)
    mean_BCHW, std_BCHW = autoencoder.encode(
        image_B3HW.float().to(autoencoder.device), tile=encoder.tile
    )
    # Full precision: the offset is small compared with the mean it is added to.
    with torch.autocast(mean_BCHW.device.type, enabled=False):
        images = (alpha_B1HW.to(_weight(encoder)), padded_B3HW.to(_weight(encoder)))
        offset_BCHW = run_tiled(
            encoder, images, tile_size=encoder.tile, unit=autoencoder.stride
        ).to(mean_BCHW)
        if keep_B is not None:
            offset_BCHW = offset_BCHW * keep_B.to(mean_BCHW)[:, None, None, None]
        return mean_BCHW + encoder.offset_scale * std_BCHW * offset_BCHW, std_BCHW


def adjust(
    autoencoder: Autoencoder,
    encoder: OffsetEncoder,
    alpha_B1HW: Tensor,
    padded_B3HW: Tensor,
    keep_B: Tensor | None = None,
) -> Tensor:
    """Return the adjusted latent x_a: the mean of `adjusted_posterior`.

    Args:
        autoencoder: The frozen autoencoder.
        encoder: The offset encoder.
        alpha_B1HW: Alpha in [0, 1].
        padded_B3HW: Padded color in [0, 1].
        keep_B: 0 drops an image's offset, 1 keeps it; by default all are kept.

    Returns:
        The unscaled latent, B x C x h x w.
    """
    return adjusted_posterior(autoencoder, encoder, alpha_B1HW, padded_B3HW, keep_B)[0]


def decode_rgba(
    autoencoder: Autoencoder,
    decoder: AlphaDecoder,
    latent_BCHW: Tensor,
    *,
    views: int | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Decode unscaled adjusted latents of any size to straight RGBA.

    Args:
        autoencoder: The frozen autoencoder.
        decoder: The alpha decoder.
        latent_BCHW: Unscaled adjusted latents, B x C x h x w.
        views: 1 for a single pass, 8 for the released test-time augmentation
            (`estimate_augmented`); by default the preset's.
        size: Height and width to crop to, if they are not multiples of the stride.

    Returns:
        Straight RGBA in [0, 1], float32, B x 4 x H x W with alpha last.

    Raises:
        Refused: The number of views is not supported.
    """
    estimate = {1: estimate_once, 8: estimate_augmented}.get(views or decoder.views)
    if estimate is None:
        raise Refused(f"invalid number of views {views}", "choose 1, or 8 for the median of eight")
    image_B3HW = autoencoder.decode(latent_BCHW.float().to(autoencoder.device), tile=decoder.tile)
    # Mirror-pad image and latent to the decoder's unit; cropped again below.
    height, width = image_B3HW.shape[-2:]
    rows, columns = round_up(height, decoder.unit), round_up(width, decoder.unit)
    image_B3HW = mirror_pad(image_B3HW.to(_weight(decoder)), rows, columns)
    latent_BCHW = mirror_pad(
        latent_BCHW.to(image_B3HW), rows // autoencoder.stride, columns // autoencoder.stride
    )

    def decode(image_B3HW: Tensor, latent_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        out_B4HW = run_tiled(
            decoder, (image_B3HW, latent_BCHW), tile_size=decoder.tile, unit=decoder.unit
        )
        return out_B4HW[:, :1], out_B4HW[:, 1:]

    rgba_B4HW = estimate(decode, image_B3HW, latent_BCHW)
    height, width = size or (height, width)
    return remove_veil(rgba_B4HW[..., :height, :width].float(), decoder.alpha_floor)


def remove_veil(rgba_B4HW: Tensor, floor: float) -> Tensor:
    """Return images without alpha that is too faint to be meant.

    A generated latent is never exactly one that the decoder was trained on, and a small decoder
    answers with alpha of one to two percent all over the canvas. Below `floor` alpha becomes 0,
    between `floor` and twice that it rises with slope 2, above it is unchanged.

    Args:
        rgba_B4HW: Straight RGBA in [0, 1].
        floor: The floor, in [0, 0.5]; 0 returns the images as they are.
    """
    if not floor:
        return rgba_B4HW
    alpha_B1HW = rgba_B4HW[:, 3:]
    steeper_B1HW = (2 * (alpha_B1HW - floor)).clamp(min=0)
    return torch.cat([rgba_B4HW[:, :3], torch.minimum(alpha_B1HW, steeper_B1HW)], 1)


@torch.no_grad()
def reconstruct(
    autoencoder: Autoencoder, networks: Transparency, rgba_B4HW: Tensor, *, offset: bool = True
) -> Tensor:
    """Encode and decode straight RGBA.

    Args:
        autoencoder: The frozen autoencoder.
        networks: The two networks of latent transparency.
        rgba_B4HW: Straight RGBA in [0, 1].
        offset: False drops the offset, and with it the information on alpha.

    Returns:
        Straight RGBA in [0, 1], B x 4 x H x W.
    """
    keep_B = torch.full((len(rgba_B4HW),), float(offset))
    latent_BCHW = adjust(
        autoencoder, networks.encoder, rgba_B4HW[:, 3:], pad_colors(rgba_B4HW), keep_B
    )
    return decode_rgba(autoencoder, networks.decoder, latent_BCHW)


def _weight(module: nn.Module) -> Tensor:
    """Return one tensor of a module, for its device and dtype."""
    return next(chain(module.parameters(), module.buffers()))
