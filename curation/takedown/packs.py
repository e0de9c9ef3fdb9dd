"""Packs of an instance: a takedown rewrites those that it reaches, and names the others."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from curation.datasets.pack_places import PackPlace, list_packs
from curation.db.engine import Database
from curation.db.tables import blocked_layers, takedown_items, takedowns
from curation.errors import LayerloopError, NotFound
from curation.exports.packs.folder import PackFolder
from curation.exports.packs.removal import RemovedContent, find_rows, remove_rows
from curation.object_store import encode_notice
from curation.ports import ProgressCallback
from curation.store_inventory import InstanceStore
from curation.takedown.marking import add_items

OpenPack = Callable[[str, str], PackFolder]
"""Opens the folder of a pack by its address and the URL of its server (empty: the provider's)."""
REACHED, UNREACHED = "pack", "unreached_pack"
NO_ROWS = RemovedContent(frozenset(), frozenset())


@dataclass(frozen=True)
class PackOutcome:
    """What a takedown does, or did, to a pack.

    Attributes:
        pack: The address.
        shards: Shards that are written again or removed.
        rows: Rows that are removed.
        problem: Why the pack was not reached; empty if it was.
    """

    pack: str
    shards: int
    rows: int
    problem: str = ""


def removed_content(database: Database) -> RemovedContent:
    """Return the ids and layers of all takedowns so far, also of unfinished ones."""
    of_rows = takedown_items.c.kind.in_(("sample", "candidate"))
    with database.transaction() as tx:
        names = tx.execute(sa.select(takedown_items.c.name).where(of_rows)).scalars()
        ids = frozenset(name.replace("-", "") for name in names)
        layers = frozenset(tx.execute(sa.select(blocked_layers.c.sha256)).scalars())
    return RemovedContent(ids, layers)


def find_in_packs(
    database: Database,
    open_pack: OpenPack,
    ids: Collection[uuid.UUID] = (),
    layers: Collection[str] = (),
) -> list[PackOutcome]:
    """Return what a takedown would do to the recorded packs, without doing it.

    Args:
        database: The database.
        open_pack: Opens a pack.
        ids: Ids of samples and candidates to remove besides those that were taken down before.
        layers: Names of layers, likewise.
    """
    before = removed_content(database)
    wanted = RemovedContent(before.ids | {one.hex for one in ids}, before.layers | set(layers))
    with database.transaction() as tx:
        places = list_packs(tx)
    outcomes = []
    for place in places:
        try:
            with _reached(place, open_pack) as folder:
                found = find_rows(folder, wanted)
        except LayerloopError as error:
            outcomes.append(PackOutcome(place.described, 0, 0, error.message))
            continue
        rows = frozenset[str]().union(*found.values())
        if found:
            outcomes.append(PackOutcome(place.described, len(found), len(rows)))
    return outcomes


def clean_packs(
    database: Database,
    store: InstanceStore,
    open_pack: OpenPack,
    actor: str,
    report: ProgressCallback,
    takedown: uuid.UUID | None = None,
) -> list[PackOutcome]:
    """Remove from the recorded packs all that was taken down so far; the call is idempotent.

    Packs that were not reached by earlier takedowns are tried again.

    Args:
        database: The database.
        store: The instance's store.
        open_pack: Opens a pack.
        actor: Name of the person.
        report: Receives the progress.
        takedown: The takedown that records the outcome, if one is unfinished.

    Returns:
        The outcome for each pack that held something or was not reached.
    """
    removed = removed_content(database)
    if removed == NO_ROWS:
        return []
    with database.transaction() as tx:
        places = list_packs(tx)
        newest = sa.select(takedowns.c.id).order_by(takedowns.c.created_at.desc()).limit(1)
        named = str(takedown or tx.scalar(newest))
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    outcomes = []
    for place in places:
        try:
            with _reached(place, open_pack) as folder:
                done = remove_rows(
                    folder, removed, store,
                    lambda _, successor: encode_notice(named, today, successor), report,
                )  # fmt: skip
            outcome = PackOutcome(place.described, done.shards, done.rows)
        except LayerloopError as error:
            outcome = PackOutcome(place.described, 0, 0, error.message)
        _record(database, outcome, actor, takedown)
        if outcome.shards or outcome.problem:
            outcomes.append(outcome)
    return outcomes


@contextmanager
def _reached(place: PackPlace, open_pack: OpenPack) -> Iterator[PackFolder]:
    """Yield the folder of a place; errors of its disk are raised as ours. Raises NotFound."""
    if place.is_folder and not Path(place.address).is_dir():
        raise NotFound("there is no such folder here: it is elsewhere, not mounted, or deleted")
    try:
        yield open_pack(place.address, place.endpoint)
    except OSError as error:
        raise NotFound(f"the folder cannot be used: {error.strerror or error}") from error


def _record(
    database: Database, outcome: PackOutcome, actor: str, takedown: uuid.UUID | None
) -> None:
    with database.transaction() as tx:
        if not outcome.problem:
            # Earlier takedowns reach it now, too.
            reached = takedown_items.c.kind == UNREACHED, takedown_items.c.name == outcome.pack
            tx.execute(sa.delete(takedown_items).where(*reached))
        if takedown is not None and outcome.problem:
            add_items(tx, takedown, UNREACHED, [outcome.pack])
        elif outcome.shards:
            if takedown is not None:
                add_items(tx, takedown, REACHED, [outcome.pack])
            counts = {"rows": outcome.rows, "shards": outcome.shards}
            tx.log(actor, "pack rewritten", outcome.pack, **counts)
