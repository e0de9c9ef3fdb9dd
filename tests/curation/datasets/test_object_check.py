"""A snapshot has no samples whose objects are missing or damaged, and no network in a transaction."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation.datasets import snapshots
from curation.datasets.freeze_query import ALL_SAMPLES, FreezeQuery
from curation.datasets.manifest import read_samples
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.engine import Database
from curation.db.tables import samples, tags
from curation.db.tables import snapshots as snapshots_table
from curation.domain import Kind, LayerRole, Split
from curation.errors import Conflict
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from tests.support.factories import image


def add(database: Database, store: FolderStore, numbers, round_: int = 1) -> dict[int, str]:
    """Add samples with layers in the store; return the name of each one's object."""
    objects = {}
    news = []
    for number in numbers:
        rgba = image(number)
        data = encode_layer(rgba)
        objects[number] = store.put(data)
        layer = StoredLayer(
            objects[number], rgba.shape[1], rgba.shape[0], len(data), pixel_hash(rgba)
        )
        layers = {LayerRole.foreground: layer}
        news.append(
            NewSample(Kind.single, str(number), "CC0-1.0", "here", round_, layers, Split.train)
        )
    with database.transaction() as tx:
        add_samples(tx, news)
    return objects


def path_of(store: FolderStore, name: str) -> Path:
    return store.folder / name[:2] / name[2:]


def rows(database: Database, table: sa.Table) -> list[sa.Row]:
    with database.transaction() as tx:
        return list(tx.execute(sa.select(table)).all())


def freeze(database: Database, store: FolderStore, **options):
    return snapshots.freeze_snapshot(database, store, tag="v1", actor="test", **options)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("round_", [0, 1])
def test_samples_with_damaged_objects_are_refused_or_left_out(database, store, kind, round_):
    objects = add(database, store, range(8), round_)
    for number in (2, 5):
        DAMAGE[kind](path_of(store, objects[number]))
    with pytest.raises(Conflict, match="the objects of 2 samples are not whole") as error:
        freeze(database, store)
    assert objects[2][:12] in error.value.message
    assert ("2 missing" if kind == "missing" else "2 damaged") in error.value.message
    assert "--leave-out-damaged" in error.value.hint
    assert rows(database, snapshots_table) == rows(database, tags) == []
    # Without them it is the snapshot of the six others.
    prepared = snapshots.prepare_snapshot(database, store, leave_out_damaged=True)
    assert len(prepared.left_out) == 2
    frozen = {one.caption for one in read_samples(store, prepared.manifest.id)}
    assert frozen == {"0", "1", "3", "4", "6", "7"}
    # With the objects back they are frozen like any other.
    add(database, store, [2, 5], round_)
    for number in (2, 5):
        path_of(store, objects[number]).unlink(missing_ok=True)
    add(database, store, [2, 5], round_)
    assert freeze(database, store).samples == 8


def test_wrong_bytes_of_an_import_are_found_when_they_are_read(database, store):
    objects = add(database, store, range(4), 0)
    path = path_of(store, objects[1])
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Conflict, match=r"1 damaged.*cannot be read"):
        freeze(database, store)
    assert len(snapshots.prepare_snapshot(database, store, leave_out_damaged=True).left_out) == 1


def test_only_samples_of_the_query_are_checked(database, store):
    objects = add(database, store, range(4), 1) | add(database, store, range(4, 6), 2)
    path_of(store, objects[5]).unlink()
    assert freeze(database, store, query=FreezeQuery(rounds=(1,))).samples == 4
    with pytest.raises(Conflict, match="5"):
        freeze(database, store)


def test_a_sample_is_checked_once(database, store, monkeypatch):
    add(database, store, range(6))
    asked: list[int] = []
    really = store.sizes
    monkeypatch.setattr(store, "sizes", lambda names: asked.append(len(names)) or really(names))
    freeze(database, store)
    assert asked == [6]
    freeze(database, store)
    assert asked == [6], "the store is not asked again"
    add(database, store, range(6, 8))
    assert freeze(database, store).samples == 8
    assert asked == [6, 2]
    assert all(row.checked_at is not None for row in rows(database, samples))


def test_withdrawn_samples_do_not_matter(database, store):
    objects = add(database, store, range(4))
    path_of(store, objects[0]).unlink()
    with database.transaction() as tx:
        tx.execute(
            sa.text("update samples set withdrawn_at = now() where line like :one"),
            {"one": f"%{objects[0]}%"},
        )
    assert freeze(database, store).samples == 3


