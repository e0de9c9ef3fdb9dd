"""Gates: score thresholds beyond which the auto-reviewer may reject or accept unseen candidates.

The guarantee: a threshold is used only if the decisions of the held-out half of the round's random
slice, to which no model was fitted (acceptance_model_store.IS_HELD_OUT), prove with 95 % confidence
that its errors stay within the round's budget. For rejects the errors are the acceptable candidates
lost, as a share of all acceptable ones (the false-negative rate); for accepts the bad ones
accepted, as a share of all that are accepted automatically. Both rates are reported for either.
Thresholds are tested in order from the safest, and the first failure stops the search
(bounds.last_proven); interim looks at growing numbers of decisions spend the 5 % between them
(bounds.spend); and a round with an active gate keeps its model. Therefore in at most 5 of 100
rounds the budget is exceeded, however many interim looks there are. The guarantee concerns the
round's own candidates, which the random slice represents.

A share of the candidates a gate would decide is still shown to people (slice "audit"), besides the
random slice. If their verdicts prove that the budget is exceeded (`audits`), the gate is closed,
and no other is proven in that round, since its candidates no longer match the earlier evidence. Its
decisions stand until somebody reverts them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import gates, rounds
from curation.domain import Kind, Verdict
from curation.review.reviewers import AUTO_REVIEWER
from curation.review.verdicts import IS_UPHELD
from curation.rounds.policies import MixedPolicy
from curation.selection import auto_reviewer
from curation.selection.acceptance_model_store import IS_HELD_OUT, StoredModel, find_model
from curation.selection.audits import IS_BEYOND, read_audit
from curation.selection.hash_buckets import AUDIT_BUCKET
from curation.selection.thresholds import AutoVerdict, evaluate_thresholds
from curation.statistics import bounds

log = logging.getLogger("layerloop.selection")


THRESHOLD_SHARES: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Candidate thresholds as shares of the round, fixed before any verdict is read."""
LOOK_GROWTH: Final = 1.3
"""The next interim look is due once there are this many times the decisions of the last."""


def gate_model(tx: Transaction, round_id: int) -> StoredModel | None:
    """Return the model of a round's active gate, or None if no gate is active."""
    active = current_gates(tx, round_id)
    if not active:
        return None
    kind = Kind(tx.scalar(sa.select(rounds.c.kind).where(rounds.c.id == round_id)))
    return find_model(tx, kind, str(active[0]["acceptance_model_id"]))


def run_gates(
    tx: Transaction, round_id: int, policy: MixedPolicy, random_share: float, model: StoredModel
) -> int:
    """Take an interim look if one is due, and apply the active gates.

    Args:
        tx: The transaction.
        round_id: The round.
        policy: The round's policy.
        random_share: The share of the random slice.
        model: The model that has scored the round's candidates.

    Returns:
        The number of automatic decisions.
    """
    budgets: dict[AutoVerdict, float] = {
        Verdict.reject: policy.reject_budget,
        Verdict.accept: policy.accept_budget,
    }
    decided = 0
    for verdict, budget in budgets.items():
        if budget:
            _take_look(tx, round_id, verdict, budget, model)
    for gate in current_gates(tx, round_id):
        if budgets[Verdict(gate["verdict"])]:  # type: ignore[index]  # accept or reject
            decided += _apply(tx, round_id, gate, random_share, policy.audit)
    return decided


def list_gates(tx: Transaction, round_id: int) -> list[dict[str, Any]]:
    """Return every interim look of a round, oldest first."""
    found = sa.select(gates).where(gates.c.round_id == round_id).order_by(gates.c.id)
    return [dict(row) for row in tx.execute(found).mappings()]


def close_gates(
    tx: Transaction, round_id: int, verdicts: Collection[str] = (Verdict.reject, Verdict.accept)
) -> int:
    """Close the active gates of a round and return their number.

    Args:
        tx: The transaction.
        round_id: The round.
        verdicts: Only gates with these verdicts.
    """
    standing = (
        (gates.c.round_id == round_id) & gates.c.verdict.in_(verdicts) & gates.c.closed_at.is_(None)
    )
    closing = sa.update(gates).where(standing)
    return int(tx.execute(closing.values(closed_at=sa.func.now())).rowcount)


def close_contradicted(tx: Transaction, round_id: int) -> int:
    """Close and log gates whose audit proves too many errors; return their number."""
    closed = 0
    for gate in current_gates(tx, round_id):
        audit, budget = read_audit(tx, gate), gate["metrics"]["budget"]
        if audit.low <= budget:
            continue
        close_gates(tx, round_id, [gate["verdict"]])
        metrics = gate["metrics"] | {"contradicted": audit.as_json()}
        tx.execute(sa.update(gates).where(gates.c.id == gate["id"]).values(metrics=metrics))
        details = {"gate": gate["id"], "verdict": gate["verdict"], "budget": budget}
        tx.log(
            AUTO_REVIEWER, "gate contradicted", f"round {round_id}", **details, **audit.as_json()
        )
        log.warning(
            "round %d: gate %d closed: its audit proves %.1f %% errors",
            round_id,
            gate["id"],
            100 * audit.low,
        )
        closed += 1
    return closed


