"""Gates: below which score the machine may reject, and above which it may accept, without anybody having looked.

The law. A threshold is used only if the decisions of the judging half of the round's random slice, which no head has
learnt from (heads.JUDGING), prove with 95 % confidence that its errors stay within the round's budget. For rejects the
errors are the acceptable candidates lost, as a share of all acceptable ones (the false-reject rate in the sense of a
test's false negatives); for accepts the bad ones let through, as a share of what the machine accepts. Both rates are
told for either. Thresholds are tried from the safest on and the first that fails ends it (bounds.last_proven), looks
at growing numbers of decisions spend the 5 % between them (bounds.spend), and a round whose gate stands keeps its head:
so that in at most 5 of 100 rounds anything is let through that should not have been, however often one looks. What the
bound is about is the round's own candidates, as the random slice stands for them.

A share of what a gate would decide is shown to people all the same (slice "audit"), besides the random slice. Where
their verdicts prove that the budget is exceeded (`audits`), the gate closes itself, and none is proven in that round
again: its candidates are not what they were when it was. What it decided stands until somebody takes it back.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import gates, rounds
from curation.domain import Kind, Verdict
from curation.review.reviewers import MACHINE
from curation.review.verdicts import UPHELD
from curation.rounds.policies import Mixed
from curation.selection import auto_reviewer
from curation.selection.acceptance_model_store import JUDGING, StoredModel, find_head
from curation.selection.audits import IS_BEYOND, read_audit
from curation.selection.hash_buckets import AUDIT_COIN
from curation.statistics import bounds

log = logging.getLogger("layerloop.selection")

Decided = Literal[Verdict.reject, Verdict.accept]

GRID: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Shares of the round that the thresholds tried would decide, settled before any verdict is looked at."""
MORE: Final = 1.3
"""The next look is taken when there are so many times the decisions of the last one."""


@dataclass(frozen=True)
class Look:
    """What one look found: how many thresholds of GRID are proven, and the counts at the last of them.

    `lost` are acceptable candidates among the machine's rejects, of all acceptable ones (for accepts: bad ones among
    them, of all bad); `wrong` the same errors, of all that the machine decides.
    """

    proven: int
    lost: bounds.Count
    wrong: bounds.Count


def look_at(
    chances: np.ndarray[Any, Any], accepted: np.ndarray[Any, Any], thresholds: Sequence[float], verdict: Decided,
    budget: float, level: float,
) -> Look:  # fmt: skip
    """Try thresholds, from the safest on, on N judged candidates with their scores and verdicts."""
    reject = verdict is Verdict.reject
    wronged = accepted if reject else ~accepted
    decided = [chances < one if reject else chances >= one for one in thresholds]
    errors = [int(np.count_nonzero(taken & wronged)) for taken in decided]
    sizes = [int(wronged.sum()) if reject else int(taken.sum()) for taken in decided]
    # What too few candidates reach can never be proven, whatever they are: such thresholds are no part of the row.
    first = next(
        (place for place, n in enumerate(sizes) if n >= bounds.enough(budget, level)), len(sizes)
    )
    proven = first
    while proven < len(errors) and bounds.last_proven(
        [errors[proven]], sizes[proven], budget, level
    ):
        proven += 1
    if proven == first:
        return Look(0, bounds.count(0, 0, level), bounds.count(0, 0, level))
    last = proven - 1
    return Look(
        proven,
        bounds.count(errors[last], int(wronged.sum()), level),
        bounds.count(errors[last], int(decided[last].sum()), level),
    )


def head_of(tx: Transaction, number: int) -> StoredModel | None:
    """The head whose gate stands in a round, None where none does."""
    found = _standing(tx, number)
    if not found:
        return None
    kind = Kind(tx.scalar(sa.select(rounds.c.kind).where(rounds.c.id == number)))
    return find_head(tx, kind, str(found[0]["head_id"]))


