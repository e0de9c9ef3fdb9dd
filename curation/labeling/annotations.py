"""Annotations become decisions, once each, or refusals that are kept."""

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

DESK = "label-studio"
"""Where these decisions were made, in their rows."""


def take_in(tx: Transaction, seen: RemoteTask, *, restored: bool = False) -> Counter[str]:
    """Turn all that is said of one posting into decisions; returns how many were kept, undone, refused or must wait.

    The same twice is the same once: an answer is known by its number, its author and the time at which it was made, and
    by what it says. An answer that changed is undone and decided anew. One that is gone is undone, if its posting
    changed after we last saw it, unless the desk was put back to an older state of itself: then nobody took anything
    back, and the decision stands. What is older than what is known already is never heard again. Who comes too late is
    refused, with the reason.

    Args:
        tx: The transaction of this posting alone.
        seen: The posting as it was read.
        restored: Whether the desk was put back to a backup since the last reading.
    """
    outcomes: Counter[str] = Counter()
    posting = tx.execute(_POSTING, {"posting": seen.posting}).one_or_none()
    if posting is None:
        return outcomes
    rows = tx.execute(_ANSWERS, {"posting": posting.id}).all()
    both = [(answer, match(rows, answer)) for answer in seen.answers]
    found = {row.id for _, row in both if row is not None}
    if (
        restored
        or seen.number != posting.number
        or posting.seen_at is None
        or seen.at > posting.seen_at
    ):
        for row in rows:
            if (
                row.id not in found
                and is_of(row, posting, seen)
                and not row.gone
                and not row.forgotten
            ):
                lost = restored or posting.state == "down" or _given_again(row, seen.answers)
                outcomes[_forget(tx, row) if lost else _take_back(tx, posting, row)] += 1
    for answer, row in sorted(both, key=lambda one: (one[0].at, one[0].number)):
        outcome = _hear(tx, posting, seen.number, answer, row)
        if outcome:
            outcomes[outcome] += 1
    tx.execute(_SEEN, {"posting": posting.id, "at": seen.at, "number": seen.number})
    return outcomes


def match(rows: Iterable[sa.Row[Any]], answer: Annotation) -> sa.Row[Any] | None:
    """Return the row of an answer, or None for one that is not known.

    Rows of older versions do not say when they were made: they are matched where the answer was made before they were
    noted.
    """
    for row in rows:
        if (row.number, row.author) == (answer.number, answer.author) and (
            row.made_at == answer.made_at
            or (
                row.made_at is None and answer.made_at is not None and answer.made_at <= row.said_at
            )
        ):
            return row
    return None


def is_of(row: sa.Row[Any], posting: sa.Row[Any], seen: RemoteTask) -> bool:
    """Whether an answer was given to this copy of its posting: a copy says nothing of answers to another one."""
    return bool((row.task or posting.number) == seen.number)


def is_news(row: sa.Row[Any] | None, answer: Annotation) -> bool:
    """Whether an answer says something that is not known; a desk that was put back says what it said long ago."""
    if row is None:
        return True
    if answer.at <= row.said_at:
        return False
    return bool(row.gone) or row.said != said_of(answer)


def _given_again(row: sa.Row[Any], answers: Iterable[Annotation]) -> bool:
    """Whether the number of an answer is another answer's by now, as after a restored backup."""
    return any(answer.number == row.number for answer in answers)


def try_again(tx: Transaction, posting_id: uuid.UUID) -> Counter[str]:
    """Decide what had to wait because somebody was looking at the candidate at our pages."""
    outcomes: Counter[str] = Counter()
    posting = tx.execute(_POSTING, {"posting": posting_id}).one()
    for row in tx.execute(_ANSWERS, {"posting": posting_id}).all():
        if row.decision_id is None and row.refused is None and not row.gone:
            outcomes[_try(tx, posting, row)] += 1
    tx.execute(_SEEN, {"posting": posting.id, "at": posting.seen_at, "number": posting.number})
    return outcomes


def _try(tx: Transaction, posting: sa.Row[Any], row: sa.Row[Any]) -> str:
    answer = _read(row)
    try:
        with tx.savepoint():
            made = _decide(tx, posting, answer)
    except Refused as error:
        if _waits_for_lease(tx, posting, error):
            return "waiting"
        return _note(tx, posting, row.task, answer, row, refused=error.message)
    return _note(tx, posting, row.task, answer, row, decision=made)


