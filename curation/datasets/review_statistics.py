"""Statistics of the decisions on the samples of a snapshot, for its card."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import candidates, decisions, reviewers, samples
from curation.domain import Verdict


def review_statistics(tx: Transaction, chosen: sa.ColumnElement[bool]) -> dict[str, Any]:
    """Return how the samples of a condition were reviewed; empty if none was.

    Args:
        tx: The transaction.
        chosen: Condition on the table `samples`.

    Returns:
        Numbers of reviewed samples, decisions and reviewers by kind; the mean share of accepts
        among the decisions on a sample; and the smallest and largest propensity with which the
        samples were shown.
    """
    undo = decisions.alias("undo")
    live = decisions.c.verdict.in_([Verdict.accept, Verdict.reject]) & ~sa.exists().where(
        undo.c.undoes == decisions.c.id
    )
    accepted = sa.cast(decisions.c.verdict == Verdict.accept, sa.Integer)
    ids = sa.select(samples.c.candidate_id).where(chosen, samples.c.candidate_id.is_not(None))
    of_sample = (
        sa.select(
            decisions.c.candidate_id,
            sa.func.count().label("decisions"),
            sa.func.avg(accepted).label("agreement"),
        )
        .where(live, decisions.c.candidate_id.in_(ids))
        .group_by(decisions.c.candidate_id)
        .subquery("of_sample")
    )
    row = tx.execute(
        sa.select(
            sa.func.count().label("samples"),
            sa.func.sum(of_sample.c.decisions).label("decisions"),
            sa.func.avg(of_sample.c.agreement).label("agreement"),
        )
    ).one()
    if not row.samples:
        return {}
    people = (
        sa.select(reviewers.c.kind, sa.func.count(reviewers.c.id.distinct()).label("n"))
        .join(decisions, decisions.c.reviewer_id == reviewers.c.id)
        .where(live, decisions.c.candidate_id.in_(ids))
        .group_by(reviewers.c.kind)
    )
    shown = tx.execute(
        sa.select(
            sa.func.min(candidates.c.propensity).label("least"),
            sa.func.max(candidates.c.propensity).label("most"),
        ).where(candidates.c.id.in_(ids))
    ).one()
    found: dict[str, Any] = {
        "reviewed samples": int(row.samples),
        "decisions": int(row.decisions),
        "reviewers": {row.kind: int(row.n) for row in tx.execute(people)},
        "mean agreement": round(float(row.agreement), 4),
    }
    if shown.least is not None:
        found["propensity"] = [round(float(shown.least), 6), round(float(shown.most), 6)]
    return found
