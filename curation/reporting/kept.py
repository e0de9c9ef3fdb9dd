"""Kept reports: statistics that take longer than a page may, computed by a job and stored.

The statistics of a reviewer and the agreement in a round read every decision they are about. A page
computes them only where that is quick, so that those of a small installation are always exact;
otherwise it shows the report that the job `refresh_reports` has stored, with its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.engine import Database, Transaction
from curation.db.kept_reports import LAST_DECISION_OF_ROUND, read_reports, store_report
from curation.quality import agreement
from curation.reporting import reviewer_stats
from curation.review.reviewers import PERSON, Reviewer, get_reviewer

LIVE_COST: Final = 1_000
"""Largest cost, in decisions, of the reports that a page computes itself."""
BASE_COST: Final = 200
"""Cost of a report without decisions, in decisions: its intervals are found by resampling."""
MIN_AGE_SECONDS: Final = 60.0
"""Minimum age of a stored report before it is computed again, in seconds."""
AGE_PER_SECOND: Final = 300.0
"""Minimum age in seconds for each second that the computation of the report took."""
REFRESH_SECONDS: Final = 30.0
"""The job ends after this time; the next one continues."""

REVIEWER, AGREEMENT = "reviewer", "agreement"


class _Subject(NamedTuple):
    """A reviewer or a round: its last decision, and the number of its decisions up to a limit."""

    id: int
    marker: int
    cost: int


def reviewer_reports(tx: Transaction, people: Sequence[Reviewer]) -> list[dict[str, Any]]:
    """Return the full statistics of reviewers, each with `as_of`: its time, or None for now.

    Args:
        tx: The transaction.
        people: The reviewers.
    """
    by_id = {person.id: person for person in people}
    found = _read_or_compute(
        tx, REVIEWER, list(by_id), lambda id_: _reviewer_report(tx, by_id[id_])
    )
    # The name, the role and the pause are those of now.
    now = {
        id_: {"name": person.name, "role": person.role, "paused": person.paused}
        for id_, person in by_id.items()
    }
    return [found[id_][0]["all"] | now[id_] | {"as_of": found[id_][1]} for id_ in by_id]


def own_report(tx: Transaction, person: Reviewer) -> dict[str, Any]:
    """Return the statistics of a reviewer as they may see them, with `as_of`.

    Args:
        tx: The transaction.
        person: The reviewer.
    """
    report, as_of = _read_or_compute(
        tx, REVIEWER, [person.id], lambda _: _reviewer_report(tx, person)
    )[person.id]
    stats: dict[str, Any] = report["own"]
    return stats | {"role": person.role, "paused": person.paused, "as_of": as_of}


def agreement_report(tx: Transaction, round_id: int) -> dict[str, Any]:
    """Return the agreement of people in a round, with `as_of`. Raises NotFound.

    Args:
        tx: The transaction.
        round_id: The round.
    """
    report, as_of = _read_or_compute(
        tx, AGREEMENT, [round_id], lambda id_: agreement.round_agreement(tx, id_)
    )[round_id]
    return report | {"as_of": as_of}


def has_stale_reports(tx: Transaction) -> bool:
    """Return whether the job has something to do."""
    return any(_stale(tx, name) for name in (REVIEWER, AGREEMENT))


def refresh_reports(database: Database) -> bool:
    """Compute and store the reports that are due, each in a transaction of its own.

    Returns:
        Whether some are left, since REFRESH_SECONDS have passed.
    """
    began = time.monotonic()
    for name in (REVIEWER, AGREEMENT):
        with database.transaction() as tx:
            due = _stale(tx, name)
        for subject in due:
            if time.monotonic() - began > REFRESH_SECONDS:
                return True
            with database.transaction() as tx:
                started = time.monotonic()
                report = _compute(tx, name, subject.id)
                seconds = time.monotonic() - started
                store_report(tx, name, subject.id, report, marker=subject.marker, seconds=seconds)
    return False


def _read_or_compute(
    tx: Transaction, name: str, ids: list[int], compute: Callable[[int], dict[str, Any]]
) -> dict[int, tuple[dict[str, Any], datetime | None]]:
    """Return the reports by subject: current ones, those that are quick to compute, or older."""
    kept = read_reports(tx, name, ids)
    subjects = _subjects(tx, name, ids)
    found: dict[int, tuple[dict[str, Any], datetime | None]] = {}
    left = LIVE_COST
    for subject in sorted(subjects, key=lambda subject: subject.cost):
        row = kept.get(subject.id)
        if row is not None and row.marker == subject.marker:
            found[subject.id] = (row.report, None)
        elif row is None or subject.cost + BASE_COST <= left:
            found[subject.id] = (compute(subject.id), None)
            left -= subject.cost + BASE_COST
        else:
            found[subject.id] = (row.report, row.created_at)
    return found


def _subjects(tx: Transaction, name: str, ids: list[int]) -> list[_Subject]:
    statement = _REVIEWERS if name == REVIEWER else _ROUNDS
    return [
        _Subject(row.id, row.marker, row.cost)
        for row in tx.execute(statement, {"ids": ids, "limit": LIVE_COST + 1})
    ]


def _stale(tx: Transaction, name: str) -> list[_Subject]:
    """Return the subjects with new decisions whose report is due, the oldest report first."""
    params = {"name": name, "min_age": MIN_AGE_SECONDS, "per_second": AGE_PER_SECOND}
    everything = _ALL_REVIEWERS if name == REVIEWER else _ALL_ROUNDS
    return [_Subject(row.id, row.marker, 0) for row in tx.execute(everything, params)]


def _compute(tx: Transaction, name: str, id_: int) -> dict[str, Any]:
    if name == AGREEMENT:
        return agreement.round_agreement(tx, id_)
    reviewer = get_reviewer(tx, id_)
    return {} if reviewer is None else _reviewer_report(tx, reviewer)


def _reviewer_report(tx: Transaction, reviewer: Reviewer) -> dict[str, Any]:
    everything, own = reviewer_stats.both_statistics(tx, reviewer)
    return {"all": everything, "own": own}


_IDS = sa.bindparam("ids", type_=ARRAY(sa.Integer))

_LAST_OF_REVIEWER = """coalesce((select d.id from decisions d
        where d.reviewer_id = v.id order by d.id desc limit 1), 0)"""

_REVIEWERS = sa.text(f"""
    select v.id, {_LAST_OF_REVIEWER} as marker,
        (select count(*) from (select from decisions d where d.reviewer_id = v.id
            limit :limit) part) as cost
    from unnest(:ids) as v (id)""").bindparams(_IDS)

_ROUNDS = sa.text(f"""
    select r.id, {LAST_DECISION_OF_ROUND} as marker,
        (select count(*) from (select from decisions d where d.round_id = r.id
            limit :limit) part) as cost
    from unnest(:ids) as r (id)""").bindparams(_IDS)

_DUE = """(k.subject is null or k.created_at < now() - make_interval(
        secs => :min_age + :per_second * k.seconds))"""

_ALL_REVIEWERS = sa.text(f"""
    select * from (
        select v.id, k.marker as kept, {_LAST_OF_REVIEWER} as marker, k.created_at
        from reviewers v
        left join kept_reports k on k.name = :name and k.subject = v.id
        where v.kind = '{PERSON}' and {_DUE}) last
    where marker > 0 and marker is distinct from kept order by created_at nulls first""")

_ALL_ROUNDS = sa.text(f"""
    select * from (
        select r.id, k.marker as kept, {LAST_DECISION_OF_ROUND} as marker, k.created_at
        from rounds r
        left join kept_reports k on k.name = :name and k.subject = r.id
        where r.purpose <> 'gold' and {_DUE}) last
    where marker > 0 and marker is distinct from kept order by created_at nulls first""")
