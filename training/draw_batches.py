"""Batches of draw requests of one size, their noise from seeds, and their results as layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from curation.domain import DrawRequest, Prompt
from curation.images.codec import without_hidden_colour
from curation.ports import RGBA, DrawOptions


def batches(
    requests: Sequence[DrawRequest], size: int
) -> Iterator[tuple[Sequence[DrawRequest], Sequence[DrawRequest]]]:
    """At most `size` requests at a time: each batch as it is, and filled up to `size`."""
    for start in range(0, len(requests), size):
        batch = list(requests[start : start + size])
        yield batch, batch + batch[-1:] * (size - len(batch))


def asks_for_layers(prompt: Prompt, options: DrawOptions) -> bool:
    """Whether a pair is to be drawn: the prompt has a text for one of its layers, or a layer is given."""
    return bool(prompt.foreground or prompt.background or options.given)


def noise_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Unit noise that a request's seed alone decides."""
    return torch.randn(shape, generator=generator_of(seed))


def generator_of(seed: int) -> torch.Generator:
    """Any whole number as a seed; on the CPU, so that every machine draws from the same noise."""
    return torch.Generator().manual_seed(seed % 2**63)


def as_layers(rgba_B4HW: Tensor) -> list[RGBA]:
    """Straight RGBA in [0, 1] as layers: H x W x 4 uint8, colour 0 where alpha is 0."""
    pixels_BHW4 = (rgba_B4HW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(without_hidden_colour(pixels)) for pixels in pixels_BHW4]
