"""The Celery worker: its tasks, and a consumer that looks for work before it waits for messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from celery import Celery

from curation.adapters.celery_queue import task_name
from curation.domain import Job, JobName


class WorkConsumer:
    """The consumer component of a Celery worker.

    Celery's own consumer holds the next message while a task runs, and waits for an unreachable
    broker. This one runs a function that looks for work in the database and receives messages one
    at a time (curation.adapters.job_receiver).

    Args:
        run: Function that runs tasks until the worker should stop.
    """

    def __init__(
        self,
        _on_task_request: Callable[..., object],
        *,
        run: Callable[[], None],
        init_callback: Callable[[WorkConsumer], None],
        **_: Any,
    ) -> None:
        self._run = run
        self._on_ready = init_callback

    def start(self) -> None:
        """Run tasks until the worker should stop; Celery calls this last, and it blocks."""
        self._on_ready(self)
        self._run()

    def close(self, _worker: object = None) -> None:
        """Do nothing: no connection is open between messages."""

    def stop(self, _worker: object = None) -> None:
        """Do nothing: `start` has returned by then."""

    def shutdown(self) -> None:
        """Do nothing: `start` has returned by then."""


def register_tasks(app: Celery, jobs: Mapping[JobName, Callable[..., None]]) -> None:
    """Register jobs as Celery tasks.

    Args:
        app: The Celery application.
        jobs: The function of each job, which gets the arguments of the message.
    """
    for name, job in jobs.items():
        app.task(_as_function(job), name=task_name(name))


def run_task(app: Celery, job: Job) -> None:
    """Run the task of a job in this process. Raises what the job raises.

    Args:
        app: The Celery application.
        job: The job.
    """
    app.tasks[task_name(job.name)].apply(args=job.args, throw=True)


def run_celery_worker(
    app: Celery, queues: Sequence[str], name: str, run: Callable[[], None]
) -> None:
    """Run a Celery worker in this process until `run` returns.

    One thread runs all tasks, so that a loaded checkpoint is reused; start more processes for more
    tasks at a time. Signals are left to the caller.

    Args:
        app: The Celery application.
        queues: Names of the queues.
        name: Name of the worker.
        run: Function that runs tasks until the worker should stop.
    """
    worker = app.WorkController(
        queues=list(queues),
        hostname=name,
        pool_cls="solo",
        concurrency=1,
        consumer_cls=partial(WorkConsumer, run=run),
    )
    worker.start()
    worker.stop()


def _as_function(job: Callable[..., None]) -> Callable[..., None]:
    """Return a job as a plain function, whose attributes Celery reads."""

    def task(*args: str | int) -> None:
        job(*args)

    return task
