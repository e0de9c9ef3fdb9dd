"""Leases by page and claims that outlive them: who may hold, renew, release and decide a candidate."""

from __future__ import annotations

import threading
import uuid
from collections import Counter

import pytest
import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import candidates
from curation.db.tables import leases as leases_table
from curation.domain import Verdict
from curation.errors import Conflict, NotFound
from curation.review import queue
from curation.review.decisions import decide, undo
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from tests.support.factories import make_candidates, make_round, states

PAGE, OTHER_PAGE = uuid.uuid4(), uuid.uuid4()


@pytest.fixture
def two(database, store) -> tuple[int, int]:
    """Two rounds with eight candidates each."""
    with database.transaction() as tx:
        numbers = make_round(tx), make_round(tx)
        for round_id in numbers:
            make_candidates(tx, store, round_id, 8)
    return numbers


def who(database: Database, name: str) -> int:
    with database.transaction() as tx:
        return add_reviewer(tx, name).id


def take(database, reviewer: int, round_id: int | None, count: int, holding=(), page=None):
    with database.transaction() as tx:
        return queue.claim_batch(tx, reviewer, round_id, count, holding, 60, page)


def ids(batch) -> list[uuid.UUID]:
    return [item.id for item in batch.items]


def run_out(database) -> None:
    """End and expire all leases."""
    with database.transaction() as tx:
        tx.execute(
            sa.update(leases_table).values(expires_at=sa.text("now() - interval '1 minute'"))
        )
        leases.expire(tx)


def say(database, reviewer: int, one: uuid.UUID, verdict=Verdict.accept):
    with database.transaction() as tx:
        return decide(tx, reviewer, one, verdict, key=uuid.uuid4(), only_claimed=True)


def test_only_leases_in_use_are_renewed(database, two):
    ann, bob = who(database, "ann"), who(database, "bob")
    left = ids(take(database, ann, two[0], 8, page=PAGE))
    held = ids(take(database, ann, two[1], 4, page=OTHER_PAGE))
    with database.transaction() as tx:
        tx.execute(
            sa.update(leases_table).values(expires_at=sa.text("now() + interval '1 second'"))
        )
    take(database, ann, two[1], 0, held, OTHER_PAGE)
    with database.transaction() as tx:
        soon = sa.select(leases_table.c.subject).where(
            leases_table.c.expires_at < sa.text("now() + interval '2 seconds'")
        )
        assert set(tx.execute(soon).scalars()) == set(left), "only what is used is renewed"
        ended = sa.update(leases_table).where(leases_table.c.subject.in_(left))
        tx.execute(ended.values(expires_at=sa.text("now() - interval '1 minute'")))
        leases.expire(tx)
    assert len(ids(take(database, bob, two[0], 8))) == 8, "the round that was left is free"


def test_switching_the_round_on_a_page_releases_its_leases(database, two):
    ann, bob = who(database, "ann"), who(database, "bob")
    assert len(ids(take(database, ann, two[0], 8, page=PAGE))) == 8
    assert len(ids(take(database, ann, two[1], 4, page=PAGE))) == 4
    assert len(ids(take(database, bob, two[0], 8))) == 8


def test_two_pages_of_one_reviewer_get_different_candidates(database, two):
    ann = who(database, "ann")
    first = ids(take(database, ann, two[0], 4, page=PAGE))
    second = ids(take(database, ann, two[0], 4, page=OTHER_PAGE))
    assert not set(first) & set(second)
    with database.transaction() as tx:
        queue.release_claimed(tx, ann, [*first, *second], OTHER_PAGE)
    assert take(database, ann, two[0], 0, first, PAGE).lost == ()
    assert states(database, two[0]) == {"showing": 4, "waiting": 4}


def test_a_reloaded_tab_takes_over_the_leases_of_its_former_page(database, two):
    """This includes leases given to the old page too late; late releases by it are ignored."""
    ann, bob = who(database, "ann"), who(database, "bob")
    late = ids(take(database, ann, two[0], 4, page=PAGE))
    with database.transaction() as tx:
        batch = queue.claim_batch(tx, ann, two[0], 4, (), 60, OTHER_PAGE, PAGE)
        assert ids(batch) == late
        queue.release_claimed(tx, ann, late, PAGE)
    assert not set(ids(take(database, bob, two[0], 8))) & set(late)
    with database.transaction() as tx:
        assert len(queue.claim_batch(tx, ann, two[1], 2, (), 60, PAGE, OTHER_PAGE).items) == 2
    assert set(ids(take(database, bob, two[0], 8))) >= set(late), "another round was opened"


def test_released_candidates_are_free_at_once_and_first_for_their_reviewer(database, two):
    ann, bob = who(database, "ann"), who(database, "bob")
    held = ids(take(database, ann, two[0], 6, page=PAGE))
    with database.transaction() as tx:
        queue.release_claimed(tx, ann, held, PAGE)
        queue.release_claimed(tx, ann, held, PAGE)  # a second time does nothing
        queue.release_claimed(tx, bob, held, PAGE)  # nor does somebody else's
    taken = ids(take(database, bob, two[0], 3))
    assert set(taken) <= set(held)
    again = ids(take(database, ann, two[0], 3, page=OTHER_PAGE))
    assert set(again) == set(held) - set(taken)


