"""Gold hides among the candidates of a round, teaches what reviewers notice, and counts nowhere else."""

from __future__ import annotations

import random
import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.tables import candidate_layers, candidates, layers, samples, screenings
from curation.db.tables import decisions as decisions_table
from curation.db.tables import gold as gold_table
from curation.db.tables import rounds as rounds_table
from curation.domain import CandidateState, LayerRole, Verdict
from curation.errors import Conflict, Refused
from curation.quality import gold_creation, gold_transforms
from curation.reporting import round_report
from curation.review import decisions, gold
from curation.review.decisions import decide, undo
from curation.review.gold import GoldSettings, set_gold
from curation.review.queue import claim_batch, read_items
from curation.review.recent_decisions import recent_decisions
from curation.review.reviewers import (
    ReviewerPausedError,
    add_reviewer,
    find_reviewer,
    resume_reviewer,
)
from curation.review.similar_samples import most_similar_sample
from curation.rounds import lifecycle
from curation.screening.measurements import measure_single
from curation.synthetic.shapes import draw_subject, sample_subject
from tests.support.factories import make_candidates, make_round, states

SIZE = 64


@pytest.fixture
def hiding(database, store, monkeypatch):
    """Return a round of 40 screened candidates, and 60 pieces of gold, of which half of what is shown consists."""
    monkeypatch.setattr(gold, "_rng", random.Random(1))  # the same places in every run
    with database.transaction() as tx:
        round_id = make_round(tx)
        for one in make_candidates(tx, store, round_id, 40):
            tx.execute(
                sa.insert(screenings),
                {
                    "candidate_id": one,
                    "signals": measure_single(np.zeros((8, 8, 4), np.uint8), "a cat"),
                },
            )
        tx.execute(sa.update(candidates).values(priority=sa.func.random()))
        plant(tx, store, round_id, 60)
        set_gold(tx, round_id, GoldSettings(0.5, 0.6), "test")
    return round_id


def plant(tx, store, round_id: int, count: int) -> None:
    """Seeds to make gold of, and the gold."""
    rng = np.random.default_rng(5)
    for place in range(12):
        rgba = draw_subject(sample_subject(rng), rng, SIZE)
        data = gold_creation.encode_layer(rgba)
        layer = StoredLayer(store.put(data), SIZE, SIZE, len(data), gold_creation.pixel_hash(rgba))
        add_samples(
            tx,
            [
                NewSample(
                    "single", f"subject {place}", "CC0", "test", 0, {LayerRole.foreground: layer}
                )
            ],
        )
    sources = gold_creation.choose_sources(tx, round_id, count)
    gold_creation.add_gold(
        tx,
        round_id,
        gold_creation.make_gold(store, sources, gold_creation.typical_size(tx, round_id), seed=3),
        "test",
    )


def pieces(database) -> dict[uuid.UUID, sa.Row]:
    with database.transaction() as tx:
        return {row.candidate_id: row for row in tx.execute(sa.select(gold_table))}


def reviewer(database, name: str = "ann") -> int:
    with database.transaction() as tx:
        return add_reviewer(tx, name).id


def review(database, who: int, round_id: int, verdict_of, batches: int = 20) -> list[uuid.UUID]:
    """Decide tray after tray of six; returns the candidates in the order in which they were shown."""
    seen: list[uuid.UUID] = []
    for _ in range(batches):
        with database.transaction() as tx:
            items = claim_batch(tx, who, round_id, 6, (), 60).items
        if not items:
            break
        for item in items:
            with database.transaction() as tx:
                decide(tx, who, item.id, verdict_of(item.id), key=uuid.uuid4(), dwell_ms=900)
            seen.append(item.id)
    return seen


def test_gold_is_made_of_samples_in_the_rounds_own_size(database, store, hiding):
    known = pieces(database)
    assert len(known) == 60
    assert sum(row.defect is None for row in known.values()) == 15
    assert {row.defect for row in known.values()} == {
        None,
        "fringe",
        "haze",
        "holes",
        "cut",
        "specks",
        "opaque",
    }
    with database.transaction() as tx:
        sizes = tx.execute(
            sa.select(layers.c.width, layers.c.height, sa.func.count())
            .join(candidate_layers, candidate_layers.c.sha256 == layers.c.sha256)
            .group_by(layers.c.width, layers.c.height)
        ).all()
    assert [(row.width, row.height) for row in sizes] == [(32, 24)], "as the round's own"


