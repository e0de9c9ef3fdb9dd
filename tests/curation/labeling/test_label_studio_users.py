"""Several people at a real Label Studio and at the pages: who said what, who is given what, and what did not count."""

from __future__ import annotations

import re
import threading
import uuid
from collections import Counter

import pytest
import sqlalchemy as sa

from curation.adapters.label_studio_view import build_result
from curation.db.tables import gold, rounds
from curation.domain import RejectReason
from curation.labeling import reconcile, tasks
from curation.review import decisions, queue, reviewers
from curation.review.gold import GoldSettings, set_gold
from tests.support.label_studio import ACCEPT, REJECT, Seat
from tests.making import make_candidates, make_round

pytestmark = pytest.mark.slow

ADA, BOB = "ada@example.org", "bob@example.org"


def test_an_edit_is_of_whoever_made_it(seat):
    said = seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    seat.exchange.pull()
    seat.studio.change(said, REJECT, [RejectReason.halo], by=BOB)
    assert seat.exchange.pull() == {"decided": 1}
    assert seat.decided(0) == [("accept", ADA), ("undo", ADA), ("reject", BOB)]
    with seat.database.transaction() as tx:
        found = tx.connection.exec_driver_sql(
            "select actor from events where kind = 'annotation of another user edited'"
        )
        assert [row.actor for row in found] == [BOB]
    seat.studio.change(said, ACCEPT, by=ADA)
    seat.exchange.pull()
    assert seat.decided(0)[-1] == ("accept", ADA)


def test_an_edit_before_the_first_reading_and_an_answer_in_anothers_name(seat):
    seat.studio.change(seat.studio.say(seat.task(0), ACCEPT, by=ADA), REJECT, by=BOB)
    forged = {"result": build_result(ACCEPT), "completed_by": seat.studio.person(ADA)}
    path = f"/api/tasks/{seat.task(1)}/annotations"
    seat.studio.session(BOB).post(path, json=forged).raise_for_status()
    assert seat.exchange.pull() == {"decided": 2}
    assert (seat.decided(0), seat.decided(1)) == ([("reject", BOB)], [("accept", BOB)])


def test_an_edit_that_cannot_count_leaves_what_was_said_before(seat):
    said = seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    seat.studio.say(seat.task(1), ACCEPT, by=BOB)
    seat.exchange.pull()
    with seat.database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, BOB))
    seat.studio.change(said, REJECT, by=BOB)
    assert seat.exchange.pull() == {"refused": 1}
    assert (seat.state(0), seat.decided(0)) == ("accepted", [("accept", ADA)])


def test_what_did_not_count_is_said_on_its_task_and_here(seat):
    seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    late = seat.studio.say(seat.task(0), REJECT, by=BOB)
    unread = seat.studio.say(seat.task(1), result=[], by=ADA)
    seat.exchange.pull()
    first, second = (seat.studio.client.tasks.get(str(seat.task(place))) for place in (0, 1))
    assert first.data["note"].startswith("Not counted here: bob@example.org: this candidate is ")
    assert first.data["note"].endswith(" already")
    assert first.data["note"] in first.data["look"]
    assert "neither accept nor reject" in second.data["note"]
    assert (second.is_labeled, second.overlap) == (False, 2), (
        "it waits there too, for somebody else"
    )
    with seat.database.transaction() as tx:
        told = tasks.list_refusals(tx, seat.round)
    assert {(one["annotation"], one["user"]) for one in told} == {(late, BOB), (unread, ADA)}
    assert seat.exchange.pull() == {}, "to say so is no news"
    seat.studio.say(seat.task(1), REJECT, by=BOB)
    assert seat.exchange.pull() == {"decided": 1}
    assert [one for one in reconcile.compare(seat.exchange, seat.round) if one.repairable] == []


def test_gold_is_not_offered_there(seat, store):
    with seat.database.transaction() as tx:
        row = {"purpose": "gold", "kind": "single", "quota": 0, "policy": {}, "state": "open"}
        of_gold = int(tx.scalar(sa.insert(rounds).values(row).returning(rounds.c.id)))
        pieces = make_candidates(tx, store, of_gold, 3)
        for one in pieces:
            hidden = {
                "candidate_id": one,
                "round_id": seat.round,
                "sample_id": uuid.uuid4(),
                "severity": 0.0,
            }
            tx.execute(sa.insert(gold).values(hidden))
        set_gold(tx, seat.round, GoldSettings(0.5), "test")
    before = len(seat.studio.client.projects.list().items)
    assert seat.exchange.push(of_gold) == {}
    assert seat.exchange.push(seat.round) == {}
    assert len(seat.studio.client.projects.list().items) == before
    assert reconcile.compare(seat.exchange) == []
    assert set(seat.studio.tasks(seat.board.remote_id)) == set(map(str, seat.candidates))


