"""Stored counts equal a full count after random concurrent work, before and after folding."""

from __future__ import annotations

import importlib
import random
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from curation.db.counts import count_states, fold_deltas, read_counts
from curation.db.engine import Database
from curation.db.tables import candidates, decisions, round_count_deltas, round_counts
from curation.domain import CandidateState, RejectReason, Role, Verdict
from curation.errors import LayerloopError
from curation.review import decisions as review
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.progress import review_progress
from curation.review.queue import claim_batch, release_claimed
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from curation.selection.auto_reviewer import decide_all, revert_auto_verdicts
from tests.support.factories import make_candidates, make_round

migration = importlib.import_module("migrations.versions.0022_round_counts")
NAMES = ("candidates", "screenings", "looks", "measured", "verdicts", "reasons", "own", "shown")


def full_counts(tx) -> dict[tuple, tuple[int, int]]:
    """Return the counts computed from the rows."""
    parts = (
        migration.CANDIDATES.format(rows="candidates", sign=1),
        migration.SCREENINGS.format(rows="screenings", sign=1),
        migration.DECISIONS.format(rows="decisions", first="true"),
    )
    rows = (row for part in parts for row in tx.connection.exec_driver_sql(part.replace("%", "%%")))
    return {
        (row.round_id, row.name, tuple(row.key)): (int(row.n), int(row.total or 0))
        for row in rows
        if row.n or row.total
    }


def stored_counts(tx) -> dict[tuple, tuple[int, int]]:
    ids = tx.connection.exec_driver_sql("select id from rounds").scalars().all()
    return {
        (count.round_id, count.name, count.key): (count.n, count.total)
        for count in read_counts(tx, ids, NAMES)
    }


def test_counts_equal_a_full_count_after_random_concurrent_work(database: Database, store):
    with database.transaction() as tx:
        rounds = [make_round(tx) for _ in range(3)]
        set_consensus(tx, rounds[1], ConsensusSettings(ConsensusRule.majority, 2), "test")
        for round_id in rounds[:2]:
            make_candidates(tx, store, round_id, 30)
        unshown = make_candidates(tx, store, rounds[2], 12, CandidateState.unshown)
        reviewer_ids = [add_reviewer(tx, f"ann {i}", Role.annotator).id for i in range(4)]

    def work(seed: int) -> Counter[str]:
        """Claim, decide, undo, release, decide automatically, close, and fold, in any order."""
        rng, done = random.Random(seed), Counter()
        for _ in range(25):
            reviewer_id, round_id = rng.choice(reviewer_ids), rng.choice(rounds)
            kind = rng.choices(["review", "undo", "auto", "revert", "fold"], [12, 3, 2, 1, 2])[0]
            try:
                with database.transaction() as tx:
                    if kind == "review":
                        review_once(tx, rng, reviewer_id, round_id)
                    elif kind == "undo":
                        review.undo(tx, reviewer_id, None, key=uuid.uuid4(), seconds=60)
                    elif kind == "auto":
                        sample = rng.sample(list(unshown), 3)
                        decide_all(tx, sample, rng.choice([Verdict.accept, Verdict.reject]), "test")
                    elif kind == "revert":
                        revert_auto_verdicts(tx, rounds[2], "test")
                    else:
                        fold_deltas(tx)
                done[kind] += 1
            except (LayerloopError, sa.exc.DBAPIError):
                done[f"{kind} refused"] += 1
        return done

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(work, range(8)), Counter())
    assert done["review"] > 50 and done["undo"] and done["auto"], done
    with database.transaction() as tx:
        lifecycle.close_round(tx, rounds[0], "test")
    with database.transaction(repeatable_read=True) as tx:
        expected = full_counts(tx)
        assert stored_counts(tx) == expected
        unsettled = sa.select(sa.func.count()).where(
            candidates.c.state.in_(["accepted", "rejected"]) & candidates.c.settled_by.is_(None)
        )
        assert tx.scalar(unsettled) == 0
    # Folding moves the counts to another table without changing them.
    with database.transaction() as tx:
        while fold_deltas(tx):
            pass
        assert tx.scalar(sa.select(sa.func.count()).select_from(round_count_deltas)) == 0
        assert stored_counts(tx) == expected


def review_once(tx, rng: random.Random, reviewer_id: int, round_id: int) -> None:
    for item in claim_batch(tx, reviewer_id, round_id, 3, (), 60).items:
        verdict = rng.choice([Verdict.accept, Verdict.reject, Verdict.skip, None])
        if verdict is None:
            release_claimed(tx, reviewer_id, [item.id])
            continue
        reasons = rng.sample(list(RejectReason), 2) if verdict is Verdict.reject else ()
        review.decide(
            tx,
            reviewer_id,
            item.id,
            verdict,
            key=uuid.uuid4(),
            reasons=reasons,
            dwell_ms=rng.choice([None, 900]),
        )


def test_a_second_process_folds_nothing_while_the_first_does(database: Database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 2)
    with database.transaction() as first, database.transaction() as second:
        assert fold_deltas(first) > 0
        assert fold_deltas(second) == 0
        # Uncommitted, the second still reads each change once.
        assert count_states(second, [round_id]) == {round_id: {"waiting": 2}}
    with database.transaction() as tx:
        assert count_states(tx, [round_id]) == {round_id: {"waiting": 2}}
        assert tx.scalar(sa.select(sa.func.count()).select_from(round_counts)) > 0


def test_a_decision_names_its_round_and_slice(database: Database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        ids = make_candidates(tx, store, round_id, 2)
        tx.execute(sa.update(candidates).where(candidates.c.id == ids[0]).values(slice="likely"))
        ann = add_reviewer(tx, "ann").id
        for candidate_id in ids:
            review.decide(tx, ann, candidate_id, Verdict.accept, key=uuid.uuid4())
        rows = tx.execute(sa.select(decisions.c.round_id, decisions.c.candidate_slice)).all()
        assert sorted(map(tuple, rows)) == [(round_id, ""), (round_id, "likely")]
        assert review_progress(tx, ann, round_id) == {"waiting": 0, "mine": 2, "accepted": 2}
