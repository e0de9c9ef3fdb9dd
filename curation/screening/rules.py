"""Screening: drawn candidates are measured, and those that nobody need look at are refused, by rules that are data."""

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
from curation.ports import RGBA, Embedder, Layers, ObjectStore
from curation.screening.embedding import OWN, pack
from curation.screening.pairs.signals import PAIR_SIGNALS, SIZE_GAP, measure_agreement, measure_pair
from curation.screening.signals import SIGNALS, measure
from curation.synthetic.dataset import shows_prompt

LOCK = 7_201_114  # any number, always the same: two batches must not pass each other's duplicates


@dataclass(frozen=True)
class Rule:
    """Refuse where `signal` lies beyond `bound` in the direction given; a signal that is None refuses nothing."""

    name: str
    signal: str
    beyond: Literal["above", "below"]
    bound: float
    sentence: str

    def __post_init__(self) -> None:
        """Raises Refused for a signal that nobody measures."""
        known = [*SIGNALS, *PAIR_SIGNALS, SIZE_GAP]
        if self.signal not in known:
            raise Refused(f"there is no signal {self.signal!r}", "one of " + ", ".join(known))


@dataclass(frozen=True)
class Refusal:
    """Why nobody need look at a layer: the rule, the signal and its value, and the sentence that people read."""

    rule: str
    signal: str
    value: float
    sentence: str


HARD_RULES: Final = (
    Rule("no_transparent", "alpha_min", "above", 0.98, "no pixel is transparent"),
    Rule("no_visible", "alpha_max", "below", 0.02, "no pixel is visible"),
)
"""The paper's own two (section 3.4); its bounds of exactly 1 and 0 are moved by 2 % for alphas that a network drew."""

PAIR_RULES: Final = (
    Rule("sizes_differ", SIZE_GAP, "above", 0, "the layers are not of one size"),
    Rule(
        "background_not_opaque",
        "background_alpha",
        "below",
        0.98,
        "the background can be seen through",
    ),
    Rule(
        "does_not_blend",
        "blended_error",
        "above",
        20,
        "foreground over background is another picture",
    ),
    Rule("subject_left", "leakage", "above", 0.65, "the background still contains the subject"),
    Rule("seam", "seam_energy", "above", 4, "the background has a seam along the mask"),
)
"""What nobody need look at in a pair, after the rules for its foreground.

Of 41 real pairs and 200 drawn ones none is beyond a bound (leakage at most 0.57, seams 2.8, errors 3.6); with the
subject left in the background all 41 are (leakage at least 0.70).
"""


@dataclass(frozen=True)
class MeasuredCandidate:
    """What screening knows of one candidate; `fault` is set where its layers cannot be had.

    `sha256`, `visible` and `fingerprint` are of the layer that tells duplicates: the only one, or a pair's blended one,
    since a subject may well stand before several backgrounds.
    """

    candidate: uuid.UUID
    kind: Kind
    sha256: str
    visible: str = ""
    signals: Mapping[str, float | None] = field(default_factory=dict)
    fingerprint: bytes = field(default=b"", repr=False)
    embedding: bytes = field(default=b"", repr=False)
    embedder: str = ""
    fault: str = ""


def judge(
    signals: Mapping[str, float | None], rules: Sequence[Rule] = HARD_RULES
) -> Refusal | None:
    """The first rule that a layer's signals break, None where they break none."""
    for rule in rules:
        value = signals.get(rule.signal)
        beyond = operator.gt if rule.beyond == "above" else operator.lt
        if value is not None and beyond(value, rule.bound):
            sentence = (
                f"{rule.sentence}: {rule.signal} is {value:.4g}, {rule.beyond} {rule.bound:g}"
            )
            return Refusal(rule.name, rule.signal, value, sentence)
    return None


