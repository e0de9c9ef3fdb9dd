"""Stored annotations: matching and comparison with the annotations in Label Studio."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from curation.domain import LayerRole, RejectReason, Verdict
from curation.labeling.port import Annotation, RemoteTask


def find_row(rows: Iterable[sa.Row[Any]], annotation: Annotation) -> sa.Row[Any] | None:
    """Return the stored row of an annotation, or None for a new one.

    Rows of older versions have no creation time: they match an annotation that was created before
    they were last changed.

    Args:
        rows: Stored annotations of its task.
        annotation: The annotation.
    """
    for row in rows:
        if (row.remote_id, row.author) == (annotation.remote_id, annotation.author) and (
            row.remote_created_at == annotation.created_at
            or (
                row.remote_created_at is None
                and annotation.created_at is not None
                and annotation.created_at <= row.content_updated_at
            )
        ):
            return row
    return None


def belongs_to_copy(row: sa.Row[Any], task_row: sa.Row[Any], remote_task: RemoteTask) -> bool:
    """Return whether a stored annotation belongs to this copy of its task.

    Args:
        row: The stored annotation.
        task_row: The stored task.
        remote_task: The task as read from Label Studio, of which there may be several copies.
    """
    return bool((row.remote_task_id or task_row.remote_id) == remote_task.remote_id)


def is_new(row: sa.Row[Any] | None, annotation: Annotation) -> bool:
    """Return whether an annotation is new or changed, and newer than its stored version.

    Args:
        row: Its stored row, or None.
        annotation: The annotation; an older version comes from a restored backup.
    """
    if row is None:
        return True
    if annotation.updated_at <= row.content_updated_at:
        return False
    return bool(row.deleted) or row.content != annotation_content(annotation)


def remote_id_is_reused(row: sa.Row[Any], annotations: Iterable[Annotation]) -> bool:
    """Return whether another annotation has the row's ID now, as after a restored backup."""
    return any(annotation.remote_id == row.remote_id for annotation in annotations)


def annotation_content(annotation: Annotation) -> dict[str, Any]:
    """Return the content of an annotation, as it is stored and compared."""
    return {
        "verdict": annotation.verdict,
        "reasons": list(annotation.reasons),
        "layers": list(annotation.layers),
        "comment": clean_text(annotation.comment),
        "error": annotation.error,
    }


def read_row(row: sa.Row[Any]) -> Annotation:
    """Return the annotation of a stored row."""
    content = row.content
    return Annotation(
        remote_id=row.remote_id,
        author=row.author,
        editor=row.email if row.email != row.author else "",
        created_at=row.remote_created_at,
        updated_at=row.content_updated_at,
        verdict=Verdict(content["verdict"]) if content["verdict"] else None,
        reasons=[RejectReason(reason) for reason in content["reasons"]],
        layers=[LayerRole(role) for role in content["layers"]],
        comment=content["comment"],
        error=content["error"],
    )


def clean_text(text: str) -> str:
    """Remove characters that PostgreSQL cannot store; Label Studio accepts any."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode()
