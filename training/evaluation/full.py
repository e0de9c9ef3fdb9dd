"""Full evaluation of a checkpoint: all metrics, also by background, and a comparison grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curation.domain import (
    Checkpoint,
    GenerationRequest,
    LayerRole,
    Progress,
    Prompt,
    Sample,
    Split,
)
from curation.errors import Refused
from curation.images.codec import decode_layer
from curation.ports import EvaluationOptions, EvaluationResult, ObjectStore, ProgressCallback
from training.checkpoint import LoadedCheckpoint, load_checkpoint
from training.data.dataset import LayerDataset
from training.data.splits import open_split
from training.evaluation.comparison import comparison_grid
from training.evaluation.full_metrics import MetricAccumulator, MetricNetworks
from training.evaluation.heldout import HIGHER_IS_BETTER, background_psnr, layers_mse, noise_mse
from training.evaluation.pair_metrics import PairMetrics
from training.evaluation.pairs import (
    GENERATED_PAIRS,
    compare_pairs,
    generates_pairs,
    heldout_pairs,
    open_pair_generators,
)
from training.evaluation.round_trip import batches, fastest_device, move_to_device, round_trip
from training.generate import load_generator
from training.metrics.clip_score import ClipScore
from training.metrics.reference_results import PUBLISHED

MIN_SIZE = 32
"""Smallest image size in pixels with --original: the perceptual network needs 32."""

EMPTY_ALPHA, OPAQUE_ALPHA = 0.02, 0.98
"""A generated alpha that never exceeds the first is empty; never below the second, fully opaque."""


def evaluate_fully(
    checkpoint: Checkpoint,
    snapshot: str,
    store: ObjectStore,
    options: EvaluationOptions,
    on_progress: ProgressCallback,
) -> EvaluationResult:
    """Compute the metrics of `training.evaluation.heldout.evaluate` and, on the same images:

    - alpha_grad, alpha_conn, unknown_sad, _mse, _grad, _conn: see `training.metrics.matting`.
    - psnr_worst (dB): mean PSNR over the background where it is lowest.
    - lpips, rfid: `training.metrics.perceptual` and `inception`, mean over the nine backgrounds; if
      their weights are given.
    - psnr_jpeg, ssim_jpeg, lpips_jpeg, rfid_jpeg: the four as published, through JPEG, on request.
    - offset_mean, offset_max: |x_eps| / x_std over an image's latent; offset_energy: sum x_eps^2 /
      sum x_a^2.
    - drawn_empty, drawn_opaque: shares of generated images that are invisible or fully opaque.
    - drawn_coverage_gap: |mean alpha of generated images - that of the samples of their captions|.
    - pair_text_foreground, _background, _blended: `training.metrics.clip_score` of a layer over
      gray with its own text.

    All but rfid are means over images. A checkpoint that generates pairs also gets a table of pair
    metrics with intervals, see `training.evaluation.pairs`.

    Args:
        checkpoint: The checkpoint.
        snapshot: Id of the snapshot with the held-out samples.
        store: Where both are stored.
        options: The options: limits, weights of metric networks, number of generated images.
        on_progress: Progress callback.

    Raises:
        NotFound: The snapshot, the checkpoint or a weight file does not exist.
        Corrupt: Too many images are unreadable.
        Refused: There is nothing to evaluate on, or a weight file does not fit.
    """
    # Open weights first, since errors in them are cheap to find.
    networks = MetricNetworks(options)
    parts = load_checkpoint(checkpoint, store)
    size = parts.preset.image_size
    images = open_split(store, snapshot, Split.heldout, size, in_memory=False)
    if options.limit:
        images = LayerDataset(store, images.samples[: options.limit], size, in_memory=False)
    # Held-out losses and the reconstruction of backgrounds.
    move_to_device(parts, fastest_device())
    others = noise_mse(parts, images) | layers_mse(parts, store, snapshot)
    both = heldout_pairs(store, snapshot)[: options.limit or None]
    others |= background_psnr(parts, store, both, options.views)
    # Round trips of foregrounds.
    totals = MetricAccumulator(networks, options)
    for rgba_B4HW, inside_B1HW in (
        _original_sizes(images, on_progress)
        if options.original
        else batches(images, range(len(images)), on_progress)
    ):
        totals.update(round_trip(parts, rgba_B4HW, options.views, inside_B1HW))
    if not totals.images:
        raise Refused(
            f"no held-out image is at least {MIN_SIZE} pixels wide and high",
            "evaluate without --original",
        )
    metrics, backgrounds = totals.compute()
    # Generated images and pairs.
    metrics |= others | _measure_generated(
        checkpoint, parts, store, images, options.draws, on_progress
    )
    pairs = _measure_pairs(
        checkpoint, parts, store, both, options.draws, networks.agreement, on_progress
    )
    metrics |= pairs.metrics if pairs else {}
    return EvaluationResult(
        metrics={name: metrics[name] for name in HIGHER_IS_BETTER if name in metrics},
        backgrounds=backgrounds,
        published=PUBLISHED if options.published else {},
        images=totals.images,
        notes=_notes(options, parts, len(images) - totals.images, totals.images)
        + _notes_on_pairs(options, parts, pairs),
        sheet=comparison_grid(*totals.shown),
        standard=not options.limit
        and not options.original
        and options.views in {None, parts.preset.decoder_views}
        and (pairs is None or options.draws == GENERATED_PAIRS),
        pairs=pairs.table if pairs else {},
        pairs_grid=pairs.sheet if pairs else b"",
    )


def _original_sizes(
    images: LayerDataset, on_progress: ProgressCallback
) -> Iterator[tuple[Tensor, None]]:
    """Yield each image in its original size, 1 x 4 x H x W, which has no margins."""
    device = fastest_device()
    for index, sample in enumerate(images.samples):
        on_progress(Progress("evaluate", index, len(images)))
        rgba = decode_layer(images.store.get(sample.layers[LayerRole.foreground]))
        if min(rgba.shape[:2]) >= MIN_SIZE:
            yield (
                torch.from_numpy(rgba.copy()).to(device).permute(2, 0, 1)[None].float() / 255,
                None,
            )
    on_progress(Progress("evaluate", len(images), len(images)))


def _measure_generated(
    checkpoint: Checkpoint,
    parts: LoadedCheckpoint,
    store: ObjectStore,
    images: LayerDataset,
    count: int,
    on_progress: ProgressCallback,
) -> dict[str, float]:
    """Generate foregrounds for held-out captions, and compare their alpha to the samples'."""
    if parts.base is None or not count:
        return {}
    # Captions are reused, with other seeds, if there are fewer than `count`.
    generator, captions = load_generator(checkpoint, store), images.captions
    indices = [index % len(captions) for index in range(count)]
    alphas: list[NDArray[np.float64]] = []
    for start in range(0, count, parts.preset.draw_batch):
        on_progress(Progress("draw", start, count))
        batch = list(enumerate(indices))[start : start + parts.preset.draw_batch]
        layers = generator.generate(
            [GenerationRequest(Prompt(captions[index]), seed) for seed, index in batch]
        )
        alphas += [layer[LayerRole.foreground][..., 3] / 255 for layer in layers]
    on_progress(Progress("draw", count, count))
    expected = float(np.mean([float(images[index][3].mean()) for index in indices]))
    return {
        "drawn_empty": float(np.mean([alpha.max() < EMPTY_ALPHA for alpha in alphas])),
        "drawn_opaque": float(np.mean([alpha.min() > OPAQUE_ALPHA for alpha in alphas])),
        "drawn_coverage_gap": abs(float(np.mean([alpha.mean() for alpha in alphas])) - expected),
    }


