"""Lineage in both directions: where a sample comes from, and what a checkpoint was made from."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import sqlalchemy as sa

from curation.checkpoints.registry import find_checkpoint
from curation.datasets.blocked import refuse_taken_down_sample
from curation.datasets.manifest import find_sample, read_withheld
from curation.datasets.samples import find_sample_id
from curation.datasets.snapshots import list_snapshots, read_snapshots
from curation.db.counts import count_states
from curation.db.engine import Database, Transaction
from curation.db.tables import (
    candidates,
    checkpoints,
    decisions,
    prompts,
    reviewers,
    rounds,
    samples,
)
from curation.domain import CandidateState, Sample
from curation.ports import ObjectStore

MAX_ROUNDS = 100
"""Largest number of rounds that are listed with a checkpoint, the newest ones."""


def why_sample(
    database: Database, store: ObjectStore, name: str, newest: int = 0
) -> dict[str, Any]:
    """Return where a sample comes from, and where it went.

    While its candidate is open again, after an undo, its origin and decisions are left out, since
    review is blind.

    Args:
        database: The database.
        store: Store of the snapshots.
        name: Id of the sample, or its first eight or more digits.
        newest: Look into so many snapshots only, the newest ones; 0 for all.

    Returns:
        The sample; whether it is open again; for a generated or reviewed one its candidate with
        prompt, seed, round, checkpoint and decisions; the snapshots that hold it; the checkpoints
        trained on these.

    Raises:
        NotFound: There is no such sample, or a snapshot is not in the store.
        TakenDown: The sample was taken down.
        Corrupt: A snapshot cannot be read.
    """
    with database.transaction() as tx:
        refuse_taken_down_sample(tx, name)
        id_ = find_sample_id(tx, name)
        row = tx.execute(sa.select(samples).where(samples.c.id == id_)).mappings().one()
        is_open = _is_open(tx, row["candidate_id"])
        has_origin = row["candidate_id"] and not is_open
        candidate = _candidate(tx, row["candidate_id"]) if has_origin else None
        frozen = list_snapshots(tx, newest)
    sample = Sample.read(row["line"])
    # Manifests are read without a transaction; empty and taken down snapshots have none.
    holding = [
        {
            "id": snapshot["id"],
            "tags": snapshot["tags"],
            "withheld": sample.id in read_withheld(store, snapshot["id"]),
        }
        for snapshot in frozen
        if snapshot["samples"]
        and not snapshot["taken_down_by"]
        and find_sample(store, snapshot["id"], sample.id)
    ]
    with database.transaction() as tx:
        trained = _trained_on(tx, [str(row["id"]) for row in holding])
    return {
        "id": sample.id,
        "caption": sample.caption,
        "licence": sample.licence,
        "source": sample.source,
        "split": str(sample.split),
        "round": sample.round,
        "withdrawn_at": row["withdrawn_at"],
        "open": is_open,
        "candidate": candidate,
        "snapshots": holding,
        "checkpoints": trained,
    }


def used_by_checkpoint(tx: Transaction, name: str) -> dict[str, Any]:
    """Return what a checkpoint was made from, and what was made with it.

    Args:
        tx: The transaction.
        name: Id of the checkpoint, or its first eight or more digits.

    Returns:
        Recipe, preset and seed; its snapshot with the counts of samples; its ancestors; the newest
        rounds that it generated with their accepted candidates; the checkpoints that continue it.

    Raises:
        NotFound: There is no such checkpoint.
    """
    found = find_checkpoint(tx, name)
    snapshot = read_snapshots(tx, [found.snapshot]).get(found.snapshot) if found.snapshot else None
    ancestors = []
    parent = found.parent
    while parent is not None:
        query = sa.select(checkpoints.c.id, checkpoints.c.snapshot_id, checkpoints.c.parent_id)
        row = tx.execute(query.where(checkpoints.c.id == parent)).one_or_none()
        ancestors.append({"id": parent, "snapshot": row.snapshot_id if row else None})
        parent = row.parent_id if row else None
    children = sa.select(checkpoints.c.id).where(checkpoints.c.parent_id == found.id)
    return {
        "id": found.id,
        "recipe": found.recipe,
        "preset": found.preset,
        "seed": found.seed,
        "changes": dict(found.changes),
        "snapshot": found.snapshot,
        "samples": snapshot["samples"] if snapshot else None,
        "counts": snapshot["counts"] if snapshot else {},
        "ancestors": ancestors,
        "rounds": _generated(tx, found.id),
        "children": list(tx.execute(children.order_by(checkpoints.c.created_at)).scalars()),
    }


def _is_open(tx: Transaction, candidate: uuid.UUID | None) -> bool:
    """Return whether people may still decide on a candidate, or may be shown it later."""
    state = tx.scalar(sa.select(candidates.c.state).where(candidates.c.id == candidate))
    return state in (CandidateState.unshown, CandidateState.waiting, CandidateState.showing)


def _candidate(tx: Transaction, candidate: uuid.UUID) -> dict[str, Any]:
    query = (
        sa.select(
            candidates.c.seed,
            candidates.c.round_id,
            candidates.c.propensity,
            prompts.c.text,
            rounds.c.purpose,
            rounds.c.checkpoint_id,
        )
        .join(prompts, prompts.c.id == candidates.c.prompt_id)
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .where(candidates.c.id == candidate)
    )
    row = tx.execute(query).mappings().one()
    made = (
        sa.select(
            decisions.c.created_at,
            reviewers.c.name.label("reviewer"),
            decisions.c.verdict,
            decisions.c.reasons,
        )
        .join(reviewers, reviewers.c.id == decisions.c.reviewer_id)
        .where(decisions.c.candidate_id == candidate)
        .order_by(decisions.c.id)
    )
    return {
        "id": str(candidate),
        "prompt": row["text"],
        "seed": row["seed"],
        "round": row["round_id"],
        "purpose": row["purpose"],
        "checkpoint": row["checkpoint_id"],
        "propensity": row["propensity"],
        "decisions": [dict(row) for row in tx.execute(made).mappings()],
    }


def _trained_on(tx: Transaction, snapshots: list[str]) -> list[dict[str, Any]]:
    query = sa.select(checkpoints.c.id, checkpoints.c.snapshot_id, checkpoints.c.promoted_at).where(
        checkpoints.c.snapshot_id.in_(snapshots)
    )
    return [dict(row) for row in tx.execute(query.order_by(checkpoints.c.created_at)).mappings()]


def _generated(tx: Transaction, checkpoint: str) -> list[dict[str, Any]]:
    """Return the newest rounds of a checkpoint by kept counts, oldest first."""
    query = sa.select(rounds.c.id).where(rounds.c.checkpoint_id == checkpoint)
    newest = tx.execute(query.order_by(rounds.c.id.desc()).limit(MAX_ROUNDS)).scalars().all()
    counts = count_states(tx, newest)
    states = {id_: Counter(counts.get(id_, {})) for id_ in sorted(newest)}
    return [
        {"id": id_, "candidates": found.total(), "accepted": found[CandidateState.accepted]}
        for id_, found in states.items()
    ]
