"""Test-time augmentation of the decoder: the median over the eight symmetries of the square."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PASS_PIXELS = {"cpu": 256 * 256}
"""The maximum number of pixels in one pass of the decoder, by device.

Larger passes are slower on the CPU: the light decoder at 256 px took 13 s for eight views one by
one, and 24 s for all at once.
"""

DEFAULT_PASS_PIXELS = 4 * 1024 * 1024  # on other devices

VIEWS = tuple((flip, turns) for flip in (False, True) for turns in range(4))

Decode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def estimate_augmented(decode: Decode, image_B3HW: Tensor, latent_BCHW: Tensor) -> Tensor:
    """Return the median RGBA over the symmetries of the square, each undone.

    Image and latent are flipped and rotated as in the released code (estimate_augmented), but
    batched by shape. torch's median of eight is the lower of the middle two, there as here. It
    helps only if the latent rotates with its image, as with convolutional autoencoders but not the
    linear one.

    Args:
        decode: The decoder, from image and latent to alpha and color.
        image_B3HW: The decoded image in [-1, 1].
        latent_BCHW: The latent.

    Returns:
        RGBA in [0, 1] with alpha last, B x 4 x H x W.
    """
    results: list[Tensor] = []
    # A quarter turn swaps height and width, so views of images that are not square make two
    # batches.
    for views in (
        (VIEWS,) if image_B3HW.shape[-1] == image_B3HW.shape[-2] else (VIEWS[::2], VIEWS[1::2])
    ):
        image, latent = (
            torch.cat([_turn(tensor, view) for view in views])
            for tensor in (image_B3HW, latent_BCHW)
        )
        rgba = _decode_some(decode, image, latent)
        results += [
            _turn_back(result, view)
            for result, view in zip(rgba.chunk(len(views)), views, strict=True)
        ]
    stacked = torch.stack(results)
    if stacked.device.type == "mps":  # MPS does not implement the median along a dimension
        return stacked.cpu().median(dim=0).values.to(image_B3HW.device)
    return stacked.median(dim=0).values


def estimate_once(decode: Decode, image_B3HW: Tensor, latent_BCHW: Tensor) -> Tensor:
    """Return the RGBA of a single pass, in [0, 1] with alpha last: B x 4 x H x W."""
    alpha_B1HW, color_B3HW = decode(image_B3HW, latent_BCHW)
    return torch.cat([color_B3HW, alpha_B1HW], dim=1).clamp(0, 1)


def _decode_some(decode: Decode, image_B3HW: Tensor, latent_BCHW: Tensor) -> Tensor:
    """Decode a batch in passes of at most PASS_PIXELS."""
    height, width = image_B3HW.shape[-2:]
    pixels = PASS_PIXELS.get(image_B3HW.device.type, DEFAULT_PASS_PIXELS)
    count = max(1, pixels // (height * width))
    pairs = zip(torch.split(image_B3HW, count), torch.split(latent_BCHW, count), strict=True)
    return torch.cat([estimate_once(decode, image, latent) for image, latent in pairs])


def _turn(tensor: Tensor, view: tuple[bool, int]) -> Tensor:
    flip, turns = view
    return torch.rot90(tensor.flip(3) if flip else tensor, turns, (2, 3))


def _turn_back(tensor: Tensor, view: tuple[bool, int]) -> Tensor:
    flip, turns = view
    turned = torch.rot90(tensor, -turns, (2, 3))
    return turned.flip(3) if flip else turned
