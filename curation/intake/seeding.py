"""Where a house's first samples come from: the user's folder, or shapes that the project draws itself."""

from __future__ import annotations

from pathlib import Path

from curation.domain import Progress
from curation.house import House
from curation.intake import procedural, seeds
from curation.ports import Report


def bring_seeds(house: House, folder: Path | None, count: int, tell: Report) -> None:
    """Import a folder, or draw `count` shapes and import those; what is in already is passed by quickly."""
    if folder is None:
        folder = house.settings.path("drawn-seeds")
        tell(Progress("drawing seeds", 0, count))
        procedural.draw_seed(folder, count)
        tell(Progress("drawing seeds", count, count))
    seeds.import_seeds(house.database, house.store, folder, tell)
