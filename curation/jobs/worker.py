"""The worker process: runs the jobs of one queue, and regularly enqueues lost jobs again."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

from curation import jobs
from curation.adapters.celery_queue import make_app, run_celery_worker
from curation.db import pending_jobs
from curation.domain import Job, JobName
from curation.runtime.context import AppContext
from curation.text import PrintableFormatter

log = logging.getLogger("layerloop.worker")

RECONCILE_SECONDS = 10


def run_worker(context: AppContext, address: str, queue: str) -> None:
    """Run jobs until a signal ends the process; the running job is finished or released.

    Args:
        context: The app context.
        address: URL of the database.
        queue: Name of the queue, "cpu" or "gpu".
    """
    # Log to stderr, without control characters of logged text.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    app = make_app(
        context.settings,
        address,
        {name: _bound(job, name, context) for name, job in jobs.JOBS.items()},
    )
    threading.Thread(target=_sweep_regularly, args=(context,), name="sweep", daemon=True).start()
    log.info("taking %s jobs as %s", queue, jobs.WORKER_ID)
    # Celery waits for the running job before it stops, and a training run would take hours.
    run_celery_worker(app, [queue], queue, on_stop=jobs.stop_requested.set)


def _bound(job: Callable[..., None], name: JobName, context: AppContext) -> Callable[..., None]:
    def run(*args: str | int) -> None:
        with context.database.transaction() as tx:
            pending = pending_jobs.take_pending(tx, Job(name, args))
        # A duplicate message, whose job has run since it was enqueued, is ignored.
        if pending:
            job(context, *args)

    run.__name__ = name
    return run


def _sweep_regularly(context: AppContext) -> None:
    while not jobs.stop_requested.wait(RECONCILE_SECONDS):
        try:
            jobs.reconcile(context)
        except Exception:
            log.exception("the reconcile job failed; it will be tried again")
