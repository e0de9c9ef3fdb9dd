"""The share of gold counts the candidates that a reviewer gets, however few are left."""

from __future__ import annotations

import random
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from curation.db.tables import candidates, prompts, rounds
from curation.db.tables import gold as gold_table
from curation.domain import CandidateState, Prompt, Verdict, content_id
from curation.review import gold
from curation.review.decisions import decide
from curation.review.queue import claim_batch
from curation.review.reviewers import add_reviewer
from tests.support.factories import make_round

SHARE = 0.2


class Stream:
    """A round into which candidates trickle, with plenty of gold, and one reviewer who decides all they get."""

    def __init__(self, database) -> None:
        self.database = database
        self.given = {True: 0, False: 0}
        with database.transaction() as tx:
            self.round_id = make_round(tx)
            self.prompt = Prompt("a fox")
            tx.execute(sa.insert(prompts), {"id": self.prompt.id, "text": "a fox"})
            row = {"purpose": "gold", "kind": "single", "quota": 0, "policy": {}, "state": "open"}
            home = tx.scalar(sa.insert(rounds).values(row).returning(rounds.c.id))
            self.gold = self._add(tx, home, range(400))
            known = [
                {
                    "candidate_id": one,
                    "round_id": self.round_id,
                    "sample_id": uuid.uuid4(),
                    "severity": 0,
                }
                for one in self.gold
            ]
            tx.execute(sa.insert(gold_table), known)
            gold.set_gold(tx, self.round_id, gold.GoldSettings(SHARE, 0), "test")
            self.ann = add_reviewer(tx, "ann").id
        self.added = 0

    def arrive(self, count: int) -> None:
        """Let so many candidates come to wait."""
        with self.database.transaction() as tx:
            self._add(tx, self.round_id, range(1_000 + self.added, 1_000 + self.added + count))
        self.added += count

    def take_all(self, room: int) -> None:
        """Claim batches of `room` candidates and decide them, until a batch is empty."""
        while True:
            with self.database.transaction() as tx:
                items = claim_batch(tx, self.ann, self.round_id, room, (), 60).items
                for item in items:
                    self.given[item.id in self.gold] += 1
                    decide(tx, self.ann, item.id, Verdict.reject, key=uuid.uuid4())
            if not items:
                return

    def _add(self, tx, round_id: int, seeds) -> set[uuid.UUID]:
        rows = [
            {
                "id": content_id("candidate", round_id, seed),
                "round_id": round_id,
                "prompt_id": self.prompt.id,
                "seed": seed,
                "state": CandidateState.waiting,
                "propensity": 1.0,
            }
            for seed in seeds
        ]
        tx.execute(sa.insert(candidates), rows)
        return {row["id"] for row in rows}


@pytest.mark.parametrize(("left", "room"), [(12, 24), (6, 24), (3, 8), (1, 24), (1, 1)])
def test_the_share_of_gold_holds_for_slow_streams(database, monkeypatch, left, room):
    monkeypatch.setattr(gold, "_rng", random.Random(left * 100 + room))
    stream = Stream(database)
    for _ in range(120 // left):
        stream.arrive(left)
        stream.take_all(room)
    n = sum(stream.given.values())
    low, high = binom.interval(0.999, n, SHARE)
    assert stream.given[False] == 120 // left * left, "every candidate is shown"
    assert low <= stream.given[True] <= high, stream.given


def test_no_gold_is_given_when_no_candidate_waits(database):
    stream = Stream(database)
    stream.take_all(24)
    assert stream.given == {True: 0, False: 0}


@settings(max_examples=300, deadline=None)
@given(
    share=st.sampled_from([0.05, 0.2, 0.5]),
    arrivals=st.lists(st.integers(0, 12), min_size=300, max_size=300),
    room=st.integers(1, 24),
    seed=st.integers(0, 2**32),
)
def test_gold_is_drawn_for_filled_positions_only(share, arrivals, room, seed):
    """For any arrivals and batch sizes, gold is at most its share of the filled positions."""
    coins = random.Random(seed)
    waiting = hidden = shown = 0
    for arrived in arrivals:
        waiting += arrived
        thrown = [coins.random() < share for _ in range(room)]
        filled = min(waiting, room - sum(thrown))
        # The same decisions as those of a batch, with enough gold.
        gold_here = gold.count_gold_before_end(thrown, min(waiting, max(room - sum(thrown), 1)))
        hidden += gold_here
        shown += filled
        waiting -= filled
        assert gold_here + filled <= room
    low, high = binom.interval(1 - 1e-6, hidden + shown, share) if hidden + shown else (0, 0)
    assert low <= hidden <= high
