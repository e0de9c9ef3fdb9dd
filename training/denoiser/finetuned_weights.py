"""Fine-tuned weights of a diffusers UNet: load them over pretrained ones, and collect them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.attention_sharing import attention_names, install_attention_sharing

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections with LoRA in every attention, as in the released ones (560 modules in SDXL)."""

_HOOKS = "hookers.layers."


def add_adapter(
    unet: Any, rank: int, alpha: float, modules: tuple[str, ...] | list[str] = PROJECTIONS
) -> None:
    """Add a LoRA through PEFT that has no effect yet: W + alpha / rank * B A with B = 0.

    Args:
        unet: The UNet (Hu et al., 2021, adapt its linear layers).
        rank: Rank of the update.
        alpha: Scale of the update, times the rank.
        modules: Names or name suffixes of the adapted modules.
    """
    from peft import LoraConfig

    settings: Any = {"r": rank, "lora_alpha": alpha, "init_lora_weights": "gaussian"}
    unet.add_adapter(LoraConfig(target_modules=list(modules), **settings))


def load_finetuned(unet: Any, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Load a stored base into the UNet of its model, in place.

    A conv_in with more channels than the model's widens it.

    Args:
        unet: The pretrained UNet.
        tensors: The stored tensors.
        metadata: Their metadata. "kind" is "adapter" (a LoRA named `unet.<module>.lora_A.weight`
            and `lora_B`, with "rank" and "alpha"), "weights" (all weights under the UNet's names),
            "difference" (the same names, added to the weights) or "sharing" (released attention
            sharing of SD 1.5).

    Returns:
        The kind to train further: "weights" for a difference, else the same.

    Raises:
        Refused: The kind is unknown.
        RuntimeError: Names or shapes differ.
    """
    kind = metadata["kind"]
    match kind:
        case "adapter":
            # The adapted modules follow from the names.
            modules = [
                name.removesuffix(".lora_A.weight").removeprefix("unet.") for name in tensors
            ]
            add_adapter(
                unet,
                int(metadata["rank"]),
                float(metadata["alpha"]),
                [m for m in modules if ".lora_B" not in m],
            )
            copy_finetuned(unet, kind, tensors)
        case "sharing":
            install_attention_sharing(unet, tensors)
        case "weights":
            _widen(unet, tensors)
            copy_finetuned(unet, kind, tensors)
        case "difference":
            _widen(unet, tensors)
            _add(unet, tensors)
            kind = "weights"
        case _:
            raise Refused(f"unknown kind of base: {kind!r}", "upgrade Layerloop")
    return kind


def finetuned_state_dict(unet: Any, kind: str) -> dict[str, Tensor]:
    """Return the trained tensors under their stored names, sharing the UNet's memory."""
    state: dict[str, Tensor] = unet.state_dict()
    match kind:
        case "adapter":
            return {
                f"unet.{name.replace('.default', '')}": value
                for name, value in state.items()
                if ".lora_" in name
            }
        case "sharing":
            # Attentions are numbered as in the released file.
            tensors: dict[str, Tensor] = {}
            for index, name in enumerate(attention_names(unet)):
                start = f"{name}.processor."
                tensors |= {
                    f"{_HOOKS}{index}.{key.removeprefix(start)}": state[key]
                    for key in state
                    if key.startswith(start)
                }
            return tensors
        case _:
            return state


def trainable_parameters(unet: nn.Module, kind: str) -> list[nn.Parameter]:
    """Return the parameters for the optimizer."""
    part = {"adapter": ".lora_", "sharing": ".processor."}.get(kind, "")
    return [parameter for name, parameter in unet.named_parameters() if part in name]


def copy_finetuned(unet: Any, kind: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy stored tensors, of any dtype, over the trained ones. Raises RuntimeError on mismatch."""
    copy_tensors(finetuned_state_dict(unet, kind), tensors)


@torch.no_grad()
def copy_tensors(target: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors over those of the same names, in place. Raises RuntimeError on mismatch."""
    differing = sorted(target.keys() ^ tensors.keys())
    if differing:
        raise RuntimeError(
            f"{len(differing)} tensors exist on one side only, such as {differing[0]}"
        )
    for name, value in target.items():
        if value.shape != tensors[name].shape:
            raise RuntimeError(
                f"{name} is {tuple(tensors[name].shape)} there and {tuple(value.shape)} here"
            )
        value.copy_(tensors[name])


@torch.no_grad()
def _add(unet: Any, tensors: Mapping[str, Tensor]) -> None:
    """Add stored differences to the UNet's weights, in float32."""
    own: dict[str, Tensor] = unet.state_dict()
    # PEFT renames the weights of layers that already have an adapter.
    own |= {
        name.replace(".base_layer.", "."): value
        for name, value in own.items()
        if ".base_layer." in name
    }
    for name, difference in tensors.items():
        if name not in own or own[name].shape != difference.shape:
            raise RuntimeError(f"{name} of {tuple(difference.shape)} is not a tensor of this UNet")
        own[name].copy_(own[name].float() + difference.to(own[name].device, torch.float32))


def _widen(unet: Any, tensors: Mapping[str, Tensor]) -> None:
    """Widen conv_in with zeros to the stored channels, which take conditions."""
    stored, old = tensors.get("conv_in.weight"), unet.conv_in
    if stored is None or stored.ndim != 4 or stored.shape[1] <= old.in_channels:
        return
    # Some LayerDiffuse models concatenate condition latents to the noisy latent.
    wider = nn.Conv2d(stored.shape[1], old.out_channels, old.kernel_size, padding=old.padding)
    wider.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        wider.weight.zero_()[:, : old.in_channels] = old.weight
        wider.bias.copy_(old.bias)  # type: ignore[union-attr]
    unet.conv_in = wider
    unet.register_to_config(in_channels=stored.shape[1])
