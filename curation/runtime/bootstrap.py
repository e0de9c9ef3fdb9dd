"""First samples of an instance: the user's folder, or the synthetic seed set."""

from __future__ import annotations

from pathlib import Path

from curation.domain import Kind, Progress
from curation.ingest import seed_import
from curation.ports import Report
from curation.runtime.context import AppContext
from curation.synthetic import dataset, pair_dataset

SINGLES = 0.4
"""The share of single layers beside drawn pairs: what a foreground is, is learnt from both."""


def bring_seeds(
    context: AppContext, folder: Path | None, count: int, tell: Report, kind: Kind = Kind.single
) -> None:
    """Import a folder, or draw `count` shapes or pairs and import those; what is in already is passed by quickly.

    A folder may hold single layers and pairs, whatever the rounds draw.
    """
    if folder is None:
        folder = context.settings.path("drawn-pairs" if kind is Kind.pair else "drawn-seeds")
        tell(Progress("drawing seeds", 0, count))
        if kind is Kind.pair:
            singles = round(SINGLES * count)
            pair_dataset.draw_pair_seed(folder, count - singles, singles)
        else:
            dataset.draw_seed(folder, count)
        tell(Progress("drawing seeds", count, count))
    seed_import.import_seeds(
        context.database, context.store, folder, tell, limits=context.settings.image_limits
    )
