"""Gold of pairs is hidden among pairs, is decided with reasons by layer, and has curves of its own."""

from __future__ import annotations

import random
import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.tables import candidates, rounds, samples, screenings
from curation.db.tables import gold as gold_table
from curation.domain import LayerRole, RejectReason, Verdict
from curation.images.codec import decode_layer
from curation.images.pairs import blended_error
from curation.quality import gold_creation
from curation.reporting import round_report
from curation.reporting.reviewer_stats import as_text, reviewer_statistics
from curation.review import gold
from curation.review.decisions import decide, undo
from curation.review.gold import GoldSettings, set_gold
from curation.review.queue import claim_batch
from curation.review.recent_decisions import recent_decisions
from curation.review.reviewers import add_reviewer
from curation.review.similar_samples import most_similar_sample
from curation.screening.measurements import measure_pair_candidate
from curation.screening.pairs.defects import PAIR_DEFECT_REASONS, PAIR_DEFECTS
from tests.support.factories import make_pairs, make_round, scenes

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended


@pytest.fixture
def hiding(database, store, monkeypatch):
    """Return a round of 20 pairs of 48 px with 48 gold items made of pairs of 64 px, and a gold share of one half."""
    monkeypatch.setattr(gold, "_rng", random.Random(1))  # the same places in every run
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        drawn = scenes(20, size=48)
        ids = make_pairs(tx, store, round_id, drawn)
        rows = [
            {"candidate_id": one, "signals": measure_pair_candidate(pair, prompt)}
            for one, (prompt, pair) in zip(ids, drawn, strict=True)
        ]
        tx.execute(sa.insert(screenings), rows)
        tx.execute(sa.update(candidates).values(priority=sa.func.random()))
        for prompt, pair in scenes(10, start=100):
            layers = {role: stored(store, rgba) for role, rgba in pair.items()}
            texts = {FRONT: prompt.foreground, BACK: prompt.background}
            add_samples(tx, [NewSample("pair", prompt.text, "CC0", "test", 0, layers, texts=texts)])
        sources = gold_creation.choose_sources(tx, round_id, 48)
        made = gold_creation.make_gold(
            store, sources, gold_creation.typical_size(tx, round_id), seed=3
        )
        assert gold_creation.add_gold(tx, round_id, made, "test") == 48
        set_gold(tx, round_id, GoldSettings(0.5, 0.6), "test")
    return round_id


def stored(store, rgba) -> StoredLayer:
    data = gold_creation.encode_layer(rgba)
    height, width = rgba.shape[:2]
    return StoredLayer(store.put(data), width, height, len(data), gold_creation.pixel_hash(rgba))


def pieces(database) -> dict[uuid.UUID, sa.Row]:
    with database.transaction() as tx:
        return {row.candidate_id: row for row in tx.execute(sa.select(gold_table))}


def test_a_gold_pair_looks_like_any_other_pair(database, store, hiding):
    known = pieces(database)
    assert sum(row.defect is None for row in known.values()) == 12
    assert {row.defect for row in known.values()} == {None, *PAIR_DEFECTS}
    with database.transaction() as tx:
        ann = add_reviewer(tx, "ann").id
        items = claim_batch(tx, ann, hiding, 24, (), 60).items
        beside = {item.id: most_similar_sample(tx, item.id) for item in items}
    by_gold = {item.id in known: item for item in items}
    assert set(by_gold) == {True, False}, "the batch has both kinds"
    assert {(item.round, item.kind, item.flags) for item in items} == {(hiding, "pair", ())}
    assert {tuple(item.layers) for item in items} == {tuple(LayerRole)}
    assert {frozenset(item.signals) for item in items} == {frozenset(by_gold[True].signals)}
    assert {(one.width, one.height) for item in items for one in item.layers.values()} == {(48, 48)}
    assert {frozenset(item.texts) for item in items} == {frozenset(by_gold[False].texts)}
    assert all(item.signals["blended_error"] == 0 for item in items)
    assert not any(
        found and found.sample == known[one].sample_id
        for one, found in beside.items()
        if one in known
    )
    for item in items[:6]:
        layers = [decode_layer(store.get(item.layers[role].sha256)) for role in LayerRole]
        assert blended_error(*layers) == 0
        assert layers[1][..., 3].min() == 255, "a background is filled to its border"


