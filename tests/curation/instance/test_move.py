"""A moved instance continues on the new servers, and the old one refuses to work."""

from __future__ import annotations

import shlex
import stat
import uuid

import pytest
import sqlalchemy as sa

from curation.adapters.s3 import S3Store
from curation.datasets.snapshots import freeze_snapshot
from curation.db.table_copy import copied_tables, find_filled_table
from curation.db.tables import decisions
from curation.db.workers import WorkerProcess, WorkerState, record_worker, remove_worker
from curation.errors import Conflict, LayerloopError, Refused
from curation.instance import move, rows
from curation.instance.move import (
    move_instance,
    open_target,
    plan_move,
    quiet_instance,
    target_settings,
    write_environment,
)
from curation.runtime import moved
from curation.runtime.context import open_context
from curation.runtime.finding import without_credentials
from curation.runtime.supervisor import exclusive_home
from curation.settings import Settings
from tests.support.factories import fresh_database, make_candidates, with_database
from tests.support.small_instance import fill_instance


def ignore(_) -> None:
    pass


@pytest.fixture
def instance(settings):
    with open_context(settings) as ctx:
        ctx.database.send = None
        yield ctx


@pytest.fixture
def server(postgres_address):
    """Yield the address of a database without tables."""
    with fresh_database(postgres_address) as name:
        yield with_database(postgres_address, name)


@pytest.fixture
def target(instance, server, s3_credentials):
    """Return the settings of servers: a database without tables, and a bucket that does not exist yet."""
    storage = f"s3://test-{uuid.uuid4().hex[:12]}/objects"
    return target_settings(instance.settings, server, storage, None, s3_credentials.endpoint)


def content(database) -> dict[str, list]:
    with database.transaction() as tx:
        return {
            table.name: sorted(map(repr, tx.execute(sa.select(table)).all()))
            for table in copied_tables()
        }


def freeze(database, store) -> str:
    return freeze_snapshot(database, store, tag=None, actor="test").id


def run(ctx, target: Settings):
    with quiet_instance(ctx), open_target(target, prepare=True) as opened:
        return move_instance(ctx, opened, "test", ignore)


def test_a_moved_instance_is_the_same_and_freezes_the_same_snapshot(instance, target):
    filled = fill_instance(instance.database, instance.store)
    before = content(instance.database)
    secret = instance.signing_secret()
    result = run(instance, target)
    assert result.objects == result.copied_objects == len(list(instance.store.list_objects()))
    with open_context(target) as moved_context:
        moved_context.database.send = None
        assert content(moved_context.database) == before
        assert moved_context.signing_secret() == secret, "people stay signed in"
        # Equal work in both gives equal snapshots.
        names = []
        for ctx in (instance, moved_context):
            with ctx.database.transaction() as tx:
                make_candidates(tx, ctx.store, filled.round_id, 3, start=900)
            names.append(freeze(ctx.database, ctx.store))
        assert names[0] == names[1] == result.snapshot
        with (
            pytest.raises(sa.exc.DBAPIError, match="append"),
            moved_context.database.transaction() as tx,
        ):
            tx.execute(sa.delete(decisions))


def test_the_old_instance_refuses_work_until_it_is_reopened(instance, target):
    fill_instance(instance.database, instance.store)
    run(instance, target)
    with pytest.raises(Conflict, match="moved to") as refused:
        moved.check_not_moved(instance.database)
    assert without_credentials(target.database) in refused.value.message
    assert "reopen" in refused.value.hint
    with pytest.raises(Conflict, match="moved to"):
        run(instance, target)
    with instance.database.transaction() as tx:
        assert moved.reopen(tx, "test")
        assert not moved.reopen(tx, "test")
    moved.check_not_moved(instance.database)
    with open_context(target) as moved_context:
        moved.check_not_moved(moved_context.database)


def test_a_dry_run_counts_and_changes_nothing(instance, server, tmp_path):
    fill_instance(instance.database, instance.store)
    target = target_settings(instance.settings, server, f"file://{tmp_path}/there", None, None)
    with quiet_instance(instance), open_target(target, prepare=False) as opened:
        result = plan_move(instance, opened, ignore)
        with opened.database.transaction() as tx:
            assert not sa.inspect(tx.connection).get_table_names()
    assert result.tables["decisions"] == 6
    assert result.copied_objects == result.objects > 0
    assert result.copied_bytes == sum(found.bytes for found in instance.store.list_objects())
    assert list(opened.store.list_objects()) == []
    moved.check_not_moved(instance.database)


