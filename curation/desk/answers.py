"""Answers: what people said at a desk of other software becomes decisions, once each, or a refusal that is kept."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import sqlalchemy as sa

from curation import leases
from curation.database import Transaction
from curation.desk.door import Answer, Seen
from curation.desk.people import active_reviewer
from curation.domain import CandidateState, LayerRole, RejectReason, Verdict, canonical_json, content_id
from curation.errors import Conflict, NotFound, Refused
from curation.review.decisions import decide, undo

DESK = "label-studio"
"""Where these decisions were made, in their rows."""


def take_in(tx: Transaction, seen: Seen) -> Counter[str]:
    """Turn all that is said of one posting into decisions; returns how many were kept, undone, refused or must wait.

    The same twice is the same once: an answer is known by its number and what it says. An answer that changed is undone
    and decided anew; one that is gone is undone, if its posting changed after we last saw it. Else the desk was put
    back to an older state of itself, and nobody took anything back. Who comes too late is refused, with the reason.
    """
    outcomes: Counter[str] = Counter()
    posting = tx.execute(_POSTING, {"posting": seen.posting}).one_or_none()
    if posting is None:
        return outcomes
    known = {row.number: row for row in tx.execute(_ANSWERS, {"posting": posting.id})}
    there = {answer.number for answer in seen.answers}
    # A posting that is there twice by a cut-off import says nothing of the answers to its first copy.
    if seen.number == posting.number and (posting.seen_at is None or seen.at > posting.seen_at):
        for row in known.values():
            if row.number not in there and not row.gone:
                outcomes[_take_back(tx, posting, row)] += 1
    for answer in sorted(seen.answers, key=lambda one: (one.at, one.number)):
        outcome = _hear(tx, posting, answer, known.get(answer.number))
        if outcome:
            outcomes[outcome] += 1
    tx.execute(_SEEN, {"posting": posting.id, "at": seen.at, "number": seen.number})
    return outcomes


def try_again(tx: Transaction, posting_id: uuid.UUID) -> Counter[str]:
    """Decide what had to wait because somebody was looking at the candidate at our pages."""
    outcomes: Counter[str] = Counter()
    posting = tx.execute(_POSTING, {"posting": posting_id}).one()
    for row in tx.execute(_ANSWERS, {"posting": posting_id}).all():
        if row.decision_id is None and row.refused is None and not row.gone:
            outcomes[_keep(tx, posting, _read(row))] += 1
    tx.execute(_SEEN, {"posting": posting.id, "at": posting.seen_at, "number": posting.number})
    return outcomes


def said_of(answer: Answer) -> dict[str, Any]:
    """The content of an answer, as it is kept and compared."""
    return {
        "verdict": answer.verdict,
        "reasons": list(answer.reasons),
        "layers": list(answer.layers),
        "comment": answer.comment,
        "fault": answer.fault,
    }


def _hear(tx: Transaction, posting: sa.Row[Any], answer: Answer, earlier: sa.Row[Any] | None) -> str | None:
    """One answer: None where it is known already. What cannot be read changes nothing that was said before."""
    if earlier is not None and not earlier.gone and earlier.said == said_of(answer):
        return None
    if answer.fault:
        return _note(tx, posting, answer, decision=earlier.decision_id if earlier else None, refused=answer.fault)
    if earlier is not None and earlier.decision_id is not None and not earlier.gone:
        complaint = _void(tx, posting, earlier)
        if complaint:
            return _note(tx, posting, answer, decision=earlier.decision_id, refused=complaint)
    return _keep(tx, posting, answer)


def _keep(tx: Transaction, posting: sa.Row[Any], answer: Answer) -> str:
    """Decide, and note what became of it."""
    key = content_id(DESK, posting.id, answer.number, answer.at.isoformat(), canonical_json(said_of(answer)))
    try:
        decided = decide(
            tx,
            active_reviewer(tx, answer.person).id,
            posting.candidate_id,
            answer.verdict or Verdict.skip,
            key=key,
            reasons=answer.reasons,
            layers=answer.layers,
            comment=answer.comment,
            dwell_ms=None if answer.seconds is None else int(1_000 * min(max(answer.seconds, 0), 600)),
            desk=DESK,
        )
    except Refused as error:
        # Somebody is looking at it at our pages: they decide, or their lease ends, and then this is tried again.
        if isinstance(error, Conflict) and _state(tx, posting.candidate_id) == CandidateState.showing:
            return _note(tx, posting, answer)
        return _note(tx, posting, answer, refused=error.message)
    return _note(tx, posting, answer, decision=decided.decision)


def _note(
    tx: Transaction, posting: sa.Row[Any], answer: Answer, decision: int | None = None, refused: str | None = None
) -> str:
    row = {"posting": posting.id, "number": answer.number, "person": answer.person, "said": said_of(answer)}
    tx.execute(_NOTE, row | {"at": answer.at, "decision": decision, "refused": refused})
    if refused is not None:
        tx.log(answer.person or DESK, "answer refused", f"candidate {posting.candidate_id}", why=refused)
        return "refused"
    return "waiting" if decision is None else "kept"


def _take_back(tx: Transaction, posting: sa.Row[Any], row: sa.Row[Any]) -> str:
    """An answer that is there no longer: its decision is undone and the candidate waits again."""
    complaint = _void(tx, posting, row) if row.decision_id is not None else None
    tx.execute(_GONE, {"posting": posting.id, "number": row.number, "refused": complaint or row.refused})
    return "refused" if complaint else "undone"


def _void(tx: Transaction, posting: sa.Row[Any], row: sa.Row[Any]) -> str | None:
    """Undo a decision in the name of who made it, and hold its candidate for nobody; a sentence where it must stand."""
    made = tx.execute(_DECISION, {"decision": row.decision_id}).one()
    key = content_id(DESK, "undo", row.decision_id)
    try:
        undo(tx, made.reviewer_id, row.decision_id, key=key, seconds=1)
    except NotFound:
        return None  # undone before, at our pages
    except Conflict as error:
        return error.message
    leases.release(tx, [posting.candidate_id])
    tx.execute(_WAIT, {"candidate": posting.candidate_id})
    return None


def _state(tx: Transaction, candidate: uuid.UUID) -> str:
    return str(tx.execute(_STATE, {"candidate": candidate}).scalar_one())


def _read(row: sa.Row[Any]) -> Answer:
    said = row.said
    return Answer(
        number=row.number,
        person=row.person,
        at=row.said_at,
        verdict=Verdict(said["verdict"]) if said["verdict"] else None,
        reasons=[RejectReason(one) for one in said["reasons"]],
        layers=[LayerRole(one) for one in said["layers"]],
        comment=said["comment"],
        fault=said["fault"],
    )


_POSTING = sa.text("select * from desk_postings where id = :posting for update")

_ANSWERS = sa.text("select * from desk_answers where posting_id = :posting order by said_at, number")

_DECISION = sa.text("select reviewer_id from decisions where id = :decision")

_STATE = sa.text("select state from candidates where id = :candidate")

_WAIT = sa.text("update candidates set state = 'waiting' where id = :candidate and state = 'showing'")

_GONE = sa.text("""
    update desk_answers set gone = true, refused = :refused where posting_id = :posting and number = :number""")

_NOTE = sa.text("""
    insert into desk_answers (posting_id, number, person, said, said_at, decision_id, refused)
    values (:posting, :number, :person, :said, :at, :decision, :refused)
    on conflict (posting_id, number) do update set person = excluded.person, said = excluded.said,
        said_at = excluded.said_at, decision_id = excluded.decision_id, refused = excluded.refused,
        gone = false""").bindparams(sa.bindparam("said", type_=sa.JSON))

# A posting whose candidate is decided has been answered; one that waits again is up again, unless another is by now.
_SEEN = sa.text("""
    update desk_postings p set
        seen_at = greatest(p.seen_at, :at),
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
