"""Observation of jobs: log records, its time, its errors and its trace."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from curation.domain import JobName
from curation.jobs.lease_heartbeat import Stopped
from curation.logs import log_context
from curation.runtime.metrics import JOB_ERRORS, JOB_SECONDS
from curation.runtime.tracing import span

log = logging.getLogger("layerloop.jobs")

_ARGUMENTS: dict[JobName, tuple[str, ...]] = {
    JobName.generate: ("round", "chain"),
    JobName.draw_comparisons: ("comparison",),
    JobName.screen: ("round",),
    JobName.select: ("round",),
    JobName.fit_acceptance_model: ("kind",),
    JobName.review: ("round",),
    JobName.aggregate: ("round",),
    JobName.push_tasks: ("round",),
    JobName.pull_annotations: ("project",),
    JobName.train: ("run",),
    JobName.caption: ("run",),
    JobName.advance_loop: ("loop",),
}


@contextmanager
def observed_job(name: JobName, args: Sequence[str | int]) -> Iterator[None]:
    """Log the start and the end of a job, and measure it; records in the block have its ids.

    Args:
        name: Name of the job.
        args: Its arguments.
    """
    fields = job_fields(name, args)
    with span(f"job {name}", fields), log_context(**fields):
        log.info("job started")
        started = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "ended"
        except Stopped:
            outcome = "stopped"
            raise
        except Exception as error:
            JOB_ERRORS.labels(name, type(error).__name__).inc()
            raise
        finally:
            seconds = time.monotonic() - started
            JOB_SECONDS.labels(name, outcome).observe(seconds)
            log.info("job %s", outcome, extra={"seconds": round(seconds, 3)})


def job_fields(name: JobName, args: Sequence[str | int]) -> dict[str, str | int]:
    """Return the log fields of a job; arguments without a name are numbered."""
    names = _ARGUMENTS.get(name, ())
    named = {
        names[index] if index < len(names) else f"argument{index}": value
        for index, value in enumerate(args)
    }
    return {"job": str(name), **named}
