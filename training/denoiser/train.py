"""Training of the base model: a text-conditioned denoiser of adjusted latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from curation.domain import LayerRole, Split, TrainingRequest
from curation.ports import ObjectStore, ProgressCallback
from training.data.buckets import BucketSampler, Sampler, bucket_config
from training.data.dataset import LayerDataset
from training.data.sampler import build_sampler
from training.data.splits import heldout_images, open_split
from training.denoiser.cache import LatentCache, TextEmbeddingCache, encoding_batch_size
from training.denoiser.cache_identity import latent_identity, text_identity
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
    request: TrainingRequest,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    on_progress: ProgressCallback,
    autoencoder: Autoencoder,
    transparency: Transparency,
    parent: tuple[Mapping[str, Tensor], Mapping[str, str]] | None,
    caption_weight: Callable[[str], float] | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train the base (section 3.2) on the train split of a snapshot.

    Run again with the same folder, training resumes from the last saved state, and the result is
    bit-identical to an uninterrupted run on the CPU. Latents and, for pretrained models, text
    embeddings are computed once, into memory or the folder `cache` next to the run's. Each layer of
    a pair is an image with its own caption; opaque layers are weighted by `base_opaque`, so that
    layer adapters find a base that knows them. Images are not mirrored, since letters and captions
    that say "left" would become wrong.

    Args:
        request: The training request.
        preset: The preset.
        store: Where the snapshot is stored.
        folder: The folder of the run.
        on_progress: Progress callback; its exceptions stop the training, and saved states remain.
        autoencoder: The autoencoder.
        transparency: The transparency encoder and decoder.
        parent: Tensors and metadata of the parent's base; None trains a new one.
        caption_weight: Factor of an image's sampling weight by its caption; by default 1.

    Returns:
        The trained tensors with EMA weights, and their metadata.

    Raises:
        Refused: `parent` does not fit the preset, or memory ran out.
        Diverged: A loss or gradient is NaN or infinite.
    """
    # Images, and the order in which they are seen.
    ctx = DistributedContext(preset)
    caches = folder.parent / "cache"
    step = ctx.global_batch_size(preset.base_batch)
    buckets = bucket_config(preset, step, caches / "sizes")
    memory = preset.in_memory
    opaque, size = preset.base_opaque, preset.image_size
    roles = preset.trained_roles(opaque)
    images = open_split(
        store, request.snapshot, Split.train, size, in_memory=memory, buckets=buckets, roles=roles
    )
    if LayerRole.background in images.roles:
        preset = replace(preset, base_images=preset.base_images + preset.background_images)
    draws: Sampler = build_sampler(
        store,
        images,
        request.previous,
        preset.new_sample_weight,
        request.seed,
        opaque_weight=opaque,
        real_share=preset.real_share,
        caption_weight=caption_weight,
    )
    draws = BucketSampler(draws, images.shapes, step) if buckets else draws
    # Frozen networks encode all images once.
    for network in (autoencoder, transparency):
        network.to(ctx.device)
    latents = encode_images(
        preset, images, autoencoder, transparency.encoder, None if memory else caches, on_progress
    )

    # The denoiser: new, pretrained, or the parent's.
    torch.manual_seed(request.seed)
    if parent is None:
        denoiser = new_denoiser(preset).train()
        if preset.family is None:
            first = images.readable_indices(draws.indices(0, min(SCALE_IMAGES, len(images))))
            denoiser.fit_scale(latents.get(first)[0])
    else:  # keeps the parent's mean and std of latents, which its weights are trained for
        denoiser = load_denoiser(preset, *parent).train().requires_grad_(True)
    denoiser.to(ctx.device)
    # Text embeddings and held-out latents, then the training itself.
    texts = encode_texts(preset, denoiser, images.captions, None if memory else caches, on_progress)
    heldout = heldout_batch(store, request.snapshot, preset, autoencoder, transparency.encoder)
    stage = DenoiserStage(
        preset, denoiser, images, latents, texts, autoencoder, transparency, heldout
    )
    fit(stage, TrainerContext(request, preset, ctx, images.samples, draws, folder, on_progress))
    trained = {
        name: full_tensor(tensor.detach()).cpu().clone()
        for name, tensor in denoiser.finetuned_state_dict().items()
    }
    return trained, denoiser.metadata()


