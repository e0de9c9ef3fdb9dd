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


def starting_noise(
    seed: int | torch.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the noise that sampling of a candidate starts from; all samplers call this.

    It depends on seed, shape and dtype alone: not on the batch, the place in it, or the device,
    since it is drawn on the CPU. A scheduler may scale it (diffusers' `init_noise_sigma`).

    Args:
        seed: The candidate's seed, any integer; or its generator, which is advanced, so that
            samplers that add noise continue after it.
        shape: Shape of the latent, C x h x w; of layers that are generated together L x C x h x w.
        dtype: The dtype that the sampler works in: that of the denoiser of a pretrained model,
            float32 elsewhere.

    Returns:
        Unit Gaussian noise of this shape and dtype, on the CPU.
    """
    generator = seed if isinstance(seed, torch.Generator) else seeded_generator(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=dtype)


def noise_settings(shape: Sequence[int], dtype: torch.dtype) -> dict[str, str]:
    """Return shape and dtype of the starting noise as recorded settings of a generation."""
    return {"noise": "x".join(map(str, shape)), "noise_dtype": str(dtype).removeprefix("torch.")}


def seeded_generator(seed: int) -> torch.Generator:
    """Return a CPU generator for any integer seed, so that noise is equal on every machine."""
    return torch.Generator().manual_seed(seed % 2**63)


def to_layers(rgba_B4HW: Tensor) -> list[RGBA]:
    """Convert straight RGBA in [0, 1] to H x W x 4 uint8 layers with color 0 where alpha is 0."""
    pixels_BHW4 = (rgba_B4HW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(clear_hidden_colors(pixels)) for pixels in pixels_BHW4]