def test_samples_that_arrive_during_the_check_are_checked_too(database, store, monkeypatch):
    add(database, store, range(4))
    really = snapshots.check_objects
    waiting = [[10], [11]]

    def check_while_others_accept(*arguments):
        found = really(*arguments)
        if waiting:
            add(database, store, waiting.pop())
        return found

    monkeypatch.setattr(snapshots, "check_objects", check_while_others_accept)
    assert freeze(database, store).samples == 6
    waiting = [[number] for number in range(20, 40)]
    with pytest.raises(Conflict, match="faster than"):
        freeze(database, store)


def test_nothing_is_left_without_samples(database, store):
    objects = add(database, store, [1])
    path_of(store, objects[1]).unlink()
    with pytest.raises(Conflict, match="no samples"):
        snapshots.prepare_snapshot(database, store, leave_out_damaged=True)
    assert rows(database, snapshots_table) == []


class Watching(FolderStore):
    """A store that counts the sessions with an open transaction at each use."""

    def watch(self, database: Database) -> list[int]:
        # Fingerprints are computed in two threads, whose own look must not be counted.
        self.database, self.open, self.lock = database, [], threading.Lock()
        return self.open

    def count(self) -> None:
        with self.lock, self.database.transaction() as tx:
            self.open.append(int(tx.scalar(_OPEN) or 0))

    def put(self, source):
        self.count()
        return super().put(source)

    def get(self, sha256):
        self.count()
        return super().get(sha256)

    def sizes(self, names):
        self.count()
        return super().sizes(names)


_OPEN = sa.text("""select count(*) from pg_stat_activity where datname = current_database()
    and pid <> pg_backend_pid() and state like 'idle in transaction%'""")


def test_objects_are_used_with_no_transaction_open(database, store):
    add(database, store, range(8), 0)
    watching = Watching(store.folder)
    used = watching.watch(database)
    freeze(database, watching)
    assert len(used) >= 8 + 1 + 2  # layers of imports are read, and the part and manifest written
    assert set(used) == {0}


class Interrupted(FolderStore):
    """A store whose n-th put fails."""

    left = 10**9

    def put(self, source):
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return super().put(source)


def test_an_interrupted_freeze_records_nothing_and_continues(database, store):
    add(database, store, range(30))
    failing = Interrupted(store.folder)
    for writes in (0, 1):
        failing.left = writes
        with pytest.raises(OSError, match="No space left"):
            freeze(database, failing)
        assert rows(database, snapshots_table) == []
    failing.left = 2
    frozen = freeze(database, failing)
    assert frozen.id == freeze(database, store).id
    assert len(rows(database, snapshots_table)) == 1


def test_a_prepared_snapshot_has_one_view_of_the_samples(database, store):
    add(database, store, range(6))
    prepared = snapshots.prepare_snapshot(database, store)
    add(database, store, range(6, 9))
    with database.transaction() as tx:
        snapshots.record_snapshot(tx, prepared, tag="v1", actor="test")
    (row,) = rows(database, snapshots_table)
    assert row.samples == 6 == len(list(read_samples(store, row.id)))
    assert row.counts["round"] == {"1": 6}
    with database.transaction() as tx:
        snapshots.record_snapshot(tx, prepared, tag="v2", actor="test")
    assert len(rows(database, snapshots_table)) == 1
    assert {tag.name for tag in rows(database, tags)} == {"v1", "v2"}


def test_an_empty_query_names_the_same_snapshot_as_the_next_one(database, store):
    add(database, store, range(6))
    with database.transaction(repeatable_read=True) as tx:
        assert snapshots.next_snapshot(tx) == freeze(database, store, query=ALL_SAMPLES).id
    with pytest.raises(Conflict, match="no samples"):
        freeze(database, store, query=FreezeQuery(rounds=(9,)))


def test_ids_are_told_with_the_first_reasons(database, store):
    objects = add(database, store, range(12))
    for name in objects.values():
        path_of(store, name).unlink()
    with pytest.raises(Conflict) as error:
        freeze(database, store)
    told = error.value.message
    ids = {str(row.id) for row in rows(database, samples)}
    assert sum(one in told for one in ids) == 5
    assert told.endswith("...")
    assert uuid.UUID(told.split(": ")[1].split(":")[0]) in {uuid.UUID(one) for one in ids}
