"""A takedown that is killed anywhere goes on; two exclude each other; trainings and backups obey."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from curation.adapters.snapshot_sources import pack_folder
from curation.checkpoints.registry import claim_run, find_run, request_training
from curation.checkpoints.run_queue import retry_run
from curation.db.engine import Database
from curation.db.tables import takedowns
from curation.domain import TrainingRequest
from curation.errors import Conflict, TakenDown
from curation.instance.backup import make_backup, open_place
from curation.instance.restore import restore_backup
from curation.instance.takedown_records import apply_records, save_records
from curation.object_store import FolderStore
from curation.takedown import execution
from curation.takedown.caches import clear_caches
from curation.takedown.execution import TakedownPlace, exclusively
from curation.takedown.selectors import Selector
from tests.support.factories import fresh_database, with_database
from tests.support.taken_down import (
    BAD,
    SECRET,
    dump,
    fill_two_sources,
    find_forbidden,
    samples_of,
    take_down_now,
)

SOURCE = Selector("source", (BAD,))
STEPS = (
    "withdraw", "mark_affected", "replace_snapshots", "erase_rows", "clean_packs", "remove_objects",
    "write_record",
)  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def made(database, store, tmp_path):
    return fill_two_sources(database, store, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_it_goes_on_after_an_interruption_at_each_step(
    database, database_address, store, made, monkeypatch, when
):
    """Each run gets one step further, and the last one leaves what an uninterrupted one does."""
    for step in STEPS:
        real = getattr(execution, step)

        def kill(*args, real=real, **fields):
            if when == "after":
                real(*args, **fields)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(execution, step, kill)
            with pytest.raises(Killed):
                take_down_now(database, store, SOURCE)
    rows = take_down_now(database, store, SOURCE)
    assert len(rows) == (0 if when == "after" else 1)
    assert find_forbidden(store.folder, made.forbidden) == []
    assert "an unlicensed shape" not in dump(database_address)
    with database.transaction() as tx:
        found = tx.execute(sa.select(takedowns.c.state, takedowns.c.counts)).one()
    assert found.state == "finished"
    assert found.counts == {
        "sample": 7, "candidate": 1, "snapshot": 1, "checkpoint": 2, "reviewer": 0, "layer": 8,
        "pack": 0, "unreached_pack": 0,
    }  # fmt: skip


def test_a_second_takedown_waits_for_no_one_but_says_so(database, store, made):
    with exclusively(database), pytest.raises(Conflict, match="another takedown"):
        take_down_now(database, store, SOURCE)
    # Two at once: one does all, the other is refused or finds nothing.
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(len(take_down_now(database, store, SOURCE)))
        except Conflict as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert outcomes.count(1) == 1
    assert find_forbidden(store.folder, made.forbidden) == []


def test_a_running_training_of_it_ends_and_its_files_go(database, store, made, tmp_path):
    runs = tmp_path / "runs"
    request = TrainingRequest("whole", "tiny", made.snapshot, None, None, 7, 100)
    other = TrainingRequest("whole", "tiny", made.only_good, None, None, 7, 100)
    with database.transaction() as tx:
        for one in (request, other):
            request_training(tx, one, "test")
            assert claim_run(tx, one.id, "worker", 600) is not None
    for folder in (runs / "cache" / "latents-1", runs / str(request.id)):
        folder.mkdir(parents=True)
        (folder / "file").write_text("latents of an unlicensed shape")
    take_down_now(database, store, SOURCE)
    with database.transaction() as tx:
        assert find_run(tx, request.id)["state"] == "cancelled"
        assert find_run(tx, other.id)["state"] == "running"
    with pytest.raises(TakenDown), database.transaction() as tx:
        retry_run(tx, request.id, "test")
    # Another training on this machine reads the caches: they are cleared when it has ended.
    (runs / str(other.id)).mkdir()
    assert not clear_caches(database, runs)
    assert clear_caches(database, runs, own_run=other.id)
    assert not (runs / "cache").exists()
    assert not (runs / str(request.id)).exists()
    # Nothing is cleared twice for one takedown.
    (runs / "cache").mkdir()
    assert clear_caches(database, runs)
    assert (runs / "cache").exists()


def test_an_older_backup_loses_the_images_again(
    database, store, made, tmp_path, postgres_address, template_database
):
    place = open_place(str(tmp_path / "backups"))
    older, _ = make_backup(database, store, place, lambda _: None)
    save_records(database, place)
    take_down_now(database, store, SOURCE)
    newer, _ = make_backup(database, store, place, lambda _: None)
    save_records(database, place)
    for number, backup in enumerate((older, newer)):
        target = FolderStore(tmp_path / f"restored {number}")
        with fresh_database(postgres_address, template_database) as name:
            address = with_database(postgres_address, name)
            restored = Database(address)
            restore_backup(place, backup, restored, target, lambda _: None)
            assert bool(samples_of(restored, BAD)) == (backup is older)
            to = TakedownPlace(restored, target, SECRET, "test", pack_folder)
            done = apply_records(place, to, lambda _: None)
            assert len(done) == (1 if backup is older else 0)
            assert samples_of(restored, BAD) == []
            assert find_forbidden(target.folder, made.forbidden) == []
            assert "an unlicensed shape" not in dump(address)
            assert apply_records(place, to, lambda _: None) == []
            restored.close()


def test_unfinished_takedowns_are_finished_by_the_next_one(database, store, made, monkeypatch):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(execution, "erase_rows", kill)
        with pytest.raises(Killed):
            take_down_now(database, store, SOURCE)
    other = samples_of(database, "a friend")[0]
    rows = take_down_now(database, store, Selector("sample", (other.id,)))
    assert [row["selector"] for row in rows] == ["source", "sample"]
    assert samples_of(database, BAD) == []
