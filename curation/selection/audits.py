"""Audits: what people said of the share of a gate's verdicts that they see, and whether it contradicts the gate.

The evidence is new: none of it has proven the gate. For an accept gate the share of errors among the audited is what
its budget is about. For a reject gate it is the acceptable ones lost, as a share of all acceptable: at least the lower
bound on errors among its rejects, times how many of the round lie beyond it, over the upper bound on how many of the
round are acceptable, which the random slice tells. Each bound takes half of the 5 %, and both are right however often
one looks (bounds.whenever), since a gate is looked at after each verdict on its audit. Who lies beyond a gate and was
placed before anybody was scored by its head is not counted, which makes the bound the safer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import Verdict
from curation.statistics import bounds

IS_BEYOND: Final = """k.candidate_id = c.id and k.head_id = :head
        and case when :below then k.chance < cast(:threshold as real) else k.chance >= cast(:threshold as real) end"""
"""In SQL: whether candidate c lies beyond a gate by its score, row k of scores."""


@dataclass(frozen=True)
class Audit:
    """`errors` of `judged` verdicts that people would not have given, and what that proves at least.

    `low`: of all acceptable candidates so many are lost (for accepts: of the accepted so many are bad), a share in 0..1
    that is right with 95 % confidence, whenever one looks.
    """

    judged: int
    errors: int
    low: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def read_audit(tx: Transaction, gate: Mapping[str, Any]) -> Audit:
    """How the audit of a gate (a row of gates, with a threshold) stands."""
    reject = gate["verdict"] == Verdict.reject
    asked = {
        "round": gate["round_id"],
        "head": gate["head_id"],
        "threshold": gate["threshold"],
        "below": reject,
    }
    row = tx.execute(_AUDITED, asked).one()
    if not row.errors:
        return Audit(row.judged, 0, 0.0)
    if not reject:
        return Audit(row.judged, row.errors, bounds.whenever(row.errors, row.judged).low)
    wrong = bounds.whenever(row.errors, row.judged, bounds.LEVEL / 2)
    round_ = tx.execute(_ROUND, asked).one()
    good = bounds.whenever(round_.accepted, round_.judged, bounds.LEVEL / 2)
    return Audit(
        row.judged, row.errors, min(1.0, wrong.low * round_.beyond / (good.high * round_.passed))
    )


# The audit of a scaling has the same slice, and nothing to do with gates.
_AUDITED = sa.text(f"""
    select count(*) as judged, count(*) filter (where (c.state = 'accepted') = :below) as errors
    from candidates c join scores k on {IS_BEYOND}
    where c.round_id = :round and c.slice = 'audit' and c.state in ('accepted', 'rejected')
        and not exists (select from scaled s where s.candidate_id = c.id and s.audited)""")

_ROUND = sa.text(f"""
    select count(*) as passed,
        count(*) filter (where exists (select from scores k where {IS_BEYOND})) as beyond,
        count(*) filter (where c.slice = 'random'
            and c.state in ('accepted', 'rejected')) as judged,
        count(*) filter (where c.slice = 'random' and c.state = 'accepted') as accepted
    from candidates c
    where c.round_id = :round and c.state in
        ('screened', 'unshown', 'waiting', 'showing', 'accepted', 'rejected')""")