def encode_images(
    preset: Preset,
    images: LayerDataset,
    autoencoder: Autoencoder,
    encoder: OffsetEncoder,
    folder: Path | None,
    on_progress: ProgressCallback,
) -> LatentCache:
    """Compute the unscaled adjusted latents of images with their standard deviations.

    Both networks are frozen, so the latents stay valid. They are computed in float32, not in the
    preset's precision, since SDXL's autoencoder overflows in fp16.

    Args:
        preset: The preset.
        images: The images.
        autoencoder: The autoencoder.
        encoder: The encoder of latent offsets.
        folder: The folder of caches; None keeps the latents in memory.
        on_progress: Progress callback.
    """
    latents = LatentCache.open(folder, latent_identity(preset, autoencoder, encoder))
    device = next(encoder.parameters()).device

    @torch.no_grad()
    def encode(alpha_B1HW: Tensor, padded_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        return adjusted_posterior(
            autoencoder, encoder, alpha_B1HW.to(device), padded_B3HW.to(device)
        )

    latents.fill(images, encode, on_progress, workers=preset.workers, batch_size=ENCODING_BATCH)
    return latents


def encode_texts(
    preset: Preset,
    denoiser: Denoiser,
    captions: Sequence[str],
    folder: Path | None,
    on_progress: ProgressCallback,
) -> TextEmbeddingCache | None:
    """Encode all captions and "" by a pretrained model's frozen text encoders.

    Args:
        preset: The preset.
        denoiser: The denoiser that is trained.
        captions: The captions.
        folder: The folder of caches; None keeps the embeddings in memory.
        on_progress: Progress callback.

    Returns:
        The cache of embeddings; None if the denoiser's text encoder is trained too.
    """
    if not isinstance(denoiser, StableDiffusion):
        return None
    pipeline = denoiser.pipeline
    tokenizers = [
        part for name, part in sorted(pipeline.components.items()) if name.startswith("tokenizer")
    ]
    # How the pipeline encodes is part of the cache's identity.
    settings = {
        "family": denoiser.family.name,
        "zeros": str(pipeline.config.get("force_zeros_for_empty_prompt")),
    }
    texts = TextEmbeddingCache.open(
        folder, text_identity(preset, denoiser.texts, tokenizers, **settings)
    )
    texts.fill(["", *captions], denoiser.encode, on_progress)
    return texts


@torch.no_grad()
def validation_loss(
    base: tuple[Mapping[str, Tensor], Mapping[str, str]],
    preset: Preset,
    autoencoder: Autoencoder,
    transparency: Transparency,
    images: LayerDataset,
) -> float:
    """Compute the mean squared error of the base's prediction on held-out images; lower is better.

    It is taken at five fixed noise levels, unweighted, in normalized latents, with the same noise
    for an image every time. Checkpoints of one lineage are comparable, since they share the
    autoencoder and the latents' mean and std.

    Args:
        base: Tensors and metadata of the base.
        preset: The preset.
        autoencoder: The autoencoder.
        transparency: Its encoder adjusts the latents.
        images: The held-out images.
    """
    denoiser = load_denoiser(preset, *base)
    device = autoencoder.device
    denoiser.to(device)
    errors = []
    for start in range(0, len(images), preset.base_batch):
        indices = range(start, min(start + preset.base_batch, len(images)))
        latent_BCHW = _encode(autoencoder, transparency.encoder, images.load_batch(indices)).to(
            device
        )
        captions = [images.caption_of(index) for index in indices]
        errors.append(denoising_errors(denoiser, latent_BCHW, captions, start))
    return float(torch.cat(errors).double().mean())


@torch.no_grad()
def heldout_batch(
    store: ObjectStore,
    snapshot: str,
    preset: Preset,
    autoencoder: Autoencoder,
    encoder: OffsetEncoder,
) -> HeldoutBatch | None:
    """Encode the images to validate on.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of the snapshot.
        preset: The preset.
        autoencoder: The autoencoder.
        encoder: The encoder of latent offsets.

    Returns:
        Their latents and captions; None if nothing is held out.
    """
    images = heldout_images(store, snapshot, preset.image_size, VALIDATION_IMAGES)
    if not len(images):
        return None
    return HeldoutBatch(
        _encode(autoencoder, encoder, images.load_batch(range(len(images)))), images.captions
    )


def _encode(autoencoder: Autoencoder, encoder: OffsetEncoder, rgba_B4HW: Tensor) -> Tensor:
    """Encode images in batches of the size that `LatentCache.fill` would use."""
    height, width = rgba_B4HW.shape[-2:]
    rgba_B4HW = rgba_B4HW.to(autoencoder.device)
    parts = torch.split(rgba_B4HW, encoding_batch_size((height, width)))
    return torch.cat(
        [adjust(autoencoder, encoder, part[:, 3:], pad_colors(part)) for part in parts]
    )
