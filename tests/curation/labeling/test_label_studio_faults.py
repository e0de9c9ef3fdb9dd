"""A Label Studio that is killed, restarted, cut off or put back to a backup: nothing is lost and nothing is twice."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.db.tables import labeling_tasks
from curation.domain import Verdict
from curation.errors import Unreachable
from curation.labeling import projects, reconcile
from curation.labeling.previews import WEBHOOK_HEADER
from curation.review import decisions, reviewers
from curation.runtime.context import AppContext
from curation.runtime.label_studio_server import OWNER
from tests.support.label_studio import ACCEPT, REJECT, Seat, begin_import, make_seat
from tests.making import make_candidates, make_round
from tests.servers import free_port

pytestmark = pytest.mark.slow


def agree(seat: Seat) -> bool:
    return not [one for one in reconcile.compare(seat.exchange, seat.round) if one.repairable]


def there(seat: Seat) -> list[str]:
    """The candidates at all boards of the round, as often as they are there."""
    with seat.database.transaction() as tx:
        standing = projects.open_projects(tx, seat.exchange.backend.url, seat.round)
    return sorted(
        one
        for board in standing
        for one, tasks in seat.studio.tasks(board.remote_id).items()
        for _ in tasks
    )


def test_an_import_whose_answer_was_lost_is_not_sent_again(seat, store):
    other, board, batch, sending = begin_import(seat, store, 6)
    first = seat.exchange.backend.push(
        board, batch, sending
    )  # and the process dies before it can note anything
    again = replace(board, remote_id=first.project_remote_id, created_at=first.created_at)
    assert seat.exchange.backend.push(again, batch, sending) == first
    seat.studio.say(first.task_remote_ids[sending[0].id], ACCEPT)
    assert seat.exchange.push(other.round) == {"pushed": 6}
    assert there(other) == sorted(map(str, other.candidates))
    assert other.exchange.pull(other.round) == {"decided": 1}
    assert agree(other)


def test_killed_in_the_middle_of_an_import_it_gets_the_rest_once(seat, store):
    with seat.database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, 300)
    cut_off: list[Unreachable] = []

    def push() -> None:
        try:
            seat.exchange.push(number)
        except Unreachable as error:
            cut_off.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    time.sleep(0.7)
    seat.studio.kill()
    thread.join()
    with pytest.raises(Unreachable):
        seat.exchange.pull()
    seat.studio.start()
    while seat.exchange.push(number):
        pass
    other = Seat(seat.studio, seat.database, seat.exchange, number, made)
    assert there(other) == sorted(map(str, made))
    assert agree(other)


def test_restarted_in_the_middle_of_the_work_it_tells_what_was_said_before(seat):
    seat.studio.say(seat.task(0), ACCEPT)
    seat.studio.kill()
    with pytest.raises(Unreachable, match="does not answer"):
        seat.exchange.pull()
    with seat.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        decisions.decide(tx, ada, seat.candidates[1], REJECT, key=uuid.uuid4())
    with pytest.raises(Unreachable):
        seat.exchange.push(seat.round)
    seat.studio.start()
    seat.studio.say(seat.task(2), REJECT)
    assert seat.exchange.pull() == {"decided": 2}
    assert seat.exchange.push(seat.round) == {"removed": 1}
    assert agree(seat)


def test_a_hook_wakes_and_fifty_decisions_without_one_are_not_lost(seat, database, store):
    """The receiver is down: Label Studio tries once and forgets. Polling brings home the same."""
    heard: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.headers[WEBHOOK_HEADER])
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    from curation.adapters.label_studio import LabelStudioBackend

    port = free_port()
    hook = (f"http://127.0.0.1:{port}/api/labeling/webhook", {WEBHOOK_HEADER: "the secret"})
    woken = LabelStudioBackend(seat.studio.server.address, seat.studio.server.token, hook)
    other = make_seat(seat.studio, woken, database, store, 52)
    receiver = HTTPServer(("127.0.0.1", port), Receiver)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    seat.studio.say(other.task(50), ACCEPT)
    assert heard == ["the secret"]
    receiver.shutdown()
    receiver.server_close()
    thread.join()
    for place in range(50):
        seat.studio.say(other.task(place), ACCEPT if place % 2 else REJECT)
    assert other.exchange.pull(other.round) == {"decided": 51}
    assert [other.state(place) for place in (0, 1, 49, 50, 51)] == [
        "rejected", "accepted", "accepted", "accepted", "waiting",
    ]  # fmt: skip
    assert agree(other)
    woken.close()


def test_put_back_to_a_backup_both_sides_agree_again_and_decisions_stand(seat, store):
    before = seat.studio.say(seat.task(0), ACCEPT)
    seat.exchange.pull()
    kept = seat.studio.back_up()
    seat.studio.say(seat.task(1), REJECT)  # of a task that the backup has, without this
    with seat.database.transaction() as tx:
        later = make_round(tx)
        young = Seat(
            seat.studio, seat.database, seat.exchange, later, make_candidates(tx, store, later, 4)
        )
    seat.exchange.push(later)
    lost = young.task(0)
    seat.studio.say(lost, ACCEPT)  # of a task that the backup has not
    assert seat.exchange.pull() == {"decided": 2}

    seat.studio.restore(kept)
    with (
        seat.database.transaction() as tx
    ):  # others work there before we notice: numbers are given again
        newest = make_round(tx)
        fresh = Seat(
            seat.studio, seat.database, seat.exchange, newest, make_candidates(tx, store, newest, 3)
        )
    seat.exchange.push(newest)
    assert fresh.task(0) == lost or lost in {fresh.task(place) for place in range(3)}
    kinds = {one.kind for one in reconcile.compare(seat.exchange)}
    assert "lost" in kinds
    assert kinds & {"project", "missing"}
    reconcile.repair(seat.exchange)
    seat.exchange.push(later)
    for one in (seat, young, fresh):
        assert agree(one)
        assert len(there(one)) == len(set(there(one)))
    assert [seat.state(place) for place in range(3)] == ["accepted", "rejected", "waiting"]
    assert young.state(0) == "accepted"
    assert [young.state(place) for place in range(1, 4)] == ["waiting"] * 3
    assert str(seat.candidates[1]) not in there(seat), "nobody there is asked again what is decided"
    assert there(young) == sorted(map(str, young.candidates[1:]))
    assert there(fresh) == sorted(map(str, fresh.candidates))
    seat.studio.say(fresh.task(0), REJECT)
    seat.studio.change(before, REJECT)
    assert seat.exchange.pull() == {"decided": 2}
    assert (fresh.state(0), seat.state(0)) == ("rejected", "rejected")


def test_a_desk_that_is_away_is_told_once(database, store, settings, caplog):
    away = {"labeling": f"label-studio+http://127.0.0.1:{free_port()}", "labeling_token": "0" * 40}
    settings = type(settings)(**settings.model_dump() | away)
    context = AppContext(
        settings, database, store, CeleryQueue(make_app(settings, settings.database))
    )
    with database.transaction() as tx:
        number = make_round(tx)
        make_candidates(tx, store, number, 3)
    asked = []
    database.send = asked.append
    jobs.review._failures.clear()
    with caplog.at_level(logging.WARNING, "layerloop.jobs"):
        for _ in range(3):
            jobs.reconcile(context)
            jobs.push_tasks(context, number)
    assert [job.name for job in asked] == ["push_tasks"] * 3
    assert len([one for one in caplog.records if "does not answer" in one.message]) == 1
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(labeling_tasks)) == 3


def test_the_owner_is_a_reviewer_like_others(seat):
    seat.studio.say(seat.task(0), Verdict.accept)
    seat.exchange.pull()
    assert seat.decided(0) == [("accept", OWNER)]