def screen_candidates(
    tx: Transaction,
    store: ObjectStore,
    ids: Sequence[uuid.UUID],
    rules: Sequence[Rule] = HARD_RULES,
) -> int:
    """Measure drawn candidates and move each to refused or screened; others are left as they are, so twice is once.

    Refused are those that break a rule and those that repeat, exactly or nearly, a layer in the pool: a seed, an
    earlier candidate that was not refused, or one before them in this batch. Returns how many were moved.
    """
    measured = measure_candidates(tx, store, ids)
    return keep_screenings(tx, measured, rules)


def measure_candidates(
    tx: Transaction,
    store: ObjectStore,
    ids: Sequence[uuid.UUID],
    embedder: Embedder = OWN,
    states: Collection[CandidateState] = (CandidateState.drawn,),
) -> list[MeasuredCandidate]:
    """The signals and embeddings of those of `ids` in a state, in the order of their ids; nothing is written."""
    stored = sa.func.jsonb_object_agg(
        candidate_layers.c.role, sa.func.jsonb_build_array(layers.c.sha256, layers.c.visible)
    )
    rows = tx.execute(
        sa.select(
            candidates.c.id, rounds.c.kind, prompts.c.text, prompts.c.foreground, prompts.c.background,
            stored.label("layers"),
        )
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .join(prompts, prompts.c.id == candidates.c.prompt_id)
        .join(candidate_layers, candidate_layers.c.candidate_id == candidates.c.id)
        .join(layers, layers.c.sha256 == candidate_layers.c.sha256)
        .where(candidates.c.id.in_(list(ids)), candidates.c.state.in_(states))
        .group_by(candidates.c.id, rounds.c.kind, prompts.c.id)
        .order_by(candidates.c.id)
    ).all()  # fmt: skip
    return [_measure(store, row, embedder) for row in rows]


def keep_screenings(
    tx: Transaction, measured: Sequence[MeasuredCandidate], rules: Sequence[Rule] = HARD_RULES
) -> int:
    """Write what was measured, refuse or pass each candidate that is still drawn, and add those passed to the pool."""
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    drawn = sa.select(candidates.c.id).where(
        candidates.c.id.in_([one.candidate for one in measured]),
        candidates.c.state == CandidateState.drawn,
    )
    still = {row.id for row in tx.execute(drawn.order_by(candidates.c.id).with_for_update())}
    ours = [one for one in measured if one.candidate in still]
    failed = [one for one in ours if one.fault]
    sound = [one for one in ours if not one.fault]
    refusals = _refusals(tx, sound, rules)
    passed = [one for one in sound if one.candidate not in refusals]
    if sound:
        rows = [_row(one, refusals.get(one.candidate)) for one in sound]
        adding = insert(screenings)
        fields = {
            name: adding.excluded[name]
            for name in ("signals", "refused_by", "refused_value", "sentence")
        }
        tx.execute(adding.on_conflict_do_update(index_elements=["candidate_id"], set_=fields), rows)
        _keep_embeddings(tx, sound)
    _move(tx, list(refusals), CandidateState.refused)
    _move(tx, [one.candidate for one in passed], CandidateState.screened)
    for one in failed:
        _move(tx, [one.candidate], CandidateState.failed, one.fault)
    duplicates.add_to_index(tx, {one.sha256: one.fingerprint for one in passed})
    return len(ours)


def measure_single(rgba: RGBA, prompt: str) -> dict[str, float | None]:
    """All that screening measures of a single layer: its signals, and whether it shows its prompt's colour and shape.

    The latter are 1 or 0, and left out where the prompt is free text.
    """
    shown = shows_prompt(rgba, prompt)
    agreement = (
        {}
        if shown is None
        else {"shows_colour": float(shown.colour), "shows_shape": float(shown.shape)}
    )
    return measure(rgba) | agreement


def measure_whole(layers: Layers, prompt: Prompt) -> dict[str, float | None]:
    """All that screening measures of a pair: the signals of its foreground, its own, and whether it shows its texts."""
    return (
        measure(layers[LayerRole.foreground])
        | measure_pair(layers)
        | measure_agreement(layers, prompt)
    )


