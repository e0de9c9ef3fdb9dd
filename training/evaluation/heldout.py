"""Metrics of a checkpoint on held-out samples: round trips, validation losses and pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curation.datasets.manifest import read_samples
from curation.domain import Checkpoint, LayerRole, Sample, Split
from curation.ports import ObjectStore, ProgressCallback
from training.checkpoint import LoadedCheckpoint, load_checkpoint
from training.data.dataset import LayerDataset
from training.data.layer_set_dataset import open_layer_sets
from training.data.splits import open_split
from training.denoiser.factory import load_denoiser
from training.denoiser.train import encode_images, validation_loss
from training.evaluation.pairs import evaluate_generated_pairs, heldout_pairs
from training.evaluation.round_trip import (
    RoundTrip,
    batches,
    fastest_device,
    move_to_device,
    round_trip,
    round_trip_metrics,
)
from training.layers.model import load_layered_denoiser
from training.layers.train import layers_loss
from training.metrics.compositing import composite_metrics

HIGHER_IS_BETTER: dict[str, bool] = {
    "psnr": True,
    "psnr_inside": True,
    "ssim": True,
    "alpha_sad": False,
    "alpha_mse": False,
    "identity_psnr": True,
    "identity_harm_db": False,
    "noise_mse": False,
    "layers_mse": False,
    "layers_apart_mse": False,
    "background_psnr": True,
    "pair_harmony": False,
    "pair_light_r": True,
    "pair_leakage": False,
    "pair_seam": False,
    "pair_error": False,
    "pair_empty": False,
    "psnr_worst": True,
    "lpips": False,
    "rfid": False,
    "psnr_jpeg": True,
    "ssim_jpeg": True,
    "lpips_jpeg": False,
    "rfid_jpeg": False,
    "alpha_grad": False,
    "alpha_conn": False,
    "unknown_sad": False,
    "unknown_mse": False,
    "unknown_grad": False,
    "unknown_conn": False,
    "offset_mean": False,
    "offset_max": False,
    "offset_energy": False,
    "drawn_empty": False,
    "drawn_opaque": False,
    "drawn_coverage_gap": False,
    "pair_text_foreground": True,
    "pair_text_background": True,
    "pair_text_blended": True,
}
"""The direction of each metric; those from psnr_worst on are computed by the command only."""


def evaluate(
    checkpoint: Checkpoint, snapshot: str, store: ObjectStore, on_progress: ProgressCallback
) -> dict[str, float]:
    """Compute the metrics of a checkpoint on a snapshot's held-out split, at the preset's size.

    - psnr (dB), ssim: truth against reconstruction, both 8-bit RGBA, composited over each of the
      nine backgrounds of curation.images.codec without JPEG, and averaged (AlphaVAE, arXiv
      2507.09308, 3.1).
    - psnr_inside (dB): the same without letterbox margins, which are easy and add about 1 dB.
    - alpha_sad: sum |d alpha| / 1000 of an image; alpha_mse: mean (d alpha)^2; alpha in [0, 1].
    - identity_psnr (dB): premultiplied image against the frozen decoder's output for the adjusted
      latent; identity_harm_db: the loss in dB by the offset (positive is worse).
    - noise_mse: the denoiser's validation loss; layers_mse and layers_apart_mse: that of all layers
      of pairs with adapters, with and without attention between layers.
    - background_psnr (dB): of backgrounds, over their opaque pixels, without their alpha.
    - pair_*: of 16 generated pairs if the checkpoint has layer adapters
      (training.evaluation.pair_metrics.measure_pair). Other kinds of pairs, which need larger
      models, are measured by the command only.

    All other metrics are of foregrounds.

    Args:
        checkpoint: The checkpoint.
        snapshot: Id of the snapshot.
        store: Where both are stored.
        on_progress: Progress callback.

    Raises:
        NotFound: The snapshot or the checkpoint is not in the store.
        Corrupt: Too many images are unreadable.
        Refused: The snapshot has no held-out samples.
    """
    parts = load_checkpoint(checkpoint, store)
    preset = parts.preset
    images = open_split(
        store, snapshot, Split.heldout, preset.image_size, in_memory=preset.in_memory
    )
    # Losses, backgrounds and pairs.
    move_to_device(parts, fastest_device())
    metrics = noise_mse(parts, images) | layers_mse(parts, store, snapshot)
    pairs = heldout_pairs(store, snapshot)
    metrics |= background_psnr(parts, store, pairs)
    if parts.layers is not None and pairs:
        metrics |= evaluate_generated_pairs(checkpoint, store, pairs, on_progress)
    # Round trips of foregrounds.
    measured = [
        _measure(round_trip(parts, rgba_B4HW, inside_B1HW=inside_B1HW))
        for rgba_B4HW, inside_B1HW in batches(images, range(len(images)), on_progress)
    ]
    return {
        name: float(torch.cat([row[name] for row in measured]).mean()) for name in measured[0]
    } | metrics


def has_heldout(store: ObjectStore, snapshot: str) -> bool:
    """Return whether a snapshot has held-out samples."""
    return any(sample.split == Split.heldout for sample in read_samples(store, snapshot))


def _measure(round_trip: RoundTrip) -> dict[str, Tensor]:
    """Compute all metrics of a round trip, means over backgrounds, per image."""
    blended = composite_metrics(round_trip.truth_B4HW, round_trip.reconstructed_B4HW)
    means = {
        name: torch.stack(list(by_background.values())).mean(0)
        for name, by_background in blended.items()
    }
    return means | round_trip_metrics(round_trip)


def noise_mse(checkpoint: LoadedCheckpoint, images: LayerDataset) -> dict[str, float]:
    """Compute the denoiser's validation loss by its name; {} if the checkpoint has no base."""
    if checkpoint.base is None:
        return {}
    return {
        "noise_mse": validation_loss(
            checkpoint.base,
            checkpoint.preset,
            checkpoint.autoencoder,
            checkpoint.transparency,
            images,
        )
    }


