"""Many candidates with a signal of their quality and without images, for tests of statistics."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import (
    candidate_layers,
    candidates,
    decisions,
    embeddings,
    layers,
    prompts,
    rounds,
    screenings,
)
from curation.domain import Kind, Prompt, Verdict, content_id
from curation.review.reviewers import add_reviewer
from curation.screening.embedding import pack_vector
from curation.selection.acceptance_model_store import StoredModel, fit_and_store
from tests.support.factories import OpenTransaction, make_round

SOURCE = "test@1"
NUMBERS = 4


def open_stream(tx: Transaction, policy: Mapping[str, object], quota: int) -> int:
    """Open a round with a policy and without candidates; return its ID."""
    round_id = make_round(tx, quota=quota)
    tx.execute(sa.update(rounds).where(rounds.c.id == round_id).values(policy=dict(policy)))
    return round_id


def arrive(
    tx: Transaction, round_id: int, seed: int, quality: Sequence[float], texts: int = 20
) -> list[uuid.UUID]:
    """Insert screened candidates of `texts` prompts with a signal "quality"; return their IDs."""
    vectors = (
        np.random.default_rng([seed, 3]).standard_normal((len(quality), NUMBERS)).astype(np.float32)
    )
    signals = [{"quality": float(value)} for value in quality]
    return arrive_measured(
        tx,
        round_id,
        seed,
        signals,
        vectors,
        [f"prompt {index % texts}" for index in range(len(signals))],
    )


def arrive_measured(
    tx: Transaction,
    round_id: int,
    seed: int,
    signals: Sequence[Mapping[str, float | None]],
    vectors: np.ndarray,
    texts: Sequence[str],
) -> list[uuid.UUID]:
    """Insert screened candidates with given signals and vectors; return their IDs in order."""
    requested = {text: Prompt(text) for text in texts}
    rows = [{"id": prompt.id, "text": prompt.text} for prompt in requested.values()]
    tx.execute(insert(prompts).on_conflict_do_nothing(), rows)
    ids = [content_id("stream", seed, index) for index in range(len(signals))]
    state = {"round_id": round_id, "state": "screened"}
    rows = [
        state | {"id": id_, "prompt_id": requested[texts[i]].id, "seed": seed * 10**6 + i}
        for i, id_ in enumerate(ids)
    ]
    tx.execute(sa.insert(candidates), rows)
    rows = [
        {"candidate_id": id_, "signals": dict(output)}
        for id_, output in zip(ids, signals, strict=True)
    ]
    tx.execute(sa.insert(screenings), rows)
    rows = [
        {"candidate_id": i, "source": SOURCE, "vector": pack_vector(vector)}
        for i, vector in zip(ids, vectors, strict=True)
    ]
    tx.execute(sa.insert(embeddings), rows)
    sha = [content_id("layer", id_).hex * 2 for id_ in ids]
    tx.execute(
        sa.insert(layers),
        [{"sha256": name, "width": 1, "height": 1, "bytes": 1, "visible": name} for name in sha],
    )
    stored = [
        {"candidate_id": i, "role": "foreground", "sha256": s}
        for i, s in zip(ids, sha, strict=True)
    ]
    tx.execute(sa.insert(candidate_layers), stored)
    return ids


def judge_waiting(
    tx: Transaction,
    round_id: int,
    good: Mapping[uuid.UUID, bool],
    dwell_ms: int = 1_000,
    most: int | None = None,
) -> int:
    """Decide the waiting candidates by `good`, in order; return the number of accepts."""
    waiting = sa.select(candidates.c.id).where(
        candidates.c.round_id == round_id, candidates.c.state == "waiting"
    )
    ids = [
        row.id
        for row in tx.execute(
            waiting.order_by(candidates.c.priority.desc(), candidates.c.id).limit(most)
        )
    ]
    if not ids:
        return 0
    person = add_reviewer(tx, "ann").id
    rows = [
        {
            "candidate_id": id_, "reviewer_id": person, "verdict": Verdict.accept if good[id_] else Verdict.reject,
            "channel": "pages", "key": content_id("said", id_), "dwell_ms": dwell_ms,
        }
        for id_ in ids
    ]  # fmt: skip
    tx.execute(sa.insert(decisions), rows)
    for verdict in (True, False):
        decided = [id_ for id_ in ids if good[id_] is verdict]
        move = sa.update(candidates).where(candidates.c.id.in_(decided))
        tx.execute(move.values(state="accepted" if verdict else "rejected"))
    return sum(good[id_] for id_ in ids)


def accepts(seed: int, quality: Sequence[float]) -> np.ndarray:
    """Return random verdicts of people, whose probability is logistic in quality."""
    rng = np.random.default_rng([seed, 4])
    return rng.random(len(quality)) < 1 / (1 + np.exp(-2.5 * (np.asarray(quality) - 1)))


def fitted_model(tx: Transaction, count: int = 400, seed: int = 999) -> StoredModel:
    """Return a model fitted to a round of its own, of which everything was shown."""
    round_id = open_stream(tx, {"kind": "random", "share": 1.0}, count)
    quality = np.random.default_rng(seed).standard_normal(count)
    ids = arrive(tx, round_id, seed, quality)
    tx.execute(
        sa.update(candidates)
        .where(candidates.c.round_id == round_id)
        .values(state="waiting", propensity=1.0)
    )
    judge_waiting(tx, round_id, dict(zip(ids, accepts(seed, quality).tolist(), strict=True)))
    return fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)
