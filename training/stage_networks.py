"""Networks of each training stage on the meta device, for the estimate of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers import DDIMScheduler
from torch import nn

from training.denoiser.builtin import BuiltinDenoiser
from training.denoiser.cache import TextEmbeddingCache, encoding_batch_size
from training.denoiser.denoiser import Conditions, Denoiser
from training.denoiser.finetuned_weights import add_adapter
from training.denoiser.stable_diffusion import StableDiffusion
from training.denoiser.stage import GRID_CAPTIONS, DenoiserStage
from training.engine.batch import Batch
from training.engine.distributed import PRECISIONS as COMPUTED_IN
from training.engine.memory_tracker import (
    materialize,
)
from training.engine.trainer import TrainingStage
from training.layers.model import new_layered_denoiser
from training.layers.stage import LayersStage
from training.preference.objective import DecisionStage, join_rows
from training.preference.reference import Reference, freeze_reference
from training.preference.stages import DPOStage, KTOStage, LayersDPOStage, LayersKTOStage
from training.presets.preset import Preset
from training.pretrained.architectures import build_part
from training.pretrained.families import find_family
from training.transparency.autoencoder import Autoencoder, KLAutoencoder, LinearAutoencoder
from training.transparency.codec import adjusted_posterior, decode_rgba
from training.transparency.networks import Transparency
from training.transparency.train import TransparencyStage


@dataclass(frozen=True)
class StageNetworks:
    """The networks of a stage on the "meta" device, where they are cheap to build."""

    autoencoder: Autoencoder
    transparency: Transparency
    denoiser: Denoiser | None

    def bring(self) -> StageNetworks:
        """Materialize the networks under the memory tracker and return them."""
        for network in (self.autoencoder, self.transparency, self.denoiser):
            materialize(network)
        return self


def make_transparency(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of latent transparency and a batch for it."""
    count, side = preset.transparency_batch, preset.image_size
    training_stage = TransparencyStage(
        preset, networks.transparency, cast("Any", None), networks.autoencoder
    )
    batch = {"rgba": torch.zeros(count, 4, side, side), "padded": torch.zeros(count, 3, side, side)}
    return training_stage, {**batch, "keep": torch.ones(count)}


def make_base(
    preset: Preset,
    networks: StageNetworks,
    kind: type[DenoiserStage] = DenoiserStage,
) -> tuple[DenoiserStage, Batch]:
    """Return a stage of the base, of a kind, and a batch for it."""
    nothing, denoiser = cast("Any", None), networks.denoiser
    assert denoiser is not None  # noqa: S101 - narrows the type
    texts = (
        TextEmbeddingCache.open(None, {"precision": preset.cache_precision})
        if preset.family
        else None
    )
    training_stage = kind(
        preset, denoiser, nothing, nothing, texts, networks.autoencoder, networks.transparency
    )
    count, side = preset.base_batch, preset.image_size // preset.stride
    latent_BCHW = torch.zeros(count, preset.latent_channels, side, side)
    batch = {
        "latent": latent_BCHW,
        "noise": latent_BCHW.clone(),
        "time": torch.zeros(count, dtype=torch.int64),
    }
    if not isinstance(denoiser, StableDiffusion):
        return training_stage, {**batch, "texts": [""] * count}
    return training_stage, {**batch, "conditions": _conditions(denoiser, count)}


def make_layers(
    preset: Preset, networks: StageNetworks, kind: type[LayersStage] = LayersStage
) -> tuple[LayersStage, Batch]:
    """Return a stage of layers, of a kind, and a batch of pairs for it, with all roles."""
    nothing, denoiser = cast("Any", None), networks.denoiser
    assert denoiser is not None  # noqa: S101 - narrows the type
    texts = (
        TextEmbeddingCache.open(None, {"precision": preset.cache_precision})
        if preset.family
        else None
    )
    layered = new_layered_denoiser(preset, denoiser)
    training_stage = kind(
        preset, layered, nothing, nothing, texts, networks.autoencoder, networks.transparency
    )
    count, roles, side = preset.layers_batch, preset.layer_roles, preset.image_size // preset.stride
    latent_PLCHW = torch.zeros(count, len(roles), preset.latent_channels, side, side)
    # A batch of pairs: latents and noise of every role.
    batch = {
        "latent": latent_PLCHW,
        "noise": latent_PLCHW.clone(),
        "time": torch.zeros(count, dtype=torch.int64),
    }
    conditioning = {
        "known": torch.zeros(count, len(roles), dtype=torch.bool),
        "roles": [roles] * count,
    }
    if not isinstance(denoiser, StableDiffusion):
        return training_stage, {**batch, **conditioning, "texts": [[""] * len(roles)] * count}
    # Text states for every layer of every pair.
    flat = _conditions(denoiser, count * len(roles))
    conditioning["conditions"] = flat.map(
        lambda _, tensor: tensor.view(count, len(roles), *tensor.shape[1:])
    )
    return training_stage, {**batch, **conditioning}