def _measure_pairs(
    checkpoint: Checkpoint,
    parts: LoadedCheckpoint,
    store: ObjectStore,
    samples: Sequence[Sample],
    count: int,
    agreement: ClipScore | None,
    on_progress: ProgressCallback,
) -> PairMetrics | None:
    """Compare generated pairs to real ones; None if no pairs are generated."""
    if not count or not samples or not generates_pairs(parts):
        return None
    generators = open_pair_generators(checkpoint, store)
    return compare_pairs(
        generators, samples, count, parts.preset.image_size, store, on_progress, agreement
    )


def _notes(
    options: EvaluationOptions, parts: LoadedCheckpoint, left_out: int, images: int
) -> list[str]:
    """Return notes on metrics that are missing, and on the reading of those that are not."""
    few_images = (
        f"rfid of {images} images: comparable only between sets of equal size up to some thousands"
    )
    orientation = (
        "published results are of other images: use them for orientation, not as a comparison"
    )
    notes = {
        f"{left_out} images with a side under {MIN_SIZE} pixels were left out": left_out > 0,
        "no lpips: it needs weights (--perceptual)": options.perceptual is None,
        "no rfid: it needs weights (--inception)": options.inception is None,
        "no rfid: it needs two images": options.inception is not None and images < 2,
        few_images: options.inception is not None and 2 <= images < 2048,
        "no JPEG metrics: request them (--published)": not options.published,
        orientation: options.published,
        "no noise_mse and no generated images: the checkpoint has no base": parts.base is None,
    }
    return [note for note, applies in notes.items() if applies]


def _notes_on_pairs(
    options: EvaluationOptions, parts: LoadedCheckpoint, pairs: PairMetrics | None
) -> list[str]:
    """Return notes on pair metrics."""
    if not generates_pairs(parts):
        return []
    if pairs is None:
        return [
            "no pairs were generated: --draws, or held-out samples with both layers, are missing"
        ]
    intervals = (
        "95 % intervals of pairs: Student's t over prompts, each with the mean of its generated "
        "pairs; light_r: bootstrap over prompts"
    )
    notes = {
        intervals: True,
        "no text agreement: it needs a CLIP (--clip)": options.clip is None,
        "no separately generated pairs: this checkpoint has no joint attention to turn off": "joint"
        not in pairs.table["error"],
    }
    return [note for note, applies in notes.items() if applies]
