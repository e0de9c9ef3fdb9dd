"""The Celery worker: jobs are its tasks, its signals are sent, and errors reach the caller."""

from __future__ import annotations

import pytest
from celery import signals

from curation.adapters.celery_queue import make_app, task_name
from curation.adapters.celery_worker import register_tasks, run_celery_worker, run_task
from curation.domain import Job, JobName
from curation.settings import Settings


def test_a_worker_runs_jobs_as_celery_tasks() -> None:
    app = make_app(Settings(queue="redis://127.0.0.1:6379/15"), "postgresql://nobody@/none")
    done: list[tuple[str | int, ...]] = []
    seen: list[str] = []

    def fail(*_: str | int) -> None:
        raise RuntimeError("the planned error")

    register_tasks(app, {JobName.screen: lambda *args: done.append(args), JobName.select: fail})

    def record_task(task_id: str, task: object, **_: object) -> None:
        seen.append(task.name)  # type: ignore[attr-defined]

    def run() -> None:
        run_task(app, Job(JobName.screen, (7,)))
        with pytest.raises(RuntimeError, match="the planned error"):
            run_task(app, Job(JobName.select, (7,)))

    signals.task_prerun.connect(record_task)
    try:
        run_celery_worker(app, ["screen"], "test", run)
    finally:
        signals.task_prerun.disconnect(record_task)
    assert done == [(7,)]
    assert seen == [task_name("screen"), task_name("select")]
