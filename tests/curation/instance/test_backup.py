"""A restored backup is the same instance; incomplete and damaged backups are refused."""

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
    """Yield a second migrated, empty database."""
    with fresh_database(postgres_address, template_database) as name:
        opened = Database(with_database(postgres_address, name))
        yield opened
        opened.close()


@pytest.fixture
def backups(tmp_path):
    return open_place(str(tmp_path / "backups"))


def freeze(database, store) -> str:
    return freeze_snapshot(database, store, tag=None, actor="test").id


def content(database) -> dict[str, list]:
    """Return all rows of all copied tables."""
    with database.transaction() as tx:
        return {
            table.name: sorted(map(repr, tx.execute(sa.select(table)).all()))
            for table in copied_tables()
        }


def test_a_restored_backup_is_the_same_instance(database, store, backups, empty, tmp_path):
    fill_instance(database, store)
    before = content(database)
    backup, plan = make_backup(database, store, backups, ignore)
    assert content(database) == before, "a backup changes nothing"
    assert len(plan.wanted) == len(list(store.list_objects()))
    assert list_backups(backups) == [backup.name]
    assert verify_backup(backups, read_backup(backups), ignore) == []

    target = FolderStore(tmp_path / "restored")
    restore_backup(backups, backup, empty, target, ignore)
    assert content(empty) == before
    assert {found.sha256 for found in target.list_objects()} == set(plan.wanted)
    assert freeze(empty, target) == freeze(database, store) == backup.dump.next_snapshot
    # Sequences continue after the last id, and decisions are still append-only.
    with empty.transaction() as tx, database.transaction() as other:
        following = [
            transaction.scalar(
                sa.insert(rounds)
                .from_select(
                    [c.name for c in rounds.c if c.name != "id"],
                    sa.select(*[c for c in rounds.c if c.name != "id"]).limit(1),
                )
                .returning(rounds.c.id)
            )
            for transaction in (tx, other)
        ]
        assert following[0] == following[1]
    with pytest.raises(sa.exc.DBAPIError, match="append"), empty.transaction() as tx:
        tx.execute(sa.delete(decisions))


def test_a_backup_on_s3_of_a_store_on_s3_is_restored(database, empty, s3_credentials):
    from curation.adapters.s3 import S3Store

    bucket = f"test-{uuid.uuid4().hex[:12]}"
    store = S3Store(bucket, "objects", s3_credentials.endpoint)
    store.create_bucket()
    fill_instance(database, store)
    backups = open_place(f"s3://{bucket}/backups", s3_credentials.endpoint)
    backup, _ = make_backup(database, store, backups, ignore)
    assert verify_backup(backups, read_backup(backups), ignore) == []
    target = S3Store(bucket, "restored", s3_credentials.endpoint)
    restore_backup(backups, backup, empty, target, ignore)
    assert content(empty) == content(database)
    assert freeze(empty, target) == freeze(database, store)


def test_a_second_backup_copies_only_what_is_new(database, store, backups):
    instance = fill_instance(database, store)
    first, _ = make_backup(database, store, backups, ignore)
    with database.transaction() as tx:
        make_candidates(tx, store, instance.round_id, 2, start=500)
    os.utime(backups.files.folder / first.name, (0, 0))
    backups.files.write("20200101T000000Z", backups.files.read(first.name))
    _, plan = make_backup(database, store, backups, ignore)
    assert len(plan.missing) == 2
    assert len(plan.wanted) == len(read_object_list(backups, first)) + 2
    assert read_backup(backups, "20200101T000000Z").dump == first.dump


