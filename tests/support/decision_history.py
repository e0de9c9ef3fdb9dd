"""The history of a reviewer: decisions at given times on candidates and gold, without images."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import candidates, decisions, gold, rounds
from curation.domain import Prompt
from curation.rounds.lifecycle import add_prompts
from tests.support.factories import make_round

BEGAN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class PastDecision:
    """One decision: its time in seconds since BEGAN, verdict, duration, and gold if any."""

    seconds: float
    accept: bool
    dwell_ms: int = 1_000
    gold: bool = False
    defect: str | None = None
    severity: float = 0.0
    undone: bool = False


def make_history(tx: Transaction, reviewer_id: int, past: Sequence[PastDecision]) -> int:
    """Insert past decisions of a reviewer; return the round of the candidates that are not gold."""
    round_id = make_round(tx)
    row = {"purpose": "gold", "kind": "single", "quota": 0, "policy": {}, "state": "open"}
    gold_round = int(tx.scalar(sa.insert(rounds).values(row).returning(rounds.c.id)))
    prompt = Prompt(f"the past of {reviewer_id}")
    add_prompts(tx, [prompt])
    for seed, decision in enumerate(past):
        id_ = uuid.uuid4()
        state = (
            "waiting"
            if decision.gold or decision.undone
            else "accepted"
            if decision.accept
            else "rejected"
        )
        candidate = {
            "id": id_,
            "round_id": gold_round if decision.gold else round_id,
            "prompt_id": prompt.id,
            "seed": seed,
            "state": state,
        }
        tx.execute(sa.insert(candidates), candidate)
        if decision.gold:
            gold_row = {
                "candidate_id": id_,
                "round_id": round_id,
                "sample_id": uuid.uuid4(),
                "defect": decision.defect,
            }
            tx.execute(sa.insert(gold), gold_row | {"severity": decision.severity})
        decision_row = {
            "candidate_id": id_, "reviewer_id": reviewer_id, "verdict": "accept" if decision.accept else "reject",
            "channel": "pages", "key": uuid.uuid4(), "dwell_ms": decision.dwell_ms,
            "created_at": BEGAN + timedelta(seconds=decision.seconds),
        }  # fmt: skip
        decision_id = tx.execute(
            sa.insert(decisions).returning(decisions.c.id), decision_row
        ).scalar_one()
        if decision.undone:
            undo = {"verdict": "undo", "undoes": decision_id, "key": uuid.uuid4(), "dwell_ms": None}
            tx.execute(sa.insert(decisions), decision_row | undo)
    return round_id
