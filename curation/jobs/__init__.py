"""Celery jobs by name; each takes the app context and ids, and is idempotent."""

from __future__ import annotations

from collections.abc import Callable

from curation.jobs.generation import choose, draw, fit_head, screen
from curation.jobs.lease_heartbeat import HOLDER, Stopped, release_lost, stopping
from curation.jobs.long_running import caption, train
from curation.jobs.reconcile import sweep
from curation.jobs.review import aggregate, collect, decide, put_up

__all__ = [
    "HOLDER",
    "JOBS",
    "Stopped",
    "aggregate",
    "caption",
    "choose",
    "collect",
    "decide",
    "draw",
    "fit_head",
    "put_up",
    "release_lost",
    "screen",
    "stopping",
    "sweep",
    "train",
]

JOBS: dict[str, Callable[..., None]] = {
    "draw": draw,
    "screen": screen,
    "choose": choose,
    "fit_head": fit_head,
    "train": train,
    "caption": caption,
    "decide": decide,
    "aggregate": aggregate,
    "put_up": put_up,
    "collect": collect,
    "sweep": sweep,
}
