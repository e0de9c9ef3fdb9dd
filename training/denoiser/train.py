"""Training of the base model: a text-conditioned denoiser of adjusted latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from curation.domain import LayerRole, Split, TrainingRequest
from curation.ports import ObjectStore, Report
from training.data.buckets import BucketOrder, Order, preset_buckets
from training.data.dataset import LayerDataset, heldout_images, load_split
from training.data.sampler import draw_order
from training.denoiser.cache import (
    ConditionsCache,
    LatentCache,
    fill_batch,
    latent_identity,
    text_identity,
)
from training.denoiser.denoiser import Denoiser
from training.denoiser.factory import new_denoiser, open_denoiser
from training.denoiser.stable_diffusion import StableDiffusion
from training.denoiser.stage import DenoiserStage, Heldout, denoising_errors
from training.engine.distributed import DistributedContext, whole
from training.engine.trainer import TrainerContext, fit
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import adjust, adjusted_posterior
from training.transparency.networks import OffsetEncoder, Transparency
from training.transparency.padding import pad_colours

STAGE = "base"
HELDOUT = 32  # images that a training is validated on
ENCODED = 64  # pictures at a time; another count changes their last bits
MEASURED = 2_048  # pictures that a fresh denoiser learns the scale of latents from


def train_base(
    order: TrainingRequest,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    report: Report,
    backbone: Autoencoder,
    transparency: Transparency,
    start: tuple[Mapping[str, Tensor], Mapping[str, str]] | None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train (section 3.2) on the snapshot's train split, from `start` or afresh; the averaged weights at the end.

    Run again with the same folder it goes on from the last saved state, and ends with the bits of a straight run on
    the CPU. Latents and, for pretrained models, texts are encoded once, into memory or into the folder `cache` beside
    the run's. Of a pair each layer is a picture with its own text, the opaque ones as often as `base_opaque` says, so
    that the adapters of layers find a base that knows them. Pictures are not mirrored: letters and captions that say
    "left" would lie. Whatever `report` raises stops the training; what was saved stays. Raises Refused where `start`
    does not fit the preset, and as `fit`.
    """
    machine = DistributedContext(preset)
    caches = folder.parent / "cache"
    step = machine.step_images(preset.base_batch)
    buckets = preset_buckets(preset, step, caches / "sizes")
    memory = preset.in_memory
    opaque, size = preset.base_opaque, preset.image_size
    roles = preset.roles_learnt(opaque)
    pictures = load_split(
        store, order.snapshot, Split.train, size, in_memory=memory, buckets=buckets, roles=roles
    )
    if LayerRole.background in pictures.roles:
        preset = replace(preset, base_images=preset.base_images + preset.background_images)
    draws: Order = draw_order(
        store, pictures, order.previous, preset.new_weight, order.seed, opaque=opaque
    )
    draws = BucketOrder(draws, pictures.shapes, step) if buckets else draws
    for network in (backbone, transparency):
        network.to(machine.device)
    latents = encode_pictures(
        preset, pictures, backbone, transparency.encoder, None if memory else caches, report
    )

    torch.manual_seed(order.seed)
    if start is None:
        denoiser = new_denoiser(preset).train()
        if preset.family is None:
            first = pictures.sound(draws.places(0, min(MEASURED, len(pictures))))
            denoiser.measure(latents.take(first)[0])
    else:  # with the parent's centre and spread, so that it goes on in the units it knows
        denoiser = open_denoiser(preset, *start).train().requires_grad_(True)
    denoiser.to(machine.device)
    texts = encode_texts(preset, denoiser, pictures.captions, None if memory else caches, report)
    heldout = _heldout(store, order.snapshot, preset, backbone, transparency.encoder)
    recipe = DenoiserStage(
        preset, denoiser, pictures, latents, texts, backbone, transparency, heldout
    )
    fit(recipe, TrainerContext(order, preset, machine, pictures.samples, draws, folder, report))
    learnt = {
        name: whole(tensor.detach()).cpu().clone() for name, tensor in denoiser.learnt().items()
    }
    return learnt, denoiser.facts()


