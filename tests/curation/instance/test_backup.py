"""A backup that is restored is the same instance; nothing incomplete or damaged passes for one."""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import suppress

import psycopg2
import pytest
import sqlalchemy as sa

from curation.datasets.snapshots import freeze_snapshot
from curation.db import schema
from curation.db.engine import Database
from curation.db.table_copy import copied_tables, find_filled_table
from curation.db.tables import decisions, rounds
from curation.errors import Conflict, Corrupt, NotFound
from curation.instance import rows as row_dumps
from curation.instance.backup import (
    list_backups,
    make_backup,
    open_place,
    read_backup,
    read_object_list,
    verify_backup,
)
from curation.instance.restore import restore_backup
from curation.object_store import FolderStore
from tests.support.factories import fresh_database, make_candidates, with_database
from tests.support.small_instance import fill_instance


def ignore(_) -> None:
    pass


@pytest.fixture
def empty(postgres_address, template_database):
    """Yield a migrated, empty database beside the test's own."""
    with fresh_database(postgres_address, template_database) as name:
        opened = Database(with_database(postgres_address, name))
        yield opened
        opened.close()


@pytest.fixture
def place(tmp_path):
    return open_place(str(tmp_path / "backups"))


def freeze(database, store) -> str:
    with database.transaction(repeatable_read=True) as tx:
        return freeze_snapshot(tx, store, tag=None, actor="test").id


def content(database) -> dict[str, list]:
    """All rows of all copied tables."""
    with database.transaction() as tx:
        return {
            table.name: sorted(map(repr, tx.execute(sa.select(table)).all()))
            for table in copied_tables()
        }


def test_a_restored_backup_is_the_same_instance(database, store, place, empty, tmp_path):
    fill_instance(database, store)
    before = content(database)
    backup, plan = make_backup(database, store, place, ignore)
    assert content(database) == before, "a backup changes nothing"
    assert len(plan.wanted) == len(list(store.list_objects()))
    assert list_backups(place) == [backup.name]
    assert verify_backup(place, read_backup(place), ignore) == []

    target = FolderStore(tmp_path / "restored")
    restore_backup(place, backup, empty, target, ignore)
    assert content(empty) == before
    assert {found.sha256 for found in target.list_objects()} == set(plan.wanted)
    assert freeze(empty, target) == freeze(database, store) == backup.dump.next_snapshot
    # Numbers go on after the last one, and decisions are still append-only.
    with empty.transaction() as tx, database.transaction() as other:
        following = [
            one.scalar(
                sa.insert(rounds)
                .from_select(
                    [c.name for c in rounds.c if c.name != "id"],
                    sa.select(*[c for c in rounds.c if c.name != "id"]).limit(1),
                )
                .returning(rounds.c.id)
            )
            for one in (tx, other)
        ]
        assert following[0] == following[1]
    with pytest.raises(sa.exc.DBAPIError, match="append"), empty.transaction() as tx:
        tx.execute(sa.delete(decisions))


def test_the_same_with_a_store_and_a_backup_on_s3(database, empty, s3_credentials):
    from curation.adapters.s3 import S3Store

    bucket = f"test-{uuid.uuid4().hex[:12]}"
    store = S3Store(bucket, "objects", s3_credentials.endpoint)
    store.create_bucket()
    fill_instance(database, store)
    place = open_place(f"s3://{bucket}/backups", s3_credentials.endpoint)
    backup, _ = make_backup(database, store, place, ignore)
    assert verify_backup(place, read_backup(place), ignore) == []
    target = S3Store(bucket, "restored", s3_credentials.endpoint)
    restore_backup(place, backup, empty, target, ignore)
    assert content(empty) == content(database)
    assert freeze(empty, target) == freeze(database, store)


def test_a_second_backup_copies_only_what_is_new(database, store, place):
    made = fill_instance(database, store)
    first, _ = make_backup(database, store, place, ignore)
    with database.transaction() as tx:
        make_candidates(tx, store, made.round_id, 2, start=500)
    os.utime(place.files.folder / first.name, (0, 0))
    place.files.write("20200101T000000Z", place.files.read(first.name))
    _, plan = make_backup(database, store, place, ignore)
    assert len(plan.missing) == 2
    assert len(plan.wanted) == len(read_object_list(place, first)) + 2
    assert read_backup(place, "20200101T000000Z").dump == first.dump


