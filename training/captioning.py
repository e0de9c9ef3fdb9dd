"""Captions of pictures by a vision-language model of transformers: any that answers with text to an image and text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curation.errors import Refused
from training.pretrained.loading import load_model, revision_of


def open_captioner(model: str) -> VisionLanguageModel:
    """A captioner by a hub name or a folder, on the accelerator where there is one. Raises NotFound, Refused."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    load_processor: Any = AutoProcessor.from_pretrained  # transformers leaves it untyped

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = load_model(AutoModelForImageTextToText, model, dtype=dtype)
    try:
        # Pillow prepares the pictures: the other way needs torchvision, and differs by device.
        processor = load_processor(model, backend="pil")
    except (OSError, ValueError, ImportError) as error:
        hint = "its tokenizer and processor lie beside its weights; fetch the whole model"
        raise Refused(
            f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}", hint
        ) from error
    return VisionLanguageModel(
        network.to(device).eval(), processor, f"{model}@{revision_of(model, network)}"
    )


class VisionLanguageModel:
    """A Captioner: greedy, so that the same picture gets the same words each time; a batch has one prompt."""

    def __init__(self, network: Any, processor: Any, source: str) -> None:
        self.network, self.processor, self.source = network, processor, source
        # An answer follows its question at once only where shorter questions are filled up on their left.
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    @torch.inference_mode()
    def describe(
        self, pictures: Sequence[NDArray[np.uint8]], prompt: str, tokens: int
    ) -> list[str]:
        """What each picture (H x W x 3, RGB) shows, in the model's own words, of at most so many tokens."""
        if not pictures:
            return []
        from PIL import Image

        inputs = self.processor(
            text=[self._question(prompt)] * len(pictures),
            images=[[Image.fromarray(picture)] for picture in pictures],
            padding=True,
            return_tensors="pt",
        ).to(self.network.device, self.network.dtype)
        answers = self.network.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=tokens,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        asked = 0 if self.network.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        texts = self.processor.batch_decode(answers[:, asked:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _question(self, prompt: str) -> str:
        """One picture and the prompt as the model was trained to be asked; where it does not say, one after another."""
        if getattr(self.processor, "chat_template", None):
            said = [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
            ]
            question: str = self.processor.apply_chat_template(
                said, add_generation_prompt=True, tokenize=False
            )
            return question
        return f"{getattr(self.processor, 'image_token', '<image>')}\n{prompt}\n"
