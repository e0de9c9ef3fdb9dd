"""The state of an instance in one read: rounds, runs, queues, leases, workers and trouble."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from curation.db import counts, workers
from curation.db.engine import Transaction
from curation.db.workers import WorkerProcess, WorkerState
from curation.domain import CandidateState
from curation.reporting import missing_workers

FAILED_RUN_HOURS = 24
"""Hours for which a failed run counts as trouble."""


@dataclass(frozen=True)
class RoundStatus:
    """A round that is not closed, with the number of its candidates by state."""

    round_id: int
    kind: str
    purpose: str
    state: str
    quota: int
    candidates: Mapping[str, int]


@dataclass(frozen=True)
class RunStatus:
    """A training or captioning run that is requested, running, paused or failed recently."""

    run_id: str
    kind: str
    preset: str
    state: str
    seconds: float  # since it was requested
    error: str | None


@dataclass(frozen=True)
class QueueStatus:
    """Jobs of one name that no worker has taken yet."""

    job: str
    count: int
    oldest_seconds: float


@dataclass(frozen=True)
class InstanceStatus:
    """The state of an instance; `trouble` are sentences for people."""

    rounds: Sequence[RoundStatus]
    runs: Sequence[RunStatus]
    queues: Sequence[QueueStatus]
    leases: Mapping[str, int]
    workers: Sequence[WorkerProcess]
    # Seconds since the least recent reading of a project in Label Studio; None without projects.
    labeling_lag_seconds: float | None
    trouble: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)


def read_status(tx: Transaction) -> InstanceStatus:
    """Return the state of the instance; its cost does not grow with closed rounds and history."""
    found = list_rounds(tx)
    runs = list_runs(tx)
    live = workers.list_live_workers(tx)
    return InstanceStatus(
        rounds=found,
        runs=runs,
        queues=list_queues(tx),
        leases=count_leases(tx),
        workers=live,
        labeling_lag_seconds=read_labeling_lag(tx),
        trouble=_find_trouble(tx, found, runs, live),
    )


def list_rounds(tx: Transaction) -> list[RoundStatus]:
    """Return the rounds that are not closed, oldest first."""
    rows = tx.execute(_ROUNDS).all()
    states = counts.count_states(tx, [row.id for row in rows])
    return [
        RoundStatus(row.id, row.kind, row.purpose, row.state, row.quota, states.get(row.id, {}))
        for row in rows
    ]


@dataclass(frozen=True)
class Totals:
    """Totals of all rounds, which only withdrawals and undone decisions decrease."""

    generated: int
    screened: int
    # Verdicts that are not undone, by verdict, and the number of reviews.
    verdicts: Mapping[str, int]
    reviews: int


def read_totals(tx: Transaction) -> Totals:
    """Return the totals of all rounds, from the stored counts: a few rows for each round."""
    states: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    generated = reviews = 0
    for row in tx.execute(_TOTALS):
        if row.name == "verdicts":
            verdicts[row.category] += row.n
        elif row.name == "looks":
            reviews += row.n
        else:
            states[row.category] += row.n
            generated += row.n if row.generated else 0
    # All generated candidates are screened, except those that wait for it.
    waiting = states[CandidateState.generated]
    return Totals(generated, generated - waiting, dict(verdicts), reviews)


def list_runs(tx: Transaction) -> list[RunStatus]:
    """Return the runs that have not ended, and those that failed recently, oldest first."""
    rows = tx.execute(_RUNS, {"hours": FAILED_RUN_HOURS})
    return [
        RunStatus(str(row.id), row.kind, row.preset, row.state, float(row.seconds), row.error)
        for row in rows
    ]


def list_queues(tx: Transaction) -> list[QueueStatus]:
    """Return the jobs that wait in the queue, by name."""
    return [QueueStatus(row.name, row.n, float(row.seconds)) for row in tx.execute(_QUEUES)]


def count_leases(tx: Transaction) -> dict[str, int]:
    """Return the number of leases that have not expired, by purpose."""
    return {row.purpose: row.n for row in tx.execute(_LEASES)}


def read_labeling_lag(tx: Transaction) -> float | None:
    """Return the age in seconds of the oldest reading of a project of an open round, or None."""
    lag = tx.scalar(_LABELING_LAG)
    return None if lag is None else float(lag)


def _find_trouble(
    tx: Transaction,
    found: Sequence[RoundStatus],
    runs: Sequence[RunStatus],
    live: Sequence[WorkerProcess],
) -> list[str]:
    """Return a sentence for each problem that needs attention."""
    trouble = []
    # Work without workers, and workers that do not work.
    waiting = missing_workers.count_waiting_work(tx)
    if waiting:
        trouble.append(missing_workers.describe_waiting_work(waiting))
    trouble += [
        f"worker {worker.id} is paused: {worker.reason or 'no reason given'}"
        for worker in live
        if worker.state is WorkerState.paused
    ]
    # Work that failed.
    for status in found:
        failed = status.candidates.get(CandidateState.failed, 0)
        if failed:
            trouble.append(f"round {status.round_id}: {failed} candidates failed")
    trouble += [
        f"{run.kind} run {run.run_id[:13]} failed: {run.error or 'no reason given'}"
        for run in runs
        if run.state == "failed"
    ]
    # A run that was interrupted by an outage is tried again.
    trouble += [
        f"{run.kind} run {run.run_id[:13]} waits after trouble: {run.error}"
        for run in runs
        if run.state == "requested" and run.error
    ]
    return trouble


_ROUNDS = sa.text("""
    select id, kind, purpose, state, quota from rounds where state <> 'closed' order by id""")

# The key of failed and withdrawn candidates states whether they were generated; of the other
# states, all but the first two are reached only after the generation.
_TOTALS = sa.text("""
    select name,
        case name when 'verdicts' then key[2] when 'candidates' then key[1] end as category,
        name = 'candidates' and case when key[1] in ('failed', 'withdrawn') then key[6] = 'true'
            else key[1] not in ('requested', 'generating') end as generated,
        sum(n) as n
    from (select name, key, n from round_counts where name in ('candidates', 'verdicts', 'looks')
        union all
        select name, key, n from round_count_deltas
        where name in ('candidates', 'verdicts', 'looks')) parts
    group by 1, 2, 3""")

_RUNS = sa.text("""
    select id, kind, preset, state, error, extract(epoch from now() - created_at) as seconds from (
        select id, 'training' as kind, preset, state, error, created_at, finished_at
        from training_runs
        union all
        select id, 'caption', model, state, error, created_at, finished_at from caption_runs) runs
    where state not in ('finished', 'cancelled', 'failed')
        or state = 'failed' and finished_at > now() - make_interval(hours => :hours)
    order by created_at, id""")

_QUEUES = sa.text("""
    select name, count(*) as n, extract(epoch from now() - min(created_at)) as seconds
    from pending_jobs group by name order by name""")

_LEASES = sa.text("""
    select purpose, count(*) as n from leases where expires_at > now()
    group by purpose order by purpose""")

_LABELING_LAG = sa.text("""
    select extract(epoch from now() - min(coalesce(p.pulled_at, p.created_at)))
    from labeling_projects p join rounds r on r.id = p.round_id
    where r.state = 'open' and p.remote_id is not null""")
