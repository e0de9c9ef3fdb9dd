"""Rounds whose candidates are decided by a planted acceptance of each prompt."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import candidate_layers, candidates, decisions, layers, prompts, rounds
from curation.domain import Kind, Prompt, RejectReason, Verdict, content_id
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.rounds import lifecycle
from curation.steering.choice import SteeredPrompts, steer_prompts
from curation.steering.features import arms_of
from curation.steering.settings import SteeringSettings
from curation.synthetic.shapes import sample_subject
from tests.support.factories import make_checkpoint, path_to

BASE_LOG_ODDS = -0.5


def captions(count: int, seed: int = 0) -> list[Prompt]:
    """Return captions of drawn shapes, as often as seeds have them."""
    rng = np.random.default_rng(seed)
    return [Prompt(sample_subject(rng).text) for _ in range(count)]


def planted_acceptance(seed: int, scale: float = 1.0) -> Callable[[Prompt], float]:
    """Return the acceptance of each prompt: log odds are the sum of an effect of each attribute."""
    effects: dict[str, float] = {}

    def acceptance(prompt: Prompt) -> float:
        for arm in arms_of(prompt):
            digits = content_id("effect", seed, arm).int % 2**32
            effects[arm] = float(np.random.default_rng(digits).normal(0, scale))
        log_odds = BASE_LOG_ODDS + sum(effects[arm] for arm in arms_of(prompt))
        return 1 / (1 + math.exp(-log_odds))

    return acceptance


def open_steered(
    tx: Transaction, pool: Sequence[Prompt], quota: int, seed: int, settings: SteeringSettings
) -> tuple[int, SteeredPrompts]:
    """Open a steered round; return its ID and its prompts."""
    chosen = steer_prompts(tx, pool, quota, seed, Kind.single, settings)
    round_id = lifecycle.open_round(
        tx,
        checkpoint=make_checkpoint(tx, uuid.uuid4().hex),
        prompt_list=chosen.prompts,
        choices=chosen.choices,
        steering=chosen.report,
        quota=quota,
        seed=seed,
        actor="test",
    )
    return round_id, chosen


def decide_all(
    tx: Transaction,
    round_id: int,
    acceptance: Callable[[Prompt], float],
    seed: int,
    *,
    rules: bool = False,
    close: bool = True,
) -> dict[uuid.UUID, bool]:
    """Show and decide all candidates of a round, and close it; return the verdicts."""
    own = candidates.c.round_id == round_id
    for state in path_to("waiting"):
        values: Mapping[str, Any] = {"state": state}
        values |= {"propensity": 1.0} if state == "waiting" else {}
        tx.execute(sa.update(candidates).where(own).values(values))
    query = sa.select(candidates.c.id, prompts.c.text).join(prompts).where(own)
    rng = np.random.default_rng([seed, round_id])
    verdicts = {
        row.id: bool(rng.random() < acceptance(Prompt(row.text)))
        for row in tx.execute(query.order_by(candidates.c.seed))
    }
    reviewer = add_rule_reviewer(tx) if rules else add_reviewer(tx, "ann").id
    tx.execute(sa.update(rounds).where(rounds.c.id == round_id).values(rule_reviewer=rules))
    rows = [
        {
            "candidate_id": id_,
            "reviewer_id": reviewer,
            "verdict": Verdict.accept if good else Verdict.reject,
            "reasons": [] if good else [RejectReason.halo],
            "channel": "rule_reviewer" if rules else "pages",
            "key": content_id("verdict", id_),
        }
        for id_, good in verdicts.items()
    ]
    tx.execute(sa.insert(decisions), rows)
    for verdict in (True, False):
        decided = [id_ for id_, good in verdicts.items() if good is verdict]
        move = sa.update(candidates).where(candidates.c.id.in_(decided))
        tx.execute(move.values(state="accepted" if verdict else "rejected"))
    if close:
        lifecycle.close_round(tx, round_id, "test")
    return verdicts


def add_layers(tx: Transaction, round_id: int) -> None:
    """Give every candidate of a round a layer without an object."""
    ids = tx.execute(sa.select(candidates.c.id).where(candidates.c.round_id == round_id)).scalars()
    names = {id_: content_id("layer", id_).hex * 2 for id_ in ids}
    rows = [
        {"sha256": name, "width": 1, "height": 1, "bytes": 1, "visible": name}
        for name in names.values()
    ]
    tx.execute(sa.insert(layers), rows)
    rows = [
        {"candidate_id": id_, "role": "foreground", "sha256": name} for id_, name in names.items()
    ]
    tx.execute(sa.insert(candidate_layers), rows)
