"""Training of the base from accepted and rejected candidates of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from curation.domain import LayerRole, Split, TrainingRequest
from curation.ports import ObjectStore, ProgressCallback
from training.data.buckets import BucketSampler, Sampler, bucket_config
from training.data.dataset import LayerDataset
from training.data.sampler import new_sample_weights
from training.data.splits import read_split
from training.denoiser.factory import load_denoiser
from training.denoiser.train import encode_images, encode_texts, heldout_batch
from training.engine.distributed import DistributedContext, full_tensor
from training.engine.trainer import TrainerContext, fit
from training.preference.labels import Label, read_labels
from training.preference.mixture import TwoGroups, WeightedIndices
from training.preference.reference import freeze_reference
from training.preference.stage import KTOStage
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency

StoredPart = tuple[Mapping[str, Tensor], Mapping[str, str]]
"""A checkpoint's part: tensors and metadata."""


def train_base_preference(
    request: TrainingRequest,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    on_progress: ProgressCallback,
    autoencoder: Autoencoder,
    transparency: Transparency,
    base: StoredPart,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train a base further on the decided single layers of a snapshot.

    Candidates are encoded with the checkpoint's own encoder of offsets, as samples are, so that a
    decision concerns the adjusted latent of what people saw. Run again with the same folder,
    training resumes from the last saved state, and the result is bit-identical to an uninterrupted
    run on the CPU.

    Args:
        request: The training request.
        preset: The preset.
        store: Where the snapshot is stored.
        folder: The folder of the run.
        on_progress: Progress callback; its exceptions stop the training, and saved states remain.
        autoencoder: The autoencoder.
        transparency: The transparency encoder and decoder.
        base: Tensors and metadata of the base, which is also the reference.

    Returns:
        The trained tensors with EMA weights, and their metadata.

    Raises:
        Refused: The snapshot has no usable decisions, `base` does not fit, or memory ran out.
        Diverged: A loss or gradient is NaN or infinite.
    """
    # Samples and candidates are images of one data set, with one cache of latents.
    ctx = DistributedContext(preset)
    caches = folder.parent / "cache"
    cache_folder = None if preset.in_memory else caches
    labels = read_labels(store, request.snapshot, "base", preset, request.previous)
    step = ctx.global_batch_size(preset.preference_batch)
    images = _open_images(store, request.snapshot, preset, labels, step, caches)
    label_of = _labels_by_index(images, labels)
    sampler: Sampler = _sampler(store, request, preset, images, label_of)
    sampler = BucketSampler(sampler, images.shapes, step) if preset.buckets else sampler
    for network in (autoencoder, transparency):
        network.to(ctx.device)
    latents = encode_images(
        preset, images, autoencoder, transparency.encoder, cache_folder, on_progress
    )

    # The denoiser, and its copy from before the training.
    torch.manual_seed(request.seed)
    denoiser = load_denoiser(preset, *base).train().requires_grad_(True).to(ctx.device)
    reference = freeze_reference(preset, denoiser)
    texts = encode_texts(preset, denoiser, images.captions, cache_folder, on_progress)
    heldout = heldout_batch(store, request.snapshot, preset, autoencoder, transparency.encoder)
    stage = KTOStage(
        preset, denoiser, images, latents, texts, autoencoder, transparency, heldout,
        labels=label_of, reference=reference,
    )  # fmt: skip
    fit(stage, TrainerContext(request, preset, ctx, images.samples, sampler, folder, on_progress))
    trained = {
        name: full_tensor(tensor.detach()).cpu().clone()
        for name, tensor in denoiser.finetuned_state_dict().items()
    }
    return trained, denoiser.metadata()


def _open_images(
    store: ObjectStore,
    snapshot: str,
    preset: Preset,
    labels: Sequence[Label],
    step: int,
    caches: Path,
) -> LayerDataset:
    """Open the layers of the train split, as for the base, and after them the candidates."""
    roles = preset.trained_roles(preset.base_opaque)
    layers = [
        (sample, role)
        for sample in read_split(store, snapshot, Split.train)
        for role in roles
        if role in sample.layers
    ]
    layers += [(label.sample(), LayerRole.foreground) for label in labels]
    return LayerDataset(
        store,
        [sample for sample, _ in layers],
        preset.image_size,
        in_memory=preset.in_memory,
        buckets=bucket_config(preset, step, caches / "sizes"),
        roles=[role for _, role in layers],
    )


def _labels_by_index(images: LayerDataset, labels: Sequence[Label]) -> dict[int, Label]:
    """Return the label of each candidate by its index: unreadable images may have been left out."""
    by_id = {label.record.id: label for label in labels}
    found = {index: by_id.get(sample.id) for index, sample in enumerate(images.samples)}
    return {index: label for index, label in found.items() if label is not None}


def _sampler(
    store: ObjectStore,
    request: TrainingRequest,
    preset: Preset,
    images: LayerDataset,
    labels: Mapping[int, Label],
) -> TwoGroups:
    """Return the sampler of samples, accepts and rejects."""
    real = [index for index in range(len(images)) if index not in labels]
    news = new_sample_weights(
        store,
        [images.samples[index] for index in real],
        request.previous,
        preset.new_sample_weight,
    )
    weights = [
        new * (1 if images.roles[index] == LayerRole.foreground else preset.base_opaque)
        for new, index in zip(news, real, strict=True)
    ]
    accepts, rejects = (
        WeightedIndices.of(
            [index for index, label in labels.items() if label.desirable == desirable],
            [label.weight for label in labels.values() if label.desirable == desirable],
            request.seed,
        )
        for desirable in (True, False)
    )
    return TwoGroups(
        WeightedIndices.of(real, weights, request.seed),
        TwoGroups(accepts, rejects, preset.desirable_share),
        preset.real_share,
    )
