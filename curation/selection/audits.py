"""Audits: people's verdicts on a share of a gate's decisions, and whether they contradict it.

The evidence is new: none of it has proven the gate. For an accept gate, its budget limits the share
of errors among the audited. For a reject gate it limits the acceptable candidates lost, as a share
of all acceptable ones: at least the lower bound on errors among its rejects, times the number of
the round's candidates beyond it, over the upper bound on the number of acceptable candidates in the
round, estimated from the random slice. Each bound takes half of the 5 %, and both hold at any
number of interim looks (bounds.whenever), since a gate is checked after each verdict on its audit.
Candidates beyond a gate that were selected before its model scored anything are not counted, which
makes the bound conservative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import Verdict
from curation.statistics import bounds

IS_BEYOND: Final = """k.candidate_id = c.id and k.acceptance_model_id = :acceptance_model
        and case when :below then k.probability < cast(:threshold as real)
            else k.probability >= cast(:threshold as real) end"""
"""SQL condition: candidate c is beyond a gate by its score, row k of scores."""


@dataclass(frozen=True)
class GateAudit:
    """`errors` of `judged` automatic verdicts that people disagree with, and a lower bound.

    `low`: at least this share of all acceptable candidates is lost (for accepts: of the accepted
    ones is bad), in 0..1, with 95 % confidence at any number of interim looks.
    """

    judged: int
    errors: int
    low: float

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def read_audit(tx: Transaction, gate: Mapping[str, Any]) -> GateAudit:
    """Return the state of a gate's audit.

    Args:
        tx: The transaction.
        gate: A row of gates, with a threshold.
    """
    reject = gate["verdict"] == Verdict.reject
    params = {
        "round": gate["round_id"],
        "acceptance_model": gate["acceptance_model_id"],
        "threshold": gate["threshold"],
        "below": reject,
    }
    row = tx.execute(_AUDITED, params).one()
    # Without errors nothing is contradicted, whatever the size of the audit.
    if not row.errors:
        return GateAudit(row.judged, 0, 0.0)
    if not reject:
        return GateAudit(row.judged, row.errors, bounds.anytime_bounds(row.errors, row.judged).low)
    # A reject gate: combine two bounds, each at half of the error level.
    wrong = bounds.anytime_bounds(row.errors, row.judged, bounds.LEVEL / 2)
    round_ = tx.execute(_ROUND, params).one()
    good = bounds.anytime_bounds(round_.accepted, round_.judged, bounds.LEVEL / 2)
    return GateAudit(
        row.judged, row.errors, min(1.0, wrong.low * round_.beyond / (good.high * round_.passed))
    )


# Audits of top-N acceptance have the same slice, but do not concern gates.
_AUDITED = sa.text(f"""
    select count(*) as judged, count(*) filter (where (c.state = 'accepted') = :below) as errors
    from candidates c join scores k on {IS_BEYOND}
    where c.round_id = :round and c.slice = 'audit' and c.state in ('accepted', 'rejected')
        and not exists (select from top_n_members s where s.candidate_id = c.id and s.audited)""")

_ROUND = sa.text(f"""
    select count(*) as passed,
        count(*) filter (where exists (select from scores k where {IS_BEYOND})) as beyond,
        count(*) filter (where c.slice = 'random'
            and c.state in ('accepted', 'rejected')) as judged,
        count(*) filter (where c.slice = 'random' and c.state = 'accepted') as accepted
    from candidates c
    where c.round_id = :round and c.state in
        ('screened', 'unshown', 'waiting', 'showing', 'accepted', 'rejected')""")
