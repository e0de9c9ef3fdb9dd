"""Tasks of Label Studio: the data that is sent, and the annotations that are read back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from curation.adapters.label_studio_results import parse_result
from curation.adapters.label_studio_users import Users
from curation.adapters.label_studio_view import parse_layer_urls, task_html
from curation.domain import Verdict
from curation.labeling.port import Annotation, Project, RemoteTask, Task

UNEDITED_WITHIN: Final = timedelta(milliseconds=50)
"""The largest difference between the two times of an annotation that was never edited."""


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
    # Tasks of former versions are recognized by these names too: "posting" is our id of the task,
    # "board" that of the project, and "look" is the view.
    columns = {"prompt": task.prompt, "note": task.note} | dict(task.columns)
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


def read_task(remote: Any, users: Users) -> RemoteTask:
    """Return a task with its annotations.

    Args:
        remote: The task as the server returns it.
        users: The users of the server.
    """
    annotations = [
        item if isinstance(item, Mapping) else item.dict() for item in remote.annotations or ()
    ]
    return RemoteTask(
        int(remote.id),
        own_id(remote),
        remote.updated_at,
        tuple(read_annotation(item, users) for item in annotations),
        parse_layer_urls(str((remote.data or {}).get("look"))),
    )


def read_annotation(annotation: Mapping[str, Any], users: Users) -> Annotation:
    """Convert an annotation; a skipped annotation has the verdict skip.

    The server records the signed-in user as `updated_by`, also where an annotation is created
    in the name of another user. That user is the editor, except where our own account created
    the annotation in a user's name.

    Args:
        annotation: The annotation as the server returns it.
        users: The users of the server.
    """
    completed_by = annotation.get("completed_by")
    author_id = int(completed_by["id"] if isinstance(completed_by, Mapping) else completed_by or 0)
    author = users.email(author_id)
    # Find out whether somebody else changed it.
    created_at = as_time(annotation["created_at"])
    updated_at = as_time(annotation["updated_at"])
    updated_by = int(annotation.get("updated_by") or 0)
    edited = updated_by not in {0, author_id} and (
        updated_by != users.own_account()[0] or updated_at - created_at > UNEDITED_WITHIN
    )
    # Read the verdict.
    skipped = {"verdict": Verdict.skip}
    verdict = (
        skipped if annotation.get("was_cancelled") else parse_result(annotation.get("result") or [])
    )
    if not author:
        verdict = {"error": f"there is no user with the ID {author_id}"}
    fields = {"verdict": None, "seconds": annotation.get("lead_time")} | verdict
    return Annotation(
        remote_id=int(annotation["id"]),
        author=author,
        updated_at=updated_at,
        created_at=created_at,
        editor=users.email(updated_by) if edited else "",
        **fields,
    )
