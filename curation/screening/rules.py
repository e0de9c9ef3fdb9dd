"""Screening rules: measure generated candidates and reject those that nobody needs to see."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets import duplicates
from curation.db.engine import Transaction
from curation.db.tables import (
    candidate_layers,
    candidates,
    embeddings,
    layers,
    prompts,
    rounds,
    screenings,
)
from curation.domain import CandidateState, Kind, LayerRole, Prompt
from curation.errors import Corrupt, NotFound, Refused
from curation.images.codec import decode_layer
from curation.images.perceptual_hash import fingerprint
from curation.ports import Embedder, ObjectStore
from curation.screening.embedding import BUILTIN_EMBEDDER, pack_vector
from curation.screening.measurements import measure_pair_candidate, measure_single
from curation.screening.pairs.signals import (
    PAIR_SIGNALS,
    SIZE_GAP,
)
from curation.screening.signals import SIGNALS

SCREENING_LOCK = 7_201_114  # an advisory lock: two batches must not miss each other's duplicates


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


@dataclass(frozen=True)
class MeasuredCandidate:
    """The measurements of one candidate; `fault` is set if its layers cannot be read.

    `sha256`, `visible` and `fingerprint` belong to the layer that identifies duplicates: the only
    layer, or a pair's blended image, since a subject may appear on several backgrounds.
    """

    candidate: uuid.UUID
    kind: Kind
    sha256: str
    visible: str = ""
    signals: Mapping[str, float | None] = field(default_factory=dict)
    fingerprint: bytes = field(default=b"", repr=False)
    embedding: bytes = field(default=b"", repr=False)
    embedder: str = ""
    error: str = ""


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


def screen_candidates(
    tx: Transaction,
    store: ObjectStore,
    ids: Sequence[uuid.UUID],
    rules: Sequence[ScreeningRule] = HARD_RULES,
) -> int:
    """Screen generated candidates: move each to refused or screened.

    Candidates in other states are left as they are, so the call is idempotent. Rejected are those
    that break a rule, and exact or near duplicates of a layer in the pool: a seed, an earlier
    candidate that was not refused, or an earlier one of this batch.

    Args:
        tx: The transaction.
        store: The object store with the layers.
        ids: The candidates.
        rules: The rules for single layers and foregrounds.

    Returns:
        The number of candidates moved.
    """
    measured = measure_candidates(tx, store, ids)
    return store_screenings(tx, measured, rules)


def measure_candidates(
    tx: Transaction,
    store: ObjectStore,
    ids: Sequence[uuid.UUID],
    embedder: Embedder = BUILTIN_EMBEDDER,
    states: Collection[CandidateState] = (CandidateState.generated,),
) -> list[MeasuredCandidate]:
    """Compute signals and embeddings of candidates, in the order of their ids; nothing is written.

    Args:
        tx: The transaction.
        store: The object store with the layers.
        ids: The candidates.
        embedder: The embedder.
        states: Only candidates in these states.
    """
    stored = sa.func.jsonb_object_agg(
        candidate_layers.c.role, sa.func.jsonb_build_array(layers.c.sha256, layers.c.visible)
    )
    rows = tx.execute(
        sa.select(
            candidates.c.id,
            rounds.c.kind,
            prompts.c.text,
            prompts.c.foreground,
            prompts.c.background,
            stored.label("layers"),
        )
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .join(prompts, prompts.c.id == candidates.c.prompt_id)
        .join(candidate_layers, candidate_layers.c.candidate_id == candidates.c.id)
        .join(layers, layers.c.sha256 == candidate_layers.c.sha256)
        .where(candidates.c.id.in_(list(ids)), candidates.c.state.in_(states))
        .group_by(candidates.c.id, rounds.c.kind, prompts.c.id)
        .order_by(candidates.c.id)
    ).all()
    return [_measure(store, row, embedder) for row in rows]


def store_screenings(
    tx: Transaction,
    measured: Sequence[MeasuredCandidate],
    rules: Sequence[ScreeningRule] = HARD_RULES,
) -> int:
    """Store measurements, and move each candidate that is still generated to refused or screened.

    Args:
        tx: The transaction.
        measured: The measurements.
        rules: The rules for single layers and foregrounds.

    Returns:
        The number of candidates moved.
    """
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(SCREENING_LOCK)))
    # Skip candidates that another worker has moved since they were measured.
    drawn = sa.select(candidates.c.id).where(
        candidates.c.id.in_([item.candidate for item in measured]),
        candidates.c.state == CandidateState.generated,
    )
    unmoved = {row.id for row in tx.execute(drawn.order_by(candidates.c.id).with_for_update())}
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
        _move(tx, [item.candidate], CandidateState.failed, item.error)
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


def _measure(store: ObjectStore, row: sa.Row[Any], embedder: Embedder) -> MeasuredCandidate:
    kind = Kind(row.kind)
    wanted = (
        list(LayerRole)
        if kind is Kind.pair
        else [next(role for role in LayerRole if role in row.layers)]
    )
    identifying = LayerRole.blended if kind is Kind.pair else wanted[0]
    # The layer that identifies duplicates.
    sha256, visible = row.layers.get(identifying, ("", ""))
    # Layers that are missing or corrupt are recorded as a fault, not raised: one bad candidate must
    # not stop its batch.
    missing = [role for role in wanted if role not in row.layers]
    if missing:
        return MeasuredCandidate(
            row.id, kind, sha256, error=f"a pair was generated without its {missing[0]}"
        )
    try:
        layers_by_role = {
            role: np.asarray(decode_layer(store.get(row.layers[role][0]))) for role in wanted
        }
    except (Corrupt, NotFound) as error:
        return MeasuredCandidate(row.id, kind, sha256, error=error.message)
    # Signals, embedding and fingerprint, all from one decoding.
    prompt = Prompt(row.text, row.foreground, row.background)
    signals = (
        measure_pair_candidate(layers_by_role, prompt)
        if kind is Kind.pair
        else measure_single(layers_by_role[wanted[0]], row.text)
    )
    seen = embedder.embed([layers_by_role], [prompt])[0]
    measurements = (
        visible,
        signals | dict(seen.metrics),
        fingerprint(layers_by_role[identifying]),
        pack_vector(seen.vector),
        embedder.source,
    )
    return MeasuredCandidate(row.id, kind, sha256, *measurements)


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


def _move(
    tx: Transaction, ids: Sequence[uuid.UUID], state: CandidateState, note: str | None = None
) -> None:
    if ids:
        values = {"state": state, "changed_at": sa.func.now()} | ({"note": note} if note else {})
        tx.execute(sa.update(candidates).where(candidates.c.id.in_(list(ids))).values(values))
