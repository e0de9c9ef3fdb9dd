"""Transparent images in users' formats, and as straight RGBA in [0, 1], B x 4 x H x W."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from curation.errors import Refused
from curation.images.colors import to_eight_bits
from curation.images.headers import InvalidImage
from curation.images.pillow_images import from_path, from_pillow
from training.transparency.padding import pad_color

ImageInput = (
    Image.Image | str | Path | NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32] | Tensor
)
"""A PIL image or the path of a file, converted to sRGB by its profile; an H x W x 3 or 4 array of
uint8, uint16 or float in [0, 1]; or a 3 or 4 x H x W tensor of uint8 or float in [0, 1]."""

ImageOutput = list[Image.Image] | NDArray[np.float32] | Tensor
"""Output images: PIL images ("pil"), B x H x W x 4 float32 in [0, 1] ("np"), or B x 4 x H x W
("pt")."""


def to_rgba(images: ImageInput | Sequence[ImageInput]) -> Tensor:
    """Convert images of one size to straight RGBA in [0, 1], B x 4 x H x W float32.

    Images without alpha are opaque. PIL images and files are converted to upright sRGB by the color
    policy of `curation.images`: profiles, gamma, color keys and 16 bits are handled as at an
    import.

    Args:
        images: An image or several; a tensor or array with four axes is a batch.

    Raises:
        Refused: An image has another shape or cannot be read, or a batch has several sizes.
    """
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        images = list(images)
    elif isinstance(images, Image.Image | str | Path | Tensor | np.ndarray):
        images = [images]
    tensors = [_to_rgba(image) for image in images]
    sizes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(sizes) != 1:
        raise Refused(
            f"a batch has images of {len(sizes)} sizes", "give images of one size at a time"
        )
    return torch.stack(tensors)


def to_pil(rgba_B4HW: Tensor) -> list[Image.Image]:
    """Convert straight RGBA in [0, 1] to 8-bit PIL images, keeping the colors under alpha 0."""
    return [Image.fromarray(pixels, "RGBA") for pixels in to_array(rgba_B4HW)]


def to_array(rgba_B4HW: Tensor) -> NDArray[np.uint8]:
    """Convert straight RGBA in [0, 1] to B x H x W x 4 uint8, rounded."""
    pixels: NDArray[np.uint8] = (
        (rgba_B4HW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels


def to_output_type(rgba_B4HW: Tensor, output_type: str) -> ImageOutput:
    """Convert straight RGBA in [0, 1] to the output type.

    Args:
        rgba_B4HW: Straight RGBA in [0, 1], B x 4 x H x W.
        output_type: "pil", "np" or "pt".

    Raises:
        Refused: The output type is unknown.
    """
    match output_type:
        case "pil":
            return to_pil(rgba_B4HW)
        case "np":
            pixels: NDArray[np.float32] = rgba_B4HW.float().permute(0, 2, 3, 1).cpu().numpy()
            return pixels
        case "pt":
            return rgba_B4HW
    raise Refused(f"unknown output_type {output_type!r}", "choose pil, np, pt or latent")


def check_output(output_type: str) -> None:
    """Check an output_type before generation. Raises Refused if it is unknown."""
    if output_type != "latent":
        to_output_type(torch.zeros(0, 4, 1, 1), output_type)


def as_latents(images: object, channels: int) -> Tensor | None:
    """Return the input as a batch of latents, B x C x h x w scaled, or None if it holds images.

    Args:
        images: The caller's input. Only float tensors of `channels` channels, alone, stacked or
            in a list, may be latents.
        channels: The latent channels of the model. RGBA has four as well, but an image stays within
            [0, 1], and a scaled latent of about unit variance does not.
    """
    if (
        isinstance(images, list | tuple)
        and images
        and all(isinstance(item, Tensor) for item in images)
    ):
        # Latents in a list must have one shape to be stacked.
        if len({item.shape for item in images}) > 1:
            return None
        images = torch.stack(list(images)) if images[0].ndim == 3 else torch.cat(list(images))
    if (
        not isinstance(images, Tensor)
        or not images.is_floating_point()
        or images.ndim not in {3, 4}
    ):
        return None
    batch_BCHW = images if images.ndim == 4 else images[None]
    if batch_BCHW.shape[1] != channels:
        return None
    # Three or four channels are ambiguous: decide by the range of values.
    outside = bool((batch_BCHW < -LATENT_MARGIN).any() or (batch_BCHW > 1 + LATENT_MARGIN).any())
    return batch_BCHW if outside or channels not in {3, 4} else None


LATENT_MARGIN = 0.25
"""How far pixel values may leave [0, 1], as after a resize, before they count as latents."""


def resize_to_cover(rgba_B4HW: Tensor, height: int, width: int) -> Tensor:
    """Resize straight RGBA to cover height x width and crop it centrally (see `resize_rgba`)."""
    rows, columns = rgba_B4HW.shape[-2:]
    if (rows, columns) == (height, width):
        return rgba_B4HW
    # Cover the target, then crop the center.
    ratio = max(height / rows, width / columns)
    rows, columns = max(height, round(rows * ratio)), max(width, round(columns * ratio))
    top, left = (rows - height) // 2, (columns - width) // 2
    return resize_rgba(rgba_B4HW, rows, columns)[..., top : top + height, left : left + width]


def resize_rgba(rgba_B4HW: Tensor, height: int, width: int) -> Tensor:
    """Resize straight RGBA without color fringes, by Lanczos, or by area where it shrinks.

    Hidden colors are filled in first (`pad_color`). Color is resized premultiplied and divided by
    the resized alpha, so that an edge takes the color of visible pixels, or of the filled-in pixels
    where nothing is visible.

    Args:
        rgba_B4HW: Straight RGBA in [0, 1], B x 4 x H x W.
        height: The new height in pixels.
        width: The new width in pixels.
    """
    return torch.stack(
        [torch.from_numpy(_enlarge(rgba, height, width)) for rgba in _images(rgba_B4HW)]
    ).permute(0, 3, 1, 2)


def _to_rgba(image: ImageInput) -> Tensor:
    """Convert one image to straight RGBA in [0, 1], 4 x H x W. Raises Refused."""
    if isinstance(image, Image.Image | str | Path):
        image = _decode(image)
    if isinstance(image, np.ndarray):
        # 16-bit samples are rounded to 8 bits, as those of files are.
        image = to_eight_bits(image) if image.dtype == np.uint16 else image
        image = torch.from_numpy(np.array(image)).movedim(-1, 0)
    if image.ndim != 3 or len(image) not in {3, 4}:
        raise Refused(
            "an image must have three or four channels, height and width", "give PIL images"
        )
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    return pixels if len(pixels) == 4 else torch.cat([pixels, torch.ones_like(pixels[:1])])


def _decode(image: Image.Image | str | Path) -> NDArray[np.uint8]:
    """Decode a PIL image or a file. Raises Refused."""
    try:
        return from_pillow(image) if isinstance(image, Image.Image) else from_path(image)
    except InvalidImage as error:
        raise Refused(
            f"an image cannot be read: {error.sentence}", "save it as PNG or lossless WebP"
        ) from error


def _images(rgba_B4HW: Tensor) -> NDArray[np.float32]:
    images: NDArray[np.float32] = rgba_B4HW.float().permute(0, 2, 3, 1).cpu().numpy()
    return images


def _enlarge(rgba: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    kind = cv2.INTER_AREA if height * width < rgba.shape[0] * rgba.shape[1] else cv2.INTER_LANCZOS4

    def resize(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.resize(image, (width, height), interpolation=kind), np.float32)

    padded = pad_color(rgba)
    premultiplied, alpha = (
        resize(padded * rgba[..., 3:]),
        resize(rgba[..., 3])[..., None].clip(0, 1),
    )
    # Below one 8-bit level of alpha the division is unstable: take the filled-in color there.
    color = np.where(alpha > 1 / 255, premultiplied / np.maximum(alpha, 1 / 255), resize(padded))
    return np.concatenate([color, alpha], axis=-1).clip(0, 1)