def test_a_backup_is_consistent_during_other_work(database, store, backups, empty, tmp_path):
    """Every candidate of the backup has its layers although candidates are added meanwhile."""
    instance = fill_instance(database, store)
    stop = threading.Event()

    def work() -> None:
        start = 1_000
        while not stop.is_set():
            with database.transaction() as tx:
                make_candidates(tx, store, instance.round_id, 1, start=start)
            start += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        backup, _ = make_backup(database, store, backups, ignore)
    finally:
        stop.set()
        worker.join()
    restore_backup(backups, backup, empty, FolderStore(tmp_path / "restored"), ignore)
    with empty.transaction() as tx:
        without_layers = sa.text(
            "select count(*) from candidates c left join candidate_layers l on l.candidate_id = c.id "
            "where l.candidate_id is null"
        )
        assert tx.scalar(without_layers) == 0


def test_a_filled_instance_is_never_overwritten(database, store, backups):
    fill_instance(database, store)
    backup, _ = make_backup(database, store, backups, ignore)
    before = content(database)
    with pytest.raises(Conflict, match="not empty"):
        restore_backup(backups, backup, database, store, ignore)
    assert content(database) == before


def test_a_flipped_bit_in_any_object_is_found(database, store, backups, empty, tmp_path):
    fill_instance(database, store)
    backup, _ = make_backup(database, store, backups, ignore)
    files = [path for path in backups.store.folder.rglob("*") if path.is_file()]
    found = 0
    for path in files:
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        name = path.parent.name + path.name
        with suppress(Corrupt):  # a damaged description of the backup cannot be read
            assert verify_backup(backups, read_backup(backups), ignore) == [name]
            found += 1
        path.write_bytes(data)
    assert found == len(files) - 1
    assert verify_backup(backups, backup, ignore) == []
    # A missing object is found too, and prevents a restore.
    listed = sorted(read_object_list(backups, backup))
    (backups.store.folder / listed[0][:2] / listed[0][2:]).unlink()
    assert verify_backup(backups, backup, ignore) == [listed[0]]
    with pytest.raises(NotFound, match="missing"):
        restore_backup(backups, backup, empty, FolderStore(tmp_path / "restored"), ignore)
    # The next backup copies it again.
    make_backup(database, store, backups, ignore)
    assert verify_backup(backups, backup, ignore) == []


def test_a_backup_of_lost_objects_is_refused(database, store, backups):
    fill_instance(database, store)
    lost = next(iter(store.list_objects())).sha256
    (store.folder / lost[:2] / lost[2:]).unlink()
    with pytest.raises(NotFound):
        make_backup(database, store, backups, ignore)
    assert list_backups(backups) == []


def test_an_interrupted_restore_leaves_an_empty_database_and_resumes(
    database, store, backups, empty, tmp_path, monkeypatch
):
    fill_instance(database, store)
    backup, _ = make_backup(database, store, backups, ignore)
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
            restore_backup(backups, backup, empty, target, ignore)
    assert len(loaded) > 5
    with empty.transaction() as tx:
        assert find_filled_table(tx) is None
    plan = restore_backup(backups, backup, empty, target, ignore)
    assert plan.missing == {}, "the objects are there already"
    assert content(empty) == content(database)


def test_a_backup_of_an_older_schema_is_restored_and_upgraded(
    database, store, backups, empty, tmp_path
):
    fill_instance(database, store)
    newest = content(database)
    older = schema._chain()[-2]
    schema.downgrade(database, older)
    with pytest.MonkeyPatch.context() as patch:
        # An older version copies the tables that its code knows, without those of the newest revision.
        existing = set(sa.inspect(database.engine).get_table_names())
        tables = [table for table in copied_tables() if table.name in existing]
        patch.setattr(row_dumps.table_copy, "copied_tables", lambda: tables)
        try:
            backup, _ = make_backup(database, store, backups, ignore)
        except (sa.exc.DBAPIError, psycopg2.Error):
            pytest.skip("the newest revision changed columns; an older version's code is not here")
    assert backup.dump.revision == older
    restore_backup(backups, backup, empty, FolderStore(tmp_path / "restored"), ignore)
    with empty.transaction() as tx:
        assert schema.read_state(tx).current
    assert content(empty)["samples"] == newest["samples"]
