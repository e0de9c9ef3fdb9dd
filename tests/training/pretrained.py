"""Tiny pretrained models with random weights, as diffusers folders with safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_WIDTH = 32
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def write_sd15(
    folder: Path, channels: tuple[int, ...] = (32, 64), variant: str | None = None, **unet: Any
) -> Path:
    """Write a StableDiffusionPipeline: stride 8, 4 latent channels, noise prediction."""
    torch.manual_seed(15)
    parts: dict[str, Any] = {
        "vae": make_vae(),
        "unet": make_unet(channels, cross_attention_dim=TEXT_WIDTH, **unet),
        "text_encoder": CLIPTextModel(_text_config()).eval(),
        "tokenizer": make_tokenizer(),
        "scheduler": DDIMScheduler(
            **BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False
        ),
    }
    pipeline: Any = StableDiffusionPipeline
    extras = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline(**parts, **extras).save_pretrained(folder, variant=variant)
    return folder


def write_sd21(folder: Path, channels: tuple[int, ...] = (32, 64)) -> Path:
    """Write the same architecture with v prediction."""
    write_sd15(folder, channels, use_linear_projection=True)
    scheduler: Any = DDIMScheduler
    options = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
    scheduler(**BETAS, **options, prediction_type="v_prediction").save_pretrained(
        folder / "scheduler"
    )
    return folder


def write_sdxl(
    folder: Path,
    channels: tuple[int, ...] = (32, 64),
    *,
    zeros: bool = True,
    texts: tuple[int, int] = (TEXT_WIDTH, TEXT_WIDTH),
    **unet: Any,
) -> Path:
    """Write a StableDiffusionXLPipeline: two text encoders, pooled text and size conditions."""
    torch.manual_seed(20)
    config: dict[str, Any] = {
        "cross_attention_dim": sum(texts),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + texts[1],
        "use_linear_projection": True,
        "transformer_layers_per_block": (1,) * len(channels),
    }
    parts: dict[str, Any] = {
        "vae": make_vae(force_upcast=True, scaling_factor=0.13025),
        "unet": make_unet(channels, **(config | unet)),
        "text_encoder": CLIPTextModel(_text_config(texts[0])).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(_text_config(texts[1])).eval(),
        "tokenizer": make_tokenizer(),
        "tokenizer_2": make_tokenizer(),
        "scheduler": EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
    }
    pipeline: Any = StableDiffusionXLPipeline
    pipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False).save_pretrained(
        folder
    )
    return folder


def write_vae(folder: Path, channels: int = 4, **config: Any) -> Path:
    """Write an autoencoder; one with 16 channels is as in SD 3 and Flux."""
    torch.manual_seed(channels)
    if channels == 16:
        config = {"shift_factor": 0.0609, "scaling_factor": 1.5305} | config
        config = {"use_quant_conv": False, "use_post_quant_conv": False} | config
    make_vae(latent_channels=channels, **config).save_pretrained(folder)
    return folder


def make_vae(**config: Any) -> Any:
    """Return a small AutoencoderKL, 8 image pixels per latent pixel."""
    kind: Any = AutoencoderKL
    return kind(
        **{
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (8, 8, 8, 8),
            "norm_num_groups": 4,
            "latent_channels": 4,
            "sample_size": 64,
        }
        | config
    ).eval()


def make_unet(channels: tuple[int, ...] = (32, 64), **config: Any) -> Any:
    """Return a small UNet2DConditionModel without attention at its first level, as in SDXL."""
    kind: Any = UNet2DConditionModel
    return kind(
        **{
            "sample_size": 8,
            "block_out_channels": channels,
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * (len(channels) - 1)),
            "up_block_types": (*["CrossAttnUpBlock2D"] * (len(channels) - 1), "UpBlock2D"),
            "attention_head_dim": tuple(max(1, width // 16) for width in channels),
            "norm_num_groups": 8,
        }
        | config
    ).eval()


def _text_config(width: int = TEXT_WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=64,
        projection_dim=width,
        num_attention_heads=4,
        num_hidden_layers=3,
        vocab_size=len(_vocabulary()),
        bos_token_id=len(_vocabulary()) - 2,
        eos_token_id=len(_vocabulary()) - 1,
        pad_token_id=len(_vocabulary()) - 1,
    )


def _vocabulary() -> dict[str, int]:
    """Return letters, letters that end a word, and special tokens, as in CLIP's vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-'\"!?()"
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}


def make_tokenizer() -> CLIPTokenizer:
    kind: Any = CLIPTokenizer
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    with TemporaryDirectory() as words:
        Path(words, "vocab.json").write_text(json.dumps(_vocabulary()))
        Path(words, "merges.txt").write_text("#version: 0.2\n")
        tokenizer: CLIPTokenizer = kind.from_pretrained(
            words, pad_token="<|endoftext|>", model_max_length=77, **marks
        )
    return tokenizer
