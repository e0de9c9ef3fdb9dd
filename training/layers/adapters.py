"""Layer adapters: a LoRA for each layer role, on the frozen weights that all layers share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from curation.errors import Refused
from training.denoiser.finetuned_weights import copy_tensors
from training.layers.attention import LayerLayout

_CHOICES: dict[str, re.Pattern[str]] = {
    "attention": re.compile(
        r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$|\.layers\.\d+\.(queries_keys_values|joined)$"
    ),
    "all": re.compile(
        r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$|\.layers\.\d+\.(queries_keys_values|joined)$"
        r"|\.ff\.net\.(0\.proj|2)$|\.layers\.\d+\.(perceptron\.[02]|setting)$"
    ),
}
"""The linear layers of each `layer_modules` choice, in diffusers UNets and our transformer."""

_NAME = re.compile(r"(?P<role>[a-z]+)\.(?P<module>.+)\.(?P<matrix>lora_[AB])\.weight")


class LowRankAdapter(nn.Module):
    """The product B A x (Hu et al., 2021), which is 0 before training."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Linear(in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, states: Tensor) -> Tensor:
        """Apply the adapter, in its own dtype or in that of autocast."""
        if not torch.is_autocast_enabled(states.device.type):
            states = states.to(self.lora_A.weight.dtype)
        return linear(linear(states, self.lora_A.weight), self.lora_B.weight)


class LayerAdapters(nn.Module):
    """A LoRA per role and adapted module: W + scale * B A, with the role of each token's row.

    `finetuned_state_dict` names tensors `<role>.<module>.lora_A.weight` and `lora_B`, where a
    module is its path within the denoiser, which begins with "unet" for diffusers UNets: without
    the role these are the names of a PEFT LoRA (`to_peft`).
    """

    def __init__(
        self, network: nn.Module, roles: Sequence[str], rank: int, modules: Sequence[str]
    ) -> None:
        """Create adapters that have no effect before training.

        Args:
            network: The denoiser.
            roles: Roles that get adapters.
            rank: Rank of all adapters.
            modules: Paths of the adapted linear layers.

        Raises:
            Refused: The denoiser has no such module.
        """
        super().__init__()
        self.rank, self.scale = rank, 1.0
        self.module_paths = list(modules)
        self.roles = nn.ModuleDict({role: nn.ModuleDict() for role in roles})
        self._adapters: dict[tuple[str, str], LowRankAdapter] = {}
        for role, role_adapters in self.roles.items():
            assert isinstance(role_adapters, nn.ModuleDict)  # noqa: S101 - narrows the type
            for name in modules:
                layer = _linear_at(network, name)
                self._adapters[role, name] = LowRankAdapter(
                    layer.in_features, layer.out_features, rank
                )
                # ModuleDict does not allow dots in names.
                role_adapters[name.replace(".", "/")] = self._adapters[role, name]

    def install(self, network: nn.Module, stack: LayerLayout) -> None:
        """Add the adapters to the denoiser's modules, for the layers that `stack` describes.

        Forward hooks leave the names of the network's weights unchanged. A module gets one row per
        layer, or one row with all layers of an image; in both cases the leading axes enumerate
        tokens layer by layer.

        Args:
            network: The denoiser.
            stack: Describes the rows of the next forward pass; without roles nothing is added.
        """
        for name in self.module_paths:

            def add(
                layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name
            ) -> Tensor | None:
                del layer
                if not stack.roles:
                    return None
                # Restore the layer axis, and apply each role's adapter to its layer.
                count = len(stack.roles)
                states_PLND = inputs[0].reshape(stack.rows // count, count, -1, inputs[0].shape[-1])
                added = [
                    self._adapters[role, name](states_PLND[:, index])
                    for index, role in enumerate(stack.roles)
                ]
                change = torch.stack(added, dim=1).reshape(output.shape)
                return output + self.scale * change.to(output.dtype)

            _linear_at(network, name).register_forward_hook(add)

    def finetuned_state_dict(self) -> dict[str, Tensor]:
        """Return the tensors under their stored names, sharing memory with the adapters."""
        return {
            name.removeprefix("roles.").replace("/", "."): value
            for name, value in self.state_dict().items()
        }

    def load_finetuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Load fine-tuned tensors of any dtype. Raises RuntimeError on mismatch."""
        copy_tensors(self.finetuned_state_dict(), tensors)


def find_modules(network: nn.Module, choice: str) -> list[str]:
    """Return the module paths of a `layer_modules` choice; a PEFT-wrapped layer counts once."""
    pattern = _CHOICES[choice]
    return [
        name
        for name, module in network.named_modules()
        if pattern.search(name) and hasattr(module, "in_features")
    ]


def modules_in(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the adapted modules of stored adapters. Raises Refused for other tensors."""
    return list(dict.fromkeys(module for _, module, _ in _names(tensors)))


def roles_in(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the roles of stored adapters. Raises Refused for other tensors."""
    return list(dict.fromkeys(role for role, _, _ in _names(tensors)))


def to_peft(tensors: Mapping[str, Tensor], role: str) -> dict[str, Tensor]:
    """Return one role's adapters under the names of a PEFT LoRA: `unet.<module>.lora_A.weight`.

    Args:
        tensors: Stored adapters.
        role: The role.

    Raises:
        Refused: The role has no adapters.
    """
    adapters = {
        name.removeprefix(f"{role}."): value
        for name, value in tensors.items()
        if name.startswith(f"{role}.")
    }
    if not adapters:
        raise Refused(
            f"no adapters of the role {role!r}",
            f"the roles are {', '.join(roles_in(tensors))}",
        )
    return adapters


def from_peft(tensors: Mapping[str, Tensor], role: str) -> dict[str, Tensor]:
    """Invert `to_peft`; merge the results of several roles for a whole part. Raises Refused."""
    named = {f"{role}.{name}": value for name, value in tensors.items()}
    _ = modules_in(named)  # checks the names
    return named


def _names(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """Yield role, module and matrix of each tensor's name. Raises Refused for other names."""
    for name in tensors:
        found = _NAME.fullmatch(name)
        if found is None:
            raise Refused(
                f"{name!r} is not a tensor of a layer adapter",
                "tensors are named <role>.<module>.lora_A.weight and lora_B",
            )
        yield found["role"], found["module"], found["matrix"]


def _linear_at(network: nn.Module, name: str) -> Any:
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise Refused(
            f"the denoiser has no module {name!r}", "the adapters may belong to another model"
        ) from None
