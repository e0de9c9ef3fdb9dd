"""An instance that moves: what stands at a real Label Studio is shown from where the instance is now, and wakes it there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.labeling import project_locks, reconcile
from curation.labeling.previews import PreviewUrls
from curation.labeling.sync import LabelingSync
from curation.runtime.context import AppContext
from tests.support.label_studio import ACCEPT, Seat, begin_import, make_seat

pytestmark = pytest.mark.slow

ADA = "ada@example.org"
NEW = "http://127.0.0.1:2"


def moved(exchange: LabelingSync, address: str = NEW) -> LabelingSync:
    """The exchange of the same instance at another address."""
    return replace(exchange, layer_url=PreviewUrls("secret", address).sign_url)


def pages(seat: Seat) -> dict[int, tuple[bool, object]]:
    """Of each task: whether it is shown from the new address, and when it had last changed."""
    found = seat.studio.client.tasks.list(
        project=seat.board.remote_id, page_size=500, include="id,data,updated_at"
    )
    return {
        task.id: (f'src="{NEW}/api/labeling/previews/' in task.data["look"], task.updated_at)
        for task in found
    }


def test_what_is_open_is_shown_from_the_new_address_and_what_was_said_stays(seat):
    seat.studio.say(seat.task(0), ACCEPT, by=ADA)
    seat.studio.say(seat.task(1), None, was_cancelled=True, by=ADA)
    seat.exchange.pull()
    before = set(pages(seat))
    context = moved(seat.exchange)
    assert [(one.kind, one.repairable) for one in reconcile.compare(context, seat.round)] == [
        ("stale", True)
    ] * 8
    reconcile.repair(context, seat.round)
    assert reconcile.compare(context, seat.round) == []
    now = pages(seat)
    assert set(now) == before, "rewritten where they stand, with their numbers"
    assert all(new for new, _ in now.values()), (
        "also what is decided, since people correct it there"
    )
    assert (seat.decided(0), seat.decided(1)) == ([("accept", ADA)], [("skip", ADA)])
    assert context.pull(everything=True) == {}
    assert pages(seat) == now, "once is enough"
    seat.studio.say(seat.task(1), ACCEPT, by=ADA)
    assert context.pull() == {"decided": 1}


def test_many_of_which_nothing_was_said_are_put_up_anew(seat, monkeypatch):
    monkeypatch.setattr("curation.labeling.sync.MAX_UPDATED", 7)
    seat.studio.say(seat.task(1), None, was_cancelled=True, by=ADA)
    seat.exchange.pull()
    stays = seat.task(1)
    context = moved(seat.exchange)
    assert context.pull(everything=True) == {"tasks_updated": 8}
    assert {number: new for number, (new, _) in pages(seat).items()} == {stays: True}
    assert context.push(seat.round) == {"pushed": 7}
    assert [new for new, _ in pages(seat).values()] == [True] * 8
    assert seat.task(1) == stays
    assert reconcile.compare(context, seat.round) == []


def test_one_that_changed_is_enough_to_notice(seat):
    context = moved(seat.exchange)
    assert seat.exchange.pull() == {}
    assert context.pull() == {"tasks_updated": 8}, (
        "the first reading goes over what was put up just now"
    )
    assert all(new for new, _ in pages(seat).values())
    assert context.pull() == {}


def test_an_import_that_was_cut_off_goes_on_from_the_new_address(seat, store):
    other, board, batch, sending = begin_import(seat, store, 6)
    seat.exchange.backend.push(
        board, batch, sending[:4]
    )  # and the process dies, and the instance moves
    context = moved(seat.exchange)
    assert context.push(other.round) == {"pushed": 6}
    assert [new for new, _ in pages(other).values()] == [True] * 6
    assert reconcile.compare(context, other.round) == []


def test_a_task_that_is_deleted_while_the_house_moves_is_put_up_again(seat, monkeypatch):
    gone = seat.task(2)
    rewrite = seat.exchange.backend._update_task

    def delete_before_writing(*args):
        seat.studio.client.tasks.delete(str(gone))
        monkeypatch.undo()
        rewrite(*args)

    monkeypatch.setattr(seat.exchange.backend, "_update_task", delete_before_writing)
    context = moved(seat.exchange)
    assert context.pull(everything=True) == {"tasks_updated": 8}
    assert context.pull() == {"tasks_lost": 1}
    assert context.push(seat.round) == {"pushed": 1}
    assert [new for new, _ in pages(seat).values()] == [True] * 8


def test_its_hook_is_moved_too_and_never_hung_twice(studio, desk, database, store):
    from curation.adapters.label_studio import LabelStudioBackend

    def at(where: str, secret: str) -> LabelStudioBackend:
        return LabelStudioBackend(
            desk.url,
            studio.server.token,
            (f"{where}/api/labeling/webhook", {"X-Of-Ours": secret}),
        )

    first, second = at("http://127.0.0.1:1", "one"), at(NEW, "two")
    seat = make_seat(studio, first, database, store, 2)
    seat.exchange.pull(everything=True)
    context = replace(moved(seat.exchange), backend=second)
    for _ in range(2):
        context.pull(everything=True)
    [hook] = studio.client.webhooks.list(project=str(seat.board.remote_id))
    assert (hook.url, hook.is_active) == (
        f"{NEW}/api/labeling/webhook?project={seat.board.id}",
        True,
    )
    assert hook.headers["X-Of-Ours"] == "two"
    first.close()
    second.close()


def test_a_worker_notices_when_it_starts(seat, settings, database, store):
    there = {
        "labeling": f"label-studio+{seat.studio.server.address}",
        "labeling_token": seat.studio.server.token,
        "public_url": NEW,
    }
    settings = type(settings)(**settings.model_dump() | there)
    context = AppContext(
        settings, database, store, CeleryQueue(make_app(settings, settings.database))
    )
    seat.exchange.pull()
    jobs.pull_annotations(context, str(seat.board.id))
    first = pages(seat)
    assert all(new for new, _ in first.values())
    jobs.pull_annotations(context, str(seat.board.id))
    assert pages(seat) == first


def test_a_board_is_held_until_a_long_conversation_ends(seat, monkeypatch):
    monkeypatch.setattr(project_locks, "LOCK_SECONDS", 1)
    monkeypatch.setattr("curation.labeling.sync.PULL_CHUNK", 1)
    heard = seat.exchange.backend.pull
    others = []

    def slowly(board, since, **more):
        reading = heard(board, since, **more)
        return replace(reading, tasks=(wait(task) for task in reading.tasks))

    def wait(task):
        import time

        time.sleep(0.4)
        with project_locks.project_lock(seat.database, seat.board, "another") as mine:
            others.append(mine)
        return task

    monkeypatch.setattr(seat.exchange.backend, "pull", slowly)
    seat.exchange.pull(everything=True)
    assert others == [False] * 8
