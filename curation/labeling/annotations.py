"""Conversion of Label Studio annotations to decisions, idempotently, or to stored refusals."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import (
    CandidateState,
    Verdict,
    canonical_json,
    content_id,
)
from curation.errors import Conflict, NotFound, Refused
from curation.labeling.annotation_rows import (
    annotation_content,
    belongs_to_copy,
    clean_text,
    find_row,
    is_new,
    read_row,
    remote_id_is_reused,
)
from curation.labeling.port import Annotation, RemoteTask
from curation.labeling.users import active_reviewer
from curation.review.decisions import decide, undo

INTERFACE = "label-studio"
"""Value of a decision's `channel` column: where it was made."""


def apply_annotations(
    tx: Transaction, remote_task: RemoteTask, *, restored: bool = False
) -> Counter[str]:
    """Apply all annotations of one task as decisions.

    The call is idempotent: an annotation is identified by remote ID, author and creation time, and
    compared by content. The decision of a changed annotation is undone and made anew. That of a
    deleted annotation is undone if the task changed since it was last read, unless a backup was
    restored: then no user deleted it, and the decision stands. Versions older than the known one
    are ignored. An annotation that comes too late is stored as refused, with the reason.

    Args:
        tx: A transaction for this task alone.
        remote_task: The task as read from Label Studio.
        restored: Whether Label Studio was restored from a backup since it was last read.

    Returns:
        The number of annotations by outcome: "decided", "undone", "refused", "lost" or "waiting".
    """
    outcomes: Counter[str] = Counter()
    task = tx.execute(_TASK, {"task": remote_task.task_id}).one_or_none()
    if task is None:
        return outcomes
    # Match the annotations with the stored rows.
    rows = tx.execute(_ANNOTATIONS, {"task": task.id}).all()
    matched = [(annotation, find_row(rows, annotation)) for annotation in remote_task.annotations]
    found = {row.id for _, row in matched if row is not None}
    # Rows without an annotation: it was deleted, or lost by restoring a backup.
    if (
        restored
        or remote_task.remote_id != task.remote_id
        or task.remote_updated_at is None
        or remote_task.updated_at > task.remote_updated_at
    ):
        for row in rows:
            ended = row.deleted or row.lost
            if row.id not in found and belongs_to_copy(row, task, remote_task) and not ended:
                lost = (
                    restored
                    or task.state == "removed"
                    or remote_id_is_reused(row, remote_task.annotations)
                )
                outcomes[_mark_lost(tx, row) if lost else _undo_deleted(tx, task, row)] += 1
    # Apply the annotations in the order in which they were made.
    for annotation, row in sorted(
        matched, key=lambda pair: (pair[0].updated_at, pair[0].remote_id)
    ):
        if outcome := _apply(tx, task, remote_task.remote_id, annotation, row):
            outcomes[outcome] += 1
    tx.execute(
        _RECORD_READ,
        {
            "task": task.id,
            "remote_updated_at": remote_task.updated_at,
            "remote_id": remote_task.remote_id,
        },
    )
    return outcomes


def retry_waiting(tx: Transaction, task_id: uuid.UUID) -> Counter[str]:
    """Decide the annotations of a task that had to wait for a reviewer's lease to end.

    Args:
        tx: The transaction.
        task_id: ID of the task.

    Returns:
        The number of annotations by outcome.
    """
    outcomes: Counter[str] = Counter()
    task = tx.execute(_TASK, {"task": task_id}).one()
    for row in tx.execute(_ANNOTATIONS, {"task": task_id}).all():
        if row.decision_id is None and row.refused is None and not row.deleted:
            outcomes[_retry(tx, task, row)] += 1
    tx.execute(
        _RECORD_READ,
        {
            "task": task.id,
            "remote_updated_at": task.remote_updated_at,
            "remote_id": task.remote_id,
        },
    )
    return outcomes


def _retry(tx: Transaction, task: sa.Row[Any], row: sa.Row[Any]) -> str:
    """Decide a stored annotation and return its outcome."""
    annotation = read_row(row)
    try:
        with tx.savepoint():
            decision = _decide(tx, task, annotation)
    except Refused as error:
        if _waits_for_lease(tx, task, error):
            return "waiting"
        return _store(tx, task, row.remote_task_id, annotation, row, refused=error.message)
    return _store(tx, task, row.remote_task_id, annotation, row, decision=decision)


