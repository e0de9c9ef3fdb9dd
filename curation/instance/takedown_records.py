"""Records of takedowns beside backups: an older backup that is restored loses the images again.

The records are objects of the instance, and so of every backup. The file `takedowns` of a place
lists them for all its backups, so that also a backup that is older than a takedown knows of it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import takedowns
from curation.errors import NotFound
from curation.instance.backup import BackupPlace
from curation.ports import ProgressCallback
from curation.takedown.execution import TakedownPlace, take_down
from curation.takedown.records import layers_of, read_record, selector_of

FILE = "takedowns"


def list_records(place: BackupPlace) -> list[str]:
    """Return the names of all records of takedowns in a place for backups."""
    with suppress(NotFound):
        return place.files.read(FILE).decode().split()
    return []


def save_records(database: Database, place: BackupPlace) -> None:
    """Add the finished takedowns of an instance to the list of a place that has their records.

    Args:
        database: The database.
        place: Where backups are kept, after a backup.
    """
    query = sa.select(takedowns.c.record).where(takedowns.c.record.is_not(None))
    with database.transaction() as tx:
        own = list(tx.execute(query.order_by(takedowns.c.created_at)).scalars())
    known = list_records(place)
    if new := [name for name in own if name not in known and place.store.has(name)]:
        place.files.write(FILE, "".join(f"{name}\n" for name in [*known, *new]).encode())


def apply_records(
    place: BackupPlace, target: TakedownPlace, report: ProgressCallback
) -> list[dict[str, Any]]:
    """Repeat the takedowns of a place in an instance that does not have them; idempotent.

    Args:
        place: Where backups are kept.
        target: The instance, as after the restoration of an older backup.
        report: Receives the progress.

    Returns:
        The rows of the takedowns that had something to remove or to block.
    """
    finished = []
    for name in list_records(place):
        record = read_record(place.store, name)
        with target.database.transaction() as tx:
            known = tx.scalar(sa.select(sa.exists().where(takedowns.c.record == name)))
            selector = None if known else selector_of(tx, record)
        if selector is not None:
            reason = str(record["reason"])
            finished += take_down(target, selector, reason, report, layers_of(record))
    return finished
