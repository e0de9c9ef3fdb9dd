"""The fields of a job's log records: its name, and its arguments by name."""

from __future__ import annotations

from collections.abc import Sequence

from curation.domain import JobName

_ARGUMENTS: dict[JobName, tuple[str, ...]] = {
    JobName.generate: ("round", "chain"),
    JobName.screen: ("round",),
    JobName.select: ("round",),
    JobName.fit_acceptance_model: ("kind",),
    JobName.review: ("round",),
    JobName.aggregate: ("round",),
    JobName.push_tasks: ("round",),
    JobName.pull_annotations: ("project",),
    JobName.train: ("run",),
    JobName.caption: ("run",),
}


def job_fields(name: JobName, args: Sequence[str | int]) -> dict[str, str | int]:
    """Return the log fields of a job; arguments without a name are numbered."""
    names = _ARGUMENTS.get(name, ())
    named = {
        names[index] if index < len(names) else f"argument{index}": value
        for index, value in enumerate(args)
    }
    return {"job": str(name), **named}
