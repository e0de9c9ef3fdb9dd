"""Against a real Label Studio: whatever people do there has one outcome here, however often it is collected."""

from __future__ import annotations

import threading
import uuid

import pytest
import sqlalchemy as sa

from curation.db.tables import labeling_tasks, rounds
from curation.domain import RejectReason
from curation.labeling import projects, reconcile
from curation.review import decisions, queue, reviewers
from curation.runtime.label_studio_server import OWNER
from tests.support.label_studio import ACCEPT, REJECT

pytestmark = pytest.mark.slow

ADA, BOB = "ada@example.org", "bob@example.org"


def agree(seat) -> bool:
    """Whether nothing is left to mend."""
    return not [one for one in reconcile.compare(seat.exchange, seat.round) if one.repairable]


def test_what_is_said_there_becomes_decisions_once(seat):
    seat.studio.say(seat.task(0), ACCEPT, by=ADA, lead_time=2.5)
    seat.studio.say(seat.task(1), REJECT, [RejectReason.halo, RejectReason.holes], by=BOB)
    seat.studio.say(seat.task(2), None, was_cancelled=True, by=BOB)
    assert seat.exchange.pull() == {"decided": 3}, seat.refusals()
    assert seat.exchange.pull() == {}
    assert seat.exchange.pull(everything=True) == {}
    assert [seat.state(place) for place in range(4)] == [
        "accepted",
        "rejected",
        "waiting",
        "waiting",
    ]
    assert seat.decided(0) == [("accept", ADA)]
    assert seat.decided(1) == [("reject", BOB)]
    assert seat.decided(2) == [("skip", BOB)]
    with seat.database.transaction() as tx:
        rows = {row.candidate_id: row for row in tx.execute(sa.select(decisions_table()))}
    one, two = rows[seat.candidates[0]], rows[seat.candidates[1]]
    assert (one.channel, one.dwell_ms, one.propensity) == ("label-studio", 2_500, 1.0)
    assert two.reasons == ["halo", "holes"]
    assert seat.accepted() == 1
    assert agree(seat)


def test_an_edit_is_an_undo_and_a_new_decision(seat):
    said = seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    seat.exchange.pull()
    seat.studio.change(said, REJECT, [RejectReason.residue])
    assert seat.exchange.pull() == {"decided": 1}
    assert [verdict for verdict, _ in seat.decided(0)] == ["accept", "undo", "reject"]
    assert seat.state(0) == "rejected"
    assert seat.accepted() == 0
    assert agree(seat)


def test_what_is_taken_back_there_waits_again(seat):
    said = seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    seat.exchange.pull()
    seat.studio.client.annotations.delete(said)
    assert seat.exchange.pull() == {"undone": 1}
    assert (seat.state(0), seat.accepted()) == ("waiting", 0)
    assert seat.exchange.pull() == {}
    seat.studio.say(seat.task(0), REJECT, by=BOB)  # its task is open again
    assert seat.exchange.pull() == {"decided": 1}
    assert agree(seat)


def test_the_second_answer_is_refused_and_told(seat):
    seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    seat.studio.say(seat.task(0), REJECT, by=BOB)
    assert seat.exchange.pull() == {"decided": 1, "refused": 1}
    assert seat.decided(0) == [("accept", ADA)]
    assert seat.refusals() == ["this candidate is already decided"]
    told = [one for one in reconcile.compare(seat.exchange, seat.round) if not one.repairable]
    assert [one.kind for one in told] == ["refused"]
    assert BOB in told[0].message


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ([{"from_name": "mood", "to_name": "candidate", "type": "choices", "value": {"choices": ["fine"]}}], "the control 'mood'"),
        ([{"from_name": "verdict", "to_name": "candidate", "type": "choices", "value": {"choices": ["maybe"]}}], "maybe"),
        ([{"from_name": "reasons", "to_name": "candidate", "type": "choices", "value": {"choices": ["ugly"]}}], "ugly"),
        ([], "neither accept nor reject"),
    ],
    ids=["control", "verdict", "reason", "nothing"],
)  # fmt: skip
def test_what_means_nothing_here_is_refused_and_told(seat, result, why):
    seat.studio.say(seat.task(0), result=result)
    assert seat.exchange.pull() == {"refused": 1}
    assert seat.exchange.pull(everything=True) == {}
    assert seat.state(0) == "waiting"
    assert why in seat.refusals()[0]
    assert [one.kind for one in reconcile.compare(seat.exchange, seat.round)] == ["refused"]


