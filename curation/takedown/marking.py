"""The beginning of a takedown: its row and items, the block on its layers, the withdrawal."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.blocked import band_keys, exclude_writers
from curation.db import leases
from curation.db.engine import Database, Transaction
from curation.db.tables import (
    blocked_layers,
    candidates,
    layers,
    samples,
    takedown_items,
    takedowns,
)
from curation.domain import CandidateState, JobName
from curation.steering.outcomes import forget_outcomes
from curation.takedown.selectors import Selector, TakedownScope, blocks, select

REMOVING, FINISHED = "removing", "finished"


def begin(
    database: Database,
    selector: Selector,
    actor: str,
    reason: str,
    given: Collection[dict[str, object]] = (),
) -> uuid.UUID | None:
    """Record a takedown with all that it concerns, and block its layers.

    All writers of layers are excluded meanwhile: what is committed before is selected, and what
    comes later is refused.

    Args:
        database: The database.
        selector: What is to be taken down.
        actor: Name of the person.
        reason: The reason, kept as it is given.
        given: Layers to block although the instance may not hold them: sha256, visible and
            fingerprint of each.

    Returns:
        The id of the takedown; None if there is nothing to remove or to block.
    """
    with database.transaction() as tx:
        exclude_writers(tx)
        found = select(tx, selector)
        new = [one for one in given if not _is_blocked(tx, str(one["visible"]))]
        if not (found.samples or found.candidates or found.layers or new):
            return None
        id_ = record_takedown(tx, selector, actor, reason)
        _block(tx, id_, found, new)
        add_items(tx, id_, "sample", (one.hex for one in found.samples))
        add_items(tx, id_, "candidate", (str(one) for one in found.candidates))
        add_items(tx, id_, "object", found.layers)
    return id_


def record_takedown(tx: Transaction, selector: Selector, actor: str, reason: str) -> uuid.UUID:
    """Record that a takedown has begun, and return its id.

    Args:
        tx: The transaction.
        selector: What is to be taken down.
        actor: Name of the person.
        reason: The reason, kept as it is given.
    """
    id_ = uuid.uuid4()
    row = {"id": id_, "selector": selector.kind, "selector_hash": selector.hash}
    row |= {"actor": actor, "reason": reason, "state": REMOVING}
    tx.execute(sa.insert(takedowns), row)
    tx.log(actor, "takedown started", f"takedown {id_}", selector=selector.kind)
    return id_


def withdraw(database: Database, takedown: uuid.UUID) -> None:
    """Take samples and candidates out of every use; reviewers and workers lose their leases.

    Args:
        database: The database.
        takedown: Id of the takedown.
    """
    for block in blocks(read_items(database, takedown, "sample")):
        with database.transaction() as tx:
            active = samples.c.id.in_(map(uuid.UUID, block)), samples.c.withdrawn_at.is_(None)
            tx.execute(sa.update(samples).where(*active).values(withdrawn_at=sa.func.now()))
    for block in blocks(read_items(database, takedown, "candidate")):
        ids = [uuid.UUID(one) for one in block]
        with database.transaction() as tx:
            changing = sa.update(candidates).where(
                candidates.c.id.in_(ids), candidates.c.state != CandidateState.removed
            )
            moved = tx.execute(
                changing.values(state=CandidateState.removed).returning(candidates.c.round_id)
            )
            leases.delete_leases(tx, ids)
            changed = sorted({row.round_id for row in moved})
            forget_outcomes(tx, changed)
            # Label Studio's tasks of them are removed by the next push.
            for number in changed:
                tx.enqueue(JobName.push_tasks, number)


def add_items(tx: Transaction, takedown: uuid.UUID, kind: str, names: Iterable[str]) -> None:
    """Record what a takedown concerns; the call is idempotent.

    Args:
        tx: The transaction.
        takedown: Id of the takedown.
        kind: Kind of the items, as the table has them.
        names: Their names.
    """
    for block in blocks(set(names)):
        rows = [{"takedown_id": takedown, "kind": kind, "name": name} for name in block]
        tx.execute(insert(takedown_items).on_conflict_do_nothing(), rows)


def read_items(database: Database, takedown: uuid.UUID, kind: str) -> list[str]:
    """Return the names of the items of one kind, sorted."""
    query = sa.select(takedown_items.c.name).where(
        takedown_items.c.takedown_id == takedown, takedown_items.c.kind == kind
    )
    with database.transaction() as tx:
        return sorted(tx.execute(query).scalars())


def _is_blocked(tx: Transaction, visible: str) -> bool:
    return bool(tx.scalar(sa.select(sa.exists().where(blocked_layers.c.visible == visible))))


def _block(
    tx: Transaction, takedown: uuid.UUID, found: TakedownScope, given: Iterable[dict[str, object]]
) -> None:
    adding = insert(blocked_layers).on_conflict_do_nothing()
    columns = (layers.c.sha256, layers.c.visible, layers.c.fingerprint)
    for block in blocks(found.layers):
        held = tx.execute(sa.select(*columns).where(layers.c.sha256.in_(block))).mappings()
        tx.execute(adding, [_blocked(takedown, dict(row)) for row in held])
    if rows := [_blocked(takedown, one) for one in given]:
        tx.execute(adding, rows)


def _blocked(takedown: uuid.UUID, layer: dict[str, object]) -> dict[str, object]:
    fingerprint = layer["fingerprint"]
    mark = bytes(fingerprint) if isinstance(fingerprint, bytes | memoryview) else None
    return dict(layer) | {"fingerprint": mark, "bands": band_keys(mark), "takedown_id": takedown}