def test_rows_are_of_one_moment_while_others_work(database, store, place, empty, tmp_path):
    """Every candidate of the backup has its layers, though candidates are added all the time."""
    made = fill_instance(database, store)
    stop = threading.Event()

    def work() -> None:
        start = 1_000
        while not stop.is_set():
            with database.transaction() as tx:
                make_candidates(tx, store, made.round_id, 1, start=start)
            start += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        backup, _ = make_backup(database, store, place, ignore)
    finally:
        stop.set()
        worker.join()
    restore_backup(place, backup, empty, FolderStore(tmp_path / "restored"), ignore)
    with empty.transaction() as tx:
        lonely = sa.text(
            "select count(*) from candidates c left join candidate_layers l on l.candidate_id = c.id "
            "where l.candidate_id is null"
        )
        assert tx.scalar(lonely) == 0


def test_a_filled_instance_is_never_overwritten(database, store, place):
    fill_instance(database, store)
    backup, _ = make_backup(database, store, place, ignore)
    before = content(database)
    with pytest.raises(Conflict, match="not empty"):
        restore_backup(place, backup, database, store, ignore)
    assert content(database) == before


def test_one_flipped_bit_is_found_wherever_it_is(database, store, place, empty, tmp_path):
    fill_instance(database, store)
    backup, _ = make_backup(database, store, place, ignore)
    files = [path for path in place.store.folder.rglob("*") if path.is_file()]
    noticed = 0
    for path in files:
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        name = path.parent.name + path.name
        with suppress(Corrupt):  # the description of the backup itself is not even read
            assert verify_backup(place, read_backup(place), ignore) == [name]
            noticed += 1
        path.write_bytes(data)
    assert noticed == len(files) - 1
    assert verify_backup(place, backup, ignore) == []
    # A missing object is found too, and is not restored without.
    listed = sorted(read_object_list(place, backup))
    (place.store.folder / listed[0][:2] / listed[0][2:]).unlink()
    assert verify_backup(place, backup, ignore) == [listed[0]]
    with pytest.raises(NotFound, match="missing"):
        restore_backup(place, backup, empty, FolderStore(tmp_path / "restored"), ignore)
    # The next backup copies it again.
    make_backup(database, store, place, ignore)
    assert verify_backup(place, backup, ignore) == []


def test_a_backup_of_lost_objects_is_refused(database, store, place):
    fill_instance(database, store)
    lost = next(iter(store.list_objects())).sha256
    (store.folder / lost[:2] / lost[2:]).unlink()
    with pytest.raises(NotFound):
        make_backup(database, store, place, ignore)
    assert list_backups(place) == []


def test_an_interrupted_restore_leaves_an_empty_database_and_resumes(
    database, store, place, empty, tmp_path, monkeypatch
):
    fill_instance(database, store)
    backup, _ = make_backup(database, store, place, ignore)
    target = FolderStore(tmp_path / "restored")
    loaded = []
    copy_in = row_dumps.table_copy.copy_in

    def stop_in_the_middle(tx, table, columns, source) -> None:
        loaded.append(table)
        if table == "samples":
            raise KeyboardInterrupt
        copy_in(tx, table, columns, source)

    with monkeypatch.context() as patch:
        patch.setattr(row_dumps.table_copy, "copy_in", stop_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(place, backup, empty, target, ignore)
    assert len(loaded) > 5
    with empty.transaction() as tx:
        assert find_filled_table(tx) is None
    plan = restore_backup(place, backup, empty, target, ignore)
    assert plan.missing == {}, "the objects are there already"
    assert content(empty) == content(database)


def test_a_backup_of_an_older_schema_is_restored_and_upgraded(
    database, store, place, empty, tmp_path
):
    fill_instance(database, store)
    newest = content(database)
    older = schema._chain()[-2]
    schema.downgrade(database, older)
    with pytest.MonkeyPatch.context() as patch:
        # The tables of an older version are those of its code; here the newest revision added some.
        existing = set(sa.inspect(database.engine).get_table_names())
        tables = [table for table in copied_tables() if table.name in existing]
        patch.setattr(row_dumps.table_copy, "copied_tables", lambda: tables)
        try:
            backup, _ = make_backup(database, store, place, ignore)
        except (sa.exc.DBAPIError, psycopg2.Error):
            pytest.skip("the newest revision changed columns; an older version's code is not here")
    assert backup.dump.revision == older
    restore_backup(place, backup, empty, FolderStore(tmp_path / "restored"), ignore)
    with empty.transaction() as tx:
        assert schema.read_state(tx).current
    assert content(empty)["samples"] == newest["samples"]
