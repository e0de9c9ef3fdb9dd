"""Label Studio projects: which rounds have them, and which process synchronizes each."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import JobName, Kind
from curation.errors import Refused
from curation.labeling.port import Project
from curation.rounds.lifecycle import GOLD_PURPOSE, find_round

REVIEW_INTERFACES = ("pages", "label-studio")
"""Values of a round's `desk`: the review page alone, or Label Studio as well."""

MIN_READ_INTERVAL_SECONDS = 8
"""Seconds during which a project is read again only after a webhook call."""

NOT_BLIND_WARNING = "this round needs several reviewers per candidate, and in Label Studio users can see the annotations of others"


def rounds_to_sync(tx: Transaction, backend_url: str) -> list[int]:
    """Return the rounds with tasks to push to, or to remove from, Label Studio.

    Args:
        tx: The transaction.
        backend_url: Address of Label Studio.
    """
    return [row.id for row in tx.execute(_TO_SERVE, {"labeling": backend_url})]


def open_projects(tx: Transaction, backend_url: str, round_id: int | None = None) -> list[Project]:
    """Return the projects with open tasks, whose annotations still count.

    Args:
        tx: The transaction.
        backend_url: Address of Label Studio.
        round_id: The round; None for all rounds.
    """
    return [
        _to_project(row) for row in tx.execute(_BOARDS, {"desk": backend_url, "round": round_id})
    ]


def find_project(tx: Transaction, project_id: uuid.UUID) -> Project | None:
    """Return a project, or None if it does not exist in Label Studio yet."""
    row = tx.execute(_BOARD, {"board": project_id}).one_or_none()
    return _to_project(row) if row is not None else None


def created_projects(
    tx: Transaction, backend_url: str, round_id: int | None = None
) -> list[Project]:
    """Return all projects that exist in Label Studio, including those without open tasks.

    Args:
        tx: The transaction.
        backend_url: Address of Label Studio.
        round_id: The round; None for all rounds.
    """
    return [
        _to_project(row)
        for row in tx.execute(_MADE_BOARDS, {"desk": backend_url, "round": round_id})
    ]


def is_pushed(tx: Transaction, round_id: int) -> bool:
    """Return whether the candidates of a round are pushed to Label Studio."""
    return bool(tx.execute(_IS_SERVED, {"round": round_id}).scalar())


def projects_to_read(tx: Transaction, backend_url: str) -> list[uuid.UUID]:
    """Return the projects to read now: open ones, those flagged for a full read, and one other.

    Projects without open tasks are read in turn, since a restored backup may reopen their tasks.

    Args:
        tx: The transaction.
        backend_url: Address of Label Studio.
    """
    return [
        row.id
        for row in tx.execute(_TO_READ, {"desk": backend_url, "seconds": MIN_READ_INTERVAL_SECONDS})
    ]


def request_full_read(tx: Transaction, backend_url: str) -> None:
    """Flag all projects for a full read, as after a restored backup.

    Args:
        tx: The transaction.
        backend_url: Address of Label Studio.
    """
    tx.execute(_REREAD_ALL, {"labeling": backend_url})


def needs_full_read(tx: Transaction, project: Project) -> bool:
    """Return whether a project is flagged for a full read."""
    return bool(tx.execute(_MUST_REREAD, {"board": project.id}).scalar())


def record_restore_mark(tx: Transaction, project: Project, mark: int) -> None:
    """Record the number that was written to a project in Label Studio.

    Args:
        tx: The transaction.
        project: The project.
        mark: The number.
    """
    tx.execute(_NOTE_MARK, {"board": project.id, "mark": mark})


def record_error(tx: Transaction, project: Project, trouble: str) -> None:
    """Record an error of Label Studio about a project.

    Args:
        tx: The transaction.
        project: The project.
        trouble: The error, or an empty string to clear it.
    """
    tx.execute(_NOTE_TROUBLE, {"board": project.id, "trouble": trouble or None})


