"""Votes: claims of reviewers, the mixed sides, idempotency, undo, overlap, and closing."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.comparison_values import ComparisonChoice, ComparisonSide
from curation.comparisons import sessions, votes
from curation.comparisons.result import read_result
from curation.db import leases
from curation.db.tables import comparison_items, comparison_votes, comparisons
from curation.domain import Kind, LayerRole, Role
from curation.errors import Conflict, NotFound
from curation.review.reviewers import add_reviewer
from tests.support.compared_checkpoints import open_drawn

LEFT, RIGHT, EQUAL, BAD = (ComparisonChoice(one) for one in ComparisonChoice)


@pytest.fixture
def ann(database) -> int:
    with database.transaction() as tx:
        return add_reviewer(tx, "ann", Role.annotator).id


@pytest.fixture
def bob(database) -> int:
    with database.transaction() as tx:
        return add_reviewer(tx, "bob", Role.annotator).id


def give(tx, reviewer, item, choice=LEFT, key=None):
    return votes.vote(tx, reviewer, item, choice, key=key or uuid.uuid4(), dwell_ms=700)


def test_a_reviewer_gets_the_next_items_and_no_other_gets_the_same(database, store, ann, bob):
    number = open_drawn(database, store, 5)
    with database.transaction() as tx:
        mine = votes.claim_next(tx, ann, None, 3, (), 60)
        others = votes.claim_next(tx, bob, number, 3, (), 60)
        again = votes.claim_next(tx, ann, None, 3, (), 60)
        more = votes.claim_next(tx, ann, None, 3, [one.id for one in mine], 60)
    assert len(mine) == 3
    assert len(others) == 2
    assert not {one.id for one in mine} & {one.id for one in others}
    assert [one.id for one in again] == [one.id for one in mine], "after a reload"
    assert more == []
    assert {one.kind for one in mine} == {Kind.single}
    for one in mine:
        assert set(one.left) == set(one.right) == {LayerRole.foreground}
        assert one.left != one.right


def test_the_left_side_is_mixed_by_item_and_reviewer_and_stays(database, store, ann, bob):
    number = open_drawn(database, store, 40, votes=2)
    with database.transaction() as tx:
        key = tx.scalar(sa.select(comparisons.c.side_key).where(comparisons.c.id == number))
        ids = list(tx.execute(sa.select(comparison_items.c.id)).scalars())
        assert votes.read_items(tx, ann, ids) == votes.read_items(tx, ann, ids)
    by_reviewer = [
        [votes.left_side(key, item, one) is ComparisonSide.a for item in ids] for one in (ann, bob)
    ]
    assert by_reviewer[0] != by_reviewer[1]
    for sides in by_reviewer:
        assert 8 <= sum(sides) <= 32, "about half; p < 0.001 otherwise"


def test_a_vote_is_stored_for_the_side_that_was_seen(database, store, ann):
    number = open_drawn(database, store, 12)
    with database.transaction() as tx:
        key = tx.scalar(sa.select(comparisons.c.side_key))
        for item in votes.claim_next(tx, ann, number, 12, (), 60):
            left = votes.left_side(key, item.id, ann)
            give(tx, ann, item.id, LEFT if left is ComparisonSide.b else RIGHT)
        found = read_result(tx, number)
    assert (found.a, found.b) == (0, 12)
    assert found.win_rate.value == 1.0


def test_a_repeated_key_is_one_vote_and_no_other(database, store, ann, bob):
    open_drawn(database, store, 2)
    key = uuid.uuid4()
    with database.transaction() as tx:
        first, second = (one.id for one in votes.claim_next(tx, ann, None, 2, (), 60))
        number = give(tx, ann, first, EQUAL, key)
        assert give(tx, ann, first, EQUAL, key) == number
    for reviewer, item, choice in ((ann, first, BAD), (ann, second, EQUAL), (bob, first, EQUAL)):
        with pytest.raises(Conflict, match="another vote"), database.transaction() as tx:
            give(tx, reviewer, item, choice, key)
    with pytest.raises(Conflict, match="already compared"), database.transaction() as tx:
        give(tx, ann, first)
    with pytest.raises(Conflict, match="no more votes"), database.transaction() as tx:
        give(tx, bob, first)
    with pytest.raises(NotFound), database.transaction() as tx:
        give(tx, ann, uuid.uuid4())


def test_with_two_votes_an_item_goes_to_two_reviewers(database, store, ann, bob):
    number = open_drawn(database, store, 3, votes=2)
    with database.transaction() as tx:
        for item in votes.claim_next(tx, ann, None, 3, (), 60):
            give(tx, ann, item.id, EQUAL)
        assert votes.claim_next(tx, ann, None, 3, (), 60) == []
        assert votes.progress(tx, ann, number) == votes.ComparisonProgress(0, 3)
        assert read_result(tx, number).undecided == 3
        for item in votes.claim_next(tx, bob, None, 3, (), 60):
            give(tx, bob, item.id, EQUAL)
        found = read_result(tx, number)
    assert (found.equal, found.undecided, found.agreement.value) == (3, 0, 1.0)


def test_undo_gives_the_item_back_once(database, store, ann, bob):
    number = open_drawn(database, store, 2)
    key = uuid.uuid4()
    with database.transaction() as tx:
        [item] = votes.claim_next(tx, ann, None, 1, (), 60)
        given = give(tx, ann, item.id)
        undone, again = votes.undo_vote(tx, ann, None, key=key, seconds=60)
        assert again == item
        assert votes.undo_vote(tx, ann, given, key=key, seconds=60)[0] == undone
        assert leases.find_lease(tx, item.id) is not None
        with pytest.raises(NotFound):
            votes.undo_vote(tx, ann, None, key=uuid.uuid4(), seconds=60)
        with pytest.raises(NotFound):
            votes.undo_vote(tx, bob, given, key=uuid.uuid4(), seconds=60)
        give(tx, ann, item.id, BAD)
        found = read_result(tx, number)
        rows = list(tx.execute(sa.select(comparison_votes.c.verdict)).scalars())
    assert (found.both_bad, found.undecided) == (1, 1)
    assert len(rows) == 3, "nothing is removed"


def test_a_closed_comparison_takes_neither_votes_nor_undos(database, store, ann):
    number = open_drawn(database, store, 3)
    with database.transaction() as tx:
        first, second = (one.id for one in votes.claim_next(tx, ann, None, 2, (), 60))
        give(tx, ann, first)
    with database.transaction() as tx:
        assert sessions.close_comparison(tx, number, "test") == 2
    with database.transaction() as tx:
        assert votes.claim_next(tx, ann, None, 3, (), 60) == []
    with pytest.raises(Conflict, match="no more votes"), database.transaction() as tx:
        give(tx, ann, second)
    with pytest.raises(Conflict, match="closed"), database.transaction() as tx:
        votes.undo_vote(tx, ann, None, key=uuid.uuid4(), seconds=60)
    with pytest.raises(Conflict, match="closed already"), database.transaction() as tx:
        sessions.close_comparison(tx, number, "test")


def test_pairs_have_all_their_layers(database, store, ann):
    open_drawn(database, store, 2, kind=Kind.pair)
    with database.transaction() as tx:
        [item] = votes.claim_next(tx, ann, None, 1, (), 60)
    assert set(item.left) == set(item.right) == set(LayerRole)
    assert set(item.texts) == {LayerRole.foreground, LayerRole.background}
