"""Training of a base or of layer adapters from accepted and rejected candidates of a snapshot."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from curation.domain import LayerRole, Sample, Split, TrainingRequest
from curation.errors import Refused
from curation.ports import ObjectStore, ProgressCallback
from training.data.buckets import bucket_config
from training.data.dataset import LayerDataset
from training.data.layer_set_dataset import LayerSetDataset
from training.data.sampler import new_sample_weights
from training.data.splits import read_split
from training.denoiser.cache import LatentCache
from training.denoiser.factory import load_denoiser
from training.denoiser.train import encode_images, encode_texts, heldout_batch
from training.engine.distributed import DistributedContext, full_tensor
from training.engine.trainer import TrainerContext, fit
from training.layers.train import StoredPart, open_layered
from training.preference.labels import Label, read_labels
from training.preference.mixture import Mixture, mix_pairs, mix_singles
from training.preference.objective import DecisionStage
from training.preference.reference import Reference, freeze_reference
from training.preference.stages import DPOStage, KTOStage, LayersDPOStage, LayersKTOStage
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency


@dataclass(frozen=True)
class DecisionTraining:
    """The arguments that trainings from decisions share.

    Attributes:
        stage: kto, dpo, layers-kto or layers-dpo.
        request: The training request.
        preset: The preset.
        store: Where the snapshot is stored.
        folder: The folder of the run.
        on_progress: Progress callback; its exceptions stop the training, and saved states remain.
        autoencoder: The autoencoder.
        transparency: The transparency encoder and decoder.
    """

    stage: str
    request: TrainingRequest
    preset: Preset
    store: ObjectStore
    folder: Path
    on_progress: ProgressCallback
    autoencoder: Autoencoder
    transparency: Transparency

    @property
    def caches(self) -> Path:
        """The folder of caches, shared by the runs of an instance."""
        return self.folder.parent / "cache"

    @property
    def cache_folder(self) -> Path | None:
        """The folder of cached latents and texts; None keeps them in memory."""
        return None if self.preset.in_memory else self.caches

    def labels(self, part: str) -> list[Label]:
        """Read the decisions that a part learns from. Raises Refused."""
        request = self.request
        return read_labels(self.store, request.snapshot, part, self.preset, request.previous)

    def open_layers(
        self, layers: Sequence[tuple[Sample, LayerRole]], ctx: DistributedContext
    ) -> LayerDataset:
        """Open layers of samples and candidates as one data set."""
        step = ctx.global_batch_size(self.preset.preference_batch)
        return LayerDataset(
            self.store,
            [sample for sample, _ in layers],
            self.preset.image_size,
            in_memory=self.preset.in_memory,
            buckets=bucket_config(self.preset, step, self.caches / "sizes"),
            roles=[role for _, role in layers],
        )

    def new_weights(self, samples: Sequence[Sample]) -> list[float]:
        """Return the weight of each sample by whether the previous snapshot has it."""
        return new_sample_weights(
            self.store, samples, self.request.previous, self.preset.new_sample_weight
        )

    def mix(
        self, real: Mapping[int, float], labels: Mapping[int, Label], shapes: Sequence[Hashable]
    ) -> Mixture:
        """Mix real samples and decided candidates, single or in pairs. Raises Refused."""
        mix = mix_pairs if self.stage.endswith("dpo") else mix_singles
        return mix(real, labels, shapes, self.preset, self.request.seed)

    def fit(
        self,
        stage: DecisionStage,
        mixture: Mixture,
        samples: Sequence[Sample],
        ctx: DistributedContext,
    ) -> None:
        """Train a stage to its end."""
        step = ctx.global_batch_size(self.preset.preference_batch)
        fit(
            stage,
            TrainerContext(
                self.request,
                self.preset,
                ctx,
                [samples[group[0]] for group in mixture.groups],
                mixture.in_buckets(step) if self.preset.buckets else mixture.sampler,
                self.folder,
                self.on_progress,
            ),
        )


def train_base_from_decisions(
    training: DecisionTraining, base: StoredPart
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train a base further on the decided single layers of a snapshot.

    Candidates are encoded with the checkpoint's own encoder of offsets, as samples are, so that a
    decision concerns the adjusted latent of what people saw. Run again with the same folder,
    training resumes from the last saved state, and the result is bit-identical to an uninterrupted
    run on the CPU.

    Args:
        training: The arguments of the training.
        base: Tensors and metadata of the base, which is also the reference.

    Returns:
        The trained tensors with EMA weights, and their metadata.

    Raises:
        Refused: The snapshot has no usable decisions, `base` does not fit, or memory ran out.
        Diverged: A loss or gradient is NaN or infinite.
    """
    # Samples and candidates are images of one data set, with one cache of latents.
    preset, ctx = training.preset, DistributedContext(training.preset)
    labels = training.labels("base")
    layers = [
        (sample, role)
        for sample in read_split(training.store, training.request.snapshot, Split.train)
        for role in preset.trained_roles(preset.base_opaque)
        if role in sample.layers
    ]
    layers += [(label.sample(), LayerRole.foreground) for label in labels]
    images = training.open_layers(layers, ctx)
    label_of = _labels_by_index(images.samples, labels)
    real = [index for index in range(len(images)) if index not in label_of]
    weights = training.new_weights([images.samples[index] for index in real])
    mixture = training.mix(
        {
            index: weight
            * (1 if images.roles[index] is LayerRole.foreground else preset.base_opaque)
            for index, weight in zip(real, weights, strict=True)
        },
        label_of,
        images.shapes,
    )
    latents = _encode(training, images, ctx)

    # The denoiser, and what it was before the training.
    torch.manual_seed(training.request.seed)
    denoiser = load_denoiser(preset, *base).train().requires_grad_(True).to(ctx.device)
    texts = encode_texts(
        preset, denoiser, images.captions, training.cache_folder, training.on_progress
    )
    heldout = heldout_batch(
        training.store,
        training.request.snapshot,
        preset,
        training.autoencoder,
        training.transparency.encoder,
    )
    stage = (DPOStage if training.stage == "dpo" else KTOStage)(
        preset,
        denoiser,
        images,
        latents,
        texts,
        training.autoencoder,
        training.transparency,
        heldout,
    )
    reference = freeze_reference(preset, denoiser)
    stage.learn_from(training.stage, mixture.groups, label_of, reference)
    training.fit(stage, mixture, images.samples, ctx)
    return _trained(denoiser.finetuned_state_dict()), denoiser.metadata()


