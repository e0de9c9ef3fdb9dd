"""State of reading Label Studio projects: which are due, and until when each was read."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.labeling.conditions import (
    WAITS_FOR_LEASE_SQL,
)
from curation.labeling.port import Project

MIN_READ_INTERVAL_SECONDS = 8
"""Seconds during which a project is read again only after a webhook call."""


def projects_to_read(tx: Transaction, backend_url: str) -> list[uuid.UUID]:
    """Return the projects to read now: open ones, those flagged for a full read, and one other.

    Projects without open tasks are read in turn, since a restored backup may reopen their tasks.

    Args:
        tx: The transaction.
        backend_url: URL of Label Studio.
    """
    return [
        row.id
        for row in tx.execute(
            _TO_READ, {"server_url": backend_url, "seconds": MIN_READ_INTERVAL_SECONDS}
        )
    ]


def request_full_read(tx: Transaction, backend_url: str) -> None:
    """Flag all projects for a full read, as after a restored backup.

    Args:
        tx: The transaction.
        backend_url: URL of Label Studio.
    """
    tx.execute(_REQUEST_FULL_READ, {"server_url": backend_url})


def needs_full_read(tx: Transaction, project: Project) -> bool:
    """Return whether a project is flagged for a full read."""
    return bool(tx.execute(_NEEDS_FULL_READ, {"project": project.id}).scalar())


def record_restore_mark(tx: Transaction, project: Project, mark: int) -> None:
    """Record the number that was written to a project in Label Studio.

    Args:
        tx: The transaction.
        project: The project.
        mark: The number.
    """
    tx.execute(_RECORD_MARK, {"project": project.id, "restore_mark": mark})


def record_error(tx: Transaction, project: Project, error: str) -> None:
    """Record an error of Label Studio about a project.

    Args:
        tx: The transaction.
        project: The project.
        error: The error, or an empty string to clear it.
    """
    tx.execute(_RECORD_ERROR, {"project": project.id, "error": error or None})


def record_read(
    tx: Transaction, project: Project, created_at: datetime | None, *, whole: bool
) -> None:
    """Record that all changes of a project are processed; the next read begins after them.

    Args:
        tx: The transaction.
        project: The project.
        created_at: Its creation time in Label Studio.
        whole: Whether all its tasks were read.
    """
    tx.execute(
        _RECORD_READ, {"project": project.id, "remote_created_at": created_at, "whole": whole}
    )


def read_until(tx: Transaction, project: Project) -> datetime | None:
    """Return the time, by Label Studio's clock, up to which all changes are processed."""
    found: datetime | None = tx.execute(_READ_UNTIL, {"project": project.id}).scalar()
    return found


_TO_READ = sa.text(f"""
    with known as (
        select p.id, p.full_read_pending, p.pulled_at,
            (exists (select from labeling_tasks t where t.project_id = p.id and (
                t.state in ('open', 'sending') or t.state = 'annotated' and r.state <> 'closed'))
                or {WAITS_FOR_LEASE_SQL}) as open
        from labeling_projects p join rounds r on r.id = p.round_id
        where p.server_url = :server_url and p.remote_id is not null),
    turn as (select id from known where not open order by pulled_at nulls first limit 1)
    select id from known where full_read_pending or (open or id in (select id from turn))
        and coalesce(pulled_at < now() - make_interval(secs => :seconds), true)
    order by pulled_at nulls first""")


_REQUEST_FULL_READ = sa.text("""
    update labeling_projects set full_read_pending = true
    where server_url = :server_url and remote_id is not null""")

_NEEDS_FULL_READ = sa.text("select full_read_pending from labeling_projects where id = :project")

_RECORD_MARK = sa.text(
    "update labeling_projects set restore_mark = :restore_mark where id = :project"
)

_RECORD_ERROR = sa.text("""
    update labeling_projects set error = :error
    where id = :project and error is distinct from :error""")


_RECORD_READ = sa.text("""
    update labeling_projects
    set pulled_at = now(), full_read_pending = full_read_pending and not :whole,
        remote_created_at = coalesce(remote_created_at, :remote_created_at),
        read_until = greatest(read_until, (
            select max(t.remote_updated_at) from labeling_tasks t where t.project_id = :project))
    where id = :project""")

_READ_UNTIL = sa.text("select read_until from labeling_projects where id = :project")