def _apply(
    tx: Transaction,
    task: sa.Row[Any],
    remote_task_id: int,
    annotation: Annotation,
    stored: sa.Row[Any] | None,
) -> str | None:
    """Apply one annotation and return its outcome, or None if it is known already.

    An annotation that cannot be read as a verdict leaves its earlier decision unchanged.
    """
    if not is_new(stored, annotation):
        # Label Studio lost a later edit or the deletion by restoring a backup, or has it again.
        if stored is not None and (
            stored.deleted or stored.content != annotation_content(annotation)
        ):
            tx.execute(_MARK_LOST, {"annotation": stored.id})
        elif stored is not None and (stored.lost or stored.remote_created_at is None):
            tx.execute(
                _MARK_FOUND, {"annotation": stored.id, "remote_created_at": annotation.created_at}
            )
        return None
    earlier = stored.decision_id if stored is not None and not stored.deleted else None
    if annotation.error:
        return _store(
            tx, task, remote_task_id, annotation, stored, decision=earlier, refused=annotation.error
        )
    # Replace the earlier decision. If the new one is refused, the savepoint restores it.
    try:
        with tx.savepoint():
            if stored is not None and earlier is not None:
                _undo_decision(tx, task, stored)
                _log_editor(tx, task, stored, annotation)
            decision = _decide(tx, task, annotation)
    except Refused as error:
        if earlier is None and _waits_for_lease(tx, task, error):
            return _store(tx, task, remote_task_id, annotation, stored)
        return _store(
            tx, task, remote_task_id, annotation, stored, decision=earlier, refused=error.message
        )
    return _store(tx, task, remote_task_id, annotation, stored, decision=decision)


def _decide(tx: Transaction, task: sa.Row[Any], annotation: Annotation) -> int:
    """Make the decision of an annotation and return its ID. Raises Refused or Conflict."""
    # The key contains the content and the time: a later edit is a decision of its own.
    content = canonical_json(annotation_content(annotation))
    time = annotation.updated_at.isoformat()
    decided = decide(
        tx,
        active_reviewer(tx, annotation.user).id,
        task.candidate_id,
        annotation.verdict or Verdict.skip,
        key=content_id(INTERFACE, task.id, annotation.remote_id, annotation.user, time, content),
        reasons=annotation.reasons,
        layers=annotation.layers,
        comment=clean_text(annotation.comment),
        dwell_ms=_milliseconds(annotation.seconds),
        channel=INTERFACE,
    )
    return decided.decision