def pass_gates(tx: Transaction, number: int, policy: Mixed, r: float, kept: StoredModel) -> int:
    """Look where a look is due, and let the machine decide what a gate that stands allows; returns how many it did.

    r: the random slice's share. The round's candidates are scored by `kept`.
    """
    budgets: dict[Decided, float] = {
        Verdict.reject: policy.reject_budget,
        Verdict.accept: policy.accept_budget,
    }
    decided = 0
    for verdict, budget in budgets.items():
        if budget:
            _take_look(tx, number, verdict, budget, kept)
    for gate in _standing(tx, number):
        if budgets[Verdict(gate["verdict"])]:  # type: ignore[index]  # a gate's verdict is one of the two
            decided += _apply(tx, number, gate, r, policy.audit)
    return decided


def tell_gates(tx: Transaction, number: int) -> list[dict[str, Any]]:
    """The gates of a round that were proven, as JSON would hold them, with what the audit has found since.

    `lost` and `wrong` are both rates of errors at the look that proved it; `audit` is what people said of the share
    that they see of what the gate would decide (audits.Audit), `contradicted` whether that closed it. Only the latest
    of a verdict `stands`.
    """
    told, standing = [], {one["id"] for one in _standing(tx, number)}
    for row in list_gates(tx, number):
        if row["threshold"] is not None:
            figures = {
                name: row["figures"][name] for name in ("budget", "level", "share", "lost", "wrong")
            }
            named = {name: row[name] for name in ("id", "verdict", "look", "threshold")}
            against = row["figures"].get("contradicted")
            audit = against or read_audit(tx, row).as_json()
            state = {
                "audit": audit,
                "stands": row["id"] in standing,
                "contradicted": against is not None,
            }
            told.append(named | figures | state)
    return told


def as_lines(told: Sequence[dict[str, Any]]) -> list[str]:
    """The same for people to read in a terminal."""
    return [
        (_CONTRADICTED if one["contradicted"] else _STANDS).format(
            **one | {name: one[name]["high"] for name in ("lost", "wrong")} | one["audit"]
        )
        for one in told
        if one["stands"] or one["contradicted"]
    ]


_STANDS = (
    "  gate {id} {verdict}s {share:.0%} of all: at most {lost:.2%} of the good (or bad) ones are lost, "
    "{wrong:.2%} of its verdicts wrong; audit: {errors} of {judged} wrong"
)
_CONTRADICTED = (
    "  gate {id} has closed itself: {errors} of {judged} audited {verdict}s were wrong, which proves {low:.1%} where "
    "{budget:.1%} may be; what it decided stands until 'layerloop round take-back'"
)


def list_gates(tx: Transaction, number: int) -> list[dict[str, Any]]:
    """Every look of a round, the first first, with what it found."""
    found = sa.select(gates).where(gates.c.round_id == number).order_by(gates.c.id)
    return [dict(row) for row in tx.execute(found).mappings()]


def close_gates(
    tx: Transaction, number: int, verdicts: Collection[str] = (Verdict.reject, Verdict.accept)
) -> int:
    """Let the machine give no more such verdicts in a round; returns how many gates stood."""
    standing = (
        (gates.c.round_id == number) & gates.c.verdict.in_(verdicts) & gates.c.closed_at.is_(None)
    )
    closing = sa.update(gates).where(standing)
    return int(tx.execute(closing.values(closed_at=sa.func.now())).rowcount)


def close_contradicted(tx: Transaction, number: int) -> int:
    """Close the gates of a round whose audit proves more errors than their budget, and log it; returns how many."""
    closed = 0
    for gate in _standing(tx, number):
        audit, budget = read_audit(tx, gate), gate["figures"]["budget"]
        if audit.low <= budget:
            continue
        close_gates(tx, number, [gate["verdict"]])
        figures = gate["figures"] | {"contradicted": audit.as_json()}
        tx.execute(sa.update(gates).where(gates.c.id == gate["id"]).values(figures=figures))
        about = {"gate": gate["id"], "verdict": gate["verdict"], "budget": budget}
        tx.log(MACHINE, "gate contradicted", f"round {number}", **about, **audit.as_json())
        log.warning(
            "round %d: gate %d has closed itself: its audit proves %.1f %% errors",
            number,
            gate["id"],
            100 * audit.low,
        )
        closed += 1
    return closed


