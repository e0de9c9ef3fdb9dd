"""Tasks of Label Studio: the data that is sent, and the ids and changes that are read back."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from curation.adapters.label_studio_view import task_html
from curation.labeling.port import Project, Task


def import_request(task: Task, project: Project, batch: uuid.UUID, model: str) -> dict[str, Any]:
    """Return the request that imports a task.

    Args:
        task: The task; the score of its prediction sets its position.
        project: Its project.
        batch: Id of the batch that it is imported with.
        model: Model version of the prediction.
    """
    scored = {"model_version": model, "score": task.score, "result": []}
    return {"data": task_data(task, project, batch), "predictions": [scored]}


def task_data(task: Task, project: Project, batch: uuid.UUID) -> dict[str, Any]:
    """Return a task's data: its view, columns for the data manager, and our ids.

    Args:
        task: The task.
        project: Its project.
        batch: Id of the batch that it was imported with.
    """
    columns = {"prompt": task.prompt, "note": task.note} | dict(task.facts)
    ids = {
        "posting": task.id,
        "candidate": task.candidate,
        "batch": batch,
        "board": project.id,
    }
    return columns | {"look": task_html(task)} | {name: str(value) for name, value in ids.items()}


def own_id(remote: Any) -> uuid.UUID | None:
    """Return our id in a task's data; None if the task was not created by us."""
    try:
        return uuid.UUID((remote.data or {})["posting"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def has_changed(remote: Any, read_at: datetime | None) -> bool:
    """Return whether a task changed since it was read.

    Args:
        remote: The task as the server returns it.
        read_at: When the task had last changed as of the last reading; None if it was never read,
            and then annotations count as a change.
    """
    if read_at is None:
        return bool((remote.total_annotations or 0) + (remote.cancelled_annotations or 0))
    return bool(remote.updated_at > read_at)


def as_time(value: Any) -> datetime:
    """Return a time that the SDK parsed, or left as text."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
