"""Screening of pairs: signals beside those of the foreground, and each refusal for its own defect only."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from curation.db.tables import candidates, screenings
from curation.domain import CandidateState, LayerRole, Prompt
from curation.images.codec import decode_layer
from curation.images.pairs import composite
from curation.screening.pairs.signals import (
    AGREEMENT_SIGNALS,
    PAIR_SIGNALS,
    SIZE_GAP,
    compute_agreement_signals,
    compute_pair_signals,
)
from curation.screening.rules import HARD_RULES, PAIR_RULES, apply_rules
from curation.screening.signals import SIGNALS
from tests.support.factories import OpenTransaction, make_pairs, make_round, scenes
from tests.support.pipeline_steps import screen_candidates

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended


def see_through(pair: dict) -> dict:
    return pair | {
        BACK: np.dstack([pair[BACK][..., :3], np.full(pair[BACK].shape[:2], 200, np.uint8)])
    }


def left(pair: dict) -> dict:
    return pair | {BACK: composite(pair[FRONT], pair[BACK])}


def shifted(pair: dict) -> dict:
    """Return the blend over another background: rolled by a third, and darker."""
    return pair | {
        WHOLE: np.dstack([np.roll(pair[WHOLE], 20, axis=0)[..., :3] // 2, pair[WHOLE][..., 3]])
    }


def seamed(pair: dict) -> dict:
    hole = pair[FRONT][..., 3] > 5
    around = np.maximum.reduce(
        [np.roll(hole, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    )
    back = pair[BACK].copy()
    back[around, :3] = 255 - back[around, :3] // 2
    return {FRONT: pair[FRONT], BACK: back, WHOLE: composite(pair[FRONT], back)}


def cut(pair: dict) -> dict:
    return pair | {BACK: pair[BACK][:-2]}


def empty(pair: dict) -> dict:
    return pair | {FRONT: np.zeros_like(pair[FRONT])}


PLANTED = {
    "sizes_differ": (cut, SIZE_GAP, 2.0),
    "background_not_opaque": (see_through, "background_alpha", 200 / 255),
    "subject_left": (left, "leakage", None),
    "does_not_blend": (shifted, "blended_error", None),
    "seam": (seamed, "seam_energy", None),
    "no_visible": (empty, "alpha_max", 0.0),
}


def test_sound_pairs_break_no_rule():
    for prompt, pair in scenes(40):
        signals = compute_pair_signals(pair) | compute_agreement_signals(pair, prompt)
        assert set(signals) == {SIZE_GAP, *PAIR_SIGNALS, *AGREEMENT_SIGNALS}
        assert apply_rules(signals, PAIR_RULES) is None
        assert signals["blended_error"] == 0


@pytest.mark.parametrize("name", [name for name in PLANTED if name != "no_visible"])
def test_each_defect_is_refused_by_its_own_rule(name):
    spoil, signal, value = PLANTED[name]
    refused = 0
    for _, pair in scenes(20):
        refusal = apply_rules(compute_pair_signals(spoil(pair)), PAIR_RULES)
        refused += refusal is not None
        if refusal is not None:
            assert (refusal.rule, refusal.signal) == (name, signal)
            assert value is None or refusal.value == pytest.approx(value, abs=1e-5)
    assert refused >= 18


def test_texts_outside_the_grammar_have_no_agreement_signals():
    [(_, pair)] = scenes(1)
    assert compute_agreement_signals(pair, Prompt("a cat at home", "a cat", "a home")) == {}


def test_pairs_are_screened_with_the_signals_of_all_layers(database, store):
    drawn = scenes(7)
    spoilt = [
        (prompt, PLANTED[name][0](pair))
        for name, (prompt, pair) in zip(PLANTED, drawn, strict=False)
    ]
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        ids = make_pairs(tx, store, round_id, [*spoilt, drawn[6]], CandidateState.generated)
        assert screen_candidates(OpenTransaction(tx), store, ids) == 7
        rows = {row.candidate_id: row for row in tx.execute(sa.select(screenings))}
        states = {row.id: row.state for row in tx.execute(sa.select(candidates))}
    assert [rows[one].refused_by for one in ids] == [*PLANTED, None]
    assert [states[one] for one in ids] == ["refused"] * 6 + ["screened"]
    assert set(rows[ids[-1]].signals) == {*SIGNALS, SIZE_GAP, *PAIR_SIGNALS, *AGREEMENT_SIGNALS}
    assert rows[ids[-1]].signals["shows_ground"] == 1.0
    assert "background_alpha is 0.7843, below 0.98" in rows[ids[1]].message


def test_one_subject_before_two_backgrounds_is_no_duplicate_and_the_same_pair_is(database, store):
    first, second = scenes(2)
    other = {FRONT: first[1][FRONT], BACK: second[1][BACK]}
    other[WHOLE] = composite(other[FRONT], other[BACK])
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        ids = make_pairs(
            tx, store, round_id, [first, (first[0], other), first], CandidateState.generated
        )
        screen_candidates(OpenTransaction(tx), store, ids, HARD_RULES)
        rows = {row.candidate_id: row.refused_by for row in tx.execute(sa.select(screenings))}
    assert sorted(str(rows[one]) for one in ids) == ["None", "None", "duplicate"]
    assert rows[ids[1]] is None


def test_a_pair_without_its_background_fails_alone(database, store):
    (prompt, pair), whole = scenes(2)
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        ids = make_pairs(
            tx, store, round_id, [(prompt, {FRONT: pair[FRONT]}), whole], CandidateState.generated
        )
        screen_candidates(OpenTransaction(tx), store, ids)
        rows = {row.id: row for row in tx.execute(sa.select(candidates))}
    assert [rows[one].state for one in ids] == ["failed", "screened"]
    assert rows[ids[0]].note == "a pair was generated without its background"


@pytest.mark.slow
def test_real_pairs_break_no_rule(shared):
    import json

    folder = shared / "layer_pairs"
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        if "background" in row:
            names = {FRONT: row["foreground"], BACK: row["background"], WHOLE: row["composite"]}
            pair = {
                role: np.asarray(decode_layer((folder / name).read_bytes()))
                for role, name in names.items()
            }
            assert apply_rules(compute_pair_signals(pair), PAIR_RULES) is None, row["id"]
            assert (
                apply_rules(compute_pair_signals(left(pair)), PAIR_RULES).rule == "subject_left"
            ), row["id"]