def _take_look(
    tx: Transaction, number: int, verdict: Decided, budget: float, kept: StoredModel
) -> None:
    before = [one for one in list_gates(tx, number) if one["verdict"] == verdict]
    if any(one["closed_at"] for one in before):
        return
    judged = tx.execute(_JUDGED, {"round": number, "head": kept.id, "teacher": kept.teacher}).all()
    accepted = np.array([row.accepted for row in judged], bool)
    n = int(accepted.sum()) if verdict is Verdict.reject else len(accepted)
    level = bounds.spend(len(before) + 1)
    if n < max(bounds.enough(budget, level), MORE * before[-1]["figures"]["n"] if before else 0):
        return
    grid = list(GRID if verdict is Verdict.reject else [1 - share for share in GRID])
    thresholds = tx.execute(
        _THRESHOLDS, {"round": number, "head": kept.id, "grid": grid}
    ).scalar_one()
    chances = np.array([row.chance for row in judged], np.float64)
    found = look_at(chances, accepted, thresholds, verdict, budget, level)
    row = {
        "round_id": number, "head_id": kept.id, "verdict": verdict, "look": len(before) + 1,
        "threshold": thresholds[found.proven - 1] if found.proven else None,
        "figures": {
            "n": n, "budget": budget, "level": level, "share": GRID[found.proven - 1] if found.proven else 0.0,
            "lost": found.lost.__dict__, "wrong": found.wrong.__dict__,
        },
    }  # fmt: skip
    tx.execute(sa.insert(gates), row)
    tx.log(MACHINE, "gate proven" if found.proven else "gate not proven", f"round {number}", **row)


def _standing(tx: Transaction, number: int) -> list[dict[str, Any]]:
    """The latest gate of each verdict that was proven and not closed."""
    latest = {one["verdict"]: one for one in list_gates(tx, number) if one["threshold"] is not None}
    return [one for one in latest.values() if one["closed_at"] is None]


def _apply(tx: Transaction, number: int, gate: dict[str, Any], r: float, audit: float) -> int:
    """Audit first, so that what is shown is never decided; the random slice beyond the gate counts as audited too."""
    asked = {
        "round": number, "threshold": gate["threshold"], "head": gate["head_id"], "below": gate["verdict"] == "reject",
        "r": r, "audit": audit, "propensity": r + (1 - r) * audit,
    }  # fmt: skip
    tx.execute(_AUDIT_RANDOM, asked)
    tx.execute(_AUDIT, asked)
    ids = [row.id for row in tx.execute(_BEYOND, asked)]
    figures = gate["figures"]
    lost = f"at most {100 * figures['lost']['high']:.2g} % of the acceptable are lost"
    wrong = f"at most {100 * figures['wrong']['high']:.2g} % of these are wrong"
    told = lost if gate["verdict"] == Verdict.reject else wrong
    return auto_reviewer.decide_all(
        tx, ids, Verdict(gate["verdict"]), f"by gate {gate['id']}: {told}, with 95 % confidence"
    )


_JUDGED = sa.text(f"""
    select k.chance, c.state = 'accepted' as accepted
    from candidates c
    join rounds r on r.id = c.round_id
    join scores k on k.candidate_id = c.id and k.head_id = :head
    where c.round_id = :round and {JUDGING} and c.state in ('accepted', 'rejected') and exists (
        select from decisions d join reviewers v on v.id = d.reviewer_id and v.kind = :teacher
        where d.candidate_id = c.id and {UPHELD})""")

# Of what has no verdict yet and the random slice together, the likely ones that people have taken out would be missing:
# the random slice alone stands for the round.
_THRESHOLDS = sa.text("""
    select percentile_cont(cast(:grid as float[])) within group (order by k.chance)
    from scores k join candidates c on c.id = k.candidate_id
    where c.round_id = :round and k.head_id = :head and c.slice = 'random'""")

_AUDIT_RANDOM = sa.text(f"""
    update candidates c set propensity = :propensity from scores k
    where c.round_id = :round and c.slice = 'random' and c.propensity = cast(:r as real)
        and {IS_BEYOND}""")

_AUDIT = sa.text(f"""
    update candidates c set state = 'waiting', slice = 'audit', propensity = :propensity,
        priority = -{AUDIT_COIN}
    from scores k
    where c.round_id = :round and c.state = 'screened' and {AUDIT_COIN} < :audit and {IS_BEYOND}""")

_BEYOND = sa.text(f"""
    select c.id from candidates c join scores k on {IS_BEYOND}
    where c.round_id = :round and c.state = 'screened'""")