def _milliseconds(seconds: float | None) -> int | None:
    """Return a review time in milliseconds, at most ten minutes; None if it is unknown."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return int(1_000 * min(max(seconds, 0), 600))


def _waits_for_lease(tx: Transaction, task: sa.Row[Any], error: Refused) -> bool:
    """Return whether a decision failed because a reviewer holds a lease on the candidate.

    The reviewer decides, or the lease expires and the annotation is tried again.
    """
    return isinstance(error, Conflict) and _state(tx, task.candidate_id) == CandidateState.showing


def _log_editor(
    tx: Transaction, task: sa.Row[Any], stored: sa.Row[Any], annotation: Annotation
) -> None:
    """Log the user who edited another user's annotation.

    The undo of the earlier decision is recorded under the name of its reviewer.
    """
    if annotation.user != stored.email:
        data = {"earlier_user": stored.email, "decision": stored.decision_id}
        subject = f"candidate {task.candidate_id}"
        tx.log(annotation.user, "annotation of another user edited", subject, **data)


def _store(
    tx: Transaction,
    task: sa.Row[Any],
    remote_task_id: int | None,
    annotation: Annotation,
    stored: sa.Row[Any] | None,
    decision: int | None = None,
    refused: str | None = None,
) -> str:
    """Insert or update the row of an annotation and return its outcome."""
    row = {
        "remote_id": annotation.remote_id,
        "author": annotation.author,
        "email": annotation.user,
        "content": annotation_content(annotation),
        "content_updated_at": annotation.updated_at,
        "remote_created_at": annotation.created_at,
        "decision": decision,
        "refused": refused,
    }
    if stored is None:
        tx.execute(_INSERT, row | {"task": task.id, "remote_task_id": remote_task_id})
    else:
        tx.execute(_UPDATE, row | {"annotation": stored.id})
    if refused is not None:
        subject = f"candidate {task.candidate_id}"
        tx.log(annotation.user or INTERFACE, "annotation refused", subject, reason=refused)
        return "refused"
    return "waiting" if decision is None else "decided"


def _mark_lost(tx: Transaction, row: sa.Row[Any]) -> str:
    """Mark an annotation that a restored backup lost; its decision stands."""
    tx.execute(_MARK_LOST, {"annotation": row.id})
    return "lost"


def _undo_deleted(tx: Transaction, task: sa.Row[Any], row: sa.Row[Any]) -> str:
    """Undo the decision of a deleted annotation, so that the candidate waits again."""
    conflict = None
    try:
        if row.decision_id is not None:
            _undo_decision(tx, task, row)
    except Conflict as error:
        conflict = error.message
    tx.execute(_MARK_DELETED, {"annotation": row.id, "refused": conflict or row.refused})
    return "refused" if conflict else "undone"


def _undo_decision(tx: Transaction, task: sa.Row[Any], row: sa.Row[Any]) -> None:
    """Undo a decision in the name of its reviewer, without a lease on the candidate.

    Raises:
        Conflict: The decision cannot be undone any more.
    """
    decision = tx.execute(_DECISION, {"decision": row.decision_id}).one()
    key = content_id(INTERFACE, "undo", row.decision_id)
    # NotFound: the decision was undone before on the review page.
    with suppress(NotFound):
        undo(tx, decision.reviewer_id, row.decision_id, key=key, seconds=1)
        # An undo leases the candidate to its reviewer, who is not on the review page.
        leases.delete_leases(tx, [task.candidate_id])
        tx.execute(_RETURN_TO_QUEUE, {"candidate": task.candidate_id})


def _state(tx: Transaction, candidate: uuid.UUID) -> str:
    return str(tx.execute(_STATE, {"candidate": candidate}).scalar_one())


_TASK = sa.text("select * from labeling_tasks where id = :task for update")

_ANNOTATIONS = sa.text(
    "select * from labeling_annotations where task_id = :task "
    "order by content_updated_at, remote_id"
)

_DECISION = sa.text("select reviewer_id from decisions where id = :decision")

_STATE = sa.text("select state from candidates where id = :candidate")

_RETURN_TO_QUEUE = sa.text(
    "update candidates set state = 'waiting' where id = :candidate and state = 'showing'"
)

_MARK_DELETED = sa.text(
    "update labeling_annotations set deleted = true, refused = :refused where id = :annotation"
)

_MARK_LOST = sa.text("update labeling_annotations set lost = true where id = :annotation")

_MARK_FOUND = sa.text("""
    update labeling_annotations
    set lost = false, remote_created_at = coalesce(remote_created_at, :remote_created_at)
    where id = :annotation""")

_INSERT = sa.text("""
    insert into labeling_annotations (task_id, remote_id, remote_task_id, author,
        remote_created_at, email, content, content_updated_at, decision_id, refused)
    values (:task, :remote_id, :remote_task_id, :author, :remote_created_at, :email, :content,
        :content_updated_at, :decision, :refused)""").bindparams(
    sa.bindparam("content", type_=sa.JSON)
)

_UPDATE = sa.text("""
    update labeling_annotations
    set remote_created_at = coalesce(remote_created_at, :remote_created_at), email = :email,
        content = :content, content_updated_at = :content_updated_at, decision_id = :decision,
        refused = :refused, deleted = false, lost = false, refusal_shown = false
    where id = :annotation""").bindparams(sa.bindparam("content", type_=sa.JSON))

# A task becomes 'annotated' when one of its annotations decides the candidate. If the candidate
# waits again, the task becomes 'open' again, unless the candidate has another open task by now.
_RECORD_READ = sa.text("""
    update labeling_tasks t set
        remote_updated_at = case when coalesce(t.remote_id, :remote_id) = :remote_id
            then greatest(t.remote_updated_at, :remote_updated_at) else t.remote_updated_at end,
        remote_id = coalesce(t.remote_id, :remote_id),
        state = case
            when t.state in ('sending', 'open') and c.state in ('accepted', 'rejected') and exists (
                select from labeling_annotations a
                where a.task_id = t.id and a.decision_id is not null and not a.deleted)
                then 'annotated'
            when t.state = 'sending' and :remote_id is not null then 'open'
            when t.state = 'annotated' and c.state in ('waiting', 'showing')
                and t.remote_id = :remote_id and not exists (
                    select from labeling_tasks o
                    where o.candidate_id = c.id and o.state in ('sending', 'open')) then 'open'
            else t.state end
    from candidates c where t.id = :task and c.id = t.candidate_id""")