def test_an_edit_that_means_nothing_leaves_the_decision(seat):
    said = seat.studio.say(seat.task(0), ACCEPT)
    seat.exchange.pull()
    seat.studio.client.annotations.update(said, result=[])
    assert seat.exchange.pull() == {"refused": 1}
    assert seat.state(0) == "accepted"


def test_what_is_decided_at_our_pages_leaves_the_other_desk_and_the_other_way_round(seat):
    with seat.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        decisions.decide(tx, ada, seat.candidates[0], ACCEPT, key=uuid.uuid4())
    late = seat.task(0)
    seat.studio.say(seat.task(1), ACCEPT, by=BOB)
    assert seat.exchange.push(seat.round) == {"removed": 1}
    assert str(seat.candidates[0]) not in seat.studio.tasks(seat.board.remote_id)
    assert seat.state(1) == "accepted", (
        "what was said there was brought home before anything was taken down"
    )
    with seat.database.transaction() as tx:
        cards = queue.claim_items(tx, ada, seat.round, 8, (), 60)
    assert {card.id for card in cards} < set(seat.candidates[2:])
    assert len(cards) == 3, "the other half is left to Bob, who gets it next"
    assert seat.exchange.push(seat.round) == {"removed": 3}, (
        "nobody there is given what somebody looks at here"
    )
    assert late not in [
        number for several in seat.studio.tasks(seat.board.remote_id).values() for number in several
    ]
    assert agree(seat)


def test_an_answer_waits_while_somebody_looks_here(seat):
    with seat.database.transaction() as tx:
        tx.execute(
            sa.update(labeling_tasks).values(reserved_until=None)
        )  # for who was there in other tests
        ada = reviewers.add_reviewer(tx, "ada")
        queue.claim_items(tx, ada.id, seat.round, 8, (), 60)
    seat.studio.say(seat.task(0), ACCEPT, by=BOB)
    seat.studio.say(seat.task(1), ACCEPT, by=BOB)
    assert seat.exchange.pull() == {"waiting": 2}
    assert seat.exchange.push(seat.round) == {"removed": 8}
    assert seat.state(0) == "showing"
    with seat.database.transaction() as tx:
        decisions.decide(tx, ada.id, seat.candidates[0], REJECT, key=uuid.uuid4())
        reviewers.deactivate(tx, ada)  # her tray waits again
    assert seat.exchange.pull() == {"decided": 1, "refused": 1}
    assert seat.decided(0) == [("reject", "ada")]
    assert seat.decided(1) == [("accept", BOB)]
    assert seat.exchange.push(seat.round) == {"pushed": 6}
    assert agree(seat)


def test_a_withdrawn_candidate_is_taken_down_and_a_late_answer_refused(seat):
    from curation.rounds import lifecycle as rounds_room

    board = seat.board
    seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    with seat.database.transaction() as tx:
        rounds_room.close_round(tx, seat.round, "test")
    assert seat.exchange.push(seat.round) == {"removed": 8}
    assert seat.state(0) == "withdrawn"
    assert seat.refusals() == ["the round of this candidate was closed"]
    assert seat.studio.tasks(board.remote_id) == {}


def test_an_undo_here_puts_it_up_again(seat):
    with seat.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        made = decisions.decide(tx, ada, seat.candidates[0], ACCEPT, key=uuid.uuid4())
    seat.exchange.push(seat.round)
    with seat.database.transaction() as tx:
        decisions.undo(tx, ada, made.decision, key=uuid.uuid4(), seconds=60)
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, "ada"))
    assert seat.exchange.push(seat.round) == {"pushed": 1}
    assert str(seat.candidates[0]) in seat.studio.tasks(seat.board.remote_id)
    assert agree(seat)


def test_the_desk_of_a_round_is_switched_in_its_middle(seat):
    number = seat.board.remote_id
    seat.studio.say(seat.task(0), ACCEPT)
    with seat.database.transaction() as tx:
        projects.switch_interface(tx, seat.round, "pages", "test")
    assert seat.exchange.push(seat.round) == {"removed": 7}
    assert list(seat.studio.tasks(number)) == [str(seat.candidates[0])]
    assert seat.state(0) == "accepted"
    with seat.database.transaction() as tx:
        projects.switch_interface(tx, seat.round, "label-studio", "test")
    assert seat.exchange.push(seat.round) == {"pushed": 7}
    assert len(seat.studio.tasks(number)) == 8
    assert agree(seat)


