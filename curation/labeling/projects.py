"""Label Studio projects: which rounds have them, and which process synchronizes each."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import JobName, Kind
from curation.errors import Refused
from curation.labeling.conditions import (
    CANDIDATES_TO_PUSH,
    OPEN_TASKS_SQL,
    OVERLAP_SQL,
    ROUND_IS_PUSHED_SQL,
    TASK_IS_UNWANTED_SQL,
    WAITS_FOR_LEASE_SQL,
)
from curation.labeling.port import Project
from curation.rounds.lifecycle import GOLD_PURPOSE, find_round

REVIEW_INTERFACES = ("pages", "label-studio")
"""Values of a round's `labeling`: the review page alone, or Label Studio as well."""


NOT_BLIND_WARNING = (
    "this round needs several reviewers per candidate, "
    "and in Label Studio users can see the annotations of others"
)


def rounds_to_sync(tx: Transaction, backend_url: str) -> list[int]:
    """Return the rounds with tasks to push to, or to remove from, Label Studio.

    Args:
        tx: The transaction.
        backend_url: URL of Label Studio.
    """
    return [row.id for row in tx.execute(_ROUNDS_TO_SYNC, {"server_url": backend_url})]


def open_projects(tx: Transaction, backend_url: str, round_id: int | None = None) -> list[Project]:
    """Return the projects with open tasks, whose annotations still count.

    Args:
        tx: The transaction.
        backend_url: URL of Label Studio.
        round_id: The round; None for all rounds.
    """
    return [
        _to_project(row)
        for row in tx.execute(_OPEN_PROJECTS, {"server_url": backend_url, "round": round_id})
    ]


def find_project(tx: Transaction, project_id: uuid.UUID) -> Project | None:
    """Return a project, or None if it does not exist in Label Studio yet."""
    row = tx.execute(_PROJECT, {"project": project_id}).one_or_none()
    return _to_project(row) if row is not None else None


def created_projects(
    tx: Transaction, backend_url: str, round_id: int | None = None
) -> list[Project]:
    """Return all projects that exist in Label Studio, including those without open tasks.

    Args:
        tx: The transaction.
        backend_url: URL of Label Studio.
        round_id: The round; None for all rounds.
    """
    return [
        _to_project(row)
        for row in tx.execute(_CREATED_PROJECTS, {"server_url": backend_url, "round": round_id})
    ]


def is_pushed(tx: Transaction, round_id: int) -> bool:
    """Return whether the candidates of a round are pushed to Label Studio."""
    return bool(tx.execute(_IS_PUSHED, {"round": round_id}).scalar())


def drop_other_backends(tx: Transaction, backend_url: str, round_id: int) -> None:
    """Mark a round's tasks at other URLs of Label Studio as removed.

    The settings name one URL at a time.

    Args:
        tx: The transaction.
        backend_url: The current URL of Label Studio.
        round_id: The round.
    """
    tx.execute(_DROP_OTHERS, {"server_url": backend_url, "round": round_id})


def project_with_room(
    tx: Transaction, backend_url: str, round_id: int, max_tasks: int
) -> tuple[Project, int] | None:
    """Return the project for a round's next tasks, creating a new one if the last is full.

    Args:
        tx: The transaction.
        backend_url: URL of Label Studio.
        round_id: The round.
        max_tasks: Largest number of tasks per project.

    Returns:
        The project and the number of tasks that fit, or None if there is nothing to push.
    """
    wanted = tx.execute(CANDIDATES_TO_PUSH, {"round": round_id, "count": 1}).first()
    last = tx.execute(_LAST, {"server_url": backend_url, "round": round_id}).first()
    if wanted is None and (last is None or not last.sending):
        return None
    # A batch that was interrupted belongs to its project, even if that is full.
    if last is not None and (last.tasks < max_tasks or last.sending):
        return _to_project(last), max_tasks - last.tasks
    # Another process may insert the same part at the same time; both then use its row.
    part = last.part + 1 if last is not None else 1
    values = {"id": uuid.uuid4(), "server_url": backend_url, "round": round_id, "part": part}
    tx.execute(_NEW_PROJECT, values)
    return _to_project(
        tx.execute(_LAST, {"server_url": backend_url, "round": round_id}).one()
    ), max_tasks


def switch_interface(tx: Transaction, round_id: int, interface: str, actor: str) -> str:
    """Switch a round to Label Studio, or to the review page alone, which serves every open round.

    Args:
        tx: The transaction.
        round_id: The round.
        interface: One of REVIEW_INTERFACES.
        actor: Name for the event log.

    Returns:
        A warning if several reviewers decide each candidate and can see other annotations, or an
        empty string.

    Raises:
        Refused: The value of `interface` is unknown.
        NotFound: The round does not exist.
    """
    if interface not in REVIEW_INTERFACES:
        raise Refused(
            f"unknown labeling interface {interface!r}",
            f"use one of {', '.join(REVIEW_INTERFACES)}",
        )
    # The job pushes or removes the tasks of the round after the commit.
    find_round(tx, round_id)
    tx.execute(_SWITCH, {"round": round_id, "labeling": interface})
    tx.log(actor, "labeling switched", f"round {round_id}", labeling=interface)
    tx.enqueue(JobName.push_tasks, round_id)
    several = tx.execute(_SEVERAL, {"round": round_id}).scalar()
    return NOT_BLIND_WARNING if several and interface != "pages" else ""


def list_excluded_rounds(tx: Transaction) -> list[dict[str, Any]]:
    """Return the open rounds that are not pushed to Label Studio, each with the reason."""
    return [dict(row) for row in tx.execute(_EXCLUDED).mappings()]


