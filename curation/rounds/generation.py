"""Generation of candidates: claim a batch, generate it without an open transaction, save its layers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from curation.datasets.samples import StoredLayer, record_layers
from curation.db import leases
from curation.db.engine import Database, Transaction
from curation.db.tables import candidate_layers, candidates, prompts, rounds
from curation.db.tables import leases as held
from curation.domain import CandidateState, DrawRequest, LayerRole, Prompt, RoundState
from curation.images.codec import encode_layer, visible_hash
from curation.ports import LayerGenerator, Layers, ObjectStore


@dataclass(frozen=True)
class Claimed:
    """One candidate that this worker alone may draw now."""

    id: uuid.UUID
    request: DrawRequest


def claim_requested(
    tx: Transaction, number: int, holder: str, count: int, seconds: int
) -> list[Claimed]:
    """Take up to `count` requested candidates of an open round under a lease; other workers skip them."""
    picked = (
        sa.select(candidates.c.id)
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .where(
            candidates.c.round_id == number,
            candidates.c.state == CandidateState.requested,
            rounds.c.state == RoundState.open,
        )
        .order_by(candidates.c.id)
        .limit(count)
        .with_for_update(of=candidates, skip_locked=True)
    )
    ids = [row.id for row in tx.execute(picked)]
    if not ids:
        return []
    moving = sa.update(candidates).where(candidates.c.id.in_(ids))
    tx.execute(moving.values(state=CandidateState.drawing, attempts=candidates.c.attempts + 1))
    leases.claim(tx, ids, "draw", holder, seconds)
    texts = sa.select(
        candidates.c.id,
        candidates.c.seed,
        prompts.c.text,
        prompts.c.foreground,
        prompts.c.background,
    )
    rows = tx.execute(
        texts.join(prompts, prompts.c.id == candidates.c.prompt_id)
        .where(candidates.c.id.in_(ids))
        .order_by(candidates.c.id)
    )
    return [
        Claimed(r.id, DrawRequest(Prompt(r.text, r.foreground, r.background), r.seed)) for r in rows
    ]


def draw_claimed(
    database: Database,
    store: ObjectStore,
    generator: LayerGenerator,
    claimed: Sequence[Claimed],
    holder: str,
) -> int:
    """Draw claimed candidates and keep them: objects first, rows second. Returns how many were still ours to keep."""
    drawn = generator.draw([one.request for one in claimed])
    stored = {one.id: _store(store, layers) for one, layers in zip(claimed, drawn, strict=True)}
    with database.transaction() as tx:
        return _keep(tx, stored, holder)


def give_back(tx: Transaction, claimed: Sequence[Claimed], holder: str, reason: str) -> None:
    """Hand candidates back after a failure; one that has failed too often is set aside with its reason."""
    ids = _still_held(tx, [one.id for one in claimed], holder)
    again = sa.case(
        (candidates.c.attempts < leases.MOST_ATTEMPTS, CandidateState.requested.value),
        else_=CandidateState.failed.value,
    )
    tx.execute(
        sa.update(candidates).where(candidates.c.id.in_(ids)).values(state=again, note=reason[:500])
    )


def _store(store: ObjectStore, layers: Layers) -> Mapping[LayerRole, StoredLayer]:
    kept = {}
    for role, rgba in layers.items():
        data = encode_layer(rgba)
        height, width = rgba.shape[:2]
        kept[role] = StoredLayer(store.put(data), width, height, len(data), visible_hash(rgba))
    return kept


def _keep(
    tx: Transaction, stored: Mapping[uuid.UUID, Mapping[LayerRole, StoredLayer]], holder: str
) -> int:
    ours = _still_held(tx, list(stored), holder)
    if not ours:
        return 0
    record_layers(tx, [layer for one in ours for layer in stored[one].values()])
    rows = [
        {"candidate_id": one, "role": role, "sha256": layer.sha256}
        for one in ours
        for role, layer in stored[one].items()
    ]
    tx.execute(sa.insert(candidate_layers), rows)
    moved = (
        sa.update(candidates).where(candidates.c.id.in_(ours)).values(state=CandidateState.drawn)
    )
    numbers = {row.round_id for row in tx.execute(moved.returning(candidates.c.round_id))}
    for number in sorted(numbers):
        tx.ask("screen", number)
    return len(ours)


def _still_held(tx: Transaction, ids: Sequence[uuid.UUID], holder: str) -> list[uuid.UUID]:
    """Release our leases and say which they were: a lease that was swept away is somebody else's candidate now."""
    mine = (held.c.subject.in_(ids)) & (held.c.holder == holder) & (held.c.purpose == "draw")
    return [
        row.subject for row in tx.execute(sa.delete(held).where(mine).returning(held.c.subject))
    ]
