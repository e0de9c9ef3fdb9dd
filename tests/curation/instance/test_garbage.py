"""Garbage collection removes unnamed objects only, also while other work goes on."""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import suppress
from datetime import timedelta

import pytest
import sqlalchemy as sa

from curation.adapters.s3 import S3Store
from curation.datasets.named_objects import all_named_objects
from curation.datasets.snapshots import freeze_snapshot
from curation.db.tables import snapshots, training_runs
from curation.errors import NotFound
from curation.instance.garbage import collect_garbage
from tests.support.factories import make_candidates, make_round
from tests.support.small_instance import fill_instance

DAY = timedelta(days=1)
FUTURE = -timedelta(hours=1)
"""A negative grace period, for which every object is old enough."""


def names(store) -> set[str]:
    return {found.sha256 for found in store.list_objects()}


def collect(database, store, grace=DAY, *, dry_run=False):
    return collect_garbage(database, store, grace, lambda _: None, dry_run=dry_run)


def age(store, *sha256, days=2.0) -> None:
    for name in sha256:
        os.utime(store.folder / name[:2] / name[2:], (time.time() - days * 86_400,) * 2)


def test_only_unnamed_objects_older_than_the_grace_period_are_removed(database, store):
    fill_instance(database, store)
    named = names(store)
    old = [store.put(bytes([index]) * 999) for index in range(5)]
    young = store.put(b"put just now")
    age(store, *named, *old)
    planned = collect(database, store, dry_run=True)
    assert names(store) == named | {*old, young}
    report = collect(database, store)
    assert names(store) == named | {young}
    assert (report.named, report.young, report.removed) == (len(named), 1, 5)
    assert report.removed_bytes == 5 * 999
    assert (planned.named, planned.young, planned.removed) == (report.named, 1, 5)
    again = collect(database, store)
    assert (again.named, again.removed) == (len(named), 0)


def test_unnamed_objects_are_removed_on_s3(database, s3_credentials):
    store = S3Store(f"test-{uuid.uuid4().hex[:12]}", "objects", s3_credentials.endpoint)
    store.create_bucket()
    fill_instance(database, store)
    named = names(store)
    for index in range(5):
        store.put(bytes([index]) * 999)
    assert collect(database, store).removed == 0
    assert collect(database, store, FUTURE).removed == 5
    assert names(store) == named == all_named_objects(database, store)


def test_nothing_is_removed_when_a_manifest_is_missing(database, store):
    fill_instance(database, store)
    with database.transaction() as tx:
        tx.execute(sa.insert(snapshots), {"id": "f" * 64, "samples": 1, "counts": {}})
    unnamed = store.put(b"unnamed")
    with pytest.raises(NotFound):
        collect(database, store, FUTURE)
    assert unnamed in names(store)


def test_parts_of_an_unfinished_training_are_kept(database, store):
    instance = fill_instance(database, store)
    part = store.put(b"the first part of a long training")
    age(store, part)
    run = {
        "id": uuid.uuid4(),
        "recipe": "base",
        "preset": "tiny",
        "snapshot_id": instance.snapshot,
        "seed": 0,
        "images": 1,
        "state": "running",
    }
    with database.transaction() as tx:
        started = sa.func.now() - timedelta(days=3)
        tx.execute(sa.insert(training_runs).values(**run, started_at=started))
    assert collect(database, store).removed == 0
    with database.transaction() as tx:
        tx.execute(sa.update(training_runs).values(state="cancelled"))
    assert collect(database, store).removed == 1


def test_freezing_and_generating_meanwhile_lose_nothing(database, store):
    """Old unnamed content is stored again while it is collected."""
    instance = fill_instance(database, store)
    with database.transaction() as tx:
        other = make_round(tx, instance.checkpoint)
    # After this roll-back the layers of the candidates are in the store, old and unnamed.
    with suppress(ZeroDivisionError), database.transaction() as tx:
        make_candidates(tx, store, other, 40)
        raise ZeroDivisionError
    age(store, *names(store))
    stop = threading.Event()
    failed: list[BaseException] = []

    def keep_collecting() -> None:
        while not stop.is_set():
            try:
                collect(database, store)
            except BaseException as error:
                failed.append(error)

    collector = threading.Thread(target=keep_collecting)
    collector.start()
    try:
        for start in range(0, 40, 4):
            with database.transaction() as tx:
                make_candidates(tx, store, other, 4, start=start)
            freeze_snapshot(database, store, tag=None, actor="test")
    finally:
        stop.set()
        collector.join()
    assert not failed
    assert all_named_objects(database, store) <= names(store)