def keep_again(tx: Transaction, measured: Sequence[MeasuredCandidate]) -> None:
    """Add what was measured of candidates that were screened before, by another embedder or not at all."""
    sound = [one for one in measured if not one.fault]
    if sound:
        adding = insert(screenings)
        known = {"signals": screenings.c.signals.op("||")(adding.excluded.signals)}
        tx.execute(
            adding.on_conflict_do_update(index_elements=["candidate_id"], set_=known),
            [_row(one, None) for one in sound],
        )
        _keep_embeddings(tx, sound)


def _keep_embeddings(tx: Transaction, seen: Sequence[MeasuredCandidate]) -> None:
    rows = [
        {"candidate_id": one.candidate, "source": one.embedder, "vector": one.embedding}
        for one in seen
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
    tells = LayerRole.blended if kind is Kind.pair else wanted[0]
    sha256, visible = row.layers.get(tells, ("", ""))
    missing = [role for role in wanted if role not in row.layers]
    if missing:
        return MeasuredCandidate(
            row.id, kind, sha256, fault=f"a pair was drawn without its {missing[0]}"
        )
    try:
        drawn = {role: np.asarray(decode_layer(store.get(row.layers[role][0]))) for role in wanted}
    except (Corrupt, NotFound) as error:
        return MeasuredCandidate(row.id, kind, sha256, fault=error.message)
    prompt = Prompt(row.text, row.foreground, row.background)
    signals = (
        measure_whole(drawn, prompt)
        if kind is Kind.pair
        else measure_single(drawn[wanted[0]], row.text)
    )
    seen = embedder.see([drawn], [prompt])[0]
    known = (
        visible,
        signals | dict(seen.figures),
        fingerprint(drawn[tells]),
        pack(seen.vector),
        embedder.source,
    )
    return MeasuredCandidate(row.id, kind, sha256, *known)


def _refusals(
    tx: Transaction, sound: Sequence[MeasuredCandidate], rules: Sequence[Rule]
) -> dict[uuid.UUID, Refusal]:
    """Rules before duplicates: two empty layers are both refused as empty."""
    asked = {Kind.single: rules, Kind.pair: [*rules, *PAIR_RULES]}
    refusals = {
        one.candidate: broken for one in sound if (broken := judge(one.signals, asked[one.kind]))
    }
    rest = [one for one in sound if one.candidate not in refusals]
    known = duplicates.find_duplicates(tx, [(one.visible, one.fingerprint) for one in rest])
    batch = duplicates.Batch()
    for one, earlier in zip(rest, known, strict=True):
        first = earlier or batch.find(one.visible, one.fingerprint)
        if first is None:
            batch.add(one.visible, one.fingerprint, one.sha256)
        elif first.exact:
            sentence = f"the same visible pixels as layer {first.of[:12]}"
            refusals[one.candidate] = Refusal("duplicate", "visible", 0.0, sentence)
        else:
            sentence = (
                f"nearly the same picture as layer {first.of[:12]}: {first.bits} of 192 bits differ"
            )
            refusals[one.candidate] = Refusal(
                "near_duplicate", "fingerprint", float(first.bits or 0), sentence
            )
    return refusals


def _row(one: MeasuredCandidate, refusal: Refusal | None) -> dict[str, object]:
    return {
        "candidate_id": one.candidate,
        "signals": dict(one.signals),
        "refused_by": refusal.rule if refusal else None,
        "refused_value": refusal.value if refusal else None,
        "sentence": refusal.sentence if refusal else None,
    }


def _move(
    tx: Transaction, ids: Sequence[uuid.UUID], state: CandidateState, note: str | None = None
) -> None:
    if ids:
        values = {"state": state, "changed_at": sa.func.now()} | ({"note": note} if note else {})
        tx.execute(sa.update(candidates).where(candidates.c.id.in_(list(ids))).values(values))