def test_what_is_said_while_its_task_is_taken_down_is_heard(seat, monkeypatch):
    """Between the reading and the deletion somebody answers: the task is left until that was read."""
    with seat.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        held = queue.claim_items(tx, ada, seat.round, 2, (), 60)
    place = seat.candidates.index(held[0].id)
    read = seat.exchange.backend.remove

    def answer_first(*args):
        monkeypatch.undo()
        seat.studio.say(seat.task(place), ACCEPT, by=BOB)
        return read(*args)

    monkeypatch.setattr(seat.exchange.backend, "remove", answer_first)
    assert seat.exchange.push(seat.round) == {"removed": 2}
    with seat.database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, "ada"))
    assert seat.exchange.pull() == {"decided": 1}
    assert seat.decided(place) == [("accept", BOB)]


@pytest.mark.parametrize("seat", [60], indirect=True)
def test_four_people_at_once_at_both_desks(seat):
    """Two at Label Studio take the next task and submit, two at the pages their trays; a worker carries both ways."""
    for email in (ADA, BOB):
        seat.studio.session(email)
    seat.exchange.pull()  # they have signed in, so the first tasks are left to them
    done = threading.Event()
    project = seat.board.remote_id

    def at_label_studio(email: str) -> None:
        client = seat.studio.session(email)
        for _ in range(12):
            found = client.get(f"/api/projects/{project}/next")
            if found.status_code == 404:
                return
            path = f"/api/tasks/{found.json()['id']}/annotations?project={project}"
            client.post(path, json={"result": build_result(ACCEPT), "lead_time": 0.5})

    def at_the_pages(name: str) -> None:
        with seat.database.transaction() as tx:
            me = reviewers.add_reviewer(tx, name).id
        for _ in range(4):
            with seat.database.transaction() as tx:
                cards = queue.claim_items(tx, me, seat.round, 4, (), 60)
            done.wait(1)
            for card in cards:
                with seat.database.transaction() as tx:
                    decisions.decide(tx, me, card.id, REJECT, key=uuid.uuid4())

    def worker() -> None:
        while not done.wait(0.5):
            seat.exchange.push(seat.round)
            seat.exchange.pull()

    people = [threading.Thread(target=at_label_studio, args=(email,)) for email in (ADA, BOB)]
    people += [threading.Thread(target=at_the_pages, args=(name,)) for name in ("eve", "fay")]
    carrying = threading.Thread(target=worker)
    for thread in (carrying, *people):
        thread.start()
    for thread in people:
        thread.join()
    done.set()
    carrying.join()
    seat.exchange.pull()
    standing: Counter[int] = Counter()
    for place in range(60):
        standing[len([verdict for verdict, _ in seat.decided(place) if verdict != "skip"])] += 1
    assert set(standing) <= {0, 1}, "nobody's decision was made twice"
    assert standing[1] >= 40
    # An answer given between two of the worker's turns may come too late; without reservation, most of them do.
    late = [why for why in seat.refusals() if re.search("already", why)]
    assert len(late) <= 14, f"reserved on both sides, {len(late)} of some 56 answers came too late"
    seat.exchange.push(seat.round)
    assert [one for one in reconcile.compare(seat.exchange, seat.round) if one.repairable] == []


def test_a_round_of_two_thousand_goes_up_and_comes_down(studio, desk, database, store):
    from curation.labeling.previews import PreviewUrls
    from curation.labeling.sync import LabelingSync
    from curation.rounds import lifecycle as rounds_room

    with database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, 2_000)
    exchange = LabelingSync(
        database,
        desk,
        "test",
        PreviewUrls("secret", "http://127.0.0.1:1").sign_url,
        10_000,
        pause=0,
    )
    two = Seat(studio, database, exchange, number, made)
    assert [exchange.push(number)["pushed"] for _ in range(2)] == [1_000, 1_000]
    project = two.board.remote_id
    studio.say(two.task(7), ACCEPT, by=ADA)
    assert exchange.pull() == {"decided": 1}
    assert len(studio.tasks(project)) == 2_000
    with database.transaction() as tx:
        rounds_room.close_round(tx, number, "test")
    assert exchange.push(number) == {"removed": 1_999}
    assert list(studio.tasks(project)) == [str(made[7])]