def train_layers_from_decisions(
    training: DecisionTraining, base: StoredPart, adapters: StoredPart
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train layer adapters further on the decided pairs of a snapshot, as the base is.

    Args:
        training: The arguments of the training.
        base: Tensors and metadata of the base, which stays frozen.
        adapters: Tensors and metadata of the layer adapters, which are also the reference.

    Returns:
        The adapters with EMA weights, and their metadata.

    Raises:
        Refused: The snapshot has no usable decisions, the parts do not fit, FSDP is on, or memory
            ran out.
        Diverged: A loss or gradient is NaN or infinite.
    """
    preset, ctx = training.preset, DistributedContext(training.preset)
    if preset.fsdp:
        raise Refused(
            f"{training.stage} exchanges adapters for its reference, which fsdp=true prevents",
            "leave out fsdp",
        )
    # Pairs of the snapshot, and after them decided ones.
    roles = [LayerRole(role) for role in preset.layer_roles]
    labels = training.labels("layers")
    samples = [
        sample
        for sample in read_split(training.store, training.request.snapshot, Split.train)
        if all(role in sample.layers for role in roles)
    ]
    samples += [label.sample() for label in labels]
    images = training.open_layers([(sample, role) for sample in samples for role in roles], ctx)
    layer_sets = LayerSetDataset(images, roles, with_single_foregrounds=False)
    label_of = _labels_by_index(layer_sets.samples, labels)
    real = [index for index in range(len(layer_sets)) if index not in label_of]
    weights = training.new_weights([layer_sets.samples[index] for index in real])
    mixture = training.mix(dict(zip(real, weights, strict=True)), label_of, layer_sets.keys)
    latents = _encode(training, images, ctx)

    # The base with the adapters, whose present weights are the reference.
    torch.manual_seed(training.request.seed)
    layered = open_layered(preset, base, adapters).to(ctx.device)
    texts = encode_texts(
        preset, layered.denoiser, images.captions, training.cache_folder, training.on_progress
    )
    stage = (LayersDPOStage if training.stage == "layers-dpo" else LayersKTOStage)(
        preset, layered, layer_sets, latents, texts, training.autoencoder, training.transparency
    )
    reference = Reference(layered, list(layered.adapters.parameters()))
    stage.learn_from(training.stage, mixture.groups, label_of, reference)
    training.fit(stage, mixture, layer_sets.samples, ctx)
    return _trained(layered.finetuned_state_dict()), layered.metadata()


def _encode(
    training: DecisionTraining, images: LayerDataset, ctx: DistributedContext
) -> LatentCache:
    """Compute the adjusted latents of all images by the frozen networks."""
    networks: Sequence[nn.Module] = (training.autoencoder, training.transparency)
    for network in networks:
        network.to(ctx.device)
    return encode_images(
        training.preset,
        images,
        training.autoencoder,
        training.transparency.encoder,
        training.cache_folder,
        training.on_progress,
    )


def _labels_by_index(samples: Sequence[Sample], labels: Sequence[Label]) -> dict[int, Label]:
    """Return the label of each candidate by its index: unreadable images may have been left out."""
    by_id = {label.record.id: label for label in labels}
    return {index: by_id[one.id] for index, one in enumerate(samples) if one.id in by_id}


def _trained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: full_tensor(tensor.detach()).cpu().clone() for name, tensor in tensors.items()}
