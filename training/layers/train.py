"""Training of layers: adapters with which a frozen base generates consistent layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from curation.domain import LayerRole, Split, TrainingRequest
from curation.ports import ObjectStore, ProgressCallback
from training.data.buckets import BucketSampler, bucket_config
from training.data.layer_set_dataset import LayerSetDataset, open_layer_sets
from training.denoiser.cache import LatentCache
from training.denoiser.denoising_stage import denoising_target
from training.denoiser.factory import load_denoiser
from training.denoiser.stage import VALIDATION_TIMESTEPS
from training.denoiser.train import encode_images, encode_texts
from training.engine.distributed import PRECISIONS, DistributedContext, full_tensor
from training.engine.resume import seeded_generator
from training.engine.trainer import TrainerContext, fit
from training.layers.model import LayeredDenoiser, load_layered_denoiser, new_layered_denoiser
from training.layers.stage import LayersStage
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency

StoredPart = tuple[Mapping[str, Tensor], Mapping[str, str]]
"""A checkpoint's part: tensors and metadata."""


def train_layers(
    request: TrainingRequest,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    on_progress: ProgressCallback,
    autoencoder: Autoencoder,
    transparency: Transparency,
    base: StoredPart,
    parent: StoredPart | None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train layer adapters (section 3.3) on the pairs of a snapshot's train split.

    Every layer is an adjusted latent; a background is an image whose alpha is 1 everywhere. Single
    foregrounds, the preset's `foreground_only_prob` of the images, keep the foreground's adapter
    usable on its own; a step has only pairs or only single foregrounds. Run again with the same
    folder, training resumes from the last saved state, and the result is bit-identical to an
    uninterrupted run on the CPU.

    Args:
        request: The training request.
        preset: The preset.
        store: Where the snapshot is stored.
        folder: The folder of the run.
        on_progress: Progress callback; its exceptions stop the training, and saved states remain.
        autoencoder: The autoencoder.
        transparency: The transparency encoder and decoder.
        base: The checkpoint's base.
        parent: The parent's layer adapters; None trains new ones.

    Returns:
        The adapters with EMA weights, and their metadata.

    Raises:
        Refused: There are no pairs, the parts do not fit, or memory ran out.
        Diverged: A loss or gradient is NaN or infinite.
    """
    # Layer sets, and the sampler that orders them.
    ctx = DistributedContext(preset)
    caches = folder.parent / "cache"
    batch_size = ctx.global_batch_size(preset.layers_batch)
    images = open_layer_sets(
        store,
        request.snapshot,
        Split.train,
        preset.image_size,
        [LayerRole(role) for role in preset.layer_roles],
        with_single_foregrounds=preset.foreground_only_prob > 0,
        in_memory=preset.in_memory,
        buckets=bucket_config(preset, batch_size, caches / "sizes"),
    )
    sampler = images.order(
        store,
        request.previous,
        preset.new_sample_weight,
        preset.foreground_only_prob,
        request.seed,
        real_share=preset.real_share,
    )
    # Frozen networks encode all layers once.
    for network in (autoencoder, transparency):
        network.to(ctx.device)
    cache_folder = None if preset.in_memory else caches
    latents = encode_images(
        preset, images.layers, autoencoder, transparency.encoder, cache_folder, on_progress
    )

    # The base with adapters, and the embeddings of its captions.
    torch.manual_seed(request.seed)
    layered = open_layered(preset, base, parent).to(ctx.device)
    texts = encode_texts(
        preset, layered.denoiser, images.layers.captions, cache_folder, on_progress
    )
    stage = LayersStage(preset, layered, images, latents, texts, autoencoder, transparency)
    # Every batch has one size and one set of roles.
    bucket_sampler = BucketSampler(sampler, images.keys, batch_size)
    fit(
        stage,
        TrainerContext(request, preset, ctx, images.samples, bucket_sampler, folder, on_progress),
    )
    trained = {
        name: full_tensor(tensor.detach()).cpu().clone()
        for name, tensor in layered.finetuned_state_dict().items()
    }
    return trained, layered.metadata()


@torch.no_grad()
def layers_loss(
    layered: LayeredDenoiser,
    preset: Preset,
    layer_sets: LayerSetDataset,
    latents: LatentCache,
    *,
    joint: bool,
) -> float:
    """Compute the mean squared error of the prediction on held-out layer sets; lower is better.

    It is taken at the noise levels of the base's validation loss, with the same noise for an image
    every time.

    Args:
        layered: The base with layer adapters.
        preset: The preset.
        layer_sets: The held-out layer sets.
        latents: Their latents.
        joint: Whether layers attend to each other; separate layers are the baseline.
    """
    device = next(layered.denoiser.parameters()).device
    schedule = layered.denoiser.schedule()
    errors = []
    for start in range(0, len(layer_sets), preset.layers_batch):
        indices = range(start, min(start + preset.layers_batch, len(layer_sets)))
        roles = layer_sets.roles[start]
        rows = [row for index in indices for row in layer_sets.layer_indices[index]]
        clean_BCHW = layered.denoiser.normalize(latents.get(rows)[0].to(device))
        conditions = layered.denoiser.encode(
            [text for index in indices for text in layer_sets.captions(index)]
        )
        shape = (len(roles), *clean_BCHW.shape[1:])
        for level in VALIDATION_TIMESTEPS:
            # Seeded by timestep and image index.
            noise = [
                torch.randn(shape, generator=seeded_generator(level, "layers", index))
                for index in indices
            ]
            noise_BCHW = torch.cat(noise).to(device)
            time_B = torch.full((len(rows),), level, device=device)
            noisy_BCHW = schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
            predicted_BCHW = layered.predict(noisy_BCHW, time_B, conditions, roles, joined=joint)
            target_BCHW = denoising_target(schedule, clean_BCHW, noise_BCHW, time_B)
            errors.append((predicted_BCHW - target_BCHW).square().mean((1, 2, 3)))
    return float(torch.cat(errors).double().mean())


def open_layered(preset: Preset, base: StoredPart, parent: StoredPart | None) -> LayeredDenoiser:
    """Load the frozen base, with new adapters or the parent's.

    A pretrained base is cast to the preset's precision; adapters are float32 for any stored
    dtype.

    Args:
        preset: The preset.
        base: Tensors and metadata of the base.
        parent: Those of the adapters; None creates new ones.

    Raises:
        Refused: They do not fit the preset or each other.
    """
    denoiser = load_denoiser(preset, *base)
    dtype = PRECISIONS[preset.precision]
    if dtype and preset.family and not preset.fsdp:  # FSDP needs one dtype
        denoiser.to(dtype)
    layered = (
        new_layered_denoiser(preset, denoiser)
        if parent is None
        else load_layered_denoiser(denoiser, *parent)
    )
    return layered.train()
