"""What the sides of a comparison draw: claimed under leases, stored once, and then shown."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.comparison_values import ComparisonSide, ComparisonState, DrawingState
from curation.comparisons.sessions import ComparedSide, find_comparison, sides_of
from curation.datasets.blocked import GENERATED_AGAIN, find_generated_again
from curation.datasets.samples import StoredLayer, record_layers
from curation.db import leases
from curation.db.engine import Transaction
from curation.db.tables import (
    comparison_drawings,
    comparison_items,
    comparison_layers,
    comparisons,
    prompts,
)
from curation.domain import GenerationRequest, LayerRole, Prompt
from curation.rounds.generation import ClaimedCandidate, alike_attempts


@dataclass(frozen=True)
class ClaimedDrawings:
    """Drawings of one side that only this worker may make now."""

    side: ComparedSide
    segmenter: str | None
    drawings: Sequence[ClaimedCandidate]

    @property
    def ids(self) -> list[uuid.UUID]:
        """Return the ids of the drawings."""
        return [one.id for one in self.drawings]

    @property
    def requests(self) -> list[GenerationRequest]:
        """Return prompt and seed of each drawing."""
        return [one.request for one in self.drawings]


def next_to_draw(tx: Transaction) -> int | None:
    """Return the oldest open comparison that has something to draw, or None."""
    requested = sa.exists().where(
        comparison_drawings.c.comparison_id == comparisons.c.id,
        comparison_drawings.c.state == DrawingState.requested,
    )
    query = sa.select(comparisons.c.id).where(_IS_OPEN, requested)
    found: int | None = tx.scalar(query.order_by(comparisons.c.id).limit(1))
    return found


def claim_drawings(
    tx: Transaction, number: int, holder: str, count: int, seconds: int
) -> ClaimedDrawings | None:
    """Lease up to `count` requested drawings of one side of an open comparison.

    Args:
        tx: The transaction.
        number: The comparison.
        holder: The name of the worker.
        count: The maximum number to claim.
        seconds: The duration of the leases.

    Returns:
        The claimed drawings, or None if nothing is left to claim.
    """
    picked = (
        sa.select(
            comparison_drawings.c.id, comparison_drawings.c.side, comparison_drawings.c.attempts
        )
        .join(comparisons, comparisons.c.id == comparison_drawings.c.comparison_id)
        .where(
            comparison_drawings.c.comparison_id == number,
            comparison_drawings.c.state == DrawingState.requested,
            _IS_OPEN,
        )
        # One side after the other, so that a worker loads each checkpoint once.
        .order_by(
            comparison_drawings.c.side, comparison_drawings.c.attempts, comparison_drawings.c.id
        )
        .limit(count)
        .with_for_update(of=comparison_drawings, skip_locked=True)
    )
    rows = tx.execute(picked).all()
    own = [(row.id, row.attempts) for row in rows if row.side == rows[0].side]
    ids = alike_attempts(own, count)
    if not ids:
        return None
    # The attempt counts now, so that a drawing that crashes workers is not retried endlessly.
    claiming = sa.update(comparison_drawings).where(comparison_drawings.c.id.in_(ids))
    attempts = comparison_drawings.c.attempts + 1
    tx.execute(claiming.values(state=DrawingState.generating, attempts=attempts))
    leases.claim(tx, ids, leases.DRAW, holder, seconds)
    row = find_comparison(tx, number)
    side = sides_of(row)[ComparisonSide(rows[0].side)]
    return ClaimedDrawings(side, row["segmenter"], _requests(tx, ids))


def _requests(tx: Transaction, ids: Collection[uuid.UUID]) -> list[ClaimedCandidate]:
    query = (
        sa.select(
            comparison_drawings.c.id,
            comparison_items.c.seed,
            prompts.c.text,
            prompts.c.foreground,
            prompts.c.background,
        )
        .join(comparison_items, comparison_items.c.id == comparison_drawings.c.item_id)
        .join(prompts, prompts.c.id == comparison_items.c.prompt_id)
        .where(comparison_drawings.c.id.in_(ids))
        .order_by(comparison_items.c.position)
    )
    return [
        ClaimedCandidate(
            row.id, GenerationRequest(Prompt(row.text, row.foreground, row.background), row.seed)
        )
        for row in tx.execute(query)
    ]


def save_drawings(
    tx: Transaction, stored: Mapping[uuid.UUID, Mapping[LayerRole, StoredLayer]], holder: str
) -> int:
    """Record stored layers; an item whose other side is drawn too is shown to reviewers.

    Args:
        tx: The transaction.
        stored: The stored layers of each drawing.
        holder: The name of the worker.

    Returns:
        The number of drawings whose lease this worker still held; the others are left alone.
    """
    held = leases.release_held(tx, list(stored), leases.DRAW, holder)
    # Lock the items: two workers that save both sides of one at once must see each other.
    tx.execute(_LOCK_ITEMS, {"ids": held})
    kept = _without_taken_down(tx, {id_: stored[id_] for id_ in held})
    if not kept:
        return 0
    record_layers(tx, [layer for id_ in kept for layer in stored[id_].values()])
    rows = [
        {"drawing_id": id_, "role": role, "sha256": layer.sha256}
        for id_ in kept
        for role, layer in stored[id_].items()
    ]
    tx.execute(sa.insert(comparison_layers), rows)
    saved = sa.update(comparison_drawings).where(comparison_drawings.c.id.in_(kept))
    tx.execute(saved.values(state=DrawingState.generated, attempts=0, note=None))
    tx.execute(_SHOW_ITEMS, {"ids": kept})
    return len(kept)


def _without_taken_down(
    tx: Transaction, stored: Mapping[uuid.UUID, Mapping[LayerRole, StoredLayer]]
) -> list[uuid.UUID]:
    """Return the drawings without layers that were taken down; the others have failed."""
    refused = find_generated_again(tx, stored)
    if refused:
        failing = sa.update(comparison_drawings).where(comparison_drawings.c.id.in_(refused))
        tx.execute(failing.values(state=DrawingState.failed, note=GENERATED_AGAIN))
    return [id_ for id_ in stored if id_ not in refused]


def release_failed(tx: Transaction, ids: Sequence[uuid.UUID], holder: str, reason: str) -> None:
    """Release drawings after a failure that one of them may have caused.

    A drawing that has failed too often becomes "failed".

    Args:
        tx: The transaction.
        ids: Ids of the drawings.
        holder: The name of the worker.
        reason: The error, stored as their note.
    """
    held = leases.release_held(tx, ids, leases.DRAW, holder)
    again = sa.case(
        (
            comparison_drawings.c.attempts < leases.MAX_ATTEMPTS,
            DrawingState.requested.value,
        ),
        else_=DrawingState.failed.value,
    )
    released = sa.update(comparison_drawings).where(comparison_drawings.c.id.in_(held))
    tx.execute(released.values(state=again, note=reason[:500]))


def release_unfinished(tx: Transaction, ids: Sequence[uuid.UUID], holder: str) -> None:
    """Release drawings that did not fail themselves: the attempt does not count.

    Args:
        tx: The transaction.
        ids: Ids of the drawings.
        holder: The name of the worker.
    """
    held = leases.release_held(tx, ids, leases.DRAW, holder)
    back = {
        "state": DrawingState.requested,
        "attempts": comparison_drawings.c.attempts - 1,
    }
    released = sa.update(comparison_drawings).where(comparison_drawings.c.id.in_(held))
    tx.execute(released.values(back))


_IS_OPEN = comparisons.c.state == ComparisonState.open

_IDS = sa.bindparam("ids", type_=ARRAY(UUID))

_LOCK_ITEMS = sa.text("""
    select id from comparison_items
    where id in (select item_id from comparison_drawings where id = any(:ids))
    order by id for update""").bindparams(_IDS)

_SHOW_ITEMS = sa.text("""
    update comparison_items i set waiting = true from comparisons c
    where i.id in (select item_id from comparison_drawings where id = any(:ids))
        and c.id = i.comparison_id and c.state = 'open' and i.voted < c.votes
        and 2 = (select count(*) from comparison_drawings d
            where d.item_id = i.id and d.state = 'generated')""").bindparams(_IDS)
