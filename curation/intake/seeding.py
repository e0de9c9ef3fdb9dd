"""Where a house's first samples come from: the user's folder, or shapes that the project draws itself."""

from __future__ import annotations

from pathlib import Path

from curation.domain import Kind, Progress
from curation.house import House
from curation.intake import procedural, procedural_pairs, seeds
from curation.ports import Report

SINGLES = 0.4
"""The share of single layers beside drawn pairs: what a foreground is, is learnt from both."""


def bring_seeds(house: House, folder: Path | None, count: int, tell: Report, kind: Kind = Kind.single) -> None:
    """Import a folder, or draw `count` shapes or pairs and import those; what is in already is passed by quickly.

    A folder may hold single layers and pairs, whatever the rounds draw.
    """
    if folder is None:
        folder = house.settings.path("drawn-pairs" if kind is Kind.pair else "drawn-seeds")
        tell(Progress("drawing seeds", 0, count))
        if kind is Kind.pair:
            singles = round(SINGLES * count)
            procedural_pairs.draw_pair_seed(folder, count - singles, singles)
        else:
            procedural.draw_seed(folder, count)
        tell(Progress("drawing seeds", count, count))
    seeds.import_seeds(house.database, house.store, folder, tell, limits=house.settings.image_limits)
