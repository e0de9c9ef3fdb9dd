"""The denoiser of adjusted latents under a prompt, whichever network it is: what all of them answer to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditions:
    """What a denoiser is told besides the noisy latent; the first axis of every tensor is the batch."""

    states_BLD: Tensor  # the text's words
    mask_BL: Tensor | None = None  # True where there is a word; None where every state counts
    pooled_BP: Tensor | None = None  # the whole text, where the family wants it (SDXL)
    sizes_B6: Tensor | None = (
        None  # original height, width, crop top, left, target height, width, pixels (SDXL)
    )

    def take(self, rows: Sequence[int] | slice) -> Conditions:
        """Some rows of the batch."""
        return self.map(lambda _, tensor: tensor[rows])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditions:
        """Elsewhere; states and pooled text in that type, sizes and masks as they are."""
        told = {"states_BLD", "pooled_BP"}
        return self.map(lambda name, tensor: tensor.to(device, dtype if name in told else None))

    @staticmethod
    def join(parts: Sequence[Conditions]) -> Conditions:
        """Batches one after another; all of them have the same tensors and the same length of text."""
        return parts[0].map(lambda name, _: torch.cat([getattr(part, name) for part in parts]))

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Conditions:
        """The same tensors, each changed by its name; those that are absent stay so."""
        present = ((field.name, getattr(self, field.name)) for field in fields(self))
        return replace(
            self, **{name: change(name, value) for name, value in present if value is not None}
        )


class Denoiser(nn.Module):
    """A text-conditioned denoiser of adjusted latents: the part of a checkpoint that is called "base".

    It works on normalised latents, of about unit variance; times are training steps, 0 to 999; "" is no prompt.
    """

    @abstractmethod
    def encode(self, texts: Sequence[str], sizes_B6: Tensor | None = None) -> Conditions:
        """Texts as conditions; a drawing encodes its prompts once, a training may keep them."""

    @abstractmethod
    def predict(self, noisy_BCHW: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        """What it is trained to predict, noise or v, of the shape of `noisy`."""

    @abstractmethod
    def normalise(self, latent_BCHW: Tensor) -> Tensor:
        """Unscaled adjusted latents as the network knows them."""

    @abstractmethod
    def restore(self, normal_BCHW: Tensor) -> Tensor:
        """The inverse of `normalise`."""

    @abstractmethod
    def schedule(self) -> Any:
        """The noise levels of training and drawing: a diffusers scheduler."""

    @abstractmethod
    def learnt(self) -> dict[str, Tensor]:
        """The tensors that training changes, by the names under which a checkpoint keeps them."""

    @abstractmethod
    def load_learnt(self, tensors: Mapping[str, Tensor]) -> None:
        """Take stored tensors. Raises RuntimeError where names or sizes differ."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What a file of the learnt tensors needs to be opened again; "kind" is always there."""

    def measure(self, latent_BCHW: Tensor) -> None:
        """Learn the scale of latents from adjusted ones, before the first step."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimiser gets."""
        return list(self.parameters())
