"""Layers that were taken down: no way into the instance records their pixels again."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING

import sqlalchemy as sa

from curation.db.advisory_locks import AdvisoryLock, lock, lock_shared
from curation.db.engine import Transaction
from curation.db.tables import blocked_layers, takedown_items, takedowns
from curation.errors import Refused, TakenDown

if TYPE_CHECKING:
    from curation.datasets.samples import StoredLayer
    from curation.domain import LayerRole

_DIGITS = re.compile(r"[0-9a-f]{8,32}")
BLOCKED_HINT = "leave it out; 'layerloop takedown --list' shows the takedowns"
GENERATED_AGAIN = "the checkpoint generated an image that was taken down"
"""The note of generated layers that fail for it."""


class TakenDownLayer(Refused):
    """Layers have pixels that were taken down; `found` maps their visible hash to the takedown."""

    def __init__(self, found: Mapping[str, str]) -> None:
        count = "an image" if len(found) == 1 else f"{len(found)} images"
        super().__init__(
            f"{count} cannot be added again: taken down ({', '.join(sorted(set(found.values())))})",
            BLOCKED_HINT,
        )
        self.found = dict(found)


def hold_takedowns(tx: Transaction) -> None:
    """Let a takedown wait for the end of this transaction, or wait for one that begins.

    A takedown selects what it removes under the exclusive lock (`exclude_writers`). Whoever records
    layers or freezes a snapshot holds the shared one, so that nothing is committed unseen.
    """
    lock_shared(tx, AdvisoryLock.write_layers)


def exclude_writers(tx: Transaction) -> None:
    """Wait for the writers of layers and snapshots, and let new ones wait for this transaction."""
    lock(tx, AdvisoryLock.write_layers)


def refuse_taken_down_sample(tx: Transaction, name: str) -> None:
    """Refuse a sample that was taken down, naming the time and the record, without its content.

    Args:
        tx: The transaction.
        name: Id of the sample, or its first eight or more digits.

    Raises:
        TakenDown: It was taken down, or is about to be.
    """
    digits = name.replace("-", "").lower()
    if not _DIGITS.fullmatch(digits):
        return
    columns = (takedown_items.c.name, takedowns.c.id, takedowns.c.record, takedowns.c.created_at)
    query = (
        sa.select(*columns)
        .join(takedowns, takedowns.c.id == takedown_items.c.takedown_id)
        .where(
            takedown_items.c.kind == "sample",
            takedown_items.c.name.between(digits.ljust(32, "0"), digits.ljust(32, "f")),
        )
        .order_by(takedowns.c.created_at)
    )
    row = tx.execute(query.limit(1)).one_or_none()
    if row is None:
        return
    time = row.created_at.astimezone(UTC)
    record = f"its record is {row.record}" if row.record else "it is not finished"
    raise TakenDown(
        f"sample {row.name[:12]} was taken down on {time:%Y-%m-%d %H:%M} UTC",
        f"takedown {row.id.hex[:8]}: {record}; 'layerloop takedown --list' lists them",
    )


def count_takedowns(tx: Transaction) -> int:
    """Return the number of takedowns so far."""
    return int(tx.scalar(sa.select(sa.func.count()).select_from(takedowns)) or 0)


def find_blocked(tx: Transaction, visible: Collection[str]) -> dict[str, str]:
    """Return the takedown of each of some hashes of visible pixels, where there is one.

    Args:
        tx: The transaction, which is held against takedowns until it ends.
        visible: Hashes of visible pixels.

    Returns:
        By hash, the first eight digits of the takedown's id.
    """
    hold_takedowns(tx)
    wanted = sorted(set(visible))
    if not wanted:
        return {}
    query = sa.select(blocked_layers.c.visible, blocked_layers.c.takedown_id)
    rows = tx.execute(query.where(blocked_layers.c.visible.in_(wanted)))
    return {row.visible: row.takedown_id.hex[:8] for row in rows}


def find_generated_again(
    tx: Transaction, stored: Mapping[uuid.UUID, Mapping[LayerRole, StoredLayer]]
) -> list[uuid.UUID]:
    """Return which of some generated sets of layers have one that was taken down.

    Args:
        tx: The transaction, which is held against takedowns until it ends.
        stored: The stored layers by id.
    """
    if not stored:
        return []
    hashes = {id_: {layer.visible for layer in layers.values()} for id_, layers in stored.items()}
    blocked = find_blocked(tx, set[str]().union(*hashes.values()))
    return [id_ for id_, visible in hashes.items() if not visible.isdisjoint(blocked)]


def refuse_blocked(tx: Transaction, visible: Collection[str]) -> None:
    """Raise TakenDownLayer if a layer with these visible pixels was taken down."""
    if found := find_blocked(tx, visible):
        raise TakenDownLayer(found)


def find_near_blocked(tx: Transaction, fingerprints: Sequence[bytes]) -> list[str | None]:
    """Return for each fingerprint the takedown of a layer that is nearly the same image.

    Args:
        tx: The transaction.
        fingerprints: Fingerprints of layers (curation.images.perceptual_hash).

    Returns:
        The first eight digits of the takedown's id, or None.
    """
    # Imported here, so that commands that compare no images start without NumPy.
    from curation.images.perceptual_hash import FINGERPRINT_BYTES, find_nearest

    keys = {key for one in fingerprints for key in band_keys(one)}
    if not keys:
        return [None] * len(fingerprints)
    query = sa.select(blocked_layers).where(blocked_layers.c.bands.overlap(sorted(keys)))
    rows = {row.sha256: row for row in tx.execute(query)}
    others = {
        name: bytes(row.fingerprint)
        for name, row in rows.items()
        if len(row.fingerprint) == FINGERPRINT_BYTES
    }
    nearest = [find_nearest(one, others) if one else None for one in fingerprints]
    return [rows[found[0]].takedown_id.hex[:8] if found else None for found in nearest]


def band_keys(fingerprint: bytes | None) -> list[int]:
    """Return the twelve bands of a fingerprint as numbers that differ between bands."""
    from curation.images.perceptual_hash import FINGERPRINT_BYTES, index_keys

    if not fingerprint or len(fingerprint) != FINGERPRINT_BYTES:
        return []
    return [band << 16 | value for band, value in enumerate(index_keys(fingerprint))]