def test_gold_of_pairs_is_decided_with_layers_and_counts_nowhere_but_in_curves(database, hiding):
    known = pieces(database)
    with database.transaction() as tx:
        ann = add_reviewer(tx, "ann")
        before = tx.scalar(sa.select(sa.func.count()).select_from(samples))
    seen = 0
    while True:
        with database.transaction() as tx:
            items = claim_batch(tx, ann.id, hiding, 6, (), 60).items
        if not items:
            break
        for item in items:
            row = known.get(item.id)
            bad = row is not None and row.severity > 0.4
            reason, layer = PAIR_DEFECT_REASONS[row.defect] if bad else (RejectReason.clash, WHOLE)
            with database.transaction() as tx:
                decide(
                    tx, ann.id, item.id, Verdict.reject if row is None or bad else Verdict.accept,
                    key=uuid.uuid4(), reasons=[reason] if row is None or bad else [],
                    layers=[layer] if row is None or bad else [], dwell_ms=900,
                )  # fmt: skip
            seen += row is not None
    assert seen > 10
    with database.transaction() as tx:
        trail = recent_decisions(tx, ann.id, 5)
        statistics = reviewer_statistics(tx, ann, to_themselves=False)
        metrics = round_report.round_report(tx, hiding)
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == before, (
            "no gold became a sample"
        )
        looks, clean = gold.read_gold_responses(tx, ann.id)
        assert undo(tx, ann.id, None, key=uuid.uuid4(), seconds=60).item.kind == "pair"
    assert len(trail) == 5
    assert sum(map(len, looks.values())) + len(clean) == seen
    assert metrics["human"]["decisions"] == metrics["funnel"]["rejected"] == 20
    curves = statistics["gold"]["curves"]
    assert {one["kind"] for one in curves} == {"pair"}
    assert {one["defect"] for one in curves} == set(looks)
    assert all(0 < one["threshold"] < 1.4 for one in curves)
    assert " in a pair: noticed half of the time" in as_text(statistics)


def test_curves_of_single_layers_and_of_pairs_are_separate(database, store, hiding):
    """One who never sees a fringe in pairs, and always on its own, has a curve of each, and so has each guess rate."""
    with database.transaction() as tx:
        ann = add_reviewer(tx, "ann")
        single = make_round(tx)
        for index in range(6):
            rgba = np.array(scenes(1, start=200 + index)[0][1][FRONT])
            layer = {FRONT: stored(store, rgba)}
            add_samples(tx, [NewSample("single", f"subject {index}", "CC0", "test", 0, layer)])
        sources = gold_creation.choose_sources(tx, single, 48)
        assert {one.kind for one in sources} == {"single"}
        gold_creation.add_gold(
            tx, single, gold_creation.make_gold(store, sources, None, seed=4), "test"
        )
        homes = tx.execute(
            sa.select(rounds.c.kind).where(rounds.c.purpose == "gold").order_by(rounds.c.id)
        ).scalars()
        assert list(homes) == ["pair", "single"]
        fringes = tx.execute(sa.select(gold_table).where(gold_table.c.defect == "fringe")).all()
        for row in fringes:
            verdict = Verdict.reject if row.round_id == single else Verdict.accept
            decide(tx, ann.id, row.candidate_id, verdict, key=uuid.uuid4())
        tx.execute(sa.text("update reviewers set paused = null"))
        curves = {
            one["kind"]: one
            for one in reviewer_statistics(tx, ann, to_themselves=False)["gold"]["curves"]
        }
    assert set(curves) == {"single", "pair"}
    assert curves["single"]["threshold"] < 0.4
    assert curves["pair"]["threshold"] > 0.8
