"""Image captioning with a vision-language model from transformers (image-text-to-text)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curation.errors import Refused
from training.pretrained.loading import load_model, revision_of


def load_captioner(model: str) -> VisionLanguageModel:
    """Load a captioner from a hub id or a folder, onto the GPU if there is one.

    Args:
        model: A hub id or a folder of a transformers image-text-to-text model with its processor.

    Raises:
        NotFound: The model does not exist.
        Refused: The model has no processor, or is no such model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    load_processor: Any = AutoProcessor.from_pretrained  # untyped in transformers

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = load_model(AutoModelForImageTextToText, model, dtype=dtype)
    try:
        # The Pillow backend: the torchvision backend adds a dependency and differs by device.
        processor = load_processor(model, backend="pil")
    except (OSError, ValueError, ImportError) as error:
        hint = "the tokenizer and processor belong beside the weights; download the whole model"
        raise Refused(
            f"{model} has weights but no processor: {str(error).splitlines()[0][:200]}", hint
        ) from error
    return VisionLanguageModel(
        network.to(device).eval(), processor, f"{model}@{revision_of(model, network)}"
    )


class VisionLanguageModel:
    """A Captioner with greedy decoding: equal images get equal captions."""

    def __init__(self, network: Any, processor: Any, source: str) -> None:
        self.network, self.processor, self.source = network, processor, source
        # Decoder-only models need left padding: generation continues from the last position.
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    @torch.inference_mode()
    def caption(
        self, images: Sequence[NDArray[np.uint8]], prompt: str, max_tokens: int
    ) -> list[str]:
        """Caption each image.

        Args:
            images: RGB images, H x W x 3 uint8 each, of any sizes.
            prompt: The instruction, the same for every image.
            max_tokens: The maximum number of new tokens per caption.
        """
        if not images:
            return []
        from PIL import Image

        inputs = self.processor(
            text=[self._question(prompt)] * len(images),
            images=[[Image.fromarray(image)] for image in images],
            padding=True,
            return_tensors="pt",
        ).to(self.network.device, self.network.dtype)
        answers = self.network.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_tokens,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        # Decoder-only models return the prompt tokens in front of the new ones.
        prompt_length = (
            0 if self.network.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        )
        texts = self.processor.batch_decode(answers[:, prompt_length:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _question(self, prompt: str) -> str:
        """Format an image and the prompt with the model's chat template, or plainly without one."""
        if getattr(self.processor, "chat_template", None):
            messages = [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
            ]
            text: str = self.processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
            return text
        return f"{getattr(self.processor, 'image_token', '<image>')}\n{prompt}\n"
