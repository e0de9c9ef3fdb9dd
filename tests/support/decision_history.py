"""A reviewer's past: decisions at given times on plain candidates and on gold, without pictures."""

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
class Past:
    """One decision: seconds since BEGAN, what was said, how long it took, and which gold it was about, if any."""

    seconds: float
    accept: bool
    dwell_ms: int = 1_000
    gold: bool = False
    defect: str | None = None
    severity: float = 0.0
    undone: bool = False


def make_history(tx: Transaction, reviewer_id: int, past: Sequence[Past]) -> int:
    """Add a reviewer's past decisions, each on a candidate of its own; returns the round of those that are no gold."""
    number = make_round(tx)
    row = {"purpose": "gold", "kind": "single", "quota": 0, "policy": {}, "state": "open"}
    home = int(tx.scalar(sa.insert(rounds).values(row).returning(rounds.c.id)))
    prompt = Prompt(f"the past of {reviewer_id}")
    add_prompts(tx, [prompt])
    for seed, one in enumerate(past):
        id_ = uuid.uuid4()
        state = "waiting" if one.gold or one.undone else "accepted" if one.accept else "rejected"
        where = {
            "id": id_,
            "round_id": home if one.gold else number,
            "prompt_id": prompt.id,
            "seed": seed,
            "state": state,
        }
        tx.execute(sa.insert(candidates), where)
        if one.gold:
            known = {
                "candidate_id": id_,
                "round_id": number,
                "sample_id": uuid.uuid4(),
                "defect": one.defect,
            }
            tx.execute(sa.insert(gold), known | {"severity": one.severity})
        message = {
            "candidate_id": id_, "reviewer_id": reviewer_id, "verdict": "accept" if one.accept else "reject",
            "channel": "pages", "key": uuid.uuid4(), "dwell_ms": one.dwell_ms,
            "created_at": BEGAN + timedelta(seconds=one.seconds),
        }  # fmt: skip
        made = tx.execute(sa.insert(decisions).returning(decisions.c.id), message).scalar_one()
        if one.undone:
            undo = {"verdict": "undo", "undoes": made, "key": uuid.uuid4(), "dwell_ms": None}
            tx.execute(sa.insert(decisions), message | undo)
    return number
