"""Conversion of Label Studio annotations to decisions, idempotently, or to stored refusals."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import (
    CandidateState,
    LayerRole,
    RejectReason,
    Verdict,
    canonical_json,
    content_id,
)
from curation.errors import Conflict, NotFound, Refused
from curation.labeling.port import Annotation, RemoteTask
from curation.labeling.users import active_reviewer
from curation.review.decisions import decide, undo

INTERFACE = "label-studio"
"""Value of a decision's `desk` column: where it was made."""


def apply_annotations(
    tx: Transaction, remote_task: RemoteTask, *, restored: bool = False
) -> Counter[str]:
    """Apply all annotations of one task as decisions.

    The call is idempotent: an annotation is identified by its number, author and creation time, and
    compared by content. The decision of a changed annotation is undone and made anew. That of a
    deleted annotation is undone if the task changed since it was last read, unless a backup was
    restored: then no user deleted it, and the decision stands. Versions older than the known one
    are ignored. An annotation that comes too late is stored as refused, with the reason.

    Args:
        tx: A transaction for this task alone.
        remote_task: The task as read from Label Studio.
        restored: Whether Label Studio was restored from a backup since it was last read.

    Returns:
        The number of annotations by outcome: "kept", "undone", "refused", "forgotten" or "waiting".
    """
    outcomes: Counter[str] = Counter()
    task = tx.execute(_POSTING, {"posting": remote_task.task_id}).one_or_none()
    if task is None:
        return outcomes
    # Match the annotations with the stored rows.
    rows = tx.execute(_ANSWERS, {"posting": task.id}).all()
    matched = [(annotation, find_row(rows, annotation)) for annotation in remote_task.annotations]
    found = {row.id for _, row in matched if row is not None}
    # Rows without an annotation: it was deleted, or lost by restoring a backup.
    if (
        restored
        or remote_task.number != task.number
        or task.seen_at is None
        or remote_task.at > task.seen_at
    ):
        for row in rows:
            ended = row.gone or row.forgotten
            if row.id not in found and belongs_to_copy(row, task, remote_task) and not ended:
                lost = (
                    restored
                    or task.state == "down"
                    or _number_is_reused(row, remote_task.annotations)
                )
                outcomes[_mark_forgotten(tx, row) if lost else _undo_deleted(tx, task, row)] += 1
    # Apply the annotations in the order in which they were made.
    for annotation, row in sorted(matched, key=lambda pair: (pair[0].at, pair[0].number)):
        if outcome := _apply(tx, task, remote_task.number, annotation, row):
            outcomes[outcome] += 1
    tx.execute(_SEEN, {"posting": task.id, "at": remote_task.at, "number": remote_task.number})
    return outcomes