def test_a_reviewer_cannot_release_leases_of_others(database, two):
    ann, bob = who(database, "ann"), who(database, "bob")
    held = ids(take(database, ann, two[0], 4, page=PAGE))
    with database.transaction() as tx:
        queue.release_claimed(tx, bob, held, None)
    assert states(database, two[0]) == {"showing": 4, "waiting": 4}


def test_a_late_decision_is_saved_while_no_other_reviewer_decided(database, two):
    ann, bob = who(database, "ann"), who(database, "bob")
    first, second, third = ids(take(database, ann, two[0], 3))
    run_out(database)
    assert say(database, ann, first).state == "accepted"
    assert second in ids(take(database, bob, two[0], 8))
    with pytest.raises(Conflict, match="another reviewer holds"):
        say(database, ann, second)
    say(database, bob, third, Verdict.reject)
    with pytest.raises(Conflict) as refused:
        say(database, ann, third)
    assert "reject" not in str(refused.value), "what others said stays unseen"


def test_an_unclaimed_candidate_can_neither_be_decided_nor_kept(database, two):
    ann = who(database, "ann")
    shown = ids(take(database, ann, two[0], 2))
    with database.transaction() as tx:
        everything = set(tx.execute(sa.select(candidates.c.id)).scalars())
    for one in [*everything - set(shown), uuid.uuid4()]:
        for verdict in (Verdict.accept, Verdict.reject, Verdict.skip):
            with pytest.raises(NotFound, match="never shown to you"):
                say(database, ann, one, verdict)
    never = sorted(everything - set(shown))
    assert set(take(database, ann, two[0], 0, never).lost) == set(never)
    assert states(database, two[0]) == {"showing": 2, "waiting": 6}


def test_a_paused_round_accepts_decisions_and_serves_nothing(database, two):
    ann = who(database, "ann")
    first, second, third, fourth = ids(take(database, ann, two[0], 4, page=PAGE))
    with database.transaction() as tx:
        lifecycle.pause_round(tx, two[0], "test")
    assert say(database, ann, first).state == "accepted"
    with database.transaction() as tx:
        assert undo(tx, ann, None, key=uuid.uuid4(), seconds=60, page=PAGE).item.id == first
    assert say(database, ann, first, Verdict.reject).state == "rejected"
    assert take(database, ann, two[0], 0, [second, third], PAGE).lost == (), "renewed: it is in use"
    assert take(database, ann, two[0], 8, [second, third, fourth], PAGE).items == ()
    run_out(database)
    assert take(database, ann, two[0], 8, [third], PAGE).items == ()
    assert say(database, ann, second).state == "accepted", "it was shown before the pause"
    with database.transaction() as tx:
        lifecycle.close_round(tx, two[0], "test")
    with pytest.raises(Conflict, match="closed"):
        say(database, ann, fourth)


def test_a_reviewer_decides_a_candidate_once_with_any_key(database, two):
    ann = who(database, "ann")
    (one,) = ids(take(database, ann, two[0], 1))
    say(database, ann, one)
    for verdict in (Verdict.accept, Verdict.reject, Verdict.skip):
        with pytest.raises(Conflict, match="you have already decided"):
            say(database, ann, one, verdict)


def test_concurrent_claims_at_two_servers_leave_no_candidate_unclaimed(
    database, database_address, two
):
    """Two processes' worth of connections: pages take, renew, decide and leave at once, and all is decided once."""
    servers = [database, Database(database_address)]
    people = [who(database, name) for name in ("ann", "bob")]
    decided: Counter[uuid.UUID] = Counter()
    lock = threading.Lock()

    def page(server: Database, reviewer: int) -> None:
        own, turn = uuid.uuid4(), 0
        while True:
            with server.transaction() as tx:
                held = ids(queue.claim_batch(tx, reviewer, None, 3, (), 60, own))
            if not held:
                return
            turn += 1
            for one in held[: 1 + turn % 3]:
                with server.transaction() as tx:
                    decide(tx, reviewer, one, Verdict.accept, key=uuid.uuid4(), only_claimed=True)
                with lock:
                    decided[one] += 1
            with server.transaction() as tx:  # the page is left with the others undecided
                queue.release_claimed(tx, reviewer, held, own)
            own = uuid.uuid4()

    threads = [
        threading.Thread(target=page, args=(server, reviewer))
        for server in servers
        for reviewer in people
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    servers[1].close()
    run_out(database)
    left = Counter()
    for round_id in two:
        left += Counter(states(database, round_id))
    assert set(decided.values()) == {1}
    assert left["accepted"] == len(decided)
    while rest := ids(take(database, people[0], None, 8)):
        for one in rest:
            say(database, people[0], one)
            decided[one] += 1
    assert sum(decided.values()) == 16, "nothing stays behind"
