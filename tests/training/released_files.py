"""Files in the layouts of released weights with random values, and their shapes at full size."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from tests.training.pretrained import make_unet
from training.denoiser.attention_sharing import attention_names
from training.denoiser.shared_attention import SharedAttention
from training.external_weights import WeightsHeader
from training.interop.key_mapping import to_ldm
from training.presets.preset import Preset
from training.transparency.networks import Transparency

REAL_SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REAL_SD15: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}

TINY_SD15: dict[str, Any] = {  # the topology of SD 1.5: three levels of four attend
    "layers_per_block": 2,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "attention_head_dim": 2,
}
SD15_CHANNELS = (16, 32, 32, 32)
TINY_SDXL: dict[str, Any] = {"layers_per_block": 2}
SDXL_CHANNELS = (16, 32, 32)


def real_unet(config: Mapping[str, Any]) -> Any:
    """Return a UNet of the size of a released model on the meta device."""
    kind: Any = UNet2DConditionModel
    with torch.device("meta"):
        return kind(**config)


def tiny_sd15() -> Any:
    torch.manual_seed(0)
    return make_unet(SD15_CHANNELS, cross_attention_dim=24, **TINY_SD15)


def fill(
    shapes: Mapping[str, tuple[int, ...]], seed: int = 0, dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """Return tensors of small random values."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=rng) * 0.05).to(dtype) for name, shape in shapes.items()
    }


def write(
    path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int = 0, **metadata: str
) -> Path:
    save_file(fill(shapes, seed), path, metadata or None)
    return path


def header(shapes: Mapping[str, tuple[int, ...]]) -> WeightsHeader:
    """Return the header of a file that does not exist."""
    return WeightsHeader(Path("some.safetensors"), shapes, {})


def network_shapes(preset: Preset, network: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = getattr(Transparency(preset), network).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def adapted(unet: Any, rank: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the shapes (down, up) of every attention projection."""
    found = {}
    for name in attention_names(unet):
        attn = unet.get_submodule(name)
        for part, layer in {
            "to_q": attn.to_q,
            "to_k": attn.to_k,
            "to_v": attn.to_v,
            "to_out.0": attn.to_out[0],
        }.items():
            found[f"{name}.{part}"] = (rank, layer.in_features), (layer.out_features, rank)
    return found


def patch_shapes(unet: Any, rank: int, family: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layer_xl_transparent_attn."""
    shapes = {}
    for module, (down, up) in adapted(unet, rank).items():
        key = f"diffusion_model.{to_ldm(module, family)}.weight::lora::"
        shapes |= {f"{key}0": up, f"{key}1": down}
    return shapes


def peft_shapes(unet: Any, rank: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of diffuser_layer_xl_transparent_attn."""
    shapes = {}
    for module, (down, up) in adapted(unet, rank).items():
        shapes |= {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up}
    return shapes


def difference_shapes(unet: Any, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layer_xl_fg2ble and similar files under names of diffusers."""
    left_out = (".attentions.", "time_embedding", "add_embedding")
    state = {
        n: tuple(v.shape)
        for n, v in unet.state_dict().items()
        if not any(part in n for part in left_out)
    }
    wide = state["conv_in.weight"]
    return state | {"conv_in.weight": (wide[0], channels, *wide[2:])}


def patched(shapes: Mapping[str, tuple[int, ...]], family: str) -> dict[str, tuple[int, ...]]:
    """Return shapes under the names of layerdiffusion-v1."""
    return {
        f"diffusion_model.{to_ldm(name, family)}::diff::0": shape for name, shape in shapes.items()
    }


def sharing_shapes(
    unet: Any, frames: int, rank: int, *, controlled: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layer_sd15_transparent_attn (1 frame), joint (3), fg2bg or bg2fg (2)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(attention_names(unet)):
        attn = unet.get_submodule(name)
        width = attn.to_q.in_features
        with torch.device("meta"):
            unit = SharedAttention(width, attn.to_k.in_features, attn.heads, frames, rank)
        own = {part: tuple(value.shape) for part, value in unit.state_dict().items()}
        for frame in range(frames if controlled else 0):
            own |= {
                f"control_convs.{frame}.0.weight": (256, 256, 3, 3),
                f"control_convs.{frame}.0.bias": (256,),
            }
            own |= {
                f"control_convs.{frame}.2.weight": (width, 256, 1, 1),
                f"control_convs.{frame}.2.bias": (width,),
            }
        shapes |= {f"hookers.layers.{index}.{part}": shape for part, shape in own.items()}
    widths = {
        "blocks_0": [3, 32, 32, 64, 64, 128, 128, 256, 256],
        **{f"blocks_{n}": [256] * 3 for n in (1, 2, 3)},
    }
    for block, row in widths.items() if controlled else ():
        for index, (inward, outward) in enumerate(pairwise(row)):
            key = f"kwargs_encoder.{block}.{2 * index}"
            shapes |= {f"{key}.weight": (outward, inward, 3, 3), f"{key}.bias": (outward,)}
    return shapes


def identical(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether names, dtypes and all bits are equal."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
        for name in first
    )