def find_row(rows: Iterable[sa.Row[Any]], annotation: Annotation) -> sa.Row[Any] | None:
    """Return the stored row of an annotation, or None for a new one.

    Rows of older versions have no creation time: they match an annotation that was created before
    they were last changed.

    Args:
        rows: Stored annotations of its task.
        annotation: The annotation.
    """
    for row in rows:
        if (row.number, row.author) == (annotation.number, annotation.author) and (
            row.made_at == annotation.made_at
            or (
                row.made_at is None
                and annotation.made_at is not None
                and annotation.made_at <= row.said_at
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
    return bool((row.task or task_row.number) == remote_task.number)


def is_new(row: sa.Row[Any] | None, annotation: Annotation) -> bool:
    """Return whether an annotation is new or changed, and newer than its stored version.

    Args:
        row: Its stored row, or None.
        annotation: The annotation; an older version comes from a restored backup.
    """
    if row is None:
        return True
    if annotation.at <= row.said_at:
        return False
    return bool(row.gone) or row.said != annotation_content(annotation)


def _number_is_reused(row: sa.Row[Any], annotations: Iterable[Annotation]) -> bool:
    """Return whether the row's number belongs to another annotation, as after a restored backup."""
    return any(annotation.number == row.number for annotation in annotations)


def retry_waiting(tx: Transaction, task_id: uuid.UUID) -> Counter[str]:
    """Decide the annotations of a task that had to wait for a reviewer's lease to end.

    Args:
        tx: The transaction.
        task_id: ID of the task.

    Returns:
        The number of annotations by outcome.
    """
    outcomes: Counter[str] = Counter()
    task = tx.execute(_POSTING, {"posting": task_id}).one()
    for row in tx.execute(_ANSWERS, {"posting": task_id}).all():
        if row.decision_id is None and row.refused is None and not row.gone:
            outcomes[_retry(tx, task, row)] += 1
    tx.execute(_SEEN, {"posting": task.id, "at": task.seen_at, "number": task.number})
    return outcomes


def _retry(tx: Transaction, task: sa.Row[Any], row: sa.Row[Any]) -> str:
    """Decide a stored annotation and return its outcome."""
    annotation = _read(row)
    try:
        with tx.savepoint():
            decision = _decide(tx, task, annotation)
    except Refused as error:
        if _waits_for_lease(tx, task, error):
            return "waiting"
        return _store(tx, task, row.task, annotation, row, refused=error.message)
    return _store(tx, task, row.task, annotation, row, decision=decision)


def annotation_content(annotation: Annotation) -> dict[str, Any]:
    """Return the content of an annotation, as it is stored and compared."""
    return {
        "verdict": annotation.verdict,
        "reasons": list(annotation.reasons),
        "layers": list(annotation.layers),
        "comment": _clean(annotation.comment),
        "fault": annotation.error,
    }


def _apply(
    tx: Transaction,
    task: sa.Row[Any],
    task_number: int,
    annotation: Annotation,
    stored: sa.Row[Any] | None,
) -> str | None:
    """Apply one annotation and return its outcome, or None if it is known already.

    An annotation that cannot be read as a verdict leaves its earlier decision unchanged.
    """
    if not is_new(stored, annotation):
        # Label Studio lost a later edit or the deletion by restoring a backup, or has it again.
        if stored is not None and (stored.gone or stored.said != annotation_content(annotation)):
            tx.execute(_FORGET, {"answer": stored.id})
        elif stored is not None and (stored.forgotten or stored.made_at is None):
            tx.execute(_REMEMBER, {"answer": stored.id, "made_at": annotation.made_at})
        return None
    earlier = stored.decision_id if stored is not None and not stored.gone else None
    if annotation.error:
        return _store(
            tx, task, task_number, annotation, stored, decision=earlier, refused=annotation.error
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
            return _store(tx, task, task_number, annotation, stored)
        return _store(
            tx, task, task_number, annotation, stored, decision=earlier, refused=error.message
        )
    return _store(tx, task, task_number, annotation, stored, decision=decision)


def _decide(tx: Transaction, task: sa.Row[Any], annotation: Annotation) -> int:
    """Make the decision of an annotation and return its ID. Raises Refused or Conflict."""
    # The key contains the content and the time: a later edit is a decision of its own.
    content = canonical_json(annotation_content(annotation))
    time = annotation.at.isoformat()
    decided = decide(
        tx,
        active_reviewer(tx, annotation.person).id,
        task.candidate_id,
        annotation.verdict or Verdict.skip,
        key=content_id(INTERFACE, task.id, annotation.number, annotation.person, time, content),
        reasons=annotation.reasons,
        layers=annotation.layers,
        comment=_clean(annotation.comment),
        dwell_ms=_milliseconds(annotation.seconds),
        channel=INTERFACE,
    )
    return decided.decision


def _clean(text: str) -> str:
    """Remove characters that PostgreSQL cannot store; Label Studio accepts any."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode()


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
    if annotation.person != stored.person:
        data = {"said_by": stored.person, "decision": stored.decision_id}
        subject = f"candidate {task.candidate_id}"
        tx.log(annotation.person, "answer of another edited", subject, **data)


def _store(
    tx: Transaction,
    task: sa.Row[Any],
    task_number: int | None,
    annotation: Annotation,
    stored: sa.Row[Any] | None,
    decision: int | None = None,
    refused: str | None = None,
) -> str:
    """Insert or update the row of an annotation and return its outcome."""
    row = {
        "number": annotation.number,
        "author": annotation.author,
        "person": annotation.person,
        "said": annotation_content(annotation),
        "at": annotation.at,
        "made_at": annotation.made_at,
        "decision": decision,
        "refused": refused,
    }
    if stored is None:
        tx.execute(_ADD, row | {"posting": task.id, "task": task_number})
    else:
        tx.execute(_CHANGE, row | {"answer": stored.id})
    if refused is not None:
        subject = f"candidate {task.candidate_id}"
        tx.log(annotation.person or INTERFACE, "answer refused", subject, why=refused)
        return "refused"
    return "waiting" if decision is None else "kept"


def _mark_forgotten(tx: Transaction, row: sa.Row[Any]) -> str:
    """Mark an annotation that a restored backup lost; its decision stands."""
    tx.execute(_FORGET, {"answer": row.id})
    return "forgotten"


def _undo_deleted(tx: Transaction, task: sa.Row[Any], row: sa.Row[Any]) -> str:
    """Undo the decision of a deleted annotation, so that the candidate waits again."""
    conflict = None
    try:
        if row.decision_id is not None:
            _undo_decision(tx, task, row)
    except Conflict as error:
        conflict = error.message
    tx.execute(_GONE, {"answer": row.id, "refused": conflict or row.refused})
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
        tx.execute(_WAIT, {"candidate": task.candidate_id})


def _state(tx: Transaction, candidate: uuid.UUID) -> str:
    return str(tx.execute(_STATE, {"candidate": candidate}).scalar_one())


def _read(row: sa.Row[Any]) -> Annotation:
    """Return the annotation of a stored row."""
    content = row.said
    return Annotation(
        number=row.number,
        author=row.author,
        editor=row.person if row.person != row.author else "",
        made_at=row.made_at,
        at=row.said_at,
        verdict=Verdict(content["verdict"]) if content["verdict"] else None,
        reasons=[RejectReason(reason) for reason in content["reasons"]],
        layers=[LayerRole(role) for role in content["layers"]],
        comment=content["comment"],
        error=content["fault"],
    )


_POSTING = sa.text("select * from labeling_tasks where id = :posting for update")

_ANSWERS = sa.text(
    "select * from labeling_annotations where task_id = :posting order by said_at, number"
)

_DECISION = sa.text("select reviewer_id from decisions where id = :decision")

_STATE = sa.text("select state from candidates where id = :candidate")

_WAIT = sa.text(
    "update candidates set state = 'waiting' where id = :candidate and state = 'showing'"
)

_GONE = sa.text(
    "update labeling_annotations set gone = true, refused = :refused where id = :answer"
)

_FORGET = sa.text("update labeling_annotations set forgotten = true where id = :answer")

_REMEMBER = sa.text("""
    update labeling_annotations set forgotten = false, made_at = coalesce(made_at, :made_at)
    where id = :answer""")

_ADD = sa.text("""
    insert into labeling_annotations (task_id, number, task, author, made_at, person, said, said_at,
        decision_id, refused)
    values (:posting, :number, :task, :author, :made_at, :person, :said, :at,
        :decision, :refused)""").bindparams(sa.bindparam("said", type_=sa.JSON))

_CHANGE = sa.text("""
    update labeling_annotations set made_at = coalesce(made_at, :made_at), person = :person, said = :said,
        said_at = :at, decision_id = :decision, refused = :refused, gone = false, forgotten = false,
        shown = false
    where id = :answer""").bindparams(sa.bindparam("said", type_=sa.JSON))

# A task becomes 'answered' when one of its annotations decides the candidate. If the candidate
# waits again, the task becomes 'up' again, unless the candidate has another open task by now.
_SEEN = sa.text("""
    update labeling_tasks p set
        seen_at = case when coalesce(p.number, :number) = :number
            then greatest(p.seen_at, :at) else p.seen_at end,
        number = coalesce(p.number, :number),
        state = case
            when p.state in ('sending', 'up') and c.state in ('accepted', 'rejected') and exists (
                select from labeling_annotations a
                where a.task_id = p.id and a.decision_id is not null and not a.gone)
                then 'answered'
            when p.state = 'sending' and :number is not null then 'up'
            when p.state = 'answered' and c.state in ('waiting', 'showing') and p.number = :number
                and not exists (
                    select from labeling_tasks o
                    where o.candidate_id = c.id and o.state in ('sending', 'up')) then 'up'
            else p.state end
    from candidates c where p.id = :posting and c.id = p.candidate_id""")
