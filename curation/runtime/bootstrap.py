"""The first samples of an instance: the user's folder or the synthetic seed set."""

from __future__ import annotations

from pathlib import Path

from curation.domain import Kind, Progress
from curation.ingest import seed_import
from curation.ports import ProgressCallback
from curation.runtime.context import AppContext
from curation.synthetic import dataset, pair_dataset

SINGLE_LAYER_SHARE = 0.4
"""The share of single layers in the synthetic pair set: a foreground is trained on both kinds."""


def import_initial_seeds(
    context: AppContext,
    folder: Path | None,
    count: int,
    on_progress: ProgressCallback,
    kind: Kind = Kind.single,
) -> None:
    """Import a folder, or generate a synthetic seed set and import that; idempotent.

    Args:
        context: The app context.
        folder: A folder of images with alpha, single layers or pairs; None generates the seed set.
        count: The number of samples of the synthetic seed set.
        on_progress: Receives the progress.
        kind: The kind of the synthetic samples.
    """
    # The synthetic set stays in the home, so that a repeated call imports the same files.
    if folder is None:
        folder = context.settings.path("drawn-pairs" if kind is Kind.pair else "drawn-seeds")
        on_progress(Progress("drawing seeds", 0, count))
        if kind is Kind.pair:
            singles = round(SINGLE_LAYER_SHARE * count)
            pair_dataset.draw_pair_seed_set(folder, count - singles, singles)
        else:
            dataset.draw_seed_set(folder, count)
        on_progress(Progress("drawing seeds", count, count))
    seed_import.import_seeds(
        context.database, context.store, folder, on_progress, limits=context.settings.image_limits
    )
