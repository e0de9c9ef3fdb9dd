"""Screening rules: measure generated candidates and reject those that nobody needs to see."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets import duplicates
from curation.db.advisory_locks import AdvisoryLock, lock
from curation.db.engine import Transaction
from curation.db.tables import (
    candidates,
    embeddings,
    screenings,
)
from curation.domain import CandidateState, Kind
from curation.errors import Refused
from curation.screening.candidates import MeasuredCandidate
from curation.screening.pairs.signals import (
    PAIR_SIGNALS,
    SIZE_GAP,
)
from curation.screening.signals import SIGNALS


@dataclass(frozen=True)
class ScreeningRule:
    """Reject a candidate whose `signal` is beyond `bound`; a signal that is None passes.

    `sentence` is the explanation shown to people.
    """

    name: str
    signal: str
    beyond: Literal["above", "below"]
    bound: float
    sentence: str

    def __post_init__(self) -> None:
        """Raise Refused for an unknown signal."""
        known = [*SIGNALS, *PAIR_SIGNALS, SIZE_GAP]
        if self.signal not in known:
            raise Refused(f"unknown signal {self.signal!r}", "choose from " + ", ".join(known))


@dataclass(frozen=True)
class ScreeningRefusal:
    """The reason for a rejection: the rule, the signal with its value, and the explanation."""

    rule: str
    signal: str
    value: float
    sentence: str


HARD_RULES: Final = (
    ScreeningRule("no_transparent", "alpha_min", "above", 0.98, "no pixel is transparent"),
    ScreeningRule("no_visible", "alpha_max", "below", 0.02, "no pixel is visible"),
)
"""The paper's two rules (section 3.4), with its bounds of 1 and 0 relaxed by 2 %.

A network rarely generates an alpha of exactly 0 or 1.
"""

PAIR_RULES: Final = (
    ScreeningRule("sizes_differ", SIZE_GAP, "above", 0, "the layers differ in size"),
    ScreeningRule(
        "background_not_opaque", "background_alpha", "below", 0.98, "the background is not opaque"
    ),
    ScreeningRule(
        "does_not_blend",
        "blended_error",
        "above",
        20,
        "foreground over background differs from the blended image",
    ),
    ScreeningRule(
        "subject_left", "leakage", "above", 0.65, "the background still contains the subject"
    ),
    ScreeningRule("seam", "seam_energy", "above", 4, "the background has a seam along the mask"),
)
"""Rules for pairs, applied after the rules for the foreground.

