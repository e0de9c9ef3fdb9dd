"""The interface of denoisers of adjusted latents under a prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditions:
    """The conditioning of a denoiser; the first axis of every tensor is the batch."""

    states_BLD: Tensor  # text embeddings, one per token
    mask_BL: Tensor | None = None  # True at tokens; None if all states count
    pooled_BP: Tensor | None = None  # pooled text embedding (SDXL)
    # SDXL's sizes in pixels: original height, width, crop top, left, target height, width.
    sizes_B6: Tensor | None = None

    def take(self, rows: Sequence[int] | slice) -> Conditions:
        """Return some rows of the batch."""
        return self.map(lambda _, tensor: tensor[rows])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditions:
        """Move to a device, and cast the embeddings; sizes and masks keep their dtype."""
        cast = {"states_BLD", "pooled_BP"}
        return self.map(lambda name, tensor: tensor.to(device, dtype if name in cast else None))

    @staticmethod
    def join(parts: Sequence[Conditions]) -> Conditions:
        """Concatenate batches that have the same tensors and the same text length."""
        return parts[0].map(lambda name, _: torch.cat([getattr(part, name) for part in parts]))

    def map(self, fn: Callable[[str, Tensor], Tensor]) -> Conditions:
        """Replace every present tensor by `change(name, tensor)`."""
        present = ((field.name, getattr(self, field.name)) for field in fields(self))
        return replace(
            self, **{name: fn(name, value) for name, value in present if value is not None}
        )


class Denoiser(nn.Module):
    """A text-conditioned denoiser of adjusted latents: the part "base" of a checkpoint.

    It works on normalized latents of about unit variance. Times are training timesteps, 0 to 999,
    and "" is the unconditional prompt.
    """

    @abstractmethod
    def encode(self, texts: Sequence[str], sizes_B6: Tensor | None = None) -> Conditions:
        """Encode texts as conditions.

        Args:
            texts: One text per row; "" is the unconditional prompt.
            sizes_B6: SDXL's size conditioning in pixels (see `Conditions`); None for the default.
        """

    @abstractmethod
    def predict(self, noisy_BCHW: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        """Predict noise or v, as the denoiser was trained to.

        Args:
            noisy_BCHW: Noisy normalized latents.
            time_B: Training timesteps, 0 to 999.
            conditions: Conditions of the same batch.

        Returns:
            The prediction, B x C x H x W.
        """

    @abstractmethod
    def normalize(self, latent_BCHW: Tensor) -> Tensor:
        """Normalize unscaled adjusted latents to about unit variance."""

    @abstractmethod
    def denormalize(self, normalized_BCHW: Tensor) -> Tensor:
        """Invert `normalize`."""

    @abstractmethod
    def schedule(self) -> Any:
        """Return the noise schedule of training and sampling, a diffusers scheduler."""

    @abstractmethod
    def finetuned_state_dict(self) -> dict[str, Tensor]:
        """Return the trained tensors under their names in a checkpoint."""

    @abstractmethod
    def load_finetuned(self, tensors: Mapping[str, Tensor]) -> None:
        """Load stored tensors. Raises RuntimeError if names or shapes differ."""

    @abstractmethod
    def metadata(self) -> dict[str, str]:
        """Return the metadata that is needed to load the tensors; "kind" is always included."""

    def fit_scale(self, latent_BCHW: Tensor) -> None:
        """Set the scale of latents from adjusted latents, before the first step."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters for the optimizer."""
        return list(self.parameters())