def layers_mse(checkpoint: LoadedCheckpoint, store: ObjectStore, snapshot: str) -> dict[str, float]:
    """Compute the validation losses of layers by name; {} if there are no adapters or pairs."""
    preset = checkpoint.preset
    roles = [LayerRole(role) for role in preset.layer_roles]
    samples = (sample for sample in read_samples(store, snapshot) if sample.split == Split.heldout)
    if (
        checkpoint.base is None
        or checkpoint.layers is None
        or not any(sample.layers.keys() >= set(roles) for sample in samples)
    ):
        return {}
    layer_sets = open_layer_sets(
        store, snapshot, Split.heldout, preset.image_size, roles, in_memory=preset.in_memory
    )
    # Latents are not cached on disk: held-out sets are small.
    encoder = checkpoint.transparency.encoder
    latents = encode_images(
        preset, layer_sets.layers, checkpoint.autoencoder, encoder, None, lambda _: None
    )
    layered = (
        load_layered_denoiser(load_denoiser(preset, *checkpoint.base), *checkpoint.layers)
        .to(checkpoint.autoencoder.device)
        .eval()
    )
    joined, apart = (
        layers_loss(layered, preset, layer_sets, latents, joint=joined) for joined in (True, False)
    )
    return {"layers_mse": joined, "layers_apart_mse": apart}


@torch.no_grad()
def background_psnr(
    checkpoint: LoadedCheckpoint,
    store: ObjectStore,
    samples: Sequence[Sample],
    views: int | None = None,
) -> dict[str, float]:
    """Compute background_psnr (see `evaluate`), the mean over pairs; {} if there are none.

    Args:
        checkpoint: The checkpoint's networks.
        store: Where the samples are stored.
        samples: The pairs.
        views: Number of views in test-time augmentation, as in `decode_rgba`.
    """
    roles = [LayerRole.background] * len(samples)
    images = LayerDataset(
        store, samples, checkpoint.preset.image_size, in_memory=False, roles=roles
    )
    rows = []
    for truth_B4HW, _ in batches(images, range(len(images)), lambda _: None):
        reconstructed_B4HW = round_trip(checkpoint, truth_B4HW, views).reconstructed_B4HW
        # Letterbox margins do not belong to the image.
        opaque_B1HW = (truth_B4HW[:, 3:] == 1).float()
        squares_B = (
            ((reconstructed_B4HW - truth_B4HW)[:, :3].square() * opaque_B1HW).flatten(1).sum(1)
        )
        mse_B = squares_B / (3 * opaque_B1HW.flatten(1).sum(1)).clamp_min(1)
        rows.append(-10 * torch.log10(mse_B.clamp_min(1e-10)))
    return {"background_psnr": float(torch.cat(rows).mean())} if rows else {}
