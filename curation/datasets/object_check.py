"""Checks that the objects of samples are in the store, before a snapshot names them.

A sample is checked once: the time is kept with it, so that later snapshots need not look again.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.db.tables import layers, sample_layers, samples
from curation.images.perceptual_hash import FINGERPRINT_BYTES
from curation.store_inventory import ObjectInventory

BATCH_SIZE = 20_000
"""Number of samples that are looked up together, outside of any transaction."""

NOT_CHECKED = "its objects are not checked yet"


def check_objects(
    database: Database, store: ObjectInventory, chosen: sa.ColumnElement[bool]
) -> dict[uuid.UUID, str]:
    """Look up the objects of samples that were not checked before, and mark those that are whole.

    An object is whole if it is stored in the size that the database knows. Call it before
    `fingerprint_layers`, which reads and compares the layers of imported samples.

    Args:
        database: The database.
        store: The object store.
        chosen: Condition on the table `samples`.

    Returns:
        The reason for each sample whose objects are not whole.
    """
    damaged: dict[uuid.UUID, str] = {}
    for rows in _unchecked_batches(database, chosen):
        # Ask the store without an open transaction.
        found = store.sizes({row.sha256 for row in rows})
        reasons: dict[uuid.UUID, str] = {}
        for row in rows:
            size = found.get(row.sha256)
            if size is None:
                reasons[row.id] = f"object {row.sha256[:12]} is missing"
            elif size != row.bytes:
                reasons[row.id] = f"object {row.sha256[:12]} has {size} bytes, not {row.bytes}"
        damaged |= reasons
        whole = sorted({row.id for row in rows} - reasons.keys())
        if whole:
            with database.transaction() as tx:
                tx.execute(_MARK, {"ids": whole})
    return damaged


def find_doubtful(tx: Transaction, chosen: sa.ColumnElement[bool]) -> dict[uuid.UUID, str]:
    """Return the samples of a condition that a snapshot must not have yet, each with the reason.

    Args:
        tx: The transaction.
        chosen: Condition on the table `samples`.
    """
    unchecked = sa.select(samples.c.id).where(chosen, samples.c.checked_at.is_(None))
    unreadable = (
        sa.select(samples.c.id, sa.func.min(layers.c.sha256).label("sha256"))
        .join(sample_layers, sample_layers.c.sample_id == samples.c.id)
        .join(layers, layers.c.sha256 == sample_layers.c.sha256)
        .where(chosen, samples.c.round == 0, _NO_FINGERPRINT)
        .group_by(samples.c.id)
    )
    reasons = {row.id: f"object {row.sha256[:12]} cannot be read" for row in tx.execute(unreadable)}
    return dict.fromkeys(tx.execute(unchecked).scalars(), NOT_CHECKED) | reasons


def without_samples(
    chosen: sa.ColumnElement[bool], left_out: Sequence[uuid.UUID]
) -> sa.ColumnElement[bool]:
    """Return a condition on the table `samples` without some of them."""
    return chosen & samples.c.id.not_in(left_out) if left_out else chosen


def _unchecked_batches(
    database: Database, chosen: sa.ColumnElement[bool]
) -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield the layers of unchecked samples, all of a sample in one batch, in the order of ids."""
    after = uuid.UUID(int=0)
    while True:
        ids = (
            sa.select(samples.c.id)
            .where(chosen, samples.c.checked_at.is_(None), samples.c.id > after)
            .order_by(samples.c.id)
            .limit(BATCH_SIZE)
            .subquery("unchecked")
        )
        query = (
            sa.select(ids.c.id, layers.c.sha256, layers.c.bytes)
            .join(sample_layers, sample_layers.c.sample_id == ids.c.id)
            .join(layers, layers.c.sha256 == sample_layers.c.sha256)
            .order_by(ids.c.id)
        )
        with database.transaction() as tx:
            rows = tx.execute(query).all()
        if not rows:
            return
        yield rows
        after = rows[-1].id


def describe_damage(damaged: Mapping[uuid.UUID, str], shown: int = 5) -> str:
    """Return how many samples are damaged, and the ids and reasons of the first."""
    kinds: dict[str, int] = defaultdict(int)
    for reason in damaged.values():
        kinds["missing" if "missing" in reason else "damaged"] += 1
    counted = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    listed = "; ".join(f"{id_}: {damaged[id_]}" for id_ in sorted(damaged)[:shown])
    more = " ..." if len(damaged) > shown else ""
    return f"the objects of {len(damaged)} samples are not whole ({counted}): {listed}{more}"


_NO_FINGERPRINT = layers.c.fingerprint.is_(None) | (
    sa.func.octet_length(layers.c.fingerprint) != FINGERPRINT_BYTES
)

_MARK = sa.text("update samples set checked_at = now() where id = any(:ids)").bindparams(
    sa.bindparam("ids", type_=sa.dialects.postgresql.ARRAY(sa.Uuid))
)
