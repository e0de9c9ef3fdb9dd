"""The training of layers: adapters with which a frozen base draws the layers of a picture to fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from curation.domain import LayerRole, Split, TrainingRequest
from curation.ports import ObjectStore, Report
from training.data.buckets import BucketOrder, preset_buckets
from training.data.layer_set_dataset import LayerSetDataset, load_layered
from training.denoiser.cache import LatentCache
from training.denoiser.factory import open_denoiser
from training.denoiser.stage import VALIDATED, denoising_target
from training.denoiser.train import encode_pictures, encode_texts
from training.engine.distributed import PRECISIONS, DistributedContext, whole
from training.engine.resume import generator_at
from training.engine.trainer import TrainerContext, fit
from training.layers.model import LayeredDenoiser, new_layers, open_layers
from training.layers.stage import LayersStage
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency

Stored = tuple[Mapping[str, Tensor], Mapping[str, str]]
"""A checkpoint's part: tensors and facts."""


def train_layers(
    order: TrainingRequest,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    report: Report,
    backbone: Autoencoder,
    transparency: Transparency,
    base: Stored,
    start: Stored | None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Train (section 3.3) on the pairs of the snapshot's train split, from `start` or afresh; the averaged adapters.

    Every layer is an adjusted latent: a background is a picture whose alpha is 1 everywhere. Lone foregrounds, the
    preset's `single_share` of the pictures, keep the foreground's adapter at home where there is no other layer; a step
    has pairs or lone ones, not both. Run again with the same folder it goes on from the last saved state, and ends with
    the bits of a straight run on the CPU. Raises Refused where there are no pairs or the parts do not fit, and as
    `fit`.
    """
    machine = DistributedContext(preset)
    caches = folder.parent / "cache"
    step = machine.step_images(preset.layers_batch)
    memory = preset.in_memory
    pictures = load_layered(
        store,
        order.snapshot,
        Split.train,
        preset.image_size,
        [LayerRole(role) for role in preset.layer_roles],
        alone=preset.single_share > 0,
        in_memory=memory,
        buckets=preset_buckets(preset, step, caches / "sizes"),
    )
    drawn = pictures.order(
        store, order.previous, preset.new_weight, preset.single_share, order.seed
    )
    for network in (backbone, transparency):
        network.to(machine.device)
    kept = None if memory else caches
    latents = encode_pictures(preset, pictures.layers, backbone, transparency.encoder, kept, report)

    torch.manual_seed(order.seed)
    layered = _open(preset, base, start).to(machine.device)
    texts = encode_texts(preset, layered.denoiser, pictures.layers.captions, kept, report)
    recipe = LayersStage(preset, layered, pictures, latents, texts, backbone, transparency)
    draws = BucketOrder(drawn, pictures.keys, step)
    fit(recipe, TrainerContext(order, preset, machine, pictures.samples, draws, folder, report))
    learnt = {
        name: whole(tensor.detach()).cpu().clone() for name, tensor in layered.learnt().items()
    }
    return learnt, layered.facts()


@torch.no_grad()
def layers_loss(
    layered: LayeredDenoiser,
    preset: Preset,
    pictures: LayerSetDataset,
    latents: LatentCache,
    *,
    joined: bool,
) -> float:
    """The mean squared error of what is predicted of all layers of pictures it never saw; lower is better.

    At the noise levels of the base's own held-out loss, with the same noise for a picture every time; `joined` or with
    layers that do not see each other, which is what seeing each other has to be better than.
    """
    device = next(layered.denoiser.parameters()).device
    schedule = layered.denoiser.schedule()
    errors = []
    for start in range(0, len(pictures), preset.layers_batch):
        places = range(start, min(start + preset.layers_batch, len(pictures)))
        roles = pictures.roles[start]
        rows = [row for place in places for row in pictures.rows[place]]
        clean_BCHW = layered.denoiser.normalise(latents.take(rows)[0].to(device))
        conditions = layered.denoiser.encode(
            [text for place in places for text in pictures.captions(place)]
        )
        shape = (len(roles), *clean_BCHW.shape[1:])
        for level in VALIDATED:
            noise = [
                torch.randn(shape, generator=generator_at(level, "layers", place))
                for place in places
            ]
            noise_BCHW = torch.cat(noise).to(device)
            time_B = torch.full((len(rows),), level, device=device)
            noisy_BCHW = schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
            predicted_BCHW = layered.predict(noisy_BCHW, time_B, conditions, roles, joined=joined)
            wanted_BCHW = denoising_target(schedule, clean_BCHW, noise_BCHW, time_B)
            errors.append((predicted_BCHW - wanted_BCHW).square().mean((1, 2, 3)))
    return float(torch.cat(errors).double().mean())


def _open(preset: Preset, base: Stored, start: Stored | None) -> LayeredDenoiser:
    """A frozen base with fresh adapters, or with those of the parent. A pretrained base is in the preset's precision.

    Adapters are float32 whatever they were stored in.
    """
    denoiser = open_denoiser(preset, *base)
    half = PRECISIONS[preset.precision]
    if half and preset.family and not preset.sharded:  # shards are of one type
        denoiser.to(half)
    layered = new_layers(preset, denoiser) if start is None else open_layers(denoiser, *start)
    return layered.train()
