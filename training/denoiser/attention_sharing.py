"""Attention sharing as in layerdiffusion-v1 (SD 1.5): LoRAs in every attention, across layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.control import ConditionsEncoder
from training.denoiser.shared_attention import SharedAttention

_SIDES = ("down_blocks", "up_blocks", "mid_block")
"""The order of attentions in a released file: the middle block comes last."""

_PART = re.compile(r"hookers\.layers\.(\d+)\.(.+)")
_ENCODER = "kwargs_encoder."


@dataclass(frozen=True)
class AttentionSharing:
    """Attention sharing of one UNet: a processor per attention, and the control image encoder."""

    processors: Mapping[str, SharedAttention]  # by name of the attention
    encoder: ConditionsEncoder | None

    @property
    def frames(self) -> int:
        """Number of layers that are generated together."""
        return next(iter(self.processors.values())).frames

    def stored(self, unet: Any) -> dict[str, Tensor]:
        """Return the tensors under the names of the released file."""
        tensors = (
            {}
            if self.encoder is None
            else {f"{_ENCODER}{n}": v for n, v in self.encoder.state_dict().items()}
        )
        for index, name in enumerate(attention_names(unet)):
            state = self.processors[name].state_dict()
            tensors |= {f"hookers.layers.{index}.{part}": value for part, value in state.items()}
        return tensors

    @torch.no_grad()
    def set_control(self, unet: Any, control_P3HW: Tensor | None) -> None:
        """Condition sampling on control images; None removes them.

        Args:
            unet: The UNet that the processors belong to.
            control_P3HW: Images in [-1, 1] composited over gray; sides are multiples of 8.
        """
        levels = (
            None if control_P3HW is None or self.encoder is None else self._levels(control_P3HW)
        )
        depth = len(unet.down_blocks)
        for name, processor in self.processors.items():
            processor.set_control(levels[_level(name, depth)] if levels else None)

    def _levels(self, control_P3HW: Tensor) -> list[Tensor]:
        assert self.encoder is not None  # noqa: S101 - narrows
        weight = next(iter(self.processors.values())).temporal_i.weight
        levels: list[Tensor] = self.encoder.to(weight.device)(
            control_P3HW.to(weight.device, torch.float32)
        )
        return levels


def install_attention_sharing(unet: Any, tensors: Mapping[str, Tensor]) -> AttentionSharing:
    """Install released attention sharing in a diffusers UNet of SD 1.5, in place.

    Processors that were set before, such as an IP-Adapter's, are replaced.

    Args:
        unet: The UNet.
        tensors: The tensors under the names of the released file.

    Raises:
        Refused: The tensors do not fit the UNet.
    """
    sharing = build_attention_sharing(unet, tensors)
    for name, processor in sharing.processors.items():
        unet.get_submodule(name).set_processor(processor)
    if sharing.encoder is not None:
        unet.kwargs_encoder = sharing.encoder
    return sharing


def build_attention_sharing(unet: Any, tensors: Mapping[str, Tensor]) -> AttentionSharing:
    """Build attention sharing for a UNet without changing it.

    Processors take the UNet's dtype; the encoder of control images stays float32.

    Args:
        unet: The UNet.
        tensors: The tensors under the names of the released file.

    Raises:
        Refused: The tensors do not fit the UNet.
    """
    # Group the tensors by the number of their attention.
    parts: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        found = _PART.fullmatch(name)
        if found is not None:
            parts.setdefault(int(found[1]), {})[found[2]] = value
        elif not name.startswith(_ENCODER):
            raise Refused(
                f"{name!r} is not a tensor of attention sharing",
                "the file is damaged, or of another kind",
            )
    # Attentions are numbered in the order of the released file.
    names = attention_names(unet)
    if sorted(parts) != list(range(len(names))):
        raise Refused(
            f"the file has {len(parts)} attentions, the model has {len(names)}",
            "attention sharing fits models of SD 1.5",
        )
    processors = {
        name: _processor(name, unet.get_submodule(name), parts[index])
        for index, name in enumerate(names)
    }
    return AttentionSharing(processors, _encoder(tensors, unet))


def _processor(name: str, attn: Any, parts: Mapping[str, Tensor]) -> SharedAttention:
    # The sizes of the module follow from the names and shapes of its tensors.
    frames = sum(part.endswith(".down.weight") and part.startswith("to_q_lora.") for part in parts)
    rank = len(parts["to_q_lora.0.down.weight"])
    controlled = any(part.startswith("control_convs.") for part in parts)
    widths = attn.to_q.in_features, attn.to_k.in_features
    # On the meta device nothing is initialized that is overwritten anyway.
    with torch.device("meta"):
        shared = SharedAttention(*widths, attn.heads, frames, rank, controlled=controlled)
    like = attn.to_q.weight
    _load(shared, {part: value.to(like.device, like.dtype) for part, value in parts.items()}, name)
    return shared


def _encoder(tensors: Mapping[str, Tensor], unet: Any) -> ConditionsEncoder | None:
    device = next(unet.parameters()).device
    own = {
        name.removeprefix(_ENCODER): tensor.to(device, torch.float32)
        for name, tensor in tensors.items()
        if _ENCODER in name
    }
    if not own:
        return None
    with torch.device("meta"):
        encoder = ConditionsEncoder()
    _load(encoder, own, "the encoder of the control layer")
    return encoder


def _load(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise Refused(
            f"{name} does not fit: {str(error)[:200]}", "attention sharing fits models of SD 1.5"
        ) from error


def _level(name: str, depth: int) -> int:
    """Return an attention's level in the UNet: 0 at the latent's size, halved at each level."""
    side, index = name.split(".")[:2]
    if side == "mid_block":
        return depth - 1
    return int(index) if side == "down_blocks" else depth - 1 - int(index)


def attention_names(unet: nn.Module) -> list[str]:
    """Return a UNet's attentions in the released order: down, up, middle; attn1 before attn2."""

    def order(name: str) -> tuple[int, list[int]]:
        return _SIDES.index(name.partition(".")[0]), [
            int(digits) for digits in re.findall(r"\d+", name)
        ]

    return sorted((n for n, _ in unet.named_modules() if re.search(r"\.attn[12]$", n)), key=order)
