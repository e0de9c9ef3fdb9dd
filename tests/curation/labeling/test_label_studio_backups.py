"""A Label Studio that is put back to a backup after each kind of act: what was decided stands, whoever comes next."""

from __future__ import annotations

import uuid

import pytest

from curation.domain import RejectReason
from curation.labeling import projects, reconcile
from curation.review import decisions, reviewers
from curation.rounds import lifecycle
from tests.support.label_studio import ACCEPT, REJECT, Seat
from tests.making import make_candidates, make_round

pytestmark = pytest.mark.slow

ADA, BOB, CID = "ada@example.org", "bob@example.org", "cid@example.org"


def collect_all(seat: Seat) -> None:
    """Read what the sweep would have read one after the other, until nothing is to be read again."""
    with seat.database.transaction() as tx:
        made = projects.created_projects(tx, seat.exchange.backend.url)
    for _ in range(2):
        for board in made:
            seat.exchange.pull_project(board)


def another(seat: Seat, store, count: int) -> Seat:
    """A further round, put up."""
    with seat.database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, count)
    seat.exchange.push(number)
    return Seat(seat.studio, seat.database, seat.exchange, number, made)


@pytest.mark.parametrize("seat", [12], indirect=True)
def test_what_was_done_after_the_backup_stands(seat, store):
    studio, desk = seat.studio, seat.exchange.backend
    closed = another(seat, store, 5)
    closed_project = closed.board.remote_id
    edited, deleted = (
        studio.say(seat.task(0), ACCEPT, by=ADA),
        studio.say(seat.task(1), ACCEPT, by=ADA),
    )
    studio.say(seat.task(3), ACCEPT, by=BOB)
    seat.exchange.pull()
    tasks = {place: seat.task(place) for place in range(12)}
    backup = studio.back_up()

    studio.change(edited, REJECT, [RejectReason.halo])
    studio.client.annotations.delete(deleted)
    created = studio.say(seat.task(2), ACCEPT, by=CID)
    with seat.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada of the pages").id
        decisions.decide(tx, ada, seat.candidates[4], ACCEPT, key=uuid.uuid4())
    assert seat.exchange.pull(seat.round) == {"decided": 2, "undone": 1}
    with seat.database.transaction() as tx:
        bob = reviewers.find_reviewer(tx, BOB).id
        decisions.undo(tx, bob, None, key=uuid.uuid4(), seconds=1)
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, BOB))
        lifecycle.close_round(tx, closed.round, "test")
    seat.exchange.push(closed.round)
    seat.exchange.push(seat.round)
    later = another(seat, store, 3)
    assert studio.tasks(closed_project) == {}

    studio.restore(backup)
    assert len(studio.tasks(closed_project)) == 5
    again = studio.say(tasks[2], REJECT, by=ADA)
    assert again <= created, "the server gives the numbers of what it has lost again"
    kinds = {(one.kind, one.candidate) for one in reconcile.compare(seat.exchange)}
    assert ("lost", seat.candidates[2]) in kinds
    assert ("unpulled", seat.candidates[2]) in kinds
    assert ("returned", closed.candidates[0]) in kinds
    assert "foreign" not in {kind for kind, _ in kinds}

    collect_all(seat)
    assert (seat.state(0), seat.decided(0)[-1]) == ("rejected", ("reject", ADA))
    assert seat.state(1) == "waiting"
    assert (seat.state(2), seat.decided(2)) == ("accepted", [("accept", CID)])
    assert any("already" in why for why in seat.refusals())
    assert seat.state(4) == "accepted"
    assert studio.tasks(closed_project) == {}, "a closed round is taken down again"
    seat.exchange.push(seat.round)
    seat.exchange.push(later.round)
    for one in (seat, later, closed):
        left = [each for each in reconcile.compare(seat.exchange, one.round) if each.repairable]
        assert left == []
    there = studio.tasks(seat.board.remote_id)
    assert len(there.pop(str(seat.candidates[3]))) == 2, (
        "Bob's own task, and another since he took it back here"
    )
    assert all(len(numbers) == 1 for numbers in there.values())
    assert {str(seat.candidates[place]) for place in (0, 2, 4)}.isdisjoint(there), (
        "nobody is asked again"
    )
    assert str(seat.candidates[1]) in there
    assert set(studio.tasks(later.board.remote_id)) == set(map(str, later.candidates))
    studio.say(seat.task(1), REJECT, by=CID)
    assert seat.exchange.pull(seat.round) == {"decided": 1}
    assert desk.pull(seat.board, None).restore_mark == seat.board.restore_mark


def test_a_number_that_comes_back_with_another_author_is_another_answer(seat):
    backup = seat.studio.back_up()
    first = seat.studio.say(seat.task(0), ACCEPT, by=CID)
    seat.exchange.pull()
    seat.studio.restore(backup)
    assert seat.studio.say(seat.task(0), REJECT, by=ADA) == first
    told = [
        one
        for one in reconcile.compare(seat.exchange, seat.round)
        if one.candidate == seat.candidates[0]
    ]
    assert {one.kind for one in told} == {"lost", "unpulled"}
    seat.exchange.pull()
    assert (seat.state(0), seat.decided(0)) == ("accepted", [("accept", CID)])
    assert seat.accepted() == 1
    with seat.database.transaction() as tx:
        rows = tx.connection.exec_driver_sql(
            "select author, decision_id is not null, refused is not null from labeling_annotations order by id"
        ).all()
    assert [tuple(row) for row in rows] == [(CID, True, False), (ADA, False, True)]