def said_of(answer: Annotation) -> dict[str, Any]:
    """The content of an answer, as it is kept and compared."""
    return {
        "verdict": answer.verdict,
        "reasons": list(answer.reasons),
        "layers": list(answer.layers),
        "comment": _clean(answer.comment),
        "fault": answer.fault,
    }


def _hear(
    tx: Transaction,
    posting: sa.Row[Any],
    task: int,
    answer: Annotation,
    earlier: sa.Row[Any] | None,
) -> str | None:
    """One answer: None where it is known already. What cannot be read changes nothing that was said before."""
    if not is_news(earlier, answer):
        if earlier is not None and (earlier.gone or earlier.said != said_of(answer)):
            tx.execute(
                _FORGET, {"answer": earlier.id}
            )  # the desk has forgotten a later edit, or that it was deleted
        elif earlier is not None and (earlier.forgotten or earlier.made_at is None):
            tx.execute(_REMEMBER, {"answer": earlier.id, "made_at": answer.made_at})
        return None
    decision = earlier.decision_id if earlier is not None and not earlier.gone else None
    if answer.fault:
        return _note(tx, posting, task, answer, earlier, decision=decision, refused=answer.fault)
    try:
        with tx.savepoint():
            if earlier is not None and decision is not None:
                _void(tx, posting, earlier)
                _log_editor(tx, posting, earlier, answer)
            made = _decide(tx, posting, answer)
    except Refused as error:
        if decision is None and _waits_for_lease(tx, posting, error):
            return _note(tx, posting, task, answer, earlier)
        return _note(tx, posting, task, answer, earlier, decision=decision, refused=error.message)
    return _note(tx, posting, task, answer, earlier, decision=made)


def _decide(tx: Transaction, posting: sa.Row[Any], answer: Annotation) -> int:
    """Make a decision of an answer; returns its number. Raises Refused, Conflict."""
    said = canonical_json(said_of(answer))
    decided = decide(
        tx,
        active_reviewer(tx, answer.person).id,
        posting.candidate_id,
        answer.verdict or Verdict.skip,
        key=content_id(DESK, posting.id, answer.number, answer.person, answer.at.isoformat(), said),
        reasons=answer.reasons,
        layers=answer.layers,
        comment=_clean(answer.comment),
        dwell_ms=_milliseconds(answer.seconds),
        desk=DESK,
    )
    return decided.decision


def _clean(text: str) -> str:
    """Return a text without what cannot be stored; the desk takes anything."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode()


def _milliseconds(seconds: float | None) -> int | None:
    """How long somebody looked, ten minutes at most; None where the desk does not say it in a number."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return int(1_000 * min(max(seconds, 0), 600))


def _waits_for_lease(tx: Transaction, posting: sa.Row[Any], error: Refused) -> bool:
    """Whether somebody is looking at the candidate here: they decide, or their lease ends and it is tried again."""
    return (
        isinstance(error, Conflict) and _state(tx, posting.candidate_id) == CandidateState.showing
    )


def _log_editor(
    tx: Transaction, posting: sa.Row[Any], earlier: sa.Row[Any], answer: Annotation
) -> None:
    """Note who replaced the answer of somebody else: the undo of their decision is a row in their name."""
    if answer.person != earlier.person:
        about = {"said_by": earlier.person, "decision": earlier.decision_id}
        tx.log(
            answer.person, "answer of another edited", f"candidate {posting.candidate_id}", **about
        )


def _note(
    tx: Transaction, posting: sa.Row[Any], task: int | None, answer: Annotation, earlier: sa.Row[Any] | None,
    decision: int | None = None,
    refused: str | None = None,
) -> str:  # fmt: skip
    """Keep an answer as it is known now: its row, or a new one."""
    row = {
        "number": answer.number,
        "author": answer.author,
        "person": answer.person,
        "said": said_of(answer),
    }
    row |= {"at": answer.at, "made_at": answer.made_at, "decision": decision, "refused": refused}
    if earlier is None:
        tx.execute(_ADD, row | {"posting": posting.id, "task": task})
    else:
        tx.execute(_CHANGE, row | {"answer": earlier.id})
    if refused is not None:
        tx.log(
            answer.person or DESK,
            "answer refused",
            f"candidate {posting.candidate_id}",
            why=refused,
        )
        return "refused"
    return "waiting" if decision is None else "kept"


