"""Every object that the database needs is named: no column and no kind of manifest is forgotten."""

from __future__ import annotations

from curation.datasets.named_objects import (
    MANIFESTS,
    OBJECT_COLUMNS,
    _successor,
    all_named_objects,
    list_manifests,
    manifest_objects,
    named_objects,
)
from tests.support.small_instance import fill_instance


def test_rows_and_manifests_name_all_objects_of_an_instance(database, store):
    made = fill_instance(database, store)
    stored = {found.sha256 for found in store.list_objects()}
    assert all_named_objects(database, store) == stored
    with database.transaction() as tx:
        rows = set(named_objects(tx))
        manifests = list_manifests(tx)
        shards = [set(named_objects(tx, f"{shard:02x}")) for shard in range(256)]
    assert ("snapshot", made.snapshot) in manifests
    by_manifest = set(manifest_objects(store, "snapshot", made.snapshot))
    assert by_manifest
    assert rows | by_manifest == stored
    assert not rows & by_manifest
    assert set().union(*shards) == rows
    assert sum(map(len, shards)) == len(rows)


def test_the_range_of_a_prefix_holds_its_names_alone():
    assert [_successor(prefix) for prefix in ("00", "09", "0f", "9f", "fe", "ff")] == [
        "01",
        "0a",
        "10",
        "a0",
        "ff",
        "g",
    ]


def test_every_kind_of_manifest_is_a_column_of_objects():
    assert all(any(column is one for one in OBJECT_COLUMNS) for column, _ in MANIFESTS.values())
