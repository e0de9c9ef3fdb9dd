"""The worker process: runs the jobs of one queue, and regularly enqueues lost jobs again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from curation import jobs
from curation.adapters.celery_queue import make_app, run_celery_worker, task_name
from curation.db import pending_jobs
from curation.db.workers import WorkerState
from curation.domain import Job, JobName
from curation.jobs.heartbeat import Heartbeat, worker_heartbeat
from curation.jobs.log_fields import job_fields
from curation.logs import configure_logging, log_context
from curation.runtime.context import AppContext
from curation.runtime.metrics import JOB_ERRORS, JOB_SECONDS

log = logging.getLogger("layerloop.worker")

RECONCILE_SECONDS = 10


def run_worker(context: AppContext, address: str, queue: str) -> None:
    """Run jobs until a signal ends the process; the running job is finished or released.

    Args:
        context: The app context.
        address: URL of the database.
        queue: Name of the queue, "cpu" or "gpu".
    """
    configure_logging(
        context.settings.log_format,
        context.settings.log_level,
        secrets=context.settings.secret_values(),
        fields={"worker": jobs.WORKER_ID},
    )
    # A worker whose secret differs from the API's would sign URLs that the API refuses.
    context.signing_secret()
    app = make_app(context.settings, address)
    threading.Thread(target=_sweep_regularly, args=(context,), name="sweep", daemon=True).start()
    log.info("taking %s jobs as %s", queue, jobs.WORKER_ID)
    with worker_heartbeat(context.database, [queue]) as heartbeat:

        def stop() -> None:
            jobs.stop_requested.set()
            heartbeat.update(WorkerState.draining, job=heartbeat.worker.job)

        for name, job in jobs.JOBS.items():
            app.task(_recorded(_bound(job, name, context), name, heartbeat), name=task_name(name))
        # Celery waits for the running job before it stops, and a training run would take hours.
        run_celery_worker(app, [queue], queue, on_stop=stop)


def _recorded(run: Callable[..., None], name: JobName, heartbeat: Heartbeat) -> Callable[..., None]:
    """Return the job with a record of it in the list of workers while it runs."""

    def recorded(*args: str | int) -> None:
        heartbeat.update(WorkerState.busy, job=" ".join(map(str, (name, *args))))
        try:
            run(*args)
        except Exception as error:
            heartbeat.update(error=f"{name}: {type(error).__name__}: {error}")
            raise
        finally:
            heartbeat.update(WorkerState.idle)

    recorded.__name__ = name
    return recorded


def _bound(job: Callable[..., None], name: JobName, context: AppContext) -> Callable[..., None]:
    def run(*args: str | int) -> None:
        with context.database.transaction() as tx:
            pending = pending_jobs.take_pending(tx, Job(name, args))
        # A duplicate message, whose job has run since it was enqueued, is ignored.
        if pending:
            with log_context(**job_fields(name, args)):
                _run_measured(job, name, context, args)

    run.__name__ = name
    return run


def _run_measured(
    job: Callable[..., None], name: JobName, context: AppContext, args: Sequence[str | int]
) -> None:
    """Run a job, and log and measure the time that it takes."""
    log.info("job started")
    started = time.monotonic()
    outcome = "failed"
    try:
        job(context, *args)
        outcome = "ended"
    except Exception as error:
        JOB_ERRORS.labels(name, type(error).__name__).inc()
        raise
    finally:
        seconds = time.monotonic() - started
        JOB_SECONDS.labels(name, outcome).observe(seconds)
        log.info("job %s", outcome, extra={"seconds": round(seconds, 3)})


def _sweep_regularly(context: AppContext) -> None:
    while not jobs.stop_requested.wait(RECONCILE_SECONDS):
        try:
            jobs.reconcile(context)
        except Exception:
            log.exception("the reconcile job failed; it will be tried again")
