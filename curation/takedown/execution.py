"""A takedown from its beginning to its record; an interrupted one goes on where it stopped.

The steps are recorded or can be repeated: (1) the layers are blocked and all that is concerned is
listed, in one transaction; (2) samples and candidates leave every use; (3) snapshots, trainings and
checkpoints are marked; (4) successors are frozen; (5) rows are emptied; (6) packs are rewritten;
(7) objects are removed; (8) the record is written.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation.db.advisory_locks import AdvisoryLock
from curation.db.engine import Database
from curation.db.tables import takedowns
from curation.errors import Conflict
from curation.ports import ProgressCallback
from curation.store_inventory import InstanceStore
from curation.takedown.erasure import erase_rows
from curation.takedown.lineage import mark_affected
from curation.takedown.marking import REMOVING, begin, withdraw
from curation.takedown.objects import remove_objects
from curation.takedown.packs import OpenPack, PackOutcome, clean_packs
from curation.takedown.people import begin_person, remove_person
from curation.takedown.records import write_record
from curation.takedown.selectors import Selector
from curation.takedown.successors import replace_snapshots


@dataclass(frozen=True)
class TakedownPlace:
    """Where a takedown works.

    Attributes:
        database: The database.
        store: The object store.
        secret: The instance's secret, which signs the record.
        actor: Name of the person.
        open_pack: Opens the folders of packs.
    """

    database: Database
    store: InstanceStore
    secret: str
    actor: str
    open_pack: OpenPack


def take_down(
    place: TakedownPlace,
    selector: Selector,
    reason: str,
    report: ProgressCallback,
    given: Collection[dict[str, object]] = (),
) -> list[dict[str, Any]]:
    """Finish interrupted takedowns, then take down what a selector names.

    Args:
        place: Where it works.
        selector: What is to be taken down.
        reason: The reason, kept as it is given.
        report: Receives the progress.
        given: Layers to block even if the instance does not hold them.

    Returns:
        The rows of the finished takedowns; none if there was nothing to do.

    Raises:
        Conflict: Another takedown runs.
        NotFound: There is no sample, candidate or reviewer of that name.
    """
    with exclusively(place.database):
        finished = [_finish(place, one, report) for one in find_unfinished(place.database)]
        if any(row["selector_hash"] == selector.hash for row in finished):
            return finished
        if selector.kind == "reviewer":
            new: uuid.UUID | None = begin_person(
                place.database, selector.values[0], place.actor, reason
            )
        else:
            new = begin(place.database, selector, place.actor, reason, given)
        return [*finished, _finish(place, new, report)] if new is not None else finished


def clean_left_packs(place: TakedownPlace, report: ProgressCallback) -> list[PackOutcome]:
    """Remove what was taken down before from packs that were not reached then.

    Args:
        place: Where it works.
        report: Receives the progress.

    Returns:
        The outcome for each pack that held something or was not reached.

    Raises:
        Conflict: A takedown runs.
    """
    with exclusively(place.database):
        return clean_packs(place.database, place.store, place.open_pack, place.actor, report)


def find_unfinished(database: Database) -> list[uuid.UUID]:
    """Return the takedowns that were interrupted, oldest first."""
    query = sa.select(takedowns.c.id).where(takedowns.c.state == REMOVING)
    with database.transaction() as tx:
        return list(tx.execute(query.order_by(takedowns.c.created_at)).scalars())


@contextmanager
def exclusively(database: Database) -> Iterator[None]:
    """Let no other takedown run; the lock ends with its connection. Raises Conflict."""
    # A connection of its own: no transaction may stay open for so long.
    key = int(AdvisoryLock.take_down)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        if not connection.execute(sa.text(f"select pg_try_advisory_lock({key})")).scalar():
            raise Conflict("another takedown is running", "wait until it has ended, then try again")
        try:
            yield
        finally:
            connection.execute(sa.text(f"select pg_advisory_unlock({key})"))


def _finish(place: TakedownPlace, takedown: uuid.UUID, report: ProgressCallback) -> dict[str, Any]:
    database, store = place.database, place.store
    remove_person(database, takedown)
    withdraw(database, takedown)
    mark_affected(database, store, takedown, place.actor)
    replace_snapshots(database, store, takedown, place.actor)
    erase_rows(database, takedown)
    clean_packs(database, store, place.open_pack, place.actor, report, takedown)
    remove_objects(database, store, takedown, report)
    return write_record(database, store, takedown, place.secret, place.actor)
