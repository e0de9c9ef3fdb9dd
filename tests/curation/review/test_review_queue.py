"""Review batches: no candidate is leased twice, a reload loses nothing, and a claim costs the same at any size."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import candidate_layers, candidates, screenings
from curation.db.tables import leases as leases_table
from curation.db.tables import rounds as rounds_table
from curation.domain import CandidateState, LayerRole
from curation.review import queue
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from tests.support.factories import make_candidates, make_checkpoint, make_round, states


def opened(database: Database, store, *counts: int) -> list[int]:
    """Return rounds with so many waiting candidates each."""
    with database.transaction() as tx:
        checkpoint = make_checkpoint(tx)
        numbers = [make_round(tx, checkpoint) for _ in counts]
        for round_id, count in zip(numbers, counts, strict=True):
            make_candidates(tx, store, round_id, count)
    return numbers


def reviewer(database: Database, name: str) -> int:
    with database.transaction() as tx:
        return add_reviewer(tx, name).id


def take(
    database: Database,
    who: int,
    count: int,
    holding: Sequence[uuid.UUID] = (),
    round_id: int | None = None,
):
    with database.transaction() as tx:
        return queue.claim_batch(tx, who, round_id, count, holding, 60)


def ids(batch: queue.ReviewBatch) -> list[uuid.UUID]:
    return [item.id for item in batch.items]


def test_an_item_has_everything_that_a_reviewer_sees(database, store):
    (round_id,) = opened(database, store, 1)
    with database.transaction() as tx:
        one = tx.scalar(sa.select(candidates.c.id))
        tx.execute(
            sa.insert(screenings),
            {"candidate_id": one, "signals": {"coverage": 0.25, "haze": None}},
        )
        tx.execute(sa.update(candidates).values(flags=["binary_alpha"]))
        sha = tx.scalar(sa.select(candidate_layers.c.sha256))
    (item,) = take(database, reviewer(database, "ann"), 8).items
    assert (item.id, item.round, item.kind, item.prompt) == (
        one,
        round_id,
        "single",
        f"prompt 0 of round {round_id}",
    )
    assert item.flags == ("binary_alpha",)
    assert item.signals == {"coverage": 0.25, "haze": None}
    assert item.layers == {LayerRole.foreground: (sha, 32, 24)}


def test_two_reviewers_never_get_the_same_and_highest_priority_comes_first(database, store):
    (round_id,) = opened(database, store, 10)
    with database.transaction() as tx:
        for position, one in enumerate(
            tx.execute(sa.select(candidates.c.id).order_by(candidates.c.seed)).scalars()
        ):
            tx.execute(
                sa.update(candidates).where(candidates.c.id == one).values(priority=position / 10)
            )
        by_priority = (
            tx.execute(sa.select(candidates.c.id).order_by(candidates.c.priority.desc()))
            .scalars()
            .all()
        )
    ann, bob = reviewer(database, "ann"), reviewer(database, "bob")
    assert ids(take(database, ann, 4)) == by_priority[:4]
    assert ids(take(database, bob, 8)) == by_priority[4:]
    assert take(database, ann, 4, by_priority[:4]).items == ()
    assert states(database, round_id) == {"showing": 10}


def test_a_reloaded_page_gets_its_candidates_again(database, store):
    opened(database, store, 10)
    ann = reviewer(database, "ann")
    first = ids(take(database, ann, 4))
    assert set(ids(take(database, ann, 4))) == set(first), (
        "a page that holds nothing gets what it lost"
    )
    more = take(database, ann, 4, first[:2])
    assert set(first[2:]) < set(ids(more))
    assert len(more.items) == 4
    assert take(database, ann, 0, first).items == (), "count 0 renews and no more"


def test_a_reviewer_leases_no_more_than_the_limit(database, store, monkeypatch):
    monkeypatch.setattr(queue, "MAX_CLAIMED", 5)
    opened(database, store, 12)
    ann = reviewer(database, "ann")
    holding = ids(take(database, ann, 4))
    holding += ids(take(database, ann, 4, holding))
    assert len(holding) == 5
    assert take(database, ann, 4, holding).items == ()


def test_the_oldest_open_round_is_served_first_and_then_the_next(database, store):
    first, second, third = opened(database, store, 2, 3, 4)
    ann = reviewer(database, "ann")
    with database.transaction() as tx:
        lifecycle.pause_round(tx, first, "test")
    batch = take(database, ann, 4)
    assert Counter(item.round for item in batch.items) == {second: 3, third: 1}
    assert [item.round for item in batch.items] == sorted(item.round for item in batch.items)
    assert take(database, ann, 4, ids(batch), round_id=first).items == (), "paused"
    with database.transaction() as tx:
        lifecycle.resume_round(tx, first, "test")
    assert {item.round for item in take(database, ann, 4, ids(batch), round_id=first).items} == {
        first
    }


def test_paused_and_closed_rounds_serve_no_candidates_not_even_leased_ones(database, store):
    (round_id,) = opened(database, store, 3)
    ann = reviewer(database, "ann")
    held = ids(take(database, ann, 2))
    with database.transaction() as tx:
        lifecycle.pause_round(tx, round_id, "test")
    assert take(database, ann, 4).items == ()
    with database.transaction() as tx:
        lifecycle.close_round(tx, round_id, "test")
    closed = take(database, ann, 4, held)
    assert closed.items == ()
    assert set(closed.lost) == set(held)


def test_an_expired_lease_is_reassigned_and_reported_as_lost(database, store):
    (round_id,) = opened(database, store, 3)
    ann, bob = reviewer(database, "ann"), reviewer(database, "bob")
    held = ids(take(database, ann, 3))
    with database.transaction() as tx:
        tx.execute(
            sa.update(leases_table).values(expires_at=sa.text("now() - interval '1 minute'"))
        )
    assert take(database, bob, 3).items == (), "a claim never looks at expired leases"
    with database.transaction() as tx:
        leases.expire(tx)
    taken = ids(take(database, bob, 2))
    again = take(database, ann, 0, held)
    assert set(again.lost) == set(taken), "what is still free is leased again, the rest is lost"
    assert states(database, round_id) == {"showing": 3}


def test_concurrent_claims_never_share_a_candidate(database, store):
    (round_id,) = opened(database, store, 60)
    who = [reviewer(database, f"r{i}") for i in range(6)]
    given: Counter[uuid.UUID] = Counter()
    lock = threading.Lock()
    barrier = threading.Barrier(len(who))

    def page(one: int) -> None:
        held: list[uuid.UUID] = []
        barrier.wait()
        while True:
            batch = take(database, one, 3, held)
            if not batch.items:
                return
            held += ids(batch)
            with lock:
                given.update(ids(batch))

    threads = [threading.Thread(target=page, args=(one,)) for one in who]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(given) == 60
    assert set(given.values()) == {1}
    assert states(database, round_id) == {"showing": 60}


def test_a_claim_reads_only_the_rows_that_it_returns(database, store):
    """At 30,000 waiting and 30,000 decided rows a claim touches as many index rows as it takes candidates."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        tx.execute(
            sa.text(
                "insert into prompts (id, text) values ('00000000-0000-0000-0000-000000000001', 'p')"
            )
        )
        tx.execute(
            sa.text("""
            insert into candidates (id, round_id, prompt_id, seed, state, priority, propensity)
            select md5(i::text)::uuid, :round_id, '00000000-0000-0000-0000-000000000001', i,
                case when i % 2 = 0 then 'waiting' else 'accepted' end, random(), 1 from generate_series(1, 60000) i"""),
            {"round_id": round_id},
        )
        tx.execute(sa.text("analyze candidates"))
        claim = sa.text(f"explain (analyze, buffers, format json) {queue._CLAIM_WAITING.text}")
        me = add_reviewer(tx, "ann").id
        wanted = {
            "round": round_id,
            "level": 0,
            "count": 8,
            "holder": "reviewer 1",
            "seconds": 60,
            "reviewer": me,
            "page": None,
        }
        (plan,) = tx.execute(claim, wanted).scalar_one()
        (serving,) = tx.execute(
            sa.text(f"explain (analyze, format json) {queue._SERVING.text}"),
            {"round": None, "reviewer": me},
        ).scalar_one()
    scans = [
        node for node in walk(plan["Plan"]) if node.get("Index Name") == "ix_candidates_waiting"
    ]
    assert len(scans) == 1
    assert scans[0]["Actual Rows"] == 8
    assert not [
        node
        for node in walk(plan["Plan"])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "candidates"
    ]
    looks = [node for node in walk(serving["Plan"]) if node.get("Relation Name") == "candidates"]
    assert [node["Actual Rows"] for node in looks] == [1]


