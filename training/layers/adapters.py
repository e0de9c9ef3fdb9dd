"""Layer adapters: for each role of a layer a LoRA of its own, beside the frozen weights that all layers share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from curation.errors import Refused
from training.denoiser.finetuned_weights import copy_over
from training.layers.attention import Stack

_CHOICES: dict[str, re.Pattern[str]] = {
    "attention": re.compile(
        r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$|\.layers\.\d+\.(queries_keys_values|joined)$"
    ),
    "all": re.compile(
        r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$|\.layers\.\d+\.(queries_keys_values|joined)$"
        r"|\.ff\.net\.(0\.proj|2)$|\.layers\.\d+\.(perceptron\.[02]|setting)$"
    ),
}
"""The linear layers that a preset's `layer_modules` means, in UNets of diffusers and in our transformer."""

_NAME = re.compile(r"(?P<role>[a-z]+)\.(?P<module>.+)\.(?P<matrix>lora_[AB])\.weight")


class LowRank(nn.Module):
    """B A x (Hu et al., 2021); a fresh one is 0."""

    def __init__(self, inward: int, outward: int, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Linear(inward, rank, bias=False)
        self.lora_B = nn.Linear(rank, outward, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, states: Tensor) -> Tensor:
        """In its own type, or in autocast's."""
        if not torch.is_autocast_enabled(states.device.type):
            states = states.to(self.lora_A.weight.dtype)
        return linear(linear(states, self.lora_A.weight), self.lora_B.weight)


class LayerAdapters(nn.Module):
    """A LoRA for every role and adapted module: W + scale * B A, with the role of the row that a token is of.

    `learnt` names them `<role>.<module>.lora_A.weight` and `lora_B`, a module by its path within the denoiser, which
    for diffusers' UNets begins with "unet": without its role that is a name of a PEFT LoRA (`to_peft`).
    """

    def __init__(
        self, network: nn.Module, roles: Sequence[str], rank: int, modules: Sequence[str]
    ) -> None:
        """network: the denoiser; modules: the paths of its linear layers. Raises Refused for one that is not there."""
        super().__init__()
        self.rank, self.scale = rank, 1.0
        self.modules_adapted = list(modules)
        self.roles = nn.ModuleDict({role: nn.ModuleDict() for role in roles})
        self._of: dict[tuple[str, str], LowRank] = {}
        for role, of_role in self.roles.items():
            assert isinstance(of_role, nn.ModuleDict)  # noqa: S101 - narrows the type
            for name in modules:
                layer = _linear_at(network, name)
                self._of[role, name] = LowRank(layer.in_features, layer.out_features, rank)
                of_role[name.replace(".", "/")] = self._of[
                    role, name
                ]  # torch's containers know no points in names

    def adapt(self, network: nn.Module, stack: Stack) -> None:
        """Add what the adapters say to what the modules of the denoiser say, for the layers that `stack` tells of.

        By hooks, so that the network's own weights keep their names. A module sees the rows of a batch apart or the
        layers of a picture as one row; either way the first axes count tokens, layer after layer.
        """
        for name in self.modules_adapted:

            def add(
                layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name
            ) -> Tensor | None:
                del layer
                if not stack.roles:
                    return None
                count = len(stack.roles)
                states_PLND = inputs[0].reshape(stack.rows // count, count, -1, inputs[0].shape[-1])
                added = [
                    self._of[role, name](states_PLND[:, place])
                    for place, role in enumerate(stack.roles)
                ]
                return output + self.scale * torch.stack(added, dim=1).reshape(output.shape).to(
                    output.dtype
                )

            _linear_at(network, name).register_forward_hook(add)

    def learnt(self) -> dict[str, Tensor]:
        """The tensors under their stored names, sharing memory with the adapters'."""
        return {
            name.removeprefix("roles.").replace("/", "."): value
            for name, value in self.state_dict().items()
        }

    def load_learnt(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `learnt`, whatever type the tensors have. Raises RuntimeError where they differ."""
        copy_over(self.learnt(), tensors)


def choose_modules(network: nn.Module, choice: str) -> list[str]:
    """The paths of what `layer_modules` means within a denoiser; layers that PEFT has adapted already are one each."""
    wanted = _CHOICES[choice]
    return [
        name
        for name, module in network.named_modules()
        if wanted.search(name) and hasattr(module, "in_features")
    ]


def modules_in(tensors: Mapping[str, Tensor]) -> list[str]:
    """The paths of the modules that stored adapters adapt. Raises Refused for names that are no layer adapters'."""
    return list(dict.fromkeys(module for _, module, _ in _names(tensors)))


def roles_in(tensors: Mapping[str, Tensor]) -> list[str]:
    """The roles that have adapters in a stored part."""
    return list(dict.fromkeys(role for role, _, _ in _names(tensors)))


def to_peft(tensors: Mapping[str, Tensor], role: str) -> dict[str, Tensor]:
    """One role's adapters in the names of a PEFT LoRA of the denoiser: `unet.<module>.lora_A.weight`, and `lora_B`.

    Raises Refused where the role has none.
    """
    found = {
        name.removeprefix(f"{role}."): value
        for name, value in tensors.items()
        if name.startswith(f"{role}.")
    }
    if not found:
        raise Refused(
            f"there are no adapters of the role {role!r}",
            f"there are {', '.join(roles_in(tensors))}",
        )
    return found


def from_peft(tensors: Mapping[str, Tensor], role: str) -> dict[str, Tensor]:
    """The inverse of `to_peft`; the parts of several roles are one part when they are put together."""
    named = {f"{role}.{name}": value for name, value in tensors.items()}
    _ = modules_in(named)
    return named


def _names(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    for name in tensors:
        found = _NAME.fullmatch(name)
        if found is None:
            raise Refused(
                f"{name!r} is no tensor of a layer adapter",
                "it is named <role>.<module>.lora_A.weight",
            )
        yield found["role"], found["module"], found["matrix"]


def _linear_at(network: nn.Module, name: str) -> Any:
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise Refused(
            f"the denoiser has no {name!r} to adapt", "are the adapters of another model?"
        ) from None