def list_projects(tx: Transaction, *, closed: bool = True) -> list[dict[str, Any]]:
    """Return projects with the number of their tasks and annotations by state.

    Args:
        tx: The transaction.
        closed: Also return those of closed rounds.
    """
    return [dict(row) for row in tx.execute(_LIST, {"closed": closed}).mappings()]


def _to_project(row: sa.Row[Any]) -> Project:
    return Project(
        row.id,
        row.round_id,
        row.part,
        Kind(row.kind),
        row.remote_id,
        row.overlap,
        row.remote_created_at,
        row.batches,
        row.restore_mark,
        row.error or "",
    )


# Rounds with waiting candidates that have no task, and rounds with tasks to push or remove.
_ROUNDS_TO_SYNC = sa.text(f"""
    select r.id from rounds r where {ROUND_IS_PUSHED_SQL} and exists (
        select from candidates c
        where c.round_id = r.id and c.state = 'waiting' and not exists ({OPEN_TASKS_SQL}))
    union select p.round_id from labeling_projects p join labeling_tasks t on t.project_id = p.id
    join rounds r on r.id = p.round_id join candidates c on c.id = t.candidate_id
    where t.state in ('sending', 'open')
        and (p.server_url <> :server_url or t.state = 'sending' or {TASK_IS_UNWANTED_SQL})
    order by 1""")

_DROP_OTHERS = sa.text("""
    update labeling_tasks t set state = 'removed' from labeling_projects p
    where p.id = t.project_id and p.round_id = :round and p.server_url <> :server_url
        and t.state in ('sending', 'open', 'refused')""")

_COLUMNS = f"""p.id, p.round_id, p.part, p.remote_id, p.remote_created_at, p.restore_mark, p.error,
    r.kind, {OVERLAP_SQL} as overlap,
    case when p.remote_created_at is null then array(
        select t.batch from labeling_tasks t
        where t.project_id = p.id group by t.batch order by max(t.created_at) desc limit 3)
        else '{{}}' end as batches"""

_PROJECT = sa.text(f"""
    select {_COLUMNS} from labeling_projects p join rounds r on r.id = p.round_id
    where p.id = :project and p.remote_id is not null""")

_CREATED_PROJECTS = sa.text(f"""
    select {_COLUMNS} from labeling_projects p join rounds r on r.id = p.round_id
    where p.server_url = :server_url and (cast(:round as integer) is null or r.id = :round)
        and p.remote_id is not null
    order by r.id, p.part""")

# Projects with open tasks, or with annotated ones of a round that is not closed or that is given.
_OPEN_PROJECTS = sa.text(f"""
    select {_COLUMNS} from labeling_projects p join rounds r on r.id = p.round_id
    where p.server_url = :server_url and (cast(:round as integer) is null or r.id = :round)
        and p.remote_id is not null
        and (exists (select from labeling_tasks t where t.project_id = p.id and (
            t.state in ('open', 'sending')
            or t.state = 'annotated' and (r.state <> 'closed' or r.id = :round)))
            or {WAITS_FOR_LEASE_SQL})
    order by r.id, p.part""")


_IS_PUSHED = sa.text(f"select {ROUND_IS_PUSHED_SQL} from rounds r where r.id = :round")


# A project with an interrupted batch comes first, then the newest.
_LAST = sa.text(f"""
    select {_COLUMNS},
        (select count(*) from labeling_tasks t
            where t.project_id = p.id and t.state <> 'removed') as tasks,
        exists (select from labeling_tasks t
            where t.project_id = p.id and t.state = 'sending') as sending
    from labeling_projects p join rounds r on r.id = p.round_id
    where p.server_url = :server_url and p.round_id = :round
    order by sending desc, p.part desc limit 1""")

_NEW_PROJECT = sa.text("""
    insert into labeling_projects (id, server_url, round_id, part)
    values (:id, :server_url, :round, :part)
    on conflict do nothing""")


_SWITCH = sa.text("update rounds set labeling = :labeling where id = :round")

_SEVERAL = sa.text(f"select {OVERLAP_SQL} > 1 from rounds r where id = :round")

_EXCLUDED = sa.text(f"""
    select r.id as round, case when r.labeling = 'pages' then 'switched to the review page'
        else 'it needs several reviewers per candidate, and in Label Studio users can see the '
            || 'annotations of others; switch it to Label Studio to allow that'
        end as reason
    from rounds r
    where r.state = 'open' and r.purpose <> '{GOLD_PURPOSE}' and not {ROUND_IS_PUSHED_SQL}
    order by r.id""")

_LIST = sa.text(f"""
    select p.round_id as round, p.part, p.server_url, p.remote_id, p.pulled_at,
        {ROUND_IS_PUSHED_SQL} as active, p.error,
        count(*) filter (where t.state = 'sending') as sending,
        count(*) filter (where t.state = 'open') as open,
        count(*) filter (where t.state = 'annotated') as annotated,
        count(*) filter (where t.state = 'refused') as not_accepted,
        coalesce(sum(a.decided), 0)::int as decisions, coalesce(sum(a.waits), 0)::int as pending,
        coalesce(sum(a.refused), 0)::int as refused
    from labeling_projects p join rounds r on r.id = p.round_id
    left join labeling_tasks t on t.project_id = p.id
    left join lateral (
        select count(*) filter (where a.decision_id is not null and not a.deleted) as decided,
            count(*) filter (
                where a.decision_id is null and a.refused is null and not a.deleted) as waits,
            count(*) filter (where a.refused is not null and not a.deleted) as refused
        from labeling_annotations a where a.task_id = t.id) a on true
    where :closed or r.state <> 'closed'
    group by p.id, r.id order by r.id, p.part""")