def walk(plan: dict) -> list[dict]:
    return [plan, *(node for part in plan.get("Plans", ()) for node in walk(part))]


def test_an_unknown_round_serves_nothing(database, store):
    opened(database, store, 1)
    assert take(database, reviewer(database, "ann"), 4, round_id=10**6) == queue.ReviewBatch((), ())
    with database.transaction() as tx:
        assert tx.scalar(sa.select(rounds_table.c.state)) == "open"


def test_unknown_ids_in_holding_are_lost(database, store):
    opened(database, store, 1)
    stranger = uuid.uuid4()
    batch = take(database, reviewer(database, "ann"), 1, [stranger])
    assert batch.lost == (stranger,)
    assert len(batch.items) == 1
    assert CandidateState.showing in states(database, batch.items[0].round)


def test_a_claim_of_partly_decided_candidates_scans_at_most_the_limit(database, store):
    """A claim scans SCAN_LIMIT rows of 30,000 that the reviewer has decided while others remain."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 2), "test")
        me = add_reviewer(tx, "ann").id
        tx.execute(
            sa.text(
                "insert into prompts (id, text) values ('00000000-0000-0000-0000-000000000001', 'p')"
            )
        )
        tx.execute(
            sa.text("""
            with made as (
                insert into candidates (id, round_id, prompt_id, seed, state, priority, propensity, decided)
                select md5(i::text)::uuid, :round_id, '00000000-0000-0000-0000-000000000001', i, 'waiting', random(), 1,
                    case when i <= 30000 then 1 else 0 end from generate_series(1, 30100) i returning id, decided)
            insert into decisions (candidate_id, reviewer_id, verdict, channel, key)
            select id, :me, 'reject', 'pages', id from made where decided = 1"""),
            {"round_id": round_id, "me": me},
        )
        tx.execute(sa.text("analyze candidates, decisions"))
        claim = sa.text(f"explain (analyze, format json) {queue._CLAIM_BEGUN.text}")
        wanted = {
            "round": round_id,
            "level": 1,
            "count": 8,
            "holder": "reviewer 1",
            "seconds": 60,
            "reviewer": me,
            "page": None,
        }
        (plan,) = tx.execute(claim, wanted | {"most": queue.SCAN_LIMIT}).scalar_one()
        items = queue.claim_batch(tx, me, round_id, 8, (), 60).items
    scans = [
        node for node in walk(plan["Plan"]) if node.get("Index Name") == "ix_candidates_waiting"
    ]
    assert [node["Actual Rows"] for node in scans] == [queue.SCAN_LIMIT]
    with database.transaction() as tx:
        levels = tx.execute(
            sa.select(candidates.c.decided).where(candidates.c.id.in_([item.id for item in items]))
        )
        assert levels.scalars().all() == [0] * 8, "what she has decided is passed over"