def make_kto(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of the base on single decisions, and a batch for it."""
    count = replace(preset, base_batch=preset.preference_batch)
    return _learning(*make_base(count, networks, KTOStage), 1)


def make_dpo(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of the base on pairs of decisions, and a batch for it."""
    count = replace(preset, base_batch=2 * preset.preference_batch)
    return _learning(*make_base(count, networks, DPOStage), 2)


def make_layers_kto(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of layers on single decisions, and a batch for it."""
    count = replace(preset, layers_batch=preset.preference_batch)
    return _learning(*make_layers(count, networks, LayersKTOStage), 1)


def make_layers_dpo(preset: Preset, networks: StageNetworks) -> tuple[TrainingStage, Batch]:
    """Return the stage of layers on pairs of decisions, and a batch for it."""
    count = replace(preset, layers_batch=2 * preset.preference_batch)
    return _learning(*make_layers(count, networks, LayersDPOStage), 2)


def _learning(stage: TrainingStage, batch: Batch, size: int) -> tuple[TrainingStage, Batch]:
    """Add the reference to a stage that learns from decisions, and verdicts to its batch."""
    assert isinstance(stage, DecisionStage)  # noqa: S101 - narrows the type
    network = stage.network
    reference: Reference[Any] = (
        freeze_reference(stage.preset, network)
        if isinstance(network, Denoiser)
        else Reference(network, [p for p in network.parameters() if p.requires_grad])
    )
    stage.learn_from("", (), {}, reference)
    return stage, join_rows({**batch, "sign": torch.ones(len(batch["time"]))}, size)


def _conditions(denoiser: StableDiffusion, count: int) -> Conditions:
    """Return empty conditioning for `count` rows, shaped as the text encoders' output."""
    config = denoiser.unet.config
    states_BLD = torch.zeros(count, 77, config["cross_attention_dim"])  # CLIP's context length
    if not denoiser.family.sizes:
        return Conditions(states_BLD)
    # SDXL also takes pooled text states and six embedded sizes (original, crop, target).
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return Conditions(
        states_BLD, pooled_BP=torch.zeros(count, pooled), sizes_B6=torch.zeros(count, 6)
    )


def encoding_step(preset: Preset, networks: StageNetworks) -> Callable[[], object]:
    """Return the encoding of one batch of the latent cache."""
    side = preset.image_size
    rgba_B4HW = torch.zeros(encoding_batch_size((side, side)), 4, side, side)
    encoder = networks.transparency.encoder
    return lambda: adjusted_posterior(
        networks.autoencoder, encoder, rgba_B4HW[:, 3:], rgba_B4HW[:, :3]
    )


def decoding_step(preset: Preset, networks: StageNetworks) -> Callable[[], object]:
    """Return the decoding of the images of a sample grid."""
    side = preset.image_size // preset.stride
    latent_BCHW = torch.zeros(
        min(GRID_CAPTIONS, preset.draw_batch), preset.latent_channels, side, side
    )
    return lambda: decode_rgba(networks.autoencoder, networks.transparency.decoder, latent_BCHW)


def build_networks(preset: Preset, stage: str) -> StageNetworks:
    """Build the networks of a stage.

    Latent transparency is trainable only without a denoiser, and the base only without layers.
    """
    base = stage != "transparency"
    with torch.device("meta"):
        autoencoder: Autoencoder = LinearAutoencoder(preset.stride, preset.latent_channels)
        if preset.model is not None:
            autoencoder = KLAutoencoder(build_part(preset, "vae"))
        transparency = Transparency(preset).requires_grad_(not base)
        denoiser = (
            (_UnloadedStableDiffusion(preset) if preset.family else BuiltinDenoiser(preset))
            if base
            else None
        )
        # Layer adapters train on a frozen base, kept in the compute precision.
        if denoiser is not None and stage.startswith("layers"):
            half = COMPUTED_IN[preset.precision] if preset.family and not preset.fsdp else None
            denoiser.requires_grad_(False).to(half)  # as training.layers.train does
    return StageNetworks(autoencoder.requires_grad_(False), transparency, denoiser)


class _UnloadedStableDiffusion(StableDiffusion):
    """Stable Diffusion built from its configuration alone, without loading weights."""

    def __init__(self, preset: Preset) -> None:
        nn.Module.__init__(self)
        self.preset, self.family = preset, find_family(preset.family or "")
        self.unet = cast("Any", build_part(preset, "unet"))
        if preset.adapter_rank:
            add_adapter(self.unet, preset.adapter_rank, preset.adapter_rank)
        self.texts = nn.ModuleList(build_part(preset, name) for name in self.family.text_encoders)
        self.scaling, self.shift = 1.0, 0.0
        self.kind, self.adapter = ("adapter" if preset.adapter_rank else "weights"), {}
        self.settle()

    def schedule(self) -> Any:
        """Return any scheduler: the noise levels take next to no memory."""
        scheduler: Any = DDIMScheduler
        return scheduler()
