"""Snapshots: named by content, never changed, found by tag, id or the first digits."""

from __future__ import annotations

import random

import pytest
import sqlalchemy as sa

from curation.datasets import snapshots
from curation.datasets.manifest import find_sample, read_manifest, read_samples
from curation.datasets.samples import add_samples
from curation.datasets.snapshot_tags import tag_snapshot
from curation.db.engine import Database
from curation.db.schema import migrate
from curation.db.tables import events, samples, tags
from curation.errors import NotFound, Refused
from curation.object_store import FolderStore
from tests.curation.datasets.test_samples import new_sample
from tests.support.snapshots import assume_whole


def freeze(database: Database, store: FolderStore, tag: str | None = None):
    return snapshots.freeze_snapshot(database, store, tag=tag, actor="test")


def add(database: Database, numbers) -> None:
    with database.transaction() as tx:
        add_samples(
            tx,
            [new_sample(number, licence="CC0-1.0" if number % 2 else "MIT") for number in numbers],
        )
        assume_whole(tx)


def test_freezing_twice_is_one_snapshot(database: Database, store: FolderStore) -> None:
    add(database, range(50))
    first, again = freeze(database, store), freeze(database, store)
    assert first.id == again.id
    with database.transaction() as tx:
        assert [row["id"] for row in snapshots.list_snapshots(tx)] == [first.id]


def test_the_order_of_arrival_does_not_name_a_snapshot(
    database: Database, store: FolderStore
) -> None:
    numbers = list(range(200))
    add(database, numbers)
    first = freeze(database, store)
    with database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "delete from sample_layers; delete from samples; delete from layers"
        )
    random.Random(1).shuffle(numbers)
    for number in numbers:
        add(database, [number])
    assert freeze(database, store).id == first.id


def test_a_snapshot_reads_back_what_was_frozen_and_stays(
    database: Database, store: FolderStore
) -> None:
    add(database, range(30))
    frozen = freeze(database, store)
    with database.transaction() as tx:
        lines = set(tx.execute(sa.select(samples.c.line)).scalars())
    add(database, range(30, 40))
    assert freeze(database, store).id != frozen.id
    read = list(read_samples(store, frozen.id))
    assert {sample.line() for sample in read} == lines
    assert [sample.id for sample in read] == sorted(sample.id for sample in read)
    assert read_manifest(store, frozen.id).counts["licence"] == {"CC0-1.0": 15, "MIT": 15}
    assert find_sample(store, frozen.id, read[7].id) == read[7]
    assert find_sample(store, frozen.id, "f" * 32) is None


@pytest.mark.slow
def test_many_samples_share_parts_and_few_parts_change(
    database: Database, store: FolderStore
) -> None:
    add(database, range(4_200))
    first = freeze(database, store)
    assert len(first.parts) == 16
    add(database, [9_999])
    second = freeze(database, store)
    assert len({part.sha256 for part in first.parts} & {part.sha256 for part in second.parts}) == 15
    assert sum(1 for _ in read_samples(store, second.id)) == 4_201


def test_a_tag_moves_and_is_found(database: Database, store: FolderStore) -> None:
    add(database, [1])
    first = freeze(database, store, "latest")
    add(database, [2])
    second = freeze(database, store, "latest")
    with database.transaction() as tx:
        assert snapshots.find_snapshot(tx, "latest") == second.id
        assert snapshots.find_snapshot(tx, first.id[:10]) == first.id
        for name in ("nothing", first.id[:4], "%" * 10):
            with pytest.raises(NotFound):
                snapshots.find_snapshot(tx, name)
        with pytest.raises(Refused):
            tag_snapshot(tx, "../etc", first.id, "test")


def test_nothing_cannot_be_frozen(database: Database, store: FolderStore) -> None:
    with pytest.raises(Refused):
        freeze(database, store)


NOT_TAGS = [
    "--help",
    "-",
    "",
    "7days",
    "20240501",
    "deadbeef",
    "DEADBEEF",
    "a" * 64,
    "a b",
    "a\n",
    "x" * 101,
    ".x",
    "é",
]


@pytest.mark.parametrize("name", NOT_TAGS)
def test_names_that_look_like_ids_or_options_are_no_tags(
    database: Database, store: FolderStore, name: str
) -> None:
    add(database, [1])
    frozen = freeze(database, store)
    with database.transaction() as tx, pytest.raises(Refused, match="not a valid name of a tag"):
        tag_snapshot(tx, name, frozen.id, "test")


@pytest.mark.parametrize("name", ["v1", "latest", "deadbee", "deadbeef-1", "a.b_c-d", "x" * 100])
def test_plain_words_are_tags(database: Database, store: FolderStore, name: str) -> None:
    add(database, [1])
    frozen = freeze(database, store, name)
    with database.transaction() as tx:
        assert snapshots.find_snapshot(tx, name) == frozen.id


def test_an_id_wins_over_a_tag_of_an_older_version_and_other_tags_keep_working(
    database: Database, store: FolderStore
) -> None:
    add(database, [1])
    first = freeze(database, store)
    add(database, [2])
    second = freeze(database, store)
    old = [first.id, first.id[:10], "20240501", "--help", "größe"]
    with database.transaction() as tx:
        tx.execute(sa.insert(tags), [{"name": name, "snapshot_id": second.id} for name in old])
    with database.transaction() as tx:
        assert [snapshots.find_snapshot(tx, name) for name in old] == [first.id] * 2 + [
            second.id
        ] * 3


def test_the_migration_renames_tags_that_ids_hide(database: Database, store: FolderStore) -> None:
    add(database, [1])
    first = freeze(database, store)
    migrate(database, revision="0007")
    old = [first.id, first.id[:8], "20240501", "--help"]
    with database.transaction() as tx:
        tx.execute(sa.insert(tags), [{"name": name, "snapshot_id": first.id} for name in old])
    migrate(database)
    with database.transaction() as tx:
        named = set(tx.execute(sa.select(tags.c.name)).scalars())
        output = set(
            tx.execute(sa.select(events.c.subject).where(events.c.kind == "tag renamed")).scalars()
        )
    assert named == {f"tag-{first.id}", f"tag-{first.id[:8]}", "20240501", "--help"}
    assert output == {f"tag {first.id}", f"tag {first.id[:8]}"}
