"""Training of the base model: a text-conditioned denoiser of adjusted latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from curation.domain import LayerRole, Split, TrainingRequest
from curation.ports import ObjectStore, ProgressCallback
from training.data.buckets import BucketSampler, Sampler, bucket_config
from training.data.dataset import LayerDataset, heldout_images, open_split
from training.data.sampler import build_sampler
from training.denoiser.cache import (
    LatentCache,
    TextEmbeddingCache,
    encoding_batch_size,
    latent_identity,
    text_identity,
)
from training.denoiser.denoiser import Denoiser
from training.denoiser.factory import load_denoiser, new_denoiser
from training.denoiser.stable_diffusion import StableDiffusion
from training.denoiser.stage import DenoiserStage, HeldoutBatch, denoising_errors
from training.engine.distributed import DistributedContext, full_tensor
from training.engine.trainer import TrainerContext, fit
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import adjust, adjusted_posterior
from training.transparency.networks import OffsetEncoder, Transparency
from training.transparency.padding import pad_colors

STAGE = "base"
VALIDATION_IMAGES = 32  # images to validate on
ENCODING_BATCH = 64  # images per encoding batch; another number changes the last bits of latents
SCALE_IMAGES = 2_048  # images that set the latent scale of a new denoiser


def train_base(
    order: TrainingRequest,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    report: ProgressCallback,
    backbone: Autoencoder,
    transparency: Transparency,
    start: tuple[Mapping[str, Tensor], Mapping[str, str]] | None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train the base (section 3.2) on the train split of a snapshot.

    Run again with the same folder, training resumes from the last saved state, and the result is
    bit-identical to an uninterrupted run on the CPU. Latents and, for pretrained models, text
    embeddings are computed once, into memory or the folder `cache` next to the run's. Each layer of
    a pair is an image with its own caption; opaque layers are weighted by `base_opaque`, so that
    layer adapters find a base that knows them. Images are not mirrored, since letters and captions
    that say "left" would become wrong.

    Args:
        order: The training request.
        preset: The preset.
        store: Where the snapshot is stored.
        folder: The folder of the run.
        report: Progress callback; its exceptions stop the training, and saved states remain.
        backbone: The autoencoder.
        transparency: The transparency encoder and decoder.
        start: Tensors and metadata of the parent's base; None trains a new one.

    Returns:
        The trained tensors with EMA weights, and their metadata.

    Raises:
        Refused: `start` does not fit the preset, or memory ran out.
        Diverged: A loss or gradient is NaN or infinite.
    """
    # Images, and the order in which they are seen.
    machine = DistributedContext(preset)
    caches = folder.parent / "cache"
    step = machine.step_images(preset.base_batch)
    buckets = bucket_config(preset, step, caches / "sizes")
    memory = preset.in_memory
    opaque, size = preset.base_opaque, preset.image_size
    roles = preset.roles_learnt(opaque)
    pictures = open_split(store, order.snapshot, Split.train, size, in_memory=memory, buckets=buckets, roles=roles)
    if LayerRole.background in pictures.roles:
        preset = replace(preset, base_images=preset.base_images + preset.background_images)
    draws: Sampler = build_sampler(store, pictures, order.previous, preset.new_weight, order.seed, opaque=opaque)
    draws = BucketSampler(draws, pictures.shapes, step) if buckets else draws
    # Frozen networks encode all images once.
    for network in (backbone, transparency):
        network.to(machine.device)
    latents = encode_images(preset, pictures, backbone, transparency.encoder, None if memory else caches, report)

    # The denoiser: new, pretrained, or the parent's.
    torch.manual_seed(order.seed)
    if start is None:
        denoiser = new_denoiser(preset).train()
        if preset.family is None:
            first = pictures.sound(draws.places(0, min(SCALE_IMAGES, len(pictures))))
            denoiser.measure(latents.take(first)[0])
    else:  # keeps the parent's mean and std of latents, which its weights are trained for
        denoiser = load_denoiser(preset, *start).train().requires_grad_(True)
    denoiser.to(machine.device)
    # Text embeddings and held-out latents, then the training itself.
    texts = encode_texts(preset, denoiser, pictures.captions, None if memory else caches, report)
    heldout = _heldout(store, order.snapshot, preset, backbone, transparency.encoder)
    recipe = DenoiserStage(preset, denoiser, pictures, latents, texts, backbone, transparency, heldout)
    fit(recipe, TrainerContext(order, preset, machine, pictures.samples, draws, folder, report))
    trained = {name: full_tensor(tensor.detach()).cpu().clone() for name, tensor in denoiser.learnt().items()}
    return trained, denoiser.facts()