def test_a_gold_item_looks_like_any_other(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, hiding, 24, (), 60).items
    output = {item.id in known: item for item in items}
    assert set(output) == {True, False}, "both kinds, or this test would prove nothing"
    assert {item.round for item in items} == {hiding}
    assert {item.kind for item in items} == {"single"}
    assert {item.flags for item in items} == {()}
    assert {tuple(item.layers) for item in items} == {("foreground",)}
    assert {frozenset(item.signals) for item in items} == {frozenset(output[True].signals)}
    assert {(one.width, one.height) for item in items for one in item.layers.values()} == {(32, 24)}


def test_positions_of_gold_are_unpredictable_and_survive_a_reload(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, hiding, 24, (), 60).items
    hidden = [item.id in known for item in items]
    with database.transaction() as tx:
        shown = candidates.c.id.in_([item.id for item in items])
        priorities = dict(
            tx.execute(sa.select(candidates.c.id, candidates.c.priority).where(shown)).all()
        )
    real = {priorities[item.id] for item in items if item.id not in known}
    mine = [priorities[item.id] for item in items if item.id in known]
    assert set(mine) <= real, "each has the priority of a neighbour"
    assert len(set(mine)) > 1
    assert True in hidden[:12] and False in hidden[12:], "neither first nor last"
    with database.transaction() as tx:
        again = claim_batch(tx, ann, hiding, 24, (), 60).items
    assert [item.id for item in again] == [item.id for item in items]
    drawn = [sum(gold.sample_gold_flags(20, 0.05)) for _ in range(400)]
    assert 0.7 < np.mean(drawn) < 1.3
    assert 0.6 < np.var(drawn) < 1.4, "a coin for each place, not one in twenty by turns"


def test_gold_is_shown_once_to_each_reviewer_and_counts_nowhere(database, hiding):
    known = pieces(database)
    with database.transaction() as tx:
        before = tx.scalar(sa.select(sa.func.count()).select_from(samples))

    def keen(one):
        return Verdict.accept if one in known and known[one].defect is None else Verdict.reject

    for name in ("ann", "bob"):
        seen = review(database, reviewer(database, name), hiding, keen, batches=4)
        assert len(seen) == len(set(seen))
        assert known.keys() & set(seen)
    found = states(database, hiding)
    with database.transaction() as tx:
        output = round_report.round_report(tx, hiding)
        listed = [row["id"] for row in lifecycle.list_rounds(tx)]
        gold_decisions = tx.scalar(
            sa.select(sa.func.count()).where(decisions_table.c.candidate_id.in_(list(known)))
        )
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == before, (
            "no gold became a sample"
        )
    assert gold_decisions > 0
    assert sum(found.values()) == 40
    assert output["human"]["decisions"] == found["rejected"]
    assert output["funnel"]["requested"] == 40
    assert listed == [hiding]


def test_gold_and_other_decisions_count_alike_in_the_progress(database, hiding):
    from curation.review.progress import review_progress

    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, hiding, 16, (), 60).items
        before = review_progress(tx, ann, hiding)
    for item in items:
        with database.transaction() as tx:
            decide(tx, ann, item.id, Verdict.accept, key=uuid.uuid4())
            after = review_progress(tx, ann, hiding)
        assert {name: after[name] - before[name] for name in after} == {
            "waiting": -1,
            "accepted": 1,
            "mine": 1,
        }
        before = after


