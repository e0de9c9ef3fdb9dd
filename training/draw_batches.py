"""Batches of generation requests: padding, seeded noise, and conversion to layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from curation.domain import GenerationRequest, Prompt
from curation.images.codec import clear_hidden_colors
from curation.ports import RGBA, GenerationOptions


def padded_batches(
    requests: Sequence[GenerationRequest], size: int
) -> Iterator[tuple[Sequence[GenerationRequest], Sequence[GenerationRequest]]]:
    """Yield batches of at most `size` requests, with and without padding.

    Args:
        requests: The requests.
        size: The batch size.

    Yields:
        A batch, and the same padded to `size` by repeating its last request.
    """
    for start in range(0, len(requests), size):
        batch = list(requests[start : start + size])
        # Padding keeps the batch shape constant, so that results do not depend on the others.
        yield batch, batch + batch[-1:] * (size - len(batch))


def is_pair_request(prompt: Prompt, options: GenerationOptions) -> bool:
    """Return whether a pair is requested: a layer has its own text, or a layer is given."""
    return bool(prompt.foreground or prompt.background or options.given)


def seeded_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return unit Gaussian noise that depends on the request's seed alone."""
    return torch.randn(shape, generator=seeded_generator(seed))


def seeded_generator(seed: int) -> torch.Generator:
    """Return a CPU generator for any integer seed, so that noise is equal on every machine."""
    return torch.Generator().manual_seed(seed % 2**63)


def to_layers(rgba_B4HW: Tensor) -> list[RGBA]:
    """Convert straight RGBA in [0, 1] to H x W x 4 uint8 layers with color 0 where alpha is 0."""
    pixels_BHW4 = (rgba_B4HW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(clear_hidden_colors(pixels)) for pixels in pixels_BHW4]
