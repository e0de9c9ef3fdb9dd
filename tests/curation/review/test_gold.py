"""Gold is hidden among the candidates of a round, measures reviewers, and counts nowhere else."""

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
def gold_round(database, store, monkeypatch):
    """Return a round of 40 screened candidates with 60 gold items and a gold share of one half."""
    monkeypatch.setattr(gold, "_rng", random.Random(1))  # the same positions in every run
    with database.transaction() as tx:
        round_id = make_round(tx)
        for candidate in make_candidates(tx, store, round_id, 40):
            tx.execute(
                sa.insert(screenings),
                {
                    "candidate_id": candidate,
                    "signals": measure_single(np.zeros((8, 8, 4), np.uint8), "a cat"),
                },
            )
        tx.execute(sa.update(candidates).values(priority=sa.func.random()))
        add_gold_to(tx, store, round_id, 60)
        set_gold(tx, round_id, GoldSettings(0.5, 0.6), "test")
    return round_id


def add_gold_to(tx, store, round_id: int, count: int) -> None:
    """Add seeds to a round, and gold made of them."""
    rng = np.random.default_rng(5)
    for index in range(12):
        rgba = draw_subject(sample_subject(rng), rng, SIZE)
        data = gold_creation.encode_layer(rgba)
        layer = StoredLayer(store.put(data), SIZE, SIZE, len(data), gold_creation.pixel_hash(rgba))
        add_samples(
            tx,
            [
                NewSample(
                    "single", f"subject {index}", "CC0", "test", 0, {LayerRole.foreground: layer}
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


def gold_rows(database) -> dict[uuid.UUID, sa.Row]:
    with database.transaction() as tx:
        return {row.candidate_id: row for row in tx.execute(sa.select(gold_table))}


def reviewer(database, name: str = "ann") -> int:
    with database.transaction() as tx:
        return add_reviewer(tx, name).id


def review(
    database, reviewer_id: int, round_id: int, verdict_of, batches: int = 20
) -> list[uuid.UUID]:
    """Decide batches of six candidates; return the candidates in the order in which they were shown."""
    decided: list[uuid.UUID] = []
    for _ in range(batches):
        with database.transaction() as tx:
            items = claim_batch(tx, reviewer_id, round_id, 6, (), 60).items
        if not items:
            break
        for item in items:
            with database.transaction() as tx:
                decide(
                    tx, reviewer_id, item.id, verdict_of(item.id), key=uuid.uuid4(), dwell_ms=900
                )
            decided.append(item.id)
    return decided


def test_gold_is_made_of_samples_in_the_rounds_own_size(database, store, gold_round):
    known = gold_rows(database)
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
    assert [(row.width, row.height) for row in sizes] == [(32, 24)], (
        "the size of the round's candidates"
    )


def test_a_gold_item_looks_like_any_other(database, gold_round):
    known = gold_rows(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, gold_round, 24, (), 60).items
    by_gold = {item.id in known: item for item in items}
    assert set(by_gold) == {True, False}, "the batch has both kinds"
    assert {item.round for item in items} == {gold_round}
    assert {item.kind for item in items} == {"single"}
    assert {item.flags for item in items} == {()}
    assert {tuple(item.layers) for item in items} == {("foreground",)}
    assert {frozenset(item.signals) for item in items} == {frozenset(by_gold[True].signals)}
    assert {
        (candidate.width, candidate.height) for item in items for candidate in item.layers.values()
    } == {(32, 24)}


def test_positions_of_gold_are_unpredictable_and_survive_a_reload(database, gold_round):
    known = gold_rows(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, gold_round, 24, (), 60).items
    hidden = [item.id in known for item in items]
    with database.transaction() as tx:
        shown = candidates.c.id.in_([item.id for item in items])
        priorities = dict(
            tx.execute(sa.select(candidates.c.id, candidates.c.priority).where(shown)).all()
        )
    real = {priorities[item.id] for item in items if item.id not in known}
    gold_priorities = [priorities[item.id] for item in items if item.id in known]
    assert set(gold_priorities) <= real, "each has the priority of a neighbor"
    assert len(set(gold_priorities)) > 1
    assert True in hidden[:12] and False in hidden[12:], "neither first nor last"
    with database.transaction() as tx:
        again = claim_batch(tx, ann, gold_round, 24, (), 60).items
    assert [item.id for item in again] == [item.id for item in items]
    drawn = [sum(gold.sample_gold_flags(20, 0.05)) for _ in range(400)]
    assert 0.7 < np.mean(drawn) < 1.3
    assert 0.6 < np.var(drawn) < 1.4, "an independent draw for each position"


def test_gold_is_shown_once_to_each_reviewer_and_counts_nowhere(database, gold_round):
    known = gold_rows(database)
    with database.transaction() as tx:
        before = tx.scalar(sa.select(sa.func.count()).select_from(samples))

    def verdict_of(candidate):
        return (
            Verdict.accept
            if candidate in known and known[candidate].defect is None
            else Verdict.reject
        )

    for name in ("ann", "bob"):
        decided = review(database, reviewer(database, name), gold_round, verdict_of, batches=4)
        assert len(decided) == len(set(decided))
        assert known.keys() & set(decided)
    found = states(database, gold_round)
    with database.transaction() as tx:
        report = round_report.round_report(tx, gold_round)
        listed = [row["id"] for row in lifecycle.list_rounds(tx)]
        gold_decisions = tx.scalar(
            sa.select(sa.func.count()).where(decisions_table.c.candidate_id.in_(list(known)))
        )
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == before, (
            "no gold became a sample"
        )
    assert gold_decisions > 0
    assert sum(found.values()) == 40
    assert report["human"]["decisions"] == found["rejected"]
    assert report["funnel"]["requested"] == 40
    assert listed == [gold_round]


def test_gold_and_other_decisions_count_alike_in_the_progress(database, gold_round):
    from curation.review.progress import review_progress

    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, gold_round, 16, (), 60).items
        before = review_progress(tx, ann, gold_round)
    for item in items:
        with database.transaction() as tx:
            decide(tx, ann, item.id, Verdict.accept, key=uuid.uuid4())
            after = review_progress(tx, ann, gold_round)
        assert {name: after[name] - before[name] for name in after} == {
            "waiting": -1,
            "accepted": 1,
            "mine": 1,
        }
        before = after


def test_an_undo_returns_gold(database, gold_round):
    known = gold_rows(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        item = next(
            item for item in claim_batch(tx, ann, gold_round, 24, (), 60).items if item.id in known
        )
        assert decide(tx, ann, item.id, Verdict.accept, key=uuid.uuid4()).state == "accepted", (
            "the response is that of any candidate"
        )
        assert (
            undo(tx, ann, None, key=uuid.uuid4(), seconds=60).item == read_items(tx, [item.id])[0]
        )
        assert gold.read_gold_responses(tx, ann) == ({}, [])
        decide(tx, ann, item.id, Verdict.reject, key=uuid.uuid4())
        trials, clean = gold.read_gold_responses(tx, ann)
    assert sum(map(len, trials.values())) + len(clean) == 1


def test_neither_recent_decisions_nor_the_nearest_sample_reveal_gold(database, gold_round):
    known = gold_rows(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        items = claim_batch(tx, ann, gold_round, 24, (), 60).items
        assert 0 < sum(item.id in known for item in items) < len(items)
        beside = {item.id: most_similar_sample(tx, item.id) for item in items}
        for item in items:
            decide(tx, ann, item.id, Verdict.reject, key=uuid.uuid4())
        recent = recent_decisions(tx, ann, 24)
    assert [candidate.item.id for candidate in recent] == [item.id for item in reversed(items)]
    assert all(found for found in beside.values())
    assert not any(
        found.sample == known[candidate].sample_id
        for candidate, found in beside.items()
        if candidate in known
    )


def test_reviewers_who_miss_obvious_defects_are_paused_and_resumed(database, gold_round):
    known = gold_rows(database)
    ann = reviewer(database)
    obvious = [
        candidate for candidate, row in known.items() if row.severity >= gold.OBVIOUS_SEVERITY
    ]
    for candidate in obvious[: gold.MIN_GOLD_DECISIONS]:
        with database.transaction() as tx:
            assert find_reviewer(tx, "ann").paused is None
            decide(tx, ann, candidate, Verdict.accept, key=uuid.uuid4(), dwell_ms=900)
    with pytest.raises(ReviewerPausedError), database.transaction() as tx:
        decide(tx, ann, obvious[-1], Verdict.accept, key=uuid.uuid4(), dwell_ms=900)
    with database.transaction() as tx:
        assert find_reviewer(tx, "ann").paused == "0 of 8 obvious defects were noticed"
        assert claim_batch(tx, ann, gold_round, 6, (), 60).items == ()
        trials, _ = gold.read_gold_responses(tx, ann)
        assert (
            sum(
                trial.severity >= gold.OBVIOUS_SEVERITY
                for found_trials in trials.values()
                for trial in found_trials
            )
            == gold.MIN_GOLD_DECISIONS
        )
        others = sa.select(candidates.c.id).where(
            candidates.c.state == CandidateState.waiting, candidates.c.id.not_in(list(known))
        )
        candidate = tx.scalar(others.limit(1))
    with pytest.raises(ReviewerPausedError), database.transaction() as tx:
        undo(tx, ann, None, key=uuid.uuid4(), seconds=60)
    with (
        pytest.raises(ReviewerPausedError, match="0 of 8") as refused,
        database.transaction() as tx,
    ):
        decide(tx, ann, candidate, Verdict.accept, key=uuid.uuid4())
    assert "engineer" in refused.value.hint
    with database.transaction() as tx:
        resume_reviewer(tx, find_reviewer(tx, "ann"), "test")
        with pytest.raises(Conflict, match="not paused"):
            resume_reviewer(tx, find_reviewer(tx, "ann"), "test")
    with database.transaction() as tx:
        decide(tx, ann, candidate, Verdict.accept, key=uuid.uuid4())


def test_reviewers_who_see_obvious_defects_are_not_paused(database, gold_round):
    known = gold_rows(database)

    def verdict_of(candidate):
        return (
            Verdict.reject
            if candidate in known and known[candidate].severity > 0.4
            else Verdict.accept
        )

    ann = reviewer(database)
    review(database, ann, gold_round, verdict_of)
    with database.transaction() as tx:
        trials, clean = gold.read_gold_responses(tx, ann)
        assert find_reviewer(tx, "ann").paused is None
    assert sum(map(len, trials.values())) + len(clean) > 20


def test_the_rule_reviewer_gets_no_gold(database, gold_round):
    from curation.review.reviewers import add_rule_reviewer

    known = gold_rows(database)
    with database.transaction() as tx:
        items = decisions.claim_items(tx, add_rule_reviewer(tx), gold_round, 40, (), 60)
    assert not known.keys() & {item.id for item in items}


def test_closing_a_round_withdraws_its_gold(database, gold_round):
    known = gold_rows(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        gold_ids = [
            item.id
            for item in claim_batch(tx, ann, gold_round, 24, (), 60).items
            if item.id in known
        ]
        assert lifecycle.close_round(tx, gold_round, "test") == 40, (
            "gold does not count as withdrawn"
        )
    with database.transaction() as tx, pytest.raises(Conflict, match="closed"):
        decide(tx, ann, gold_ids[0], Verdict.accept, key=uuid.uuid4())


def test_gold_needs_samples_of_its_kind_and_a_generated_round(database, store):
    with database.transaction() as tx:
        with pytest.raises(Refused, match="no single samples"):
            gold_creation.choose_sources(tx, make_round(tx), 5)
        with pytest.raises(Refused, match="no pair samples"):
            gold_creation.choose_sources(tx, make_round(tx, kind="pair"), 5)
        seeds = make_round(tx)
        seed_round = {"purpose": "seeds", "checkpoint_id": None}
        tx.execute(sa.update(rounds_table).where(rounds_table.c.id == seeds).values(seed_round))
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
        "no dark fringe of the transparent part"
    )
    assert gold_transforms.fit_into(rgba, (40, 20)) is rgba