def drop_other_backends(tx: Transaction, backend_url: str, round_id: int) -> None:
    """Mark a round's tasks at other addresses of Label Studio as removed.

    The settings name one address at a time.

    Args:
        tx: The transaction.
        backend_url: The current address of Label Studio.
        round_id: The round.
    """
    tx.execute(_LEAVE, {"desk": backend_url, "round": round_id})


def project_with_room(
    tx: Transaction, backend_url: str, round_id: int, max_tasks: int
) -> tuple[Project, int] | None:
    """Return the project for a round's next tasks, creating a new one if the last is full.

    Args:
        tx: The transaction.
        backend_url: Address of Label Studio.
        round_id: The round.
        max_tasks: Largest number of tasks per project.

    Returns:
        The project and the number of tasks that fit, or None if there is nothing to push.
    """
    wanted = tx.execute(CANDIDATES_TO_PUSH, {"round": round_id, "count": 1}).first()
    last = tx.execute(_LAST, {"desk": backend_url, "round": round_id}).first()
    if wanted is None and (last is None or not last.sending):
        return None
    # A batch that was interrupted belongs to its project, even if that is full.
    if last is not None and (last.postings < max_tasks or last.sending):
        return _to_project(last), max_tasks - last.postings
    # Another process may insert the same part at the same time; both then use its row.
    part = last.part + 1 if last is not None else 1
    values = {"id": uuid.uuid4(), "desk": backend_url, "round": round_id, "part": part}
    tx.execute(_NEW_BOARD, values)
    return _to_project(tx.execute(_LAST, {"desk": backend_url, "round": round_id}).one()), max_tasks


def record_read(
    tx: Transaction, project: Project, made_at: datetime | None, *, whole: bool
) -> None:
    """Record that all changes of a project are processed; the next read begins after them.

    Args:
        tx: The transaction.
        project: The project.
        made_at: Its creation time in Label Studio.
        whole: Whether all its tasks were read.
    """
    tx.execute(_COLLECTED, {"board": project.id, "made_at": made_at, "whole": whole})


def read_until(tx: Transaction, project: Project) -> datetime | None:
    """Return the time, by Label Studio's clock, up to which all changes are processed."""
    found: datetime | None = tx.execute(_READ_UNTIL, {"board": project.id}).scalar()
    return found


