"""Promotion only of a checkpoint that is better, by the rule reviewer and by people."""

from __future__ import annotations

import pytest

from curation.checkpoints.registry import find_promoted_checkpoint, promote_checkpoint
from curation.comparisons import promotion, sessions
from curation.errors import Conflict, Refused
from tests.support.compared_checkpoints import make_compared, open_drawn


def test_only_items_that_one_has_right_alone_count():
    new = [True] * 9 + [False] * 1 + [True] * 50 + [False] * 40
    old = [False] * 9 + [True] * 1 + [True] * 50 + [False] * 40
    found = promotion.compare_by_rules(new, old, 0.05)
    assert (found.wins, found.losses, found.ties) == (9, 1, 90)
    assert found.p == pytest.approx(11 / 1024)
    assert found.is_better
    assert not promotion.compare_by_rules(old, new, 0.05).is_better


@pytest.mark.parametrize("error", [0.0, 1.0, -0.1])
def test_a_chance_of_error_is_between_0_and_1(error):
    with pytest.raises(Refused, match="no chance of error"):
        promotion.make_test(1, 0, 0, error, "test")


def test_a_comparison_that_is_open_or_was_stopped_early_promotes_nobody(database, store):
    number = open_drawn(database, store, 2)
    with database.transaction() as tx:
        clean, hazy = make_compared(tx)
        with pytest.raises(Conflict, match="does not compare"):
            promotion.compare_by_people(tx, clean, number)
        promote_checkpoint(tx, hazy, "test")
        with pytest.raises(Conflict, match="promoted already"):
            promotion.compare_by_people(tx, hazy, number)
        with pytest.raises(Conflict, match="still open"):
            promotion.compare_by_people(tx, clean, number)
        sessions.close_comparison(tx, number, "test")
        with pytest.raises(Conflict, match="before all its items"):
            promotion.compare_by_people(tx, clean, number)
        assert find_promoted_checkpoint(tx).id == hazy
