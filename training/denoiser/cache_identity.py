"""Identities of cached latents and text embeddings, from everything that determines them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from curation.domain import canonical_json
from training.data.letterbox import letterbox, to_tensor
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import OffsetEncoder
from training.transparency.padding import pad_colors

TOKENIZER_TEST_TEXT = "a photo of 1,234 Transparent GLASS bottles; naïve, on a 'wooden' table!"


def latent_identity(
    preset: Preset, autoencoder: Autoencoder, encoder: OffsetEncoder, **more: str
) -> dict[str, str]:
    """Return everything besides an image that determines its latents.

    Weights are hashed as they are in memory, and preprocessing by its output for a test image, so
    that no version number has to be kept up to date.

    Args:
        preset: Has the precision of cached latents.
        autoencoder: The autoencoder.
        encoder: The encoder of latent offsets.
        more: Further determinants, such as the dtype of the computation.
    """
    return {
        "format": "1",
        "backbone": fingerprint(autoencoder),
        "encoder": fingerprint(encoder),
        "offset_scale": repr(encoder.offset_scale),
        "tile": str(encoder.tile),
        "preprocessing": _probe(),
        "precision": preset.cache_precision,
        **more,
    }


def text_identity(
    preset: Preset, encoders: nn.Module, tokenizers: Sequence[Any], **more: str
) -> dict[str, str]:
    """Return everything besides a text that determines its embedding by frozen text encoders.

    Tokenizers are identified by their output for a test sentence and their length.

    Args:
        preset: Has the precision of the training.
        encoders: The text encoders.
        tokenizers: Their tokenizers.
        more: Further determinants, such as the family and its handling of the empty text.
    """
    probed = [
        (tokenizer(TOKENIZER_TEST_TEXT).input_ids, tokenizer.model_max_length)
        for tokenizer in tokenizers
    ]
    tokens = hashlib.sha256(canonical_json(probed).encode()).hexdigest()
    # Training in half precision rounds embeddings anyway, and they are larger than latents.
    precision = "fp32" if preset.precision == "fp32" else "fp16"
    return {
        "format": "1",
        "encoders": fingerprint(encoders),
        "tokens": tokens,
        "precision": precision,
        **more,
    }


def fingerprint(network: nn.Module) -> str:
    """Return the sha256 of a network's class name and of all tensors with names and dtypes."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # Bytes rather than values, so that NaN and bfloat16 need no special case.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _probe() -> str:
    """Hash the output of letterboxing and padding for a test image, rounded to 8 bits.

    Another version of OpenCV or of our code changes the hash if it changes the output.
    """
    # A third of the test image is transparent, so that padding has an effect.
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (37, 23, 4), np.uint8)
    rgba[:12, :, 3] = 0
    fitted = to_tensor(letterbox(rgba, (64, 48)))
    padded = (pad_colors(fitted[None])[0] * 255).round().to(torch.uint8)
    return hashlib.sha256(fitted.numpy().tobytes() + padded.numpy().tobytes()).hexdigest()
