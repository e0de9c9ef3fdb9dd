"""Outcomes of closed rounds by arm and prompt: read once from the decisions, then kept.

A decided candidate counts as accepted with the posterior of its verdicts where several people
decide each candidate, and with its verdict elsewhere. It is weighted by 1 / propensity, the
probability with which it was shown, at most MAX_WEIGHT; and where its prompt was steered, by the
ratio of the prompt's natural share to the probability with which it was chosen. So neither the
selection nor earlier steering biases the acceptance of an arm.

Verdicts of the rule reviewer count in rounds that it reviews, and are counted as automatic. Those
of the auto-reviewer count nowhere: they follow from a model of earlier decisions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.db.kept_reports import LAST_DECISION_OF_ROUND, read_reports, store_report
from curation.db.tables import kept_reports, rounds
from curation.domain import Kind, Prompt, RoundState
from curation.review.reviewers import PERSON, RULE_REVIEWER
from curation.review.round_skills import fit_round_skills
from curation.review.verdicts import IS_STANDING
from curation.steering.evidence import (
    Evidence,
    evidence_to_list,
    read_evidence,
    weighted_evidence,
)
from curation.steering.features import arms_of, is_attribute

KEPT_NAME: Final = "steering"
"""The name of kept outcomes in `kept_reports`."""
MAX_ROUNDS: Final = 20
"""Number of closed rounds that are read, the newest first."""
MAX_WEIGHT: Final = 10.0
"""Largest weight of a candidate against selection: a larger one would let few decide."""
MIN_PROMPTS: Final = 3
"""Distinct prompts that a word must occur in: a rarer one says more of a caption than of an arm."""
MAX_ARMS: Final = 1_000
MAX_PROMPTS: Final = 2_000
"""Largest numbers of arms and prompts of a round that are kept, those with the most decisions."""


@dataclass(frozen=True)
class RoundOutcomes:
    """What the decisions of a closed round say.

    Attributes:
        total: The evidence of all prompts.
        arms: The evidence of each arm.
        prompts: The evidence of each prompt with two or more decisions, by its id.
    """

    total: Evidence
    arms: Mapping[str, Evidence]
    prompts: Mapping[str, Evidence]


def read_outcomes(tx: Transaction, kind: Kind) -> dict[int, RoundOutcomes]:
    """Return the outcomes of the last closed rounds of a kind by id, the newest first.

    Rounds without decisions that count are left out. The outcomes of a round are computed when they
    are read first, or after new decisions, and then kept.

    Args:
        tx: The transaction.
        kind: Single layers or pairs.
    """
    marked = {row.id: row.marker for row in tx.execute(_ROUNDS, {"kind": kind, "n": MAX_ROUNDS})}
    kept = {
        id_: row.report
        for id_, row in read_reports(tx, KEPT_NAME, marked).items()
        if row.marker == marked[id_]
    }
    found: dict[int, RoundOutcomes] = {}
    for id_, marker in marked.items():
        outcomes = _read(kept[id_]) if id_ in kept else _keep(tx, id_, marker)
        if outcomes.total.decisions:
            found[id_] = outcomes
    return found


def forget_outcomes(tx: Transaction, round_ids: Iterable[int]) -> None:
    """Delete the kept outcomes of rounds, so that they are computed again.

    Args:
        tx: The transaction.
        round_ids: The rounds.
    """
    tx.execute(
        sa.delete(kept_reports).where(
            kept_reports.c.name == KEPT_NAME, kept_reports.c.subject.in_(list(round_ids))
        )
    )


def compute_outcomes(tx: Transaction, round_id: int) -> RoundOutcomes:
    """Compute the outcomes of a round from its decisions.

    Args:
        tx: The transaction.
        round_id: The round.
    """
    params = {"round": round_id, "max_weight": MAX_WEIGHT} | _posteriors(tx, round_id)
    rows = tx.execute(_OUTCOMES, params).all()
    reasons: dict[str, Counter[str]] = {}
    for row in tx.execute(_REASONS, {"round": round_id}):
        reasons.setdefault(row.prompt_id.hex, Counter())[row.reason] = row.n
    total, arms, prompts = _Sum(), dict[str, _Sum](), dict[str, Evidence]()
    for row in rows:
        given = reasons.get(row.id.hex, Counter())
        total.add(row, given)
        for arm in arms_of(Prompt(row.text, row.foreground, row.background)):
            arms.setdefault(arm, _Sum()).add(row, given)
        if row.decisions > 1:
            one = _Sum()
            one.add(row, given)
            prompts[row.id.hex] = one.evidence()
    shared = {
        arm: found.evidence()
        for arm, found in arms.items()
        if is_attribute(arm) or found.prompts >= MIN_PROMPTS
    }
    return RoundOutcomes(total.evidence(), _most(shared, MAX_ARMS), _most(prompts, MAX_PROMPTS))


class _Sum:
    """Sums over the rows of prompts."""

    def __init__(self) -> None:
        self.sums = [0.0, 0.0, 0.0]
        self.decisions = self.automatic = self.prompts = 0
        self.reasons: Counter[str] = Counter()

    def add(self, row: sa.Row[Any], reasons: Counter[str]) -> None:
        for position, value in enumerate((row.weight, row.accepted, row.squared)):
            self.sums[position] += float(value)
        self.decisions += row.decisions
        self.automatic += row.automatic
        self.prompts += 1
        self.reasons.update(reasons)

    def evidence(self) -> Evidence:
        found = weighted_evidence(
            self.sums[0], self.sums[1], self.sums[2], self.decisions, self.automatic
        )
        found.reasons = self.reasons
        return found


def _most(found: Mapping[str, Evidence], limit: int) -> dict[str, Evidence]:
    ordered = sorted(found.items(), key=lambda item: (-item[1].decisions, item[0]))
    return dict(ordered[:limit])


def _posteriors(tx: Transaction, round_id: int) -> dict[str, Sequence[Any]]:
    """Return the posteriors of candidates that several people decide; empty for other rounds."""
    consensus = tx.scalar(sa.select(rounds.c.consensus).where(rounds.c.id == round_id)) or {}
    if int(consensus.get("overlap", 1)) < 2:
        return {"ids": [], "posteriors": []}
    fitted = fit_round_skills(tx, round_id).probability
    return {"ids": list(fitted), "posteriors": [float(value) for value in fitted.values()]}


def _keep(tx: Transaction, round_id: int, marker: int) -> RoundOutcomes:
    started = time.monotonic()
    outcomes = compute_outcomes(tx, round_id)
    report = {
        "total": evidence_to_list(outcomes.total),
        "arms": {name: evidence_to_list(one) for name, one in outcomes.arms.items()},
        "prompts": {name: evidence_to_list(one) for name, one in outcomes.prompts.items()},
    }
    seconds = time.monotonic() - started
    store_report(tx, KEPT_NAME, round_id, report, marker=marker, seconds=seconds)
    # Read back, so that the first choice equals later ones to the last digit.
    return _read(report)


def _read(report: Mapping[str, Any]) -> RoundOutcomes:
    return RoundOutcomes(
        read_evidence(report["total"]),
        {name: read_evidence(row) for name, row in report["arms"].items()},
        {name: read_evidence(row) for name, row in report["prompts"].items()},
    )


_ROUNDS = sa.text(f"""
    select r.id, {LAST_DECISION_OF_ROUND} as marker from rounds r
    where r.state = '{RoundState.closed}' and r.purpose = 'generated' and r.kind = :kind
    order by r.id desc limit :n""")

# Which decided candidates count, by the reviewer v who settled them.
_COUNTS = f"""(v.kind = '{PERSON}' or v.kind = '{RULE_REVIEWER}' and r.rule_reviewer)"""

# A posterior that contradicts the verdict was overruled by an adjudicator or by a re-aggregation.
_OUTCOMES = sa.text(f"""
    with counted as (
        select c.prompt_id, v.kind = '{RULE_REVIEWER}' as automatic,
            case when q.posterior is null or (q.posterior > 0.5) <> (c.state = 'accepted')
                then (c.state = 'accepted')::int else q.posterior end as good,
            least(1 / coalesce(c.propensity, 1), :max_weight)
                * coalesce(c.prompt_share / c.prompt_propensity, 1) as weight
        from candidates c
        join rounds r on r.id = c.round_id
        join reviewers v on v.id = c.settled_by
        left join unnest(:ids, :posteriors) as q (id, posterior) on q.id = c.id
        where c.round_id = :round and c.state in ('accepted', 'rejected') and {_COUNTS}),
    summed as (
        select prompt_id, count(*) as decisions, count(*) filter (where automatic) as automatic,
            sum(weight) as weight, sum(weight * good) as accepted, sum(weight * weight) as squared
        from counted group by prompt_id)
    select p.id, p.text, p.foreground, p.background, s.decisions, s.automatic, s.weight,
        s.accepted, s.squared
    from summed s join prompts p on p.id = s.prompt_id order by p.id""").bindparams(
    sa.bindparam("ids", type_=ARRAY(UUID)), sa.bindparam("posteriors", type_=ARRAY(sa.Float))
)

_REASONS = sa.text(f"""
    select c.prompt_id, reason, count(*) as n
    from decisions d
    join candidates c on c.id = d.candidate_id and c.state = 'rejected'
    join rounds r on r.id = c.round_id
    join reviewers v on v.id = d.reviewer_id
    cross join unnest(d.reasons) as given (reason)
    where d.round_id = :round and d.verdict = 'reject' and {IS_STANDING} and {_COUNTS}
    group by c.prompt_id, reason""")