def test_a_dry_run_needs_no_bucket(instance, target):
    fill_instance(instance.database, instance.store)
    with quiet_instance(instance), open_target(target, prepare=False) as opened:
        assert plan_move(instance, opened, ignore).copied_objects > 0
        assert not opened.has_bucket


def test_a_target_that_is_not_empty_is_refused(instance, target):
    fill_instance(instance.database, instance.store)
    with open_target(target, prepare=True) as opened, opened.database.transaction() as tx:
        tx.log("somebody", "worked", "here")
    with pytest.raises(Conflict, match="table events has rows"):
        run(instance, target)
    moved.check_not_moved(instance.database)


def test_running_workers_and_a_running_stack_are_refused(instance, target):
    worker = WorkerProcess("one", "machine", 7, ["cpu"], "0", WorkerState.idle)
    with instance.database.transaction() as tx:
        record_worker(tx, worker)
    with pytest.raises(Conflict, match=r"machine \(process 7\)"):
        run(instance, target)
    with instance.database.transaction() as tx:
        remove_worker(tx, "one")
    with quiet_instance(instance):
        pass


def test_work_during_the_move_is_noticed(instance, target, monkeypatch):
    filled = fill_instance(instance.database, instance.store)
    load_rows = move.load_rows

    def work_meanwhile(*arguments) -> None:
        load_rows(*arguments)
        with instance.database.transaction() as tx:
            make_candidates(tx, instance.store, filled.round_id, 1, start=77)

    with monkeypatch.context() as patch:
        patch.setattr(move, "load_rows", work_meanwhile)
        with pytest.raises(Conflict, match=r"changed while it was moved: .*candidates"):
            run(instance, target)
    with open_target(target, prepare=False) as opened, opened.database.transaction() as tx:
        assert find_filled_table(tx) is None
    run(instance, target)


@pytest.mark.parametrize("stage", ["objects", "rows", "mark"])
def test_an_interrupted_move_resumes(instance, target, monkeypatch, stage):
    fill_instance(instance.database, instance.store)
    before = content(instance.database)
    with monkeypatch.context() as patch:
        if stage == "objects":
            put, puts = S3Store.put, []

            def stop_after_five(store, source):
                puts.append(source)
                if len(puts) > 5:
                    raise KeyboardInterrupt
                return put(store, source)

            patch.setattr(S3Store, "put", stop_after_five)
        elif stage == "rows":
            finish = rows.table_copy.finish_tables

            def stop_at_the_end(tx, tables) -> None:
                finish(tx, tables)
                raise KeyboardInterrupt

            patch.setattr(rows.table_copy, "finish_tables", stop_at_the_end)
        else:
            patch.setattr(move, "verify_copy", lambda *_: 1 / 0)
        with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
            run(instance, target)
    moved.check_not_moved(instance.database)
    result = run(instance, target)
    assert result.copied_objects < result.objects
    with open_context(target) as moved_context:
        assert content(moved_context.database) == before


def test_impossible_targets_are_refused(instance, tmp_path):
    settings = instance.settings
    for database, storage in (
        ("embedded", "s3://bucket"),
        ("postgresql://somewhere/else", "embedded"),
        (settings.database, "s3://bucket"),
        ("mysql://somewhere", "s3://bucket"),
        ("postgresql://somewhere/else", "nonsense"),
    ):
        with pytest.raises(Refused):
            target_settings(settings, database, storage, None, None)


def test_the_environment_file_is_readable_by_its_owner_only(instance, target, tmp_path):
    path = tmp_path / "moved.env"
    write_environment(target, "s" * 40, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = dict(word.split("=", 1) for word in shlex.split(path.read_text()))
    assert lines["LAYERLOOP_DATABASE"] == target.database
    assert lines["LAYERLOOP_SECRET"] == "s" * 40
    assert lines["LAYERLOOP_STORAGE_ENDPOINT"] == target.storage_endpoint
    with pytest.raises(FileExistsError):
        write_environment(target, "other", path)


@pytest.mark.slow
def test_a_home_is_moved_to_servers(tmp_path, target):
    """The embedded database of a laptop; its local stack must have ended."""
    home = Settings(home=tmp_path / "laptop")
    with open_context(home) as laptop:
        laptop.database.send = None
        fill_instance(laptop.database, laptop.store)
        before = content(laptop.database)
        with (
            exclusive_home(home.path(".")),
            pytest.raises(LayerloopError, match="already running"),
        ):
            run(laptop, target)
        run(laptop, target)
    with open_context(target) as moved_context:
        assert content(moved_context.database) == before
    with open_context(home) as laptop, pytest.raises(Conflict, match="moved"):
        moved.check_not_moved(laptop.database)
