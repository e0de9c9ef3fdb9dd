"""The denoiser of adjusted latents under a prompt: a text encoder and the network that the preset names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from curation.errors import Refused
from training.preset import Preset
from training.text import TextEncoder
from training.transformer import DiffusionTransformer


@dataclass(frozen=True)
class Conditions:
    """What a denoiser is told besides the noisy latent; the first axis of every tensor is the batch."""

    states_BLD: Tensor  # the text's words
    mask_BL: Tensor | None = None  # True where there is a word; None where every state counts
    pooled_BP: Tensor | None = None  # the whole text, where the family wants it (SDXL)
    sizes_B6: Tensor | None = None  # original height, width, crop top, left, target height, width, pixels (SDXL)

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
        return replace(self, **{name: change(name, value) for name, value in present if value is not None})


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


class OwnDenoiser(Denoiser):
    """Text encoder and network of our own, trained from nothing.

    Normalised latents have zero mean in every channel and unit variance over all; `centre` (C) and `spread` are those
    of the adjusted latents it first learnt from. The channels keep their proportions, so that strong ones, which carry
    what a picture shows, come out of the noise before the fine ones do (LOG.md, Base model).
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.text = TextEncoder(preset)
        self.network = _NETWORKS[preset.denoiser](preset)
        self.register_buffer("centre", torch.zeros(preset.latent_channels))
        self.register_buffer("spread", torch.ones(()))
        self.centre: Tensor
        self.spread: Tensor

    def encode(self, texts: Sequence[str], sizes_B6: Tensor | None = None) -> Conditions:
        """Words by the hashing tokenizer; sizes mean nothing to it."""
        del sizes_B6
        return Conditions(*self.text(texts))

    def predict(self, noisy_BCHW: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        """The network's own prediction."""
        predicted: Tensor = self.network(noisy_BCHW, time_B, conditions.states_BLD, conditions.mask_BL)
        return predicted

    def measure(self, latent_BCHW: Tensor) -> None:
        """Take centre and spread from adjusted latents."""
        self.centre.copy_(latent_BCHW.mean((0, 2, 3)))
        self.spread.copy_(self._centred(latent_BCHW).square().mean().sqrt().clamp_min(1e-6))

    def normalise(self, latent_BCHW: Tensor) -> Tensor:
        """Less the centre, over the spread."""
        return self._centred(latent_BCHW) / self.spread

    def restore(self, normal_BCHW: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return normal_BCHW * self.spread + self.centre[:, None, None]

    def schedule(self) -> Any:
        """As the preset says."""
        return noise_schedule(self.preset)

    def learnt(self) -> dict[str, Tensor]:
        """Everything: text encoder, network, centre and spread."""
        return dict(self.state_dict())

    def load_learnt(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `learnt`."""
        self.load_state_dict(dict(tensors))

    def facts(self) -> dict[str, str]:
        """Its sizes are the preset's."""
        return {"kind": "own"}

    def _centred(self, latent_BCHW: Tensor) -> Tensor:
        return latent_BCHW - self.centre[:, None, None]


class ConditionalUNet(nn.Module):
    """Diffusers' UNet2DConditionModel, the network of Stable Diffusion, behind the same four arguments."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        unet: Any = UNet2DConditionModel  # diffusers' constructors carry no types
        self.unet = unet(**unet_config(preset))

    def forward(self, noisy_BCHW: Tensor, time_B: Tensor, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """A prediction of the shape of `noisy`; every word is attended to."""
        predicted: Tensor = self.unet(
            noisy_BCHW, time_B, encoder_hidden_states=states_BLD, encoder_attention_mask=mask_BL, return_dict=False
        )[0]
        return predicted


_NETWORKS: dict[str, type[nn.Module]] = {"transformer": DiffusionTransformer, "unet": ConditionalUNet}
"""The networks a preset may name: the transformer for tiny latents (LOG.md, Base model), the UNet for real ones."""


def new_denoiser(preset: Preset) -> Denoiser:
    """A denoiser to begin a training with: a fresh one, or the pretrained one that the preset's family names.

    Raises NotFound, Refused for a model that is not there, and Refused for a family without a denoiser here.
    """
    if preset.family is None:
        return OwnDenoiser(preset)
    from training.stable_diffusion import StableDiffusion

    return StableDiffusion(preset)


def open_denoiser(preset: Preset, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Denoiser:
    """A denoiser from its stored part, frozen. Raises Refused where the sizes are not the preset's, NotFound."""
    denoiser: Denoiser
    try:
        if facts.get("kind", "own") == "own":
            denoiser = OwnDenoiser(preset)
            denoiser.load_learnt(tensors)
        else:
            from training.stable_diffusion import StableDiffusion

            denoiser = StableDiffusion(preset, (tensors, facts))
    except RuntimeError as error:
        raise Refused(
            f"the stored base does not fit preset {preset.name!r}: {str(error)[:200]}",
            "a preset's sizes changed since it was trained; begin again without a parent",
        ) from error
    return denoiser.eval().requires_grad_(False)


def unet_config(preset: Preset) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DConditionModel for a preset."""
    attends = preset.unet_attention
    return {
        "sample_size": preset.image_size // preset.stride,
        "in_channels": preset.latent_channels,
        "out_channels": preset.latent_channels,
        "block_out_channels": preset.unet_channels,
        "layers_per_block": preset.unet_layers,
        "down_block_types": tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        "cross_attention_dim": preset.text_width,
        # What diffusers calls attention_head_dim is the number of heads (its issue 2011).
        "attention_head_dim": tuple(max(1, channels // preset.unet_head_width) for channels in preset.unet_channels),
        "norm_num_groups": min(32, preset.unet_channels[0] // 4),
    }


def noise_schedule(preset: Preset) -> Any:
    """The 1,000 noise levels of Stable Diffusion, in training and in drawing: a diffusers DDIMScheduler.

    With zero_terminal_snr the last level is pure noise (Lin et al., 2024, arXiv 2305.08891), so that a drawing can
    begin from pure noise without the mean colour of the training set shining through; it needs v_prediction.
    """
    schedule: Any = DDIMScheduler
    return schedule(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=preset.prediction,
        rescale_betas_zero_snr=preset.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
    )
