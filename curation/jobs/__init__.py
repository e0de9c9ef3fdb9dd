"""Celery jobs by name; each takes the app context and ids, and is idempotent."""

from __future__ import annotations

from collections.abc import Callable

from curation.domain import JobName
from curation.jobs.generation import fit_acceptance_model, generate, screen, select
from curation.jobs.lease_heartbeat import HOLDER, Stopped, release_lost, stopping
from curation.jobs.long_running import caption, train
from curation.jobs.reconcile import reconcile
from curation.jobs.review import aggregate, pull_annotations, push_tasks, review

__all__ = [
    "HOLDER", "JOBS", "Stopped", "aggregate", "caption", "fit_acceptance_model", "generate", "pull_annotations",
    "push_tasks", "reconcile", "release_lost", "review", "screen", "select", "stopping", "train",
]  # fmt: skip

JOBS: dict[JobName, Callable[..., None]] = {
    JobName.generate: generate,
    JobName.screen: screen,
    JobName.select: select,
    JobName.fit_acceptance_model: fit_acceptance_model,
    JobName.review: review,
    JobName.aggregate: aggregate,
    JobName.push_tasks: push_tasks,
    JobName.pull_annotations: pull_annotations,
    JobName.train: train,
    JobName.caption: caption,
    JobName.reconcile: reconcile,
}