def _take_look(
    tx: Transaction, round_id: int, verdict: AutoVerdict, budget: float, kept: StoredModel
) -> None:
    earlier = [look for look in list_gates(tx, round_id) if look["verdict"] == verdict]
    if any(look["closed_at"] for look in earlier):
        return
    # A look is due only with enough held-out decisions, and enough more than at the last look.
    judged = tx.execute(
        _JUDGED, {"round": round_id, "acceptance_model": kept.id, "label_source": kept.label_source}
    ).all()
    accepted = np.array([row.accepted for row in judged], bool)
    n = int(accepted.sum()) if verdict is Verdict.reject else len(accepted)
    level = bounds.interim_level(len(earlier) + 1)
    if n < max(
        bounds.min_sample_size(budget, level),
        LOOK_GROWTH * earlier[-1]["metrics"]["n"] if earlier else 0,
    ):
        return
    # Thresholds are quantiles of the scores, chosen without the verdicts.
    grid = list(
        THRESHOLD_SHARES if verdict is Verdict.reject else [1 - share for share in THRESHOLD_SHARES]
    )
    thresholds = tx.execute(
        _THRESHOLDS, {"round": round_id, "acceptance_model": kept.id, "grid": grid}
    ).scalar_one()
    probabilities = np.array([row.probability for row in judged], np.float64)
    found = evaluate_thresholds(probabilities, accepted, thresholds, verdict, budget, level)
    # Record every look, proven or not, since each spends a part of the error level.
    row = {
        "round_id": round_id,
        "acceptance_model_id": kept.id,
        "verdict": verdict,
        "interim_look": len(earlier) + 1,
        "threshold": thresholds[found.proven - 1] if found.proven else None,
        "metrics": {
            "n": n,
            "budget": budget,
            "level": level,
            "share": THRESHOLD_SHARES[found.proven - 1] if found.proven else 0.0,
            "lost": found.lost.__dict__,
            "wrong": found.wrong.__dict__,
        },
    }
    tx.execute(sa.insert(gates), row)
    tx.log(
        AUTO_REVIEWER,
        "gate proven" if found.proven else "gate not proven",
        f"round {round_id}",
        **row,
    )


def current_gates(tx: Transaction, round_id: int) -> list[dict[str, Any]]:
    """Return the latest gate of each verdict that was proven and is not closed."""
    proven = [gate for gate in list_gates(tx, round_id) if gate["threshold"] is not None]
    latest = {gate["verdict"]: gate for gate in proven}
    return [gate for gate in latest.values() if gate["closed_at"] is None]


def _apply(tx: Transaction, round_id: int, gate: dict[str, Any], r: float, audit: float) -> int:
    """Let a gate decide, and return the number of its decisions.

    The audit is drawn first, so that no shown candidate is decided automatically. Candidates of the
    random slice beyond the gate count as audited too.
    """
    params = {
        "round": round_id,
        "threshold": gate["threshold"],
        "acceptance_model": gate["acceptance_model_id"],
        "below": gate["verdict"] == "reject",
        "r": r,
        "audit": audit,
        "propensity": r + (1 - r) * audit,
    }
    tx.execute(_AUDIT_RANDOM, params)
    tx.execute(_AUDIT, params)
    ids = [row.id for row in tx.execute(_BEYOND, params)]
    # The comment of each decision states the guarantee of its gate.
    metrics = gate["metrics"]
    lost = f"at most {100 * metrics['lost']['high']:.2g} % of the acceptable are lost"
    wrong = f"at most {100 * metrics['wrong']['high']:.2g} % of these are wrong"
    bound = lost if gate["verdict"] == Verdict.reject else wrong
    return auto_reviewer.decide_all(
        tx, ids, Verdict(gate["verdict"]), f"by gate {gate['id']}: {bound}, with 95 % confidence"
    )


_JUDGED = sa.text(f"""
    select k.probability, c.state = 'accepted' as accepted
    from candidates c
    join rounds r on r.id = c.round_id
    join scores k on k.candidate_id = c.id and k.acceptance_model_id = :acceptance_model
    where c.round_id = :round and {IS_HELD_OUT} and c.state in ('accepted', 'rejected') and exists (
        select from decisions d join reviewers v on v.id = d.reviewer_id and v.kind = :label_source
        where d.candidate_id = c.id and {IS_UPHELD})""")

# Quantiles are over the random slice alone, which represents the round: undecided candidates lack
# the likely ones that people have already reviewed.
_THRESHOLDS = sa.text("""
    select percentile_cont(cast(:grid as float[])) within group (order by k.probability)
    from scores k join candidates c on c.id = k.candidate_id
    where c.round_id = :round and k.acceptance_model_id = :acceptance_model
        and c.slice = 'random'""")

_AUDIT_RANDOM = sa.text(f"""
    update candidates c set propensity = :propensity from scores k
    where c.round_id = :round and c.slice = 'random' and c.propensity = cast(:r as real)
        and {IS_BEYOND}""")

_AUDIT = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'audit', propensity = :propensity,
        priority = -{AUDIT_BUCKET}
    from scores k
    where c.round_id = :round and c.state = 'screened' and {AUDIT_BUCKET} < :audit
    and {IS_BEYOND}""")

_BEYOND = sa.text(f"""
    select c.id from candidates c join scores k on {IS_BEYOND}
    where c.round_id = :round and c.state = 'screened'""")
