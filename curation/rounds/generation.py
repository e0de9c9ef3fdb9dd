"""Candidate generation: claim a batch, generate outside any transaction, store the layers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.blocked import GENERATED_AGAIN, find_generated_again
from curation.datasets.samples import StoredLayer, record_layers
from curation.db import leases
from curation.db.engine import Transaction
from curation.db.tables import candidate_layers, candidates, generation_settings, prompts, rounds
from curation.domain import (
    CandidateState,
    GenerationRequest,
    JobName,
    LayerRole,
    Prompt,
    RoundState,
    canonical_json,
    content_id,
)
from curation.images.codec import encode_layer, pixel_hash
from curation.ports import (
    DEFAULT_OPTIONS,
    GenerationOptions,
    LayerGenerator,
    Layers,
    ObjectStore,
)


@dataclass(frozen=True)
class ClaimedCandidate:
    """A candidate that only this worker may generate now."""

    id: uuid.UUID
    request: GenerationRequest


def claim_candidates(
    tx: Transaction, round_id: int, holder: str, count: int, seconds: int
) -> list[ClaimedCandidate]:
    """Lease up to `count` requested candidates of an open round; other workers skip them.

    Fresh candidates come first. Those that were attempted before are claimed separately, in
    smaller batches, since one of them may have made their batch fail.

    Args:
        tx: The transaction.
        round_id: The round.
        holder: The name of the worker.
        count: The maximum number to claim.
        seconds: The duration of the leases.

    Returns:
        The claimed candidates by id.
    """
    # Rows locked by another worker are skipped, so that workers never wait for each other.
    picked = (
        sa.select(candidates.c.id, candidates.c.attempts)
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .where(
            candidates.c.round_id == round_id,
            candidates.c.state == CandidateState.requested,
            rounds.c.state == RoundState.open,
        )
        .order_by(candidates.c.attempts, candidates.c.id)
        .limit(count)
        .with_for_update(of=candidates, skip_locked=True)
    )
    rows = tx.execute(picked).all()
    ids = alike_attempts([(row.id, row.attempts) for row in rows], count)
    if not ids:
        return []
    # Count the attempt now, so that a candidate that crashes workers is not retried endlessly.
    moving = sa.update(candidates).where(candidates.c.id.in_(ids))
    tx.execute(moving.values(state=CandidateState.generating, attempts=candidates.c.attempts + 1))
    leases.claim(tx, ids, "generate", holder, seconds)
    # Read what the generator needs.
    texts = sa.select(
        candidates.c.id,
        candidates.c.seed,
        prompts.c.text,
        prompts.c.foreground,
        prompts.c.background,
    )
    found = tx.execute(
        texts.join(prompts, prompts.c.id == candidates.c.prompt_id)
        .where(candidates.c.id.in_(ids))
        .order_by(candidates.c.id)
    )
    return [
        ClaimedCandidate(
            row.id, GenerationRequest(Prompt(row.text, row.foreground, row.background), row.seed)
        )
        for row in found
    ]


def alike_attempts(rows: Sequence[tuple[uuid.UUID, int]], full: int) -> list[uuid.UUID]:
    """Return the first candidates that were attempted equally often, as many as one batch takes.

    Args:
        rows: Ids and numbers of attempts, fewest attempts first.
        full: The size of a batch of fresh candidates.
    """
    alike = [id_ for id_, attempts in rows if attempts == rows[0][1]]
    return alike[: leases.batch_size(rows[0][1], full)] if rows else []


def generate_layers(
    generator: LayerGenerator, claimed: Sequence[ClaimedCandidate]
) -> dict[uuid.UUID, Layers]:
    """Return the generated layers of each candidate. Raises ValueError if there are too few."""
    generated = generator.generate([item.request for item in claimed])
    return {item.id: layers for item, layers in zip(claimed, generated, strict=True)}


def describe_settings(
    generator: LayerGenerator, prompt: Prompt, options: GenerationOptions = DEFAULT_OPTIONS
) -> dict[str, str]:
    """Return all that the layers of a candidate depend on besides prompt, seed and checkpoint.

    Args:
        generator: The loaded checkpoint.
        prompt: The prompt; one with texts for layers asks for a pair.
        options: The sampling options.
    """
    pair = bool(prompt.foreground or prompt.background)
    return {**generator.describe(options), **generator.environment(options, pair=pair)}


def release_failed(
    tx: Transaction, claimed: Sequence[ClaimedCandidate], holder: str, reason: str
) -> None:
    """Release candidates after a failure that one of them may have caused.

    A candidate that has failed too often becomes "failed".

    Args:
        tx: The transaction.
        claimed: The candidates.
        holder: The name of the worker.
        reason: The error, stored as the candidate's note.
    """
    ids = leases.release_held(tx, [item.id for item in claimed], "generate", holder)
    again = sa.case(
        (candidates.c.attempts < leases.MAX_ATTEMPTS, CandidateState.requested.value),
        else_=CandidateState.failed.value,
    )
    tx.execute(
        sa.update(candidates).where(candidates.c.id.in_(ids)).values(state=again, note=reason[:500])
    )


def release_unfinished(tx: Transaction, ids: Sequence[uuid.UUID], holder: str) -> None:
    """Release candidates that did not fail themselves: the attempt does not count.

    Args:
        tx: The transaction.
        ids: Ids of the candidates.
        holder: The name of the worker.
    """
    held_ids = leases.release_held(tx, ids, "generate", holder)
    back = {"state": CandidateState.requested, "attempts": candidates.c.attempts - 1}
    tx.execute(sa.update(candidates).where(candidates.c.id.in_(held_ids)).values(back))


def store_layers(store: ObjectStore, layers: Layers) -> Mapping[LayerRole, StoredLayer]:
    """Encode and store the layers of one candidate.

    Args:
        store: The object store.
        layers: The layers by role.
    """
    stored = {}
    for role, rgba in layers.items():
        data = encode_layer(rgba)
        height, width = rgba.shape[:2]
        stored[role] = StoredLayer(store.put(data), width, height, len(data), pixel_hash(rgba))
    return stored


def save_layers(
    tx: Transaction,
    stored: Mapping[uuid.UUID, Mapping[LayerRole, StoredLayer]],
    holder: str,
    settings: Mapping[str, str] | None = None,
) -> int:
    """Record stored layers, and move their candidates to generated.

    Args:
        tx: The transaction.
        stored: The stored layers of each candidate.
        holder: The name of the worker.
        settings: What they were generated with; None if unknown.

    Returns:
        The number of candidates whose lease this worker still held; the others are left alone.
    """
    held_ids = leases.release_held(tx, list(stored), "generate", holder)
    held_ids = _without_taken_down(tx, {id_: stored[id_] for id_ in held_ids})
    if not held_ids:
        return 0
    record_layers(tx, [layer for id_ in held_ids for layer in stored[id_].values()])
    rows = [
        {"candidate_id": id_, "role": role, "sha256": layer.sha256}
        for id_ in held_ids
        for role, layer in stored[id_].items()
    ]
    tx.execute(sa.insert(candidate_layers), rows)
    moved = (
        sa.update(candidates)
        .where(candidates.c.id.in_(held_ids))
        .values(
            state=CandidateState.generated,
            attempts=0,
            settings_id=_record_settings(tx, settings) if settings else None,
        )
    )
    # Screening follows as a job of each round.
    round_ids = {row.round_id for row in tx.execute(moved.returning(candidates.c.round_id))}
    for round_id in sorted(round_ids):
        tx.enqueue(JobName.screen, round_id)
    return len(held_ids)


def _record_settings(tx: Transaction, settings: Mapping[str, str]) -> uuid.UUID:
    """Record settings once, and return their id."""
    id_ = content_id("generation settings", canonical_json(dict(settings)))
    row = {"id": id_, "settings": dict(settings)}
    tx.execute(insert(generation_settings).on_conflict_do_nothing(), row)
    return id_


def _without_taken_down(
    tx: Transaction, stored: Mapping[uuid.UUID, Mapping[LayerRole, StoredLayer]]
) -> list[uuid.UUID]:
    """Return the candidates without layers that were taken down; the others have failed."""
    failed = find_generated_again(tx, stored)
    if failed:
        changing = sa.update(candidates).where(candidates.c.id.in_(failed))
        tx.execute(changing.values(state=CandidateState.failed, note=GENERATED_AGAIN))
    return [id_ for id_ in stored if id_ not in failed]


def add_gpu_seconds(tx: Transaction, round_id: int, seconds: float) -> None:
    """Add the time in which a worker generated candidates of a round."""
    added = {"gpu_seconds": rounds.c.gpu_seconds + seconds}
    tx.execute(sa.update(rounds).where(rounds.c.id == round_id).values(added))
