"""Celery jobs by name; each takes the app context and ids, and is idempotent."""

from __future__ import annotations

from collections.abc import Callable

from curation.domain import JobName
from curation.jobs.comparisons import draw_comparisons
from curation.jobs.diversity import measure_diversity
from curation.jobs.events import deliver_webhooks
from curation.jobs.generation import generate
from curation.jobs.lease_heartbeat import WORKER_ID, Stopped, release_lost_leases, stop_requested
from curation.jobs.long_running import caption, train, train_run
from curation.jobs.loops import advance_loop
from curation.jobs.reconcile import reconcile
from curation.jobs.review import (
    aggregate,
    pull_annotations,
    push_tasks,
    refresh_reports,
    review,
)
from curation.jobs.screening import fit_acceptance_model, screen, select

__all__ = [
    "JOBS",
    "WORKER_ID",
    "Stopped",
    "advance_loop",
    "aggregate",
    "caption",
    "deliver_webhooks",
    "draw_comparisons",
    "fit_acceptance_model",
    "generate",
    "measure_diversity",
    "pull_annotations",
    "push_tasks",
    "reconcile",
    "refresh_reports",
    "release_lost_leases",
    "review",
    "screen",
    "select",
    "stop_requested",
    "train",
    "train_run",
]  # fmt: skip

JOBS: dict[JobName, Callable[..., None]] = {
    JobName.generate: generate,
    JobName.draw_comparisons: draw_comparisons,
    JobName.screen: screen,
    JobName.select: select,
    JobName.fit_acceptance_model: fit_acceptance_model,
    JobName.measure_diversity: measure_diversity,
    JobName.review: review,
    JobName.aggregate: aggregate,
    JobName.push_tasks: push_tasks,
    JobName.pull_annotations: pull_annotations,
    JobName.deliver_webhooks: deliver_webhooks,
    JobName.train: train,
    JobName.caption: caption,
    JobName.refresh_reports: refresh_reports,
    JobName.advance_loop: advance_loop,
    JobName.reconcile: reconcile,
}
