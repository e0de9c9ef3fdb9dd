"""Reports that are stored by name and subject, until something newer is known of the subject."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import kept_reports

LAST_DECISION_OF_ROUND = """coalesce((select d.id from decisions d
        where d.round_id = r.id order by d.id desc limit 1), 0)"""
"""The marker of reports on the decisions of a round `r`."""


def read_reports(tx: Transaction, name: str, subjects: Collection[int]) -> dict[int, sa.Row[Any]]:
    """Return the stored reports of some subjects by subject: marker, report and created_at.

    Args:
        tx: The transaction.
        name: Name of the reports.
        subjects: Ids of the subjects.
    """
    query = sa.select(
        kept_reports.c.subject,
        kept_reports.c.marker,
        kept_reports.c.report,
        kept_reports.c.created_at,
    ).where(kept_reports.c.name == name, kept_reports.c.subject.in_(subjects))
    return {row.subject: row for row in tx.execute(query)}


def store_report(
    tx: Transaction,
    name: str,
    subject: int,
    report: Mapping[str, Any],
    *,
    marker: int = 0,
    seconds: float,
) -> None:
    """Store a report in place of an older one.

    Args:
        tx: The transaction.
        name: Name of the reports.
        subject: Id of the subject.
        report: The report as JSON data.
        marker: What it was made from, such as the last decision.
        seconds: The time that it took.
    """
    values: dict[str, Any] = {"marker": marker, "seconds": seconds, "report": dict(report)}
    adding = insert(kept_reports).values(name=name, subject=subject, **values)
    values["created_at"] = sa.func.now()
    keys = ["name", "subject"]
    tx.execute(adding.on_conflict_do_update(index_elements=keys, set_=values))
