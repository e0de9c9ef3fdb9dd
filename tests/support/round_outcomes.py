"""Rounds with settled candidates and a kept diversity, without images."""

from __future__ import annotations

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import candidates, kept_reports, screenings
from curation.domain import Prompt, content_id
from curation.rounds.lifecycle import add_prompts
from curation.selection.diversity_measurement import REPORT
from tests.support.factories import make_round


def add_round(
    tx: Transaction,
    reviewer: int,
    accepted: int,
    rejected: int,
    *,
    refused: int = 0,
    shown: int = 0,
    vendi: float | None = None,
) -> int:
    """Insert a round with settled and refused candidates; `shown` of them match their prompt."""
    round_id = make_round(tx)
    states = ["accepted"] * accepted + ["rejected"] * rejected + ["refused"] * refused
    for number, state in enumerate(states):
        prompt = Prompt(f"prompt {number}")
        add_prompts(tx, [prompt])
        id_ = content_id("candidate", round_id, prompt.id, number)
        row = {"id": id_, "round_id": round_id, "prompt_id": prompt.id, "seed": number}
        settled = reviewer if state != "refused" else None
        tx.execute(sa.insert(candidates), row | {"state": state, "settled_by": settled})
        signals = {"shows_colour": 1.0, "shows_shape": float(number < shown)}
        refused_by = "empty" if state == "refused" else None
        measured = {"candidate_id": id_, "signals": signals, "refused_by": refused_by}
        tx.execute(sa.insert(screenings), measured)
    if vendi is not None:
        estimates = {"48": {"vendi": [vendi, vendi * 0.02]}}
        report = {"embedder": "one", "estimates": estimates, "seed_estimates": {}, "seeds_id": ""}
        row = {"name": REPORT, "subject": round_id, "marker": 0, "seconds": 1.0}
        tx.execute(sa.insert(kept_reports), row | {"report": report | {"candidates": 60}})
    return round_id
