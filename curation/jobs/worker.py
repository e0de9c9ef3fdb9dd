"""The worker process: takes jobs from one queue, one at a time, and sweeps for what the queue has lost."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

from curation import jobs
from curation.adapters.celery_queue import make_app, work
from curation.db import pending_jobs
from curation.domain import Job
from curation.runtime.context import AppContext
from curation.text import PrintableFormatter

log = logging.getLogger("layerloop.worker")

SWEEP_SECONDS = 10


def run_worker(context: AppContext, address: str, queue: str) -> None:
    """Work on jobs of `queue` ("cpu" or "gpu") until asked to stop; a job under way is finished or handed back."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    app = make_app(
        context.settings,
        address,
        {name: _bound(job, name, context) for name, job in jobs.JOBS.items()},
    )
    threading.Thread(target=_sweep_now_and_then, args=(context,), name="sweep", daemon=True).start()
    log.info("taking %s jobs as %s", queue, jobs.HOLDER)
    # Celery waits for the job under way before it stops; a training run must hear of it too.
    work(app, [queue], queue, on_stop=jobs.stopping.set)


def _bound(job: Callable[..., None], name: str, context: AppContext) -> Callable[..., None]:
    def run(*args: str | int) -> None:
        with context.database.transaction() as tx:
            asked = pending_jobs.take(tx, Job(name, args))
        if asked:  # else an equal message has been worked on since anybody asked
            job(context, *args)

    run.__name__ = name
    return run


def _sweep_now_and_then(context: AppContext) -> None:
    while not jobs.stopping.wait(SWEEP_SECONDS):
        try:
            jobs.sweep(context)
        except Exception:
            log.exception("the sweep failed; it will be tried again")