def test_an_undo_returns_gold(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        item = next(
            item for item in claim_batch(tx, ann, hiding, 24, (), 60).items if item.id in known
        )
        assert decide(tx, ann, item.id, Verdict.accept, key=uuid.uuid4()).state == "accepted", (
            "as of any"
        )
        assert (
            undo(tx, ann, None, key=uuid.uuid4(), seconds=60).item == read_items(tx, [item.id])[0]
        )
        assert gold.read_gold_responses(tx, ann) == ({}, [])
        decide(tx, ann, item.id, Verdict.reject, key=uuid.uuid4())
        looks, clean = gold.read_gold_responses(tx, ann)
    assert sum(map(len, looks.values())) + len(clean) == 1


def test_neither_recent_decisions_nor_the_nearest_sample_reveal_gold(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, hiding, 24, (), 60).items
        assert 0 < sum(item.id in known for item in items) < len(items)
        beside = {item.id: most_similar_sample(tx, item.id) for item in items}
        for item in items:
            decide(tx, ann, item.id, Verdict.reject, key=uuid.uuid4())
        trail = recent_decisions(tx, ann, 24)
    assert [one.item.id for one in trail] == [item.id for item in reversed(items)]
    assert all(found for found in beside.values())
    assert not any(
        found.sample == known[one].sample_id for one, found in beside.items() if one in known
    )


def test_reviewers_who_miss_obvious_defects_are_paused_and_resumed(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    plain = [one for one, row in known.items() if row.severity >= gold.OBVIOUS_SEVERITY]
    for one in plain[: gold.MIN_GOLD_DECISIONS]:
        with database.transaction() as tx:
            assert find_reviewer(tx, "ann").paused is None
            decide(tx, ann, one, Verdict.accept, key=uuid.uuid4(), dwell_ms=900)
    with pytest.raises(ReviewerPausedError), database.transaction() as tx:
        decide(tx, ann, plain[-1], Verdict.accept, key=uuid.uuid4(), dwell_ms=900)
    with database.transaction() as tx:
        assert find_reviewer(tx, "ann").paused == "0 of 8 plain defects were noticed"
        assert claim_batch(tx, ann, hiding, 6, (), 60).items == ()
        looks, _ = gold.read_gold_responses(tx, ann)
        assert (
            sum(look.severity >= gold.OBVIOUS_SEVERITY for seen in looks.values() for look in seen)
            == gold.MIN_GOLD_DECISIONS
        )
        open_one = sa.select(candidates.c.id).where(
            candidates.c.state == CandidateState.waiting, candidates.c.id.not_in(list(known))
        )
        candidate = tx.scalar(open_one.limit(1))
    with pytest.raises(ReviewerPausedError), database.transaction() as tx:
        undo(tx, ann, None, key=uuid.uuid4(), seconds=60)
    with pytest.raises(ReviewerPausedError, match="0 of 8") as output, database.transaction() as tx:
        decide(tx, ann, candidate, Verdict.accept, key=uuid.uuid4())
    assert "engineer" in output.value.hint
    with database.transaction() as tx:
        resume_reviewer(tx, find_reviewer(tx, "ann"), "test")
        with pytest.raises(Conflict, match="not paused"):
            resume_reviewer(tx, find_reviewer(tx, "ann"), "test")
    with database.transaction() as tx:
        decide(tx, ann, candidate, Verdict.accept, key=uuid.uuid4())


def test_reviewers_who_see_obvious_defects_are_not_paused(database, hiding):
    known = pieces(database)

    def right(one):
        return Verdict.reject if one in known and known[one].severity > 0.4 else Verdict.accept

    ann = reviewer(database)
    review(database, ann, hiding, right)
    with database.transaction() as tx:
        looks, clean = gold.read_gold_responses(tx, ann)
        assert find_reviewer(tx, "ann").paused is None
    assert sum(map(len, looks.values())) + len(clean) > 20


def test_the_rule_reviewer_gets_no_gold(database, hiding):
    from curation.review.reviewers import add_rule_reviewer

    known = pieces(database)
    with database.transaction() as tx:
        items = decisions.claim_items(tx, add_rule_reviewer(tx), hiding, 40, (), 60)
    assert not known.keys() & {item.id for item in items}


def test_closing_a_round_withdraws_its_gold(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        held = [
            item.id for item in claim_batch(tx, ann, hiding, 24, (), 60).items if item.id in known
        ]
        assert lifecycle.close_round(tx, hiding, "test") == 40, (
            "what is withdrawn is counted without it"
        )
    with database.transaction() as tx, pytest.raises(Conflict, match="closed"):
        decide(tx, ann, held[0], Verdict.accept, key=uuid.uuid4())


def test_gold_needs_samples_of_its_kind_and_a_generated_round(database, store):
    with database.transaction() as tx:
        with pytest.raises(Refused, match="no single samples"):
            gold_creation.choose_sources(tx, make_round(tx), 5)
        with pytest.raises(Refused, match="no pair samples"):
            gold_creation.choose_sources(tx, make_round(tx, kind="pair"), 5)
        seeds = make_round(tx)
        imported = {"purpose": "seeds", "checkpoint_id": None}
        tx.execute(sa.update(rounds_table).where(rounds_table.c.id == seeds).values(imported))
        with pytest.raises(Refused, match="has imported candidates"):
            gold_creation.choose_sources(tx, seeds, 5)
    for wrong in ({"share": 0.6}, {"share": -0.1}, {"bound": 1.0}):
        with pytest.raises(Refused):
            GoldSettings(**wrong)


def test_a_layer_is_brought_to_another_size_without_a_seam():
    rgba = np.full((20, 40, 4), 200, np.uint8)
    rgba[:, :20, 3] = 0
    rgba[:, :20, :3] = 0
    fitted = gold_transforms.fit_into(rgba, (20, 20))
    assert fitted.shape == (20, 20, 4)
    assert not fitted[:5].any() and not fitted[15:].any(), "in the middle"
    solid = fitted[fitted[..., 3] > 0]
    assert np.abs(solid[:, :3].astype(int) - 200).max() <= 1, (
        "no dark fringe of what was transparent"
    )
    assert gold_transforms.fit_into(rgba, (40, 20)) is rgba
