"""Checkpoints and snapshots whose samples were taken down, and what is refused because of it."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import checkpoints, snapshots
from curation.domain import Checkpoint
from curation.errors import TakenDown


def refuse_tainted(tx: Transaction, checkpoint: str) -> None:
    """Raise TakenDown if samples that a checkpoint was trained on were taken down.

    A promoted one was promoted in spite of it, and is accepted.
    """
    columns = sa.select(checkpoints.c.tainted_by, checkpoints.c.promoted_at)
    row = tx.execute(columns.where(checkpoints.c.id == checkpoint)).one_or_none()
    if row is not None and row.tainted_by is not None and row.promoted_at is None:
        raise TakenDown(
            f"checkpoint {checkpoint[:12]} was trained on samples that were taken down "
            f"({row.tainted_by.hex[:8]})",
            "train another on the successor of its snapshot, or accept this one with "
            "'layerloop checkpoint promote --tainted'",
        )


def refuse_taken_down(tx: Transaction, *ids: str | None) -> None:
    """Raise TakenDown if samples of one of some snapshots were taken down."""
    columns = sa.select(snapshots.c.id, snapshots.c.successor_id)
    touched = columns.where(
        snapshots.c.id.in_([one for one in ids if one]), snapshots.c.taken_down_by.is_not(None)
    )
    row = tx.execute(touched.limit(1)).one_or_none()
    if row is not None:
        raise TakenDown(
            f"samples of snapshot {row.id[:12]} were taken down",
            f"train on its successor: {row.successor_id[:12]}"
            if row.successor_id
            else "freeze a new one: none of its samples is left",
        )


def find_taint(tx: Transaction, checkpoint: Checkpoint) -> uuid.UUID | None:
    """Return the takedown of samples that a new checkpoint was trained on, if there was one."""
    of_snapshot = sa.select(snapshots.c.taken_down_by).where(snapshots.c.id == checkpoint.snapshot)
    of_parent = sa.select(checkpoints.c.tainted_by).where(checkpoints.c.id == checkpoint.parent)
    found: uuid.UUID | None = tx.scalar(of_snapshot) or tx.scalar(of_parent)
    return found