None of 41 real pairs and 200 generated ones is beyond a bound (leakage at most 0.57, seams 2.8,
errors 3.6); with the subject left in the background all 41 are (leakage at least 0.70).
"""


def apply_rules(
    signals: Mapping[str, float | None], rules: Sequence[ScreeningRule] = HARD_RULES
) -> ScreeningRefusal | None:
    """Return the first rule that a candidate breaks, or None.

    Args:
        signals: The candidate's signals.
        rules: The rules, in order.
    """
    for rule in rules:
        value = signals.get(rule.signal)
        beyond = operator.gt if rule.beyond == "above" else operator.lt
        if value is not None and beyond(value, rule.bound):
            sentence = (
                f"{rule.sentence}: {rule.signal} is {value:.4g}, {rule.beyond} {rule.bound:g}"
            )
            return ScreeningRefusal(rule.name, rule.signal, value, sentence)
    return None


def store_screenings(
    tx: Transaction,
    measured: Sequence[MeasuredCandidate],
    rules: Sequence[ScreeningRule] = HARD_RULES,
    max_attempts: int = 0,
) -> int:
    """Store measurements, and move each candidate that is still generated to refused or screened.

    Args:
        tx: The transaction.
        measured: The measurements.
        rules: The rules for single layers and foregrounds.
        max_attempts: A candidate whose layers cannot be read fails after this many attempts.

    Returns:
        The number of candidates moved.
    """
    lock(tx, AdvisoryLock.screen)
    # Skip candidates that another worker has moved since they were measured.
    generated = sa.select(candidates.c.id).where(
        candidates.c.id.in_([item.candidate for item in measured]),
        candidates.c.state == CandidateState.generated,
    )
    unmoved = {row.id for row in tx.execute(generated.order_by(candidates.c.id).with_for_update())}
    batch = [item for item in measured if item.candidate in unmoved]
    failed = [item for item in batch if item.error]
    readable = [item for item in batch if not item.error]
    # Apply the rules, then look for duplicates.
    refusals = _refusals(tx, readable, rules)
    passed = [item for item in readable if item.candidate not in refusals]
    if readable:
        rows = [_row(item, refusals.get(item.candidate)) for item in readable]
        adding = insert(screenings)
        fields = {
            name: adding.excluded[name]
            for name in ("signals", "refused_by", "refused_value", "message")
        }
        tx.execute(adding.on_conflict_do_update(index_elements=["candidate_id"], set_=fields), rows)
        _keep_embeddings(tx, readable)
    # Move the candidates and add those that passed to the duplicate index.
    _move(tx, list(refusals), CandidateState.refused)
    _move(tx, [item.candidate for item in passed], CandidateState.screened)
    for item in failed:
        tx.execute(_FAIL, {"id": item.candidate, "note": item.error[:500], "most": max_attempts})
    duplicates.add_to_index(tx, {item.sha256: item.fingerprint for item in passed})
    return len(batch)


def store_remeasured(tx: Transaction, measured: Sequence[MeasuredCandidate]) -> None:
    """Add measurements of candidates that were screened earlier.

    They were screened with another embedder, or not at all.
    """
    readable = [item for item in measured if not item.error]
    if readable:
        adding = insert(screenings)
        merged = {"signals": screenings.c.signals.op("||")(adding.excluded.signals)}
        tx.execute(
            adding.on_conflict_do_update(index_elements=["candidate_id"], set_=merged),
            [_row(item, None) for item in readable],
        )
        _keep_embeddings(tx, readable)


def _keep_embeddings(tx: Transaction, measured: Sequence[MeasuredCandidate]) -> None:
    rows = [
        {"candidate_id": item.candidate, "source": item.embedder, "vector": item.embedding}
        for item in measured
    ]
    adding = insert(embeddings)
    fields = {name: adding.excluded[name] for name in ("source", "vector")}
    tx.execute(adding.on_conflict_do_update(index_elements=["candidate_id"], set_=fields), rows)


def _refusals(
    tx: Transaction, readable: Sequence[MeasuredCandidate], rules: Sequence[ScreeningRule]
) -> dict[uuid.UUID, ScreeningRefusal]:
    """Return the refusals of a batch by candidate.

    Rules come before duplicates, so that two empty layers are both refused as empty.
    """
    rules_by_kind = {Kind.single: rules, Kind.pair: [*rules, *PAIR_RULES]}
    refusals = {
        item.candidate: broken
        for item in readable
        if (broken := apply_rules(item.signals, rules_by_kind[item.kind]))
    }
    unrefused = [item for item in readable if item.candidate not in refusals]
    # Compare with the pool, and with earlier candidates of this batch.
    known = duplicates.find_duplicates(tx, [(item.visible, item.fingerprint) for item in unrefused])
    batch = duplicates.DuplicateIndex()
    for item, earlier in zip(unrefused, known, strict=True):
        first = earlier or batch.find(item.visible, item.fingerprint)
        if first is None:
            batch.add(item.visible, item.fingerprint, item.sha256)
        elif first.exact:
            sentence = f"the same visible pixels as layer {first.of[:12]}"
            refusals[item.candidate] = ScreeningRefusal("duplicate", "visible", 0.0, sentence)
        else:
            sentence = (
                f"nearly the same image as layer {first.of[:12]}: {first.bits} of 192 bits differ"
            )
            refusals[item.candidate] = ScreeningRefusal(
                "near_duplicate", "fingerprint", float(first.bits or 0), sentence
            )
    return refusals


def _row(measured: MeasuredCandidate, refusal: ScreeningRefusal | None) -> dict[str, object]:
    return {
        "candidate_id": measured.candidate,
        "signals": dict(measured.signals),
        "refused_by": refusal.rule if refusal else None,
        "refused_value": refusal.value if refusal else None,
        "message": refusal.sentence if refusal else None,
    }


def _move(tx: Transaction, ids: Sequence[uuid.UUID], state: CandidateState) -> None:
    if ids:
        values = {"state": state, "changed_at": sa.func.now(), "attempts": 0}
        tx.execute(sa.update(candidates).where(candidates.c.id.in_(list(ids))).values(values))


_FAIL = sa.text("""
    update candidates set note = :note,
        state = case when attempts >= :most then 'failed' else state end
    where id = :id and state = 'generated'""")
