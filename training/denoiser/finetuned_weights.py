"""Fine-tuned weights of a diffusers UNet beside its pretrained ones: load them, and collect them for storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from curation.errors import Refused
from training.denoiser.attention_sharing import attention_names, share_attention

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""What an adapter adapts, in every attention of a UNet, as the released ones (560 places in SDXL) do."""

_HOOKS = "hookers.layers."


def add_adapter(
    unet: Any, rank: int, alpha: float, modules: tuple[str, ...] | list[str] = PROJECTIONS
) -> None:
    """A LoRA that changes nothing yet (Hu et al., 2021: W + alpha / rank * B A, with B = 0), through PEFT."""
    from peft import LoraConfig

    given: Any = {"r": rank, "lora_alpha": alpha, "init_lora_weights": "gaussian"}
    unet.add_adapter(LoraConfig(target_modules=list(modules), **given))


def teach(unet: Any, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """Put a stored base into the UNet of its model, in place, and return the kind in which it goes on learning.

    facts["kind"]: "adapter" (with "rank" and "alpha"; names `unet.<module>.lora_A.weight` and `lora_B`), "weights"
    (the UNet's own names, all of them), "difference" (the same names, to be added; after it all weights learn), or
    "sharing" (released attention sharing of SD 1.5). A conv_in of more channels than the model's widens it. Raises
    Refused for an unknown kind, RuntimeError where names or sizes differ.
    """
    kind = facts["kind"]
    match kind:
        case "adapter":
            modules = [
                name.removesuffix(".lora_A.weight").removeprefix("unet.") for name in tensors
            ]
            add_adapter(
                unet,
                int(facts["rank"]),
                float(facts["alpha"]),
                [m for m in modules if ".lora_B" not in m],
            )
            replace_learnt(unet, kind, tensors)
        case "sharing":
            share_attention(unet, tensors)
        case "weights":
            _widen(unet, tensors)
            replace_learnt(unet, kind, tensors)
        case "difference":
            _widen(unet, tensors)
            _add(unet, tensors)
            kind = "weights"
        case _:
            raise Refused(f"a base of kind {kind!r} is not known here", "upgrade Layerloop")
    return kind


def learnt_of(unet: Any, kind: str) -> dict[str, Tensor]:
    """The tensors that training changes, by the names under which they are stored; they share the UNet's memory."""
    state: dict[str, Tensor] = unet.state_dict()
    match kind:
        case "adapter":
            return {
                f"unet.{name.replace('.default', '')}": value
                for name, value in state.items()
                if ".lora_" in name
            }
        case "sharing":
            learnt: dict[str, Tensor] = {}
            for place, name in enumerate(attention_names(unet)):
                start = f"{name}.processor."
                learnt |= {
                    f"{_HOOKS}{place}.{key.removeprefix(start)}": state[key]
                    for key in state
                    if key.startswith(start)
                }
            return learnt
        case _:
            return state


def learning(unet: nn.Module, kind: str) -> list[nn.Parameter]:
    """The parameters that an optimiser gets."""
    part = {"adapter": ".lora_", "sharing": ".processor."}.get(kind, "")
    return [parameter for name, parameter in unet.named_parameters() if part in name]


def replace_learnt(unet: Any, kind: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy stored tensors over the learnt ones, whatever type they have. Raises RuntimeError where they differ."""
    copy_over(learnt_of(unet, kind), tensors)


@torch.no_grad()
def copy_over(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors over those of the same names, in place. Raises RuntimeError where names or sizes differ."""
    differing = sorted(own.keys() ^ tensors.keys())
    if differing:
        raise RuntimeError(f"{len(differing)} tensors are on one side only, {differing[0]} for one")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise RuntimeError(
                f"{name} is {tuple(tensors[name].shape)} there and {tuple(value.shape)} here"
            )
        value.copy_(tensors[name])


@torch.no_grad()
def _add(unet: Any, tensors: Mapping[str, Tensor]) -> None:
    own: dict[str, Tensor] = unet.state_dict()
    # PEFT moves the weights of a layer that has an adapter already.
    own |= {
        name.replace(".base_layer.", "."): value
        for name, value in own.items()
        if ".base_layer." in name
    }
    for name, difference in tensors.items():
        if name not in own or own[name].shape != difference.shape:
            raise RuntimeError(f"{name} of {tuple(difference.shape)} is no tensor of this UNet")
        own[name].copy_(own[name].float() + difference.to(own[name].device, torch.float32))


def _widen(unet: Any, tensors: Mapping[str, Tensor]) -> None:
    """More channels for conv_in where the stored one has them, of zeros: conditions stand beside the noisy latent."""
    stored, old = tensors.get("conv_in.weight"), unet.conv_in
    if stored is None or stored.ndim != 4 or stored.shape[1] <= old.in_channels:
        return
    wider = nn.Conv2d(stored.shape[1], old.out_channels, old.kernel_size, padding=old.padding)
    wider.to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        wider.weight.zero_()[:, : old.in_channels] = old.weight
        wider.bias.copy_(old.bias)  # type: ignore[union-attr]
    unet.conv_in = wider
    unet.register_to_config(in_channels=stored.shape[1])