def encode_images(
    preset: Preset,
    pictures: LayerDataset,
    backbone: Autoencoder,
    encoder: OffsetEncoder,
    folder: Path | None,
    report: ProgressCallback,
) -> LatentCache:
    """Compute the unscaled adjusted latents of images with their standard deviations.

    Both networks are frozen, so the latents stay valid. They are computed in float32, not in the
    preset's precision, since SDXL's autoencoder overflows in fp16.

    Args:
        preset: The preset.
        pictures: The images.
        backbone: The autoencoder.
        encoder: The encoder of latent offsets.
        folder: The folder of caches; None keeps the latents in memory.
        report: Progress callback.
    """
    latents = LatentCache.open(folder, latent_identity(preset, backbone, encoder))
    device = next(encoder.parameters()).device

    @torch.no_grad()
    def encode(alpha_B1HW: Tensor, padded_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        return adjusted_posterior(backbone, encoder, alpha_B1HW.to(device), padded_B3HW.to(device))

    latents.fill(pictures, encode, report, workers=preset.workers, batch=ENCODING_BATCH)
    return latents


def encode_texts(
    preset: Preset, denoiser: Denoiser, captions: Sequence[str], folder: Path | None, report: ProgressCallback
) -> TextEmbeddingCache | None:
    """Encode all captions and "" by a pretrained model's frozen text encoders.

    Args:
        preset: The preset.
        denoiser: The denoiser that is trained.
        captions: The captions.
        folder: The folder of caches; None keeps the embeddings in memory.
        report: Progress callback.

    Returns:
        The cache of embeddings; None if the denoiser's text encoder is trained too.
    """
    if not isinstance(denoiser, StableDiffusion):
        return None
    pipeline = denoiser.pipeline
    tokenizers = [part for name, part in sorted(pipeline.components.items()) if name.startswith("tokenizer")]
    # How the pipeline encodes is part of the cache's identity.
    settings = {
        "family": denoiser.family.name,
        "zeros": str(pipeline.config.get("force_zeros_for_empty_prompt")),
    }
    texts = TextEmbeddingCache.open(folder, text_identity(preset, denoiser.texts, tokenizers, **settings))
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
    """Compute the mean squared error of the base's prediction on held-out images; lower is better.

    It is taken at five fixed noise levels, unweighted, in normalized latents, with the same noise
    for an image every time. Checkpoints of one lineage are comparable, since they share the
    autoencoder and the latents' mean and std.

    Args:
        base: Tensors and metadata of the base.
        preset: The preset.
        backbone: The autoencoder.
        transparency: Its encoder adjusts the latents.
        pictures: The held-out images.
    """
    denoiser = load_denoiser(preset, *base)
    device = backbone.device
    denoiser.to(device)
    errors = []
    for start in range(0, len(pictures), preset.base_batch):
        indices = range(start, min(start + preset.base_batch, len(pictures)))
        latent_BCHW = _encode(backbone, transparency.encoder, pictures.take(indices)).to(device)
        captions = [pictures.caption_of(index) for index in indices]
        errors.append(denoising_errors(denoiser, latent_BCHW, captions, start))
    return float(torch.cat(errors).double().mean())


@torch.no_grad()
def _heldout(
    store: ObjectStore, snapshot: str, preset: Preset, backbone: Autoencoder, encoder: OffsetEncoder
) -> HeldoutBatch | None:
    """Encode the images to validate on; None if nothing is held out."""
    images = heldout_images(store, snapshot, preset.image_size, VALIDATION_IMAGES)
    if not len(images):
        return None
    return HeldoutBatch(_encode(backbone, encoder, images.take(range(len(images)))), images.captions)


def _encode(backbone: Autoencoder, encoder: OffsetEncoder, rgba_B4HW: Tensor) -> Tensor:
    """Encode images in batches of the size that `LatentCache.fill` would use."""
    height, width = rgba_B4HW.shape[-2:]
    rgba_B4HW = rgba_B4HW.to(backbone.device)
    parts = torch.split(rgba_B4HW, encoding_batch_size((height, width)))
    return torch.cat([adjust(backbone, encoder, part[:, 3:], pad_colors(part)) for part in parts])
