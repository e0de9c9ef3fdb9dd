"""Decisions on pairs: one verdict per pair, reasons that name a layer, samples of layer sets, and the report."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.datasets import snapshots
from curation.datasets.manifest import read_samples
from curation.db.tables import decisions as decisions_table
from curation.db.tables import samples
from curation.domain import (
    CandidateState,
    Kind,
    LayerRole,
    RejectReason,
    RuleVerdict,
    Sample,
    Verdict,
)
from curation.errors import Conflict, Refused
from curation.reporting import round_report
from curation.review import decisions
from curation.review.queue import claim_items
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.selection.select import select_candidates
from tests.support.factories import OpenTransaction, make_candidates, make_pairs, make_round, scenes
from tests.support.pipeline_steps import screen_candidates

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended
HALO, RESIDUE, CLASH = RejectReason.halo, RejectReason.residue, RejectReason.clash


@pytest.fixture
def decide(database, store):
    """Return a round of pairs before ann, and the function by which she decides."""
    drawn = scenes(6)
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        ids = make_pairs(tx, store, round_id, drawn, CandidateState.generated)
        screen_candidates(OpenTransaction(tx), store, ids)
        select_candidates(tx, round_id)
        ann = add_reviewer(tx, "ann").id

    def decide(one, verdict=Verdict.reject, reasons=(), layers=(), key=None, who=ann):
        with database.transaction() as tx:
            key = key or uuid.uuid4()
            return decisions.decide(tx, who, one, verdict, key=key, reasons=reasons, layers=layers)

    decide.round_id, decide.ids, decide.drawn, decide.ann = round_id, ids, drawn, ann
    return decide


def rows(database, table):
    with database.transaction() as tx:
        return tx.execute(sa.select(table).order_by(table.c.id)).all()


def test_an_item_has_all_layers_and_texts(database, decide):
    with database.transaction() as tx:
        items = {item.id: item for item in claim_items(tx, decide.ann, decide.round_id, 6, (), 60)}
    for one, (prompt, _) in zip(decide.ids, decide.drawn, strict=True):
        item = items[one]
        assert (item.kind, item.prompt, set(item.layers)) == (
            Kind.pair,
            prompt.text,
            set(LayerRole),
        )
        assert item.texts == {FRONT: prompt.foreground, BACK: prompt.background}
        assert item.signals["blended_error"] == 0


def test_reasons_are_kept_with_the_layers_they_concern(database, decide):
    decide(decide.ids[0], reasons=[RESIDUE, HALO, HALO, HALO], layers=[BACK, FRONT, BACK, FRONT])
    decide(decide.ids[1], reasons=[RESIDUE])
    first, second = rows(database, decisions_table)
    assert list(zip(first.reasons, first.layers, strict=True)) == [
        ("halo", "background"),
        ("halo", "foreground"),
        ("residue", "background"),
    ]
    assert (second.reasons, second.layers) == (["residue"], [])


def test_the_same_key_with_other_layers_is_a_conflict(database, decide):
    key = uuid.uuid4()
    first = decide(decide.ids[0], reasons=[HALO], layers=[FRONT], key=key)
    assert decide(decide.ids[0], reasons=[HALO], layers=[FRONT], key=key) == first
    with pytest.raises(Conflict):
        decide(decide.ids[0], reasons=[HALO], layers=[BACK], key=key)


def test_layers_that_fit_no_reason_or_no_pair_are_refused(database, store, decide):
    with pytest.raises(Refused, match="2 layers are given for 1 reasons"):
        decide(decide.ids[0], reasons=[HALO], layers=[FRONT, BACK])
    with pytest.raises(Refused):
        decide(decide.ids[0], Verdict.accept, layers=[FRONT])
    with database.transaction() as tx:
        [single] = make_candidates(tx, store, make_round(tx), 1)
    with pytest.raises(Refused, match="takes no layers for its reasons"):
        decide(single, reasons=[HALO], layers=[FRONT])
    assert rows(database, decisions_table) == []


def test_an_accepted_pair_is_one_sample_of_three_layers_in_the_next_snapshot(
    database, store, decide
):
    decide(decide.ids[0], Verdict.accept)
    prompt, _ = decide.drawn[0]
    frozen = snapshots.freeze_snapshot(database, store, tag=None, actor="test")
    [sample] = read_samples(store, frozen.id)
    assert (sample.kind, sample.caption, sample.round) == (Kind.pair, prompt.text, decide.round_id)
    assert sample.texts == {FRONT: prompt.foreground, BACK: prompt.background}
    assert set(sample.layers) == set(LayerRole)
    assert frozen.counts["kind"] == {"pair": 1}
    with database.transaction() as tx:
        decisions.undo(tx, decide.ann, None, key=uuid.uuid4(), seconds=60)
    assert rows(database, samples)[0].withdrawn_at is not None
    decide(decide.ids[0], Verdict.accept)
    [again] = rows(database, samples)
    assert (Sample.read(again.line), again.withdrawn_at) == (sample, None)


def test_the_rule_reviewer_names_layers(database, decide):
    with database.transaction() as tx:
        rule_reviewer = add_rule_reviewer(tx)
        item, other = claim_items(tx, rule_reviewer, decide.round_id, 2, (), 60)
        rule_verdict = RuleVerdict(Verdict.reject, (CLASH, RESIDUE), "another light", (WHOLE, BACK))
        decisions.record_rule_verdict(tx, rule_reviewer, item, rule_verdict)
        decisions.record_rule_verdict(
            tx, rule_reviewer, other, RuleVerdict(Verdict.accept, (), "clean")
        )
    first, second = rows(database, decisions_table)
    assert (first.reasons, first.layers) == (["clash", "residue"], ["blended", "background"])
    assert second.layers == []


def test_the_report_counts_reasons_by_layer_and_summarizes_signals(database, decide):
    decide(decide.ids[0], reasons=[RESIDUE, HALO], layers=[BACK, BACK])
    decide(decide.ids[1], reasons=[RESIDUE], layers=[BACK])
    decide(decide.ids[2], reasons=[RESIDUE], layers=[FRONT])
    decide(decide.ids[3], Verdict.accept)
    with database.transaction() as tx:
        report = round_report.round_report(tx, decide.round_id)
    assert report["reasons"] == [
        {"reason": "residue", "layer": "background", "count": 2, "kind": "person"},
        {"reason": "halo", "layer": "background", "count": 1, "kind": "person"},
        {"reason": "residue", "layer": "foreground", "count": 1, "kind": "person"},
    ]
    assert report["defects_per_100"]["person"]["value"] == pytest.approx(75)
    signals = {one["name"]: one for one in report["signals"]}
    assert signals["blended_error"] == {
        "name": "blended_error",
        "n": 6,
        "low": 0,
        "median": 0,
        "high": 0,
    }
    assert (
        0
        <= signals["leakage"]["low"]
        <= signals["leakage"]["median"]
        <= signals["leakage"]["high"]
        <= 1
    )
    assert signals["shows_ground"]["median"] == 1
    text = round_report.as_text(report)
    assert "(open), pairs generated by" in text
    assert (
        "reasons of people: background: residue 2, background: halo 1, foreground: residue 1"
        in text
    )
    assert "leakage: median" in text
