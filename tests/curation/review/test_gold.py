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
        number = make_round(tx)
        for one in make_candidates(tx, store, number, 40):
            tx.execute(
                sa.insert(screenings),
                {
                    "candidate_id": one,
                    "signals": measure_single(np.zeros((8, 8, 4), np.uint8), "a cat"),
                },
            )
        tx.execute(sa.update(candidates).values(priority=sa.func.random()))
        plant(tx, store, number, 60)
        set_gold(tx, number, GoldSettings(0.5, 0.6), "test")
    return number


def plant(tx, store, number: int, count: int) -> None:
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
    sources = gold_creation.choose_sources(tx, number, count)
    gold_creation.add_gold(
        tx,
        number,
        gold_creation.make_gold(store, sources, gold_creation.typical_size(tx, number), seed=3),
        "test",
    )


def pieces(database) -> dict[uuid.UUID, sa.Row]:
    with database.transaction() as tx:
        return {row.candidate_id: row for row in tx.execute(sa.select(gold_table))}


def reviewer(database, name: str = "ann") -> int:
    with database.transaction() as tx:
        return add_reviewer(tx, name).id


def review(database, who: int, number: int, verdict_of, trays: int = 20) -> list[uuid.UUID]:
    """Decide tray after tray of six; returns the candidates in the order in which they were shown."""
    seen: list[uuid.UUID] = []
    for _ in range(trays):
        with database.transaction() as tx:
            cards = claim_batch(tx, who, number, 6, (), 60).items
        if not cards:
            break
        for card in cards:
            with database.transaction() as tx:
                decide(tx, who, card.id, verdict_of(card.id), key=uuid.uuid4(), dwell_ms=900)
            seen.append(card.id)
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


def test_a_card_of_gold_looks_like_any(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        cards = claim_batch(tx, ann, hiding, 24, (), 60).items
    output = {card.id in known: card for card in cards}
    assert set(output) == {True, False}, "both kinds, or this test would prove nothing"
    assert {card.round for card in cards} == {hiding}
    assert {card.kind for card in cards} == {"single"}
    assert {card.flags for card in cards} == {()}
    assert {tuple(card.layers) for card in cards} == {("foreground",)}
    assert {frozenset(card.signals) for card in cards} == {frozenset(output[True].signals)}
    assert {(one.width, one.height) for card in cards for one in card.layers.values()} == {(32, 24)}


def test_places_cannot_be_guessed_and_stay_when_the_page_is_loaded_again(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        cards = claim_batch(tx, ann, hiding, 24, (), 60).items
    hidden = [card.id in known for card in cards]
    with database.transaction() as tx:
        shown = candidates.c.id.in_([card.id for card in cards])
        priorities = dict(
            tx.execute(sa.select(candidates.c.id, candidates.c.priority).where(shown)).all()
        )
    real = {priorities[card.id] for card in cards if card.id not in known}
    mine = [priorities[card.id] for card in cards if card.id in known]
    assert set(mine) <= real, "each has the priority of a neighbour"
    assert len(set(mine)) > 1
    assert True in hidden[:12] and False in hidden[12:], "neither first nor last"
    with database.transaction() as tx:
        again = claim_batch(tx, ann, hiding, 24, (), 60).items
    assert [card.id for card in again] == [card.id for card in cards]
    drawn = [sum(gold.sample_gold_flags(20, 0.05)) for _ in range(400)]
    assert 0.7 < np.mean(drawn) < 1.3
    assert 0.6 < np.var(drawn) < 1.4, "a coin for each place, not one in twenty by turns"


def test_gold_is_shown_once_to_each_and_counts_nowhere(database, hiding):
    known = pieces(database)
    with database.transaction() as tx:
        before = tx.scalar(sa.select(sa.func.count()).select_from(samples))

    def keen(one):
        return Verdict.accept if one in known and known[one].defect is None else Verdict.reject

    for name in ("ann", "bob"):
        seen = review(database, reviewer(database, name), hiding, keen, trays=4)
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


def test_each_decision_moves_the_progress_alike(database, hiding):
    from curation.review.progress import review_progress

    ann = reviewer(database)
    with database.transaction() as tx:
        cards = claim_batch(tx, ann, hiding, 16, (), 60).items
        before = review_progress(tx, ann, hiding)
    for card in cards:
        with database.transaction() as tx:
            decide(tx, ann, card.id, Verdict.accept, key=uuid.uuid4())
            after = review_progress(tx, ann, hiding)
        assert {name: after[name] - before[name] for name in after} == {
            "waiting": -1,
            "accepted": 1,
            "mine": 1,
        }
        before = after


def test_undoing_gold_gives_it_back(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        card = next(
            card for card in claim_batch(tx, ann, hiding, 24, (), 60).items if card.id in known
        )
        assert decide(tx, ann, card.id, Verdict.accept, key=uuid.uuid4()).state == "accepted", (
            "as of any"
        )
        assert (
            undo(tx, ann, None, key=uuid.uuid4(), seconds=60).card == read_items(tx, [card.id])[0]
        )
        assert gold.read_gold_responses(tx, ann) == ({}, [])
        decide(tx, ann, card.id, Verdict.reject, key=uuid.uuid4())
        looks, clean = gold.read_gold_responses(tx, ann)
    assert sum(map(len, looks.values())) + len(clean) == 1


def test_neither_the_trail_nor_the_nearest_sample_gives_it_away(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        cards = claim_batch(tx, ann, hiding, 24, (), 60).items
        assert 0 < sum(card.id in known for card in cards) < len(cards)
        beside = {card.id: most_similar_sample(tx, card.id) for card in cards}
        for card in cards:
            decide(tx, ann, card.id, Verdict.reject, key=uuid.uuid4())
        trail = recent_decisions(tx, ann, 24)
    assert [one.card.id for one in trail] == [card.id for card in reversed(cards)]
    assert all(found for found in beside.values())
    assert not any(
        found.sample == known[one].sample_id for one, found in beside.items() if one in known
    )


def test_whoever_passes_over_what_is_plain_is_paused_told_and_resumed(database, hiding):
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


def test_whoever_sees_what_is_plain_is_never_paused(database, hiding):
    known = pieces(database)

    def right(one):
        return Verdict.reject if one in known and known[one].severity > 0.4 else Verdict.accept

    ann = reviewer(database)
    review(database, ann, hiding, right)
    with database.transaction() as tx:
        looks, clean = gold.read_gold_responses(tx, ann)
        assert find_reviewer(tx, "ann").paused is None
    assert sum(map(len, looks.values())) + len(clean) > 20


def test_the_oracle_is_shown_no_gold(database, hiding):
    from curation.review.reviewers import add_rule_reviewer

    known = pieces(database)
    with database.transaction() as tx:
        cards = decisions.claim_items(tx, add_rule_reviewer(tx), hiding, 40, (), 60)
    assert not known.keys() & {card.id for card in cards}


def test_a_closed_round_takes_its_gold_along(database, hiding):
    known = pieces(database)
    ann = reviewer(database)
    with database.transaction() as tx:
        held = [
            card.id for card in claim_batch(tx, ann, hiding, 24, (), 60).items if card.id in known
        ]
        assert lifecycle.close_round(tx, hiding, "test") == 40, (
            "what is withdrawn is counted without it"
        )
    with database.transaction() as tx, pytest.raises(Conflict, match="closed"):
        decide(tx, ann, held[0], Verdict.accept, key=uuid.uuid4())


def test_gold_needs_samples_of_its_kind_and_a_drawn_round(database, store):
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
