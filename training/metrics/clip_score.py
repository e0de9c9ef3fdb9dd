"""CLIPScore: agreement of images with texts by a CLIP model (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from curation.errors import Refused
from training.pretrained.loading import load_model, revision_of

BATCH = 32


class ClipScore:
    """CLIPScore (Hessel et al., 2021) with weight 100 for 2.5: 100 max(cos, 0), in 0..100."""

    def __init__(self, network: Any, processor: Any, source: str) -> None:
        """Wrap a CLIP.

        Args:
            network: The CLIPModel.
            processor: Its processor.
            source: Name and weight revision of the model; scores of two models are not comparable.
        """
        self.network, self.processor, self.source = network, processor, source

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> list[float]:
        """Score each image (H x W x 3 RGB) with its text, which is truncated to 77 tokens."""
        scores: list[float] = []
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            scores += self._score(images[batch], texts[batch])
        return scores

    def _score(self, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> list[float]:
        from PIL import Image

        inputs = self.processor(
            text=list(texts),
            images=[Image.fromarray(image) for image in images],
            padding=True,
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.network.device)
        embeddings = self.network(**inputs)
        # In float32 for any dtype of the model.
        cosine_B = nn.functional.cosine_similarity(
            embeddings.image_embeds.float(), embeddings.text_embeds.float()
        )
        scores: list[float] = (100 * cosine_B.clamp_min(0)).tolist()
        return scores


def load_clip_score(model: str, device: torch.device) -> ClipScore:
    """Load a CLIP of transformers by hub name or folder. Raises NotFound, Refused."""
    from transformers import AutoConfig, AutoProcessor, CLIPModel

    # Check the type before loading any weights.
    kind = load_model(AutoConfig, model).model_type
    if kind != "clip":
        raise Refused(
            f"{model} is a model of type {kind!r}, not CLIP",
            "scores of other models have other scales; use a CLIPModel",
        )
    network = load_model(CLIPModel, model)
    load_processor: Any = AutoProcessor.from_pretrained  # untyped in transformers
    try:
        # The default backend needs torchvision, and its output depends on the device.
        processor = load_processor(model, backend="pil")
    except (OSError, ValueError, ImportError) as error:
        hint = "download the whole model: tokenizer and processor are files next to its weights"
        raise Refused(
            f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}", hint
        ) from error
    return ClipScore(network.to(device).eval(), processor, f"{model}@{revision_of(model, network)}")
