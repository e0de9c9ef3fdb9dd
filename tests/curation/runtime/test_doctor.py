"""The doctor names the cause of each problem on real servers, and leaves nothing behind."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation import __version__
from curation.adapters import embedded_postgres
from curation.db import secrets, workers
from curation.db.engine import Database
from curation.db.workers import WorkerProcess, WorkerState
from curation.runtime import doctor_servers, doctor_storage
from curation.runtime.context import open_context, upgrade_database
from curation.runtime.doctor import run_checks
from curation.runtime.finding import Finding
from curation.runtime.health import Readiness
from curation.settings import Settings
from tests.support.servers import S3Server, free_port


def finding(settings: Settings, part: str) -> Finding:
    [found] = [candidate for candidate in run_checks(settings) if candidate.part == part]
    return found


def test_a_sound_instance_has_no_findings_and_keeps_no_probe_object(settings: Settings) -> None:
    assert [finding_ for finding_ in run_checks(settings) if not finding_.ok] == []
    objects = settings.home / "objects"
    assert [path for path in objects.rglob("*") if path.is_file()] == []


def on_s3(settings: Settings, endpoint: str, bucket: str) -> Settings:
    return settings.model_copy(update={"storage": f"s3://{bucket}/x", "storage_endpoint": endpoint})


def test_a_bucket_is_probed_and_a_missing_one_is_named(
    settings: Settings, s3_credentials: S3Server
) -> None:
    configured = on_s3(settings, s3_credentials.endpoint, f"doctor-{uuid.uuid4().hex[:8]}")
    missing = doctor_storage.check_store(configured)
    assert not missing.ok
    assert "there is no bucket" in missing.message
    with open_context(configured) as context:
        assert Readiness(context).check()["store"] == "does not answer"
        context.store.create_bucket()
        assert doctor_storage.check_store(configured).ok
        assert list(context.store.list_objects()) == []
        clocks = doctor_servers.check_clocks(context)
        assert clocks.ok, clocks.message
        assert "the object store" in clocks.message


def test_unreachable_endpoints_and_wrong_credentials_are_named(
    settings: Settings, s3_credentials: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = doctor_storage.check_store(on_s3(settings, f"http://127.0.0.1:{free_port()}", "b"))
    assert "does not answer" in dead.message
    configured = on_s3(settings, s3_credentials.endpoint, "bucket")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key-1")
    wrong = finding(configured, "store")
    assert "refuses" in wrong.message
    assert "credentials" in wrong.hint
    assert "wrong-secret-key-1" not in wrong.message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "needs credentials" in doctor_storage.check_store(configured).message


def test_a_folder_that_cannot_be_used_is_named(settings: Settings) -> None:
    bad = settings.model_copy(update={"storage": "file:///proc/nowhere"})
    assert not doctor_storage.check_store(bad).ok


def test_every_disk_is_checked_once(tmp_path: Path) -> None:
    finding_ = doctor_storage.check_disks(Settings(home=tmp_path))
    assert len(finding_) == 1
    assert "home and database" in finding_[0].message
    settings = Settings(home=tmp_path, storage="file:///dev/shm/layerloop-not-there")
    assert [
        found.message.split(" for ")[1][:5] for found in doctor_storage.check_disks(settings)
    ] == [
        "home ",
        "store",
    ]


def test_random_layers_of_the_whole_table_are_checked(
    settings: Settings, database: Database
) -> None:
    with open_context(settings) as context, database.transaction() as tx:
        sha256 = context.store.put(b"a layer")
        tx.execute(sa.text(INSERT_ROWS), {"there": sha256})
    with open_context(settings) as context:
        found = doctor_storage.check_objects(context)
        assert "400 layers drawn at random" in found.message
        assert "with 95% confidence" in found.message
        with database.transaction() as tx:
            rows = tx.execute(sa.text("select candidate_id from candidate_layers")).scalars()
            first = set(list(rows)[:1500])
            drawn, every = doctor_storage._sample_names(tx, "candidate_layers", "candidate_id")
            assert (every, set(drawn)) == (False, {sha256})
            # One in five of the layers of the second half is lost.
            tx.execute(sa.text(LOSE_LAYERS), {"first": list(first)})
        after_loss = doctor_storage.check_objects(context)
        assert not after_loss.ok
        assert "1 objects are missing" in after_loss.message


INSERT_ROWS = """
    with p as (insert into prompts (id, text) values (gen_random_uuid(), 'x') returning id),
    m as (insert into layers (sha256, width, height, bytes, visible)
        values (:there, 1, 1, 1, repeat('a', 64)), (repeat('b', 64), 1, 1, 1, repeat('b', 64))),
    r as (insert into rounds (purpose, kind, quota, policy, state)
        values ('seeds', 'single', 0, '{}', 'open') returning id),
    c as (insert into candidates (id, round_id, prompt_id, seed, state)
        select gen_random_uuid(), r.id, p.id, n, 'requested'
        from r, p, generate_series(1, 3000) n returning id)
    insert into candidate_layers (candidate_id, role, sha256)
    select id, 'foreground', :there from c"""

LOSE_LAYERS = """
    update candidate_layers set sha256 = repeat('b', 64)
    where candidate_id <> all(cast(:first as uuid[])) and right(candidate_id::text, 1) in ('0', '5', 'a')"""


def test_a_replica_is_refused(postgres_folder: Path, tmp_path: Path) -> None:
    address = embedded_postgres.start_server(postgres_folder)
    settings = Settings(home=tmp_path / "home", database=address)
    upgrade_database(settings)
    embedded_postgres.stop_server(postgres_folder)
    (postgres_folder / "data" / "standby.signal").touch()
    embedded_postgres.start_server(postgres_folder)
    found = finding(settings, "database")
    assert not found.ok
    assert "is a replica" in found.message
    assert "primary" in found.hint


def test_a_wrong_clock_is_reported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) - timedelta(minutes=5)

    monkeypatch.setattr(doctor_servers, "datetime", Late)
    found = finding(settings, "clocks")
    assert not found.ok
    assert "the database +300." in found.message


def test_processes_with_another_version_or_secret_are_reported(
    settings: Settings, database: Database
) -> None:
    with database.transaction() as tx:
        worker = WorkerProcess("w", "host", 7, ["gpu"], "0.0.9", WorkerState.idle)
        workers.record_worker(tx, worker)
        secrets.check_secret(tx, "a" * 32)
    assert "0.0.9" in finding(settings, "versions").message
    other = settings.model_copy(update={"secret": None})
    assert not finding(other, "secret").ok
    same = Settings(home=settings.home, database=settings.database, secret="a" * 32)
    assert finding(same, "secret").ok


def test_pauses_of_workers_are_reported_once_each(settings: Settings, database: Database) -> None:
    reason = "generate for 40 s: Unreachable: the object store fails: details"
    with database.transaction() as tx:
        for name in ("a", "b", "c"):
            paused = WorkerState.idle if name == "c" else WorkerState.paused
            kept = None if name == "c" else reason.replace("40", str(40 + len(name)))
            worker = WorkerProcess(name, "host", 7, ["gpu"], __version__, paused, reason=kept)
            workers.record_worker(tx, worker)
    found = finding(settings, "workers")
    assert not found.ok
    assert found.message.startswith("3 live, of which some pause: generate: Unreachable")
    assert found.message.count("Unreachable") == 1
    with database.transaction() as tx:
        for name in ("a", "b"):
            workers.remove_worker(tx, name)
    assert finding(settings, "workers").message == "1 live, none pauses"


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_a_message_goes_through_the_broker(
    settings: Settings, broker: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(f"{broker}_address")
    found = finding(settings.model_copy(update={"queue": address}), "queue")
    assert found.ok, found.message
    assert "returns a message" in found.message


def test_the_reason_of_a_broker_is_reported_without_the_password(
    settings: Settings, rabbitmq_address: str
) -> None:
    wrong = rabbitmq_address.replace("guest:guest@", "guest:wrong-password@")
    found = finding(settings.model_copy(update={"queue": wrong}), "queue")
    assert not found.ok
    assert "refused" in found.message.lower()
    assert "wrong-password" not in found.message