def encode_pictures(
    preset: Preset,
    pictures: LayerDataset,
    backbone: Autoencoder,
    encoder: OffsetEncoder,
    folder: Path | None,
    report: Report,
) -> LatentCache:
    """The adjusted latents of pictures, unscaled, with their deviations: both networks are frozen, so they stay true.

    In memory, or in a cache of that folder, in float32 whatever the preset trains in: an SDXL autoencoder in fp16
    gives no numbers.
    """
    latents = LatentCache.open(folder, latent_identity(preset, backbone, encoder))
    device = next(encoder.parameters()).device

    @torch.no_grad()
    def encode(alpha_B1HW: Tensor, padded_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        return adjusted_posterior(backbone, encoder, alpha_B1HW.to(device), padded_B3HW.to(device))

    latents.fill(pictures, encode, report, workers=preset.workers, batch=ENCODED)
    return latents


def encode_texts(
    preset: Preset, denoiser: Denoiser, captions: Sequence[str], folder: Path | None, report: Report
) -> ConditionsCache | None:
    """What a pretrained model's frozen text encoders make of the captions and of none; None where they learn along."""
    if not isinstance(denoiser, StableDiffusion):
        return None
    pipeline = denoiser.pipeline
    tokenizers = [
        part for name, part in sorted(pipeline.components.items()) if name.startswith("tokenizer")
    ]
    more = {
        "family": denoiser.family.name,
        "zeros": str(pipeline.config.get("force_zeros_for_empty_prompt")),
    }
    texts = ConditionsCache.open(folder, text_identity(preset, denoiser.texts, tokenizers, **more))
    texts.fill(["", *captions], denoiser.encode, report)
    return texts


@torch.no_grad()
def validation_loss(
    base: tuple[Mapping[str, Tensor], Mapping[str, str]],
    preset: Preset,
    backbone: Autoencoder,
    transparency: Transparency,
    pictures: LayerDataset,
) -> float:
    """The mean squared error of what the base predicts (noise, or v) on pictures it never saw; lower is better.

    At five fixed noise levels, unweighted, with the same noise for a picture every time, in normalised latents:
    figures of checkpoints of one lineage can be compared, since they share backbone, centre and spread.
    """
    denoiser = open_denoiser(preset, *base)
    device = backbone.device
    denoiser.to(device)
    errors = []
    for start in range(0, len(pictures), preset.base_batch):
        places = range(start, min(start + preset.base_batch, len(pictures)))
        latent_BCHW = _encode(backbone, transparency.encoder, pictures.take(places)).to(device)
        errors.append(
            denoising_errors(denoiser, latent_BCHW, [pictures.caption_of(p) for p in places], start)
        )
    return float(torch.cat(errors).double().mean())


@torch.no_grad()
def _heldout(
    store: ObjectStore, snapshot: str, preset: Preset, backbone: Autoencoder, encoder: OffsetEncoder
) -> Heldout | None:
    """Encode the images that a training is validated on; None where nothing is held out."""
    images = heldout_images(store, snapshot, preset.image_size, HELDOUT)
    if not len(images):
        return None
    return Heldout(_encode(backbone, encoder, images.take(range(len(images)))), images.captions)


def _encode(backbone: Autoencoder, encoder: OffsetEncoder, rgba_B4HW: Tensor) -> Tensor:
    """The adjusted latents of pictures, as many at once as when a cache is filled."""
    height, width = rgba_B4HW.shape[-2:]
    rgba_B4HW = rgba_B4HW.to(backbone.device)
    parts = torch.split(rgba_B4HW, fill_batch((height, width)))
    return torch.cat([adjust(backbone, encoder, some[:, 3:], pad_colours(some)) for some in parts])
