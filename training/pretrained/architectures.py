"""Pretrained models' networks built from their configurations, without downloading weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from training.presets.preset import Preset

_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}

CONFIGS: dict[str, dict[str, Mapping[str, Any]]] = {
    "sd15": {"vae": _VAE, "unet": _UNET, "text_encoder": _TEXT},
    "sd21": {
        "vae": _VAE,
        "unet": _UNET
        | {
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
        "text_encoder": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
        },
    },
    "sdxl": {
        "vae": _VAE | {"scaling_factor": 0.13025, "force_upcast": True},
        "unet": {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "text_encoder": _TEXT,
        "text_encoder_2": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        },
    },
    "sd3": {
        "vae": _VAE
        | {
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        }
    },
}
"""The original models' configurations by family and part: config.json without default values."""


def build_part(preset: Preset, part: str) -> nn.Module:
    """Build a part of the preset's model with untrained weights.

    The configuration is that of the model's folder or of the hub's cache, or else that of the
    family's original model.

    Args:
        preset: The preset.
        part: "vae", "unet", "text_encoder" or "text_encoder_2".
    """
    config = dict(_find_config(preset, part))
    kind: Any
    if part.startswith("text_encoder"):
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        kind = CLIPTextModelWithProjection if part.endswith("_2") else CLIPTextModel
        built: nn.Module = kind(CLIPTextConfig(**config))
        return built
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind = AutoencoderKL if part == "vae" else UNet2DConditionModel
    network: nn.Module = kind.from_config(config)
    return network


def _find_config(preset: Preset, part: str) -> Mapping[str, Any]:
    """Return a part's configuration without network access."""
    from huggingface_hub import try_to_load_from_cache

    model = preset.model or ""
    files = [
        Path(model) / part / "config.json",
        *([Path(model) / "config.json"] if part == "vae" else []),
    ]
    # A hub id: look into the local cache.
    if not Path(model).is_dir() and not model.startswith(("/", ".", "~")):
        cached = try_to_load_from_cache(model, f"{part}/config.json")
        files = [Path(cached)] if isinstance(cached, str) else []
    for file in files:
        if file.is_file():
            config: Mapping[str, Any] = json.loads(file.read_text())
            return config
    return CONFIGS[preset.family or "sd15"][part]
