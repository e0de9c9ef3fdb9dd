"""A tiny CLIP in the format of transformers, with random weights and images of 8 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
)

from tests.training.pretrained import make_tokenizer


def write_clip(folder: Path) -> Path:
    """Write the model with save_pretrained; return its folder."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    small: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "initializer_range": 1.0,
    }  # fmt: skip
    text = CLIPTextConfig(
        **small, vocab_size=len(tokenizer), pad_token_id=tokenizer.eos_token_id, **marks
    )
    vision = CLIPVisionConfig(**small, image_size=8, patch_size=4)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