def switch_interface(tx: Transaction, round_id: int, interface: str, actor: str) -> str:
    """Switch a round to Label Studio, or to the review page alone, which serves every open round.

    Args:
        tx: The transaction.
        round_id: The round.
        interface: One of DESKS.
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
            f"unknown labeling backend {interface!r}", f"use one of {', '.join(REVIEW_INTERFACES)}"
        )
    # The job pushes or removes the tasks of the round after the commit.
    find_round(tx, round_id)
    tx.execute(_SWITCH, {"round": round_id, "desk": interface})
    tx.log(actor, "desk switched", f"round {round_id}", desk=interface)
    tx.enqueue(JobName.push_tasks, round_id)
    several = tx.execute(_SEVERAL, {"round": round_id}).scalar()
    return NOT_BLIND_WARNING if several and interface != "pages" else ""


def list_excluded_rounds(tx: Transaction) -> list[dict[str, Any]]:
    """Return the open rounds that are not pushed to Label Studio, each with the reason."""
    return [dict(row) for row in tx.execute(_KEPT_AWAY).mappings()]


def list_projects(tx: Transaction) -> list[dict[str, Any]]:
    """Return all projects with their numbers of tasks and annotations by state."""
    return [dict(row) for row in tx.execute(_LIST).mappings()]


def _to_project(row: sa.Row[Any]) -> Project:
    return Project(
        row.id,
        row.round_id,
        row.part,
        Kind(row.kind),
        row.number,
        row.overlap,
        row.made_at,
        row.batches,
        row.mark,
        row.trouble or "",
    )


OVERLAP_SQL = "coalesce((r.consensus ->> 'overlap')::int, 1)"

# Condition on a round: its candidates are pushed to Label Studio. Gold never is, because users
# could recognize it there; a round with overlap only on request, because users see the annotations
# of others there.
ROUND_IS_PUSHED_SQL = f"""(r.state = 'open' and r.purpose <> '{GOLD_PURPOSE}'
    and (r.desk = 'label-studio' or r.desk is null and {OVERLAP_SQL} <= 1))"""
# Subquery: the open or refused tasks of a candidate.
OPEN_TASKS_SQL = """select from labeling_tasks p
    where p.candidate_id = c.id and p.state in ('sending', 'up', 'refused')"""
# Condition on a task: it has to be removed. A candidate that is claimed on the review page is
# removed from Label Studio, unless several reviewers decide it.
TASK_IS_UNWANTED_SQL = f"""(p.state = 'up' and not (
    {ROUND_IS_PUSHED_SQL} and (c.state = 'waiting' or c.state = 'showing' and {OVERLAP_SQL} > 1)))"""
# Condition on a project: an annotation waits for a reviewer's lease to end.
WAITS_FOR_LEASE_SQL = """exists (select from labeling_annotations a join labeling_tasks o on o.id = a.task_id
    where o.project_id = b.id and a.decision_id is null and a.refused is null and not a.gone)"""

# Rounds with waiting candidates that have no task, and rounds with tasks to push or remove.
_TO_SERVE = sa.text(f"""
    select r.id from rounds r where {ROUND_IS_PUSHED_SQL} and exists (
        select from candidates c
        where c.round_id = r.id and c.state = 'waiting' and not exists ({OPEN_TASKS_SQL}))
    union select b.round_id from labeling_projects b join labeling_tasks p on p.project_id = b.id
    join rounds r on r.id = b.round_id join candidates c on c.id = p.candidate_id
    where p.state in ('sending', 'up')
        and (b.desk <> :desk or p.state = 'sending' or {TASK_IS_UNWANTED_SQL}) order by 1""")

_LEAVE = sa.text("""
    update labeling_tasks p set state = 'down' from labeling_projects b
    where b.id = p.project_id and b.round_id = :round and b.desk <> :desk
        and p.state in ('sending', 'up', 'refused')""")

_COLUMNS = f"""b.id, b.round_id, b.part, b.number, b.made_at, b.mark, b.trouble, r.kind,
    {OVERLAP_SQL} as overlap,
    case when b.made_at is null then array(
        select p.batch from labeling_tasks p
        where p.project_id = b.id group by p.batch order by max(p.created_at) desc limit 3)
        else '{{}}' end as batches"""

_BOARD = sa.text(f"""
    select {_COLUMNS} from labeling_projects b join rounds r on r.id = b.round_id
    where b.id = :board and b.number is not null""")

_MADE_BOARDS = sa.text(f"""
    select {_COLUMNS} from labeling_projects b join rounds r on r.id = b.round_id
    where b.desk = :desk and (cast(:round as integer) is null or r.id = :round)
        and b.number is not null
    order by r.id, b.part""")

# Projects with open tasks, or with annotated ones of a round that is not closed or that is given.
_BOARDS = sa.text(f"""
    select {_COLUMNS} from labeling_projects b join rounds r on r.id = b.round_id
    where b.desk = :desk and (cast(:round as integer) is null or r.id = :round)
        and b.number is not null
        and (exists (select from labeling_tasks p where p.project_id = b.id and (
            p.state in ('up', 'sending')
            or p.state = 'answered' and (r.state <> 'closed' or r.id = :round)))
            or {WAITS_FOR_LEASE_SQL})
    order by r.id, b.part""")

_TO_READ = sa.text(f"""
    with known as (
        select b.id, b.reread, b.collected_at,
            (exists (select from labeling_tasks p where p.project_id = b.id and (
                p.state in ('up', 'sending') or p.state = 'answered' and r.state <> 'closed'))
                or {WAITS_FOR_LEASE_SQL}) as open
        from labeling_projects b join rounds r on r.id = b.round_id
        where b.desk = :desk and b.number is not null),
    turn as (select id from known where not open order by collected_at nulls first limit 1)
    select id from known where reread or (open or id in (select id from turn))
        and coalesce(collected_at < now() - make_interval(secs => :seconds), true)
    order by collected_at nulls first""")

_IS_SERVED = sa.text(f"select {ROUND_IS_PUSHED_SQL} from rounds r where r.id = :round")

_REREAD_ALL = sa.text(
    "update labeling_projects set reread = true where desk = :desk and number is not null"
)

_MUST_REREAD = sa.text("select reread from labeling_projects where id = :board")

_NOTE_MARK = sa.text("update labeling_projects set mark = :mark where id = :board")

_NOTE_TROUBLE = sa.text("""
    update labeling_projects set trouble = :trouble
    where id = :board and trouble is distinct from :trouble""")

# A project with an interrupted batch comes first, then the newest.
_LAST = sa.text(f"""
    select {_COLUMNS},
        (select count(*) from labeling_tasks p
            where p.project_id = b.id and p.state <> 'down') as postings,
        exists (select from labeling_tasks p
            where p.project_id = b.id and p.state = 'sending') as sending
    from labeling_projects b join rounds r on r.id = b.round_id
    where b.desk = :desk and b.round_id = :round order by sending desc, b.part desc limit 1""")

_NEW_BOARD = sa.text("""
    insert into labeling_projects (id, desk, round_id, part) values (:id, :desk, :round, :part)
    on conflict do nothing""")


# Waiting candidates without a task, by priority.
CANDIDATES_TO_PUSH = sa.text(f"""
    select c.id from candidates c join rounds r on r.id = c.round_id
    where r.id = :round and {ROUND_IS_PUSHED_SQL} and c.state = 'waiting' and not exists ({OPEN_TASKS_SQL})
    order by c.priority desc, c.id limit :count""")

_COLLECTED = sa.text("""
    update labeling_projects set collected_at = now(), made_at = coalesce(made_at, :made_at),
        reread = reread and not :whole, read_until = greatest(read_until, (
        select max(p.seen_at) from labeling_tasks p where p.project_id = :board)) where id = :board""")

_READ_UNTIL = sa.text("select read_until from labeling_projects where id = :board")

_SWITCH = sa.text("update rounds set desk = :desk where id = :round")

_SEVERAL = sa.text(f"select {OVERLAP_SQL} > 1 from rounds r where id = :round")

_KEPT_AWAY = sa.text(f"""
    select r.id as round, case when r.desk = 'pages' then 'switched to the review page'
        else 'it needs several reviewers per candidate, and in Label Studio users can see the '
            || 'annotations of others; switch it to Label Studio to allow that'
        end as why
    from rounds r
    where r.state = 'open' and r.purpose <> '{GOLD_PURPOSE}' and not {ROUND_IS_PUSHED_SQL} order by r.id""")

_LIST = sa.text(f"""
    select b.round_id as round, b.part, b.desk, b.number, b.collected_at,
        {ROUND_IS_PUSHED_SQL} as serving, b.trouble,
        count(*) filter (where p.state = 'sending') as sending,
        count(*) filter (where p.state = 'up') as up,
        count(*) filter (where p.state = 'answered') as answered,
        count(*) filter (where p.state = 'refused') as not_taken,
        coalesce(sum(a.kept), 0)::int as decisions, coalesce(sum(a.waits), 0)::int as pending,
        coalesce(sum(a.refused), 0)::int as refused
    from labeling_projects b join rounds r on r.id = b.round_id
    left join labeling_tasks p on p.project_id = b.id
    left join lateral (
        select count(*) filter (where a.decision_id is not null and not a.gone) as kept,
            count(*) filter (
                where a.decision_id is null and a.refused is null and not a.gone) as waits,
            count(*) filter (where a.refused is not null and not a.gone) as refused
        from labeling_annotations a where a.task_id = p.id) a on true
    group by b.id, r.id order by r.id, b.part""")