def _forget(tx: Transaction, row: sa.Row[Any]) -> str:
    """An answer that the desk has lost by being put back: what was decided stands."""
    tx.execute(_FORGET, {"answer": row.id})
    return "forgotten"


def _take_back(tx: Transaction, posting: sa.Row[Any], row: sa.Row[Any]) -> str:
    """An answer that is there no longer: its decision is undone and the candidate waits again."""
    complaint = None
    try:
        if row.decision_id is not None:
            _void(tx, posting, row)
    except Conflict as error:
        complaint = error.message
    tx.execute(_GONE, {"answer": row.id, "refused": complaint or row.refused})
    return "refused" if complaint else "undone"


def _void(tx: Transaction, posting: sa.Row[Any], row: sa.Row[Any]) -> None:
    """Undo a decision in the name of who made it, and hold its candidate for nobody.

    Raises:
        Conflict: The decision stands.
    """
    made = tx.execute(_DECISION, {"decision": row.decision_id}).one()
    key = content_id(DESK, "undo", row.decision_id)
    with suppress(NotFound):  # undone before, at our pages
        undo(tx, made.reviewer_id, row.decision_id, key=key, seconds=1)
        leases.release(tx, [posting.candidate_id])
        tx.execute(_WAIT, {"candidate": posting.candidate_id})


def _state(tx: Transaction, candidate: uuid.UUID) -> str:
    return str(tx.execute(_STATE, {"candidate": candidate}).scalar_one())


def _read(row: sa.Row[Any]) -> Annotation:
    said = row.said
    return Annotation(
        number=row.number,
        author=row.author,
        editor=row.person if row.person != row.author else "",
        made_at=row.made_at,
        at=row.said_at,
        verdict=Verdict(said["verdict"]) if said["verdict"] else None,
        reasons=[RejectReason(one) for one in said["reasons"]],
        layers=[LayerRole(one) for one in said["layers"]],
        comment=said["comment"],
        fault=said["fault"],
    )


_POSTING = sa.text("select * from desk_postings where id = :posting for update")

_ANSWERS = sa.text(
    "select * from desk_answers where posting_id = :posting order by said_at, number"
)

_DECISION = sa.text("select reviewer_id from decisions where id = :decision")

_STATE = sa.text("select state from candidates where id = :candidate")

_WAIT = sa.text(
    "update candidates set state = 'waiting' where id = :candidate and state = 'showing'"
)

_GONE = sa.text("update desk_answers set gone = true, refused = :refused where id = :answer")

_FORGET = sa.text("update desk_answers set forgotten = true where id = :answer")

_REMEMBER = sa.text("""
    update desk_answers set forgotten = false, made_at = coalesce(made_at, :made_at) where id = :answer""")

_ADD = sa.text("""
    insert into desk_answers (posting_id, number, task, author, made_at, person, said, said_at, decision_id, refused)
    values (:posting, :number, :task, :author, :made_at, :person, :said, :at, :decision, :refused)""").bindparams(
    sa.bindparam("said", type_=sa.JSON)
)

_CHANGE = sa.text("""
    update desk_answers set made_at = coalesce(made_at, :made_at), person = :person, said = :said, said_at = :at,
        decision_id = :decision, refused = :refused, gone = false, forgotten = false, shown = false
    where id = :answer""").bindparams(sa.bindparam("said", type_=sa.JSON))

# A posting whose candidate is decided has been answered; one that waits again is up again, unless another is by now.
_SEEN = sa.text("""
    update desk_postings p set
        seen_at = case when coalesce(p.number, :number) = :number then greatest(p.seen_at, :at) else p.seen_at end,
        number = coalesce(p.number, :number),
        state = case
            when p.state in ('sending', 'up') and c.state in ('accepted', 'rejected') and exists (
                select from desk_answers a where a.posting_id = p.id and a.decision_id is not null and not a.gone)
                then 'answered'
            when p.state = 'sending' and :number is not null then 'up'
            when p.state = 'answered' and c.state in ('waiting', 'showing') and p.number = :number and not exists (
                select from desk_postings o where o.candidate_id = c.id and o.state in ('sending', 'up')) then 'up'
            else p.state end
    from candidates c where p.id = :posting and c.id = p.candidate_id""")
