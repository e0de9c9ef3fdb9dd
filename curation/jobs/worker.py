"""The worker process: claims the work of its queues, one job at a time, until it is stopped."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from curation import jobs
from curation.adapters.celery_queue import expand_queues, make_app, queue_for
from curation.adapters.celery_worker import register_tasks, run_celery_worker, run_task
from curation.adapters.job_receiver import JobReceiver
from curation.db import leases, pending_jobs, workers
from curation.db.workers import WorkerState
from curation.domain import Job
from curation.jobs.heartbeat import Heartbeat, worker_heartbeat
from curation.jobs.lease_heartbeat import Stopped
from curation.jobs.looking import LOOKED_FOR, find_next_job
from curation.jobs.observed import observed_job
from curation.jobs.trouble import (
    WorkerTrouble,
    breakers,
    describe,
    is_instance_trouble,
    pause_reason,
)
from curation.logs import configure_logging
from curation.runtime.context import AppContext
from curation.runtime.metrics_server import serve_worker_metrics
from curation.runtime.tracing import configure_tracing

log = logging.getLogger("layerloop.worker")

RECONCILE_SECONDS: Final = 10

LOOK_SECONDS: Final = 2.0
"""Seconds after which an idle worker looks for work without a message."""

DRAIN_SECONDS: Final = 25.0
"""Seconds after which a worker that should stop releases the work of a job that does not end."""


def run_worker(context: AppContext, address: str, queues: Sequence[str]) -> None:
    """Run jobs until SIGTERM or SIGINT; the running job is finished or released.

    Args:
        context: The app context.
        address: URL of the database.
        queues: Names of the queues or groups of queues.

    Raises:
        Refused: There is no such queue.
    """
    configure_logging(
        context.settings.log_format,
        context.settings.log_level,
        secrets=context.settings.secret_values(),
        fields={"worker": jobs.WORKER_ID},
    )
    configure_tracing(context.settings, "worker", jobs.WORKER_ID)
    # A worker whose secret differs from the API's would sign URLs that the API refuses.
    context.signing_secret()
    names = expand_queues(queues)
    app = make_app(context.settings, address)
    register_tasks(app, {name: partial(job, context) for name, job in jobs.JOBS.items()})
    receiver = JobReceiver(app, jobs.stop_requested)
    with (
        serve_worker_metrics(context, context.settings.metrics_port),
        worker_heartbeat(context.database, names) as heartbeat,
    ):
        _stop_on_signals(context, heartbeat)
        threading.Thread(
            target=_reconcile_regularly, args=(context,), name="reconcile", daemon=True
        ).start()
        log.info("taking work of %s as %s", ", ".join(names), jobs.WORKER_ID)
        runner = JobRunner(context, receiver, heartbeat, partial(run_task, app))
        run_celery_worker(app, names, jobs.WORKER_ID, runner.run)


class JobRunner:
    """Runs jobs one after the other, so that a loaded checkpoint is reused.

    Work is looked for in the database; a message only ends the wait of an idle worker. So no work
    waits for a lost message, and a worker that starts takes part at once.

    Args:
        context: The app context.
        receiver: The receiver of messages.
        heartbeat: The record of this worker.
        run_task: Function that runs the Celery task of a job in this process.
    """

    def __init__(
        self,
        context: AppContext,
        receiver: JobReceiver,
        heartbeat: Heartbeat,
        run_task: Callable[[Job], None],
    ) -> None:
        self._context = context
        self._receiver = receiver
        self._heartbeat = heartbeat
        self._run_task = run_task
        # The queue of the last job comes last, so that kinds of work take turns.
        self._queues = deque(heartbeat.worker.queues)

    def run(self) -> None:
        """Run jobs until a stop is requested."""
        while not jobs.stop_requested.is_set():
            job = self._find() or self._receive()
            if job is not None:
                self._receiver.pause()
                self._run(job)
        self._receiver.pause()

    def _find(self) -> Job | None:
        """Return a job that the database holds, or None if there is none or it does not answer."""
        try:
            with self._context.database.transaction() as tx:
                found = find_next_job(tx, self._active())
        except Exception as error:
            log.warning("the database does not answer: %s", describe(error))
            self._show_idle(describe(error))
            jobs.stop_requested.wait(random.uniform(0.5, 1.5))
            return None
        if found is None:
            return None
        queue, job = found
        self._queues.remove(queue)
        self._queues.append(queue)
        return job

    def _receive(self) -> Job | None:
        """Wait for a message; return its job, unless it was run already or is unknown."""
        self._show_idle()
        seconds = LOOK_SECONDS * random.uniform(0.75, 1.25)
        active = self._active()
        if not active:
            self._receiver.pause()
            jobs.stop_requested.wait(min(seconds, 1.0))
            return None
        job = self._receiver.receive(active, seconds)
        if job is None or job.name not in jobs.JOBS:
            return None
        try:
            with self._context.database.transaction() as tx:
                return job if pending_jobs.take_pending(tx, job) else None
        except Exception as error:
            log.warning("a message is dropped; its job is found again: %s", describe(error))
            return None

    def _active(self) -> list[str]:
        """Return the queues whose work this worker does not pause."""
        return [queue for queue in self._queues if not breakers[queue].is_open]

    def _run(self, job: Job) -> None:
        """Run a job; after an error, pause its kind of work for a while."""
        name = " ".join(map(str, (job.name, *job.args)))
        breaker = breakers[queue_for(job.name)]
        self._heartbeat.update(WorkerState.busy, job=name, reason=pause_reason())
        try:
            with observed_job(job.name, job.args):
                self._run_task(job)
        except Stopped:
            log.info("%s stops", name)
        except Exception as error:
            self._fail(job, name, error)
        else:
            breaker.succeed()

    def _fail(self, job: Job, name: str, error: Exception) -> None:
        """Record an error of a job, and pause its kind of work unless only this job is affected."""
        queue = queue_for(job.name)
        trouble = is_instance_trouble(error) or isinstance(error, WorkerTrouble)
        if not trouble:
            log.error("%s failed", name, exc_info=error)  # not in a handler
        # Work that is found in the database would be found again at once.
        if trouble or queue in LOOKED_FOR:
            pause = breakers[queue].fail(error)
            log.warning("%s pauses for %.0f s: %s", queue, pause, describe(error))
        self._heartbeat.update(reason=pause_reason(), error=f"{name}: {describe(error)}")
        if trouble and queue not in LOOKED_FOR:
            try:
                with self._context.database.transaction() as tx:
                    tx.enqueue(job.name, *job.args)
            except Exception as enqueue_error:
                log.warning("%s could not be enqueued again: %s", name, describe(enqueue_error))

    def _show_idle(self, reason: str | None = None) -> None:
        paused = pause_reason() or reason
        state = WorkerState.paused if paused else WorkerState.idle
        self._heartbeat.update(state, reason=paused)


def _stop_on_signals(context: AppContext, heartbeat: Heartbeat) -> None:
    """Stop after the running job at the first signal, at once at the second."""

    def stop(number: int, _frame: object) -> None:
        if jobs.stop_requested.is_set():
            os._exit(128 + number)
        jobs.stop_requested.set()
        heartbeat.update(WorkerState.draining, job=heartbeat.worker.job)
        threading.Thread(target=_end_late_job, args=(context,), name="drain", daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _end_late_job(context: AppContext) -> None:
    """Release the work of a job that does not end in time, and end this process."""
    threading.Event().wait(DRAIN_SECONDS)
    log.warning("the running job does not end; its work is released")
    try:
        with context.database.transaction() as tx:
            leases.release_holder(tx, jobs.WORKER_ID)
            workers.remove_worker(tx, jobs.WORKER_ID)
    except Exception:
        log.exception("the work could not be released; its leases expire")
    os._exit(0)


def _reconcile_regularly(context: AppContext) -> None:
    while not jobs.stop_requested.is_set():
        try:
            jobs.reconcile(context)
        except Exception as error:
            log.warning("the reconcile job failed and is tried again: %s", describe(error))
            log.debug("reconcile", exc_info=error)
        jobs.stop_requested.wait(RECONCILE_SECONDS * random.uniform(0.75, 1.25))
