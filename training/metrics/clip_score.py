"""Whether a picture shows what a text says, as a CLIP sees it (Radford et al., 2021); the weights are the user's."""

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


class TextAgreement:
    """CLIPScore (Hessel et al., 2021) with 100 for its weight of 2.5: 100 max(cos(picture, text), 0), in 0..100."""

    def __init__(self, network: Any, processor: Any, source: str) -> None:
        """source: the model's name and the revision of its weights, since figures of two models are not comparable."""
        self.network, self.processor, self.source = network, processor, source

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> list[float]:
        """The score of each picture (H x W x 3, RGB) with its own text, cut at what the model reads (77 tokens)."""
        scores: list[float] = []
        for start in range(0, len(pictures), BATCH):
            batch = slice(start, start + BATCH)
            scores += self._score(pictures[batch], texts[batch])
        return scores

    def _score(self, pictures: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> list[float]:
        from PIL import Image

        inputs = self.processor(
            text=list(texts),
            images=[Image.fromarray(picture) for picture in pictures],
            padding=True,
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.network.device)
        seen = self.network(**inputs)
        cosine_B = nn.functional.cosine_similarity(
            seen.image_embeds.float(), seen.text_embeds.float()
        )
        scores: list[float] = (100 * cosine_B.clamp_min(0)).tolist()
        return scores


def open_agreement(model: str, device: torch.device) -> TextAgreement:
    """A CLIP of transformers by a hub name or a folder. Raises NotFound, Refused."""
    from transformers import AutoConfig, AutoProcessor, CLIPModel

    kind = load_model(AutoConfig, model).model_type
    if kind != "clip":
        raise Refused(
            f"{model} is a {kind}, no CLIP",
            "scores of other models have other scales; give a CLIPModel",
        )
    network = load_model(CLIPModel, model)
    load_processor: Any = AutoProcessor.from_pretrained  # transformers leaves it untyped
    try:
        processor = load_processor(
            model, backend="pil"
        )  # the other way needs torchvision, and differs by device
    except (OSError, ValueError, ImportError) as error:
        hint = "its tokenizer and processor lie beside its weights; fetch the whole model"
        raise Refused(
            f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}", hint
        ) from error
    return TextAgreement(
        network.to(device).eval(), processor, f"{model}@{revision_of(model, network)}"
    )