def test_a_paused_round_shows_nothing_there(seat):
    number = seat.board.remote_id
    with seat.database.transaction() as tx:
        tx.execute(sa.update(rounds).where(rounds.c.id == seat.round).values(state="paused"))
    assert seat.exchange.push(seat.round) == {"removed": 8}
    assert seat.studio.tasks(number) == {}


def test_a_task_that_was_deleted_there_is_put_up_again(seat):
    number = seat.board.remote_id
    seat.studio.say(seat.task(1), ACCEPT)
    seat.exchange.pull()
    for place in (0, 1):
        seat.studio.client.tasks.delete(str(seat.task(place)))
    assert [one.kind for one in reconcile.compare(seat.exchange, seat.round)] == [
        "missing",
        "missing",
    ]
    assert seat.exchange.pull() == {"tasks_lost": 2}
    assert (seat.state(0), seat.state(1)) == ("waiting", "accepted")
    assert seat.exchange.push(seat.round) == {"pushed": 1}
    assert set(seat.studio.tasks(number)) == {
        str(one) for one in (seat.candidates[0], *seat.candidates[2:])
    }
    assert agree(seat)


def test_a_project_that_was_deleted_there_is_made_again(seat):
    seat.studio.say(seat.task(0), ACCEPT)
    seat.exchange.pull()
    first = seat.board.remote_id
    seat.studio.client.projects.delete(first)
    assert [one.kind for one in reconcile.compare(seat.exchange, seat.round)] == ["project"]
    assert seat.exchange.pull() == {"projects_lost": 1}
    assert seat.exchange.push(seat.round) == {"pushed": 7}
    assert seat.board.remote_id != first
    assert seat.state(0) == "accepted"
    assert agree(seat)


def test_a_person_there_is_a_reviewer_here_by_their_address(seat):
    from curation.labeling import users

    with seat.database.transaction() as tx:
        reviewers.add_reviewer(tx, "Ada")
        users.assign_reviewer_by_name(tx, ADA.upper(), "Ada", "test")
        gone = reviewers.add_reviewer(tx, BOB)
        reviewers.deactivate(tx, gone)
    seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    seat.studio.say(seat.task(1), ACCEPT, by=BOB)
    seat.studio.say(seat.task(2), ACCEPT, by=OWNER)
    assert seat.exchange.pull() == {"decided": 2, "refused": 1}
    assert seat.decided(0) == [("accept", "Ada")]
    assert seat.decided(2) == [("accept", OWNER)]
    assert seat.refusals() == [f"the reviewer {BOB} is deactivated"]


def test_a_round_larger_than_a_board_has_several(seat, store):
    from dataclasses import replace

    from tests.making import make_candidates, make_round

    small = replace(seat.exchange, max_tasks=5)
    with seat.database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, 12)
    assert [small.push(number)["pushed"] for _ in range(4)] == [5, 5, 2, 0]
    with seat.database.transaction() as tx:
        parts = projects.open_projects(tx, small.backend.url, number)
    assert [board.part for board in parts] == [1, 2, 3]
    there = [one for board in parts for one in seat.studio.tasks(board.remote_id)]
    assert sorted(there) == sorted(map(str, made))


@pytest.mark.parametrize("page", [1, 4, 5, 8, 9])
def test_what_is_there_is_read_page_by_page(seat, monkeypatch, page):
    monkeypatch.setattr("curation.adapters.label_studio.PAGE", page)
    seat.studio.say(seat.task(3), ACCEPT)
    assert seat.exchange.pull(everything=True) == {"decided": 1}
    assert agree(seat)


def test_several_that_put_up_at_once_put_up_once(seat, store):
    from dataclasses import replace

    from tests.making import make_candidates, make_round

    with seat.database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, 20)
    several = [
        threading.Thread(target=replace(seat.exchange, holder=f"{n}").push, args=(number,))
        for n in range(4)
    ]
    for one in several:
        one.start()
    for one in several:
        one.join()
    assert seat.exchange.push(number) == {}
    with seat.database.transaction() as tx:
        [board] = projects.open_projects(tx, seat.exchange.backend.url, number)
    there = seat.studio.tasks(board.remote_id)
    assert sorted(there) == sorted(map(str, made))
    assert all(len(several) == 1 for several in there.values())


def decisions_table():
    from curation.db.tables import decisions

    return decisions
