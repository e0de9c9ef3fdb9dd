"""A format of datasets as benchmarks use it: written, extended, thinned out and read; and ours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol

from curation.datasets.manifest import read_samples
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.datasets.snapshots import freeze_snapshot
from curation.db.engine import Database
from curation.domain import Kind, LayerRole
from curation.exports.packs.folder import LocalPackFolder
from curation.exports.packs.opening import open_pack
from curation.exports.packs.writer import pack_snapshot
from curation.object_store import FolderStore

ROWS_PER_CALL = 2_000


class Reader(Protocol):
    """An opened version: its number of samples, and their stored bytes."""

    def __len__(self) -> int: ...

    def read(self, indices: list[int]) -> Sequence[bytes]: ...


class SnapshotFormat:
    """A format in a folder; the first version by `freeze`, the next ones by `add` and `remove`.

    `put` and `discard` bring images in, or out, where a format versions what exists already.
    """

    is_random: ClassVar[bool] = True
    """Whether samples are read by index; otherwise the reader has `iterate(worker, workers)`."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.waiting: list[bytes] = []
        self.count = 0

    def put(self, images: list[bytes]) -> None:
        self.waiting = images

    def freeze(self) -> None:
        self.add(self.waiting)

    def add(self, images: list[bytes]) -> None:
        raise NotImplementedError

    def discard(self, count: int) -> None:
        """Mark the first samples as withdrawn."""

    def remove(self, count: int) -> None:
        raise NotImplementedError

    def open(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open."""

    def server_cpu_seconds(self) -> float:
        """Return the seconds of CPU of a server, beside those of this process."""
        return 0.0

    def rows(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Return rows of the next images, with the captions that ours have."""
        first, self.count = self.count, self.count + len(images)
        return [
            {"id": first + place, "caption": caption(first + place), "image": image}
            for place, image in enumerate(images)
        ]


def caption(number: int) -> str:
    """Return the caption of an image."""
    return f"a blurred pattern of many colors, number {number}"


class LayerloopStore(SnapshotFormat):
    """Ours: objects in a store, samples in PostgreSQL, and a manifest."""

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__(folder, address)
        self.store = FolderStore(folder / "objects")
        self.database = Database(address) if address else None

    def put(self, images: list[bytes]) -> None:
        samples = []
        rows = self.rows(images)
        # Several at a time, as workers and imports store images: each waits for the disk.
        with ThreadPoolExecutor(16) as pool:
            names = list(pool.map(self.store.put, [row["image"] for row in rows]))
        for row, name in zip(rows, names, strict=True):
            layer = StoredLayer(name, 64, 64, len(row["image"]), visible_hash(name))
            layers = {LayerRole.foreground: layer}
            samples.append(
                NewSample(Kind.single, row["caption"], "CC0-1.0", "benchmark", 1, layers)
            )
        assert self.database is not None
        for start in range(0, len(samples), ROWS_PER_CALL):
            with self.database.transaction() as tx:
                add_samples(tx, samples[start : start + ROWS_PER_CALL])

    def freeze(self) -> None:
        assert self.database is not None
        frozen = freeze_snapshot(self.database, self.store, tag=None, actor="benchmark")
        (self.folder / "name").write_text(frozen.id)

    def add(self, images: list[bytes]) -> None:
        self.freeze()

    def discard(self, count: int) -> None:
        assert self.database is not None
        with self.database.transaction() as tx:
            first = f"select id from samples order by id limit {count}"
            tx.connection.exec_driver_sql(
                f"update samples set withdrawn_at = now() where id in ({first})"
            )

    def remove(self, count: int) -> None:
        self.freeze()

    def open(self) -> StoreReader:
        return StoreReader(self.store, (self.folder / "name").read_text())

    def close(self) -> None:
        if self.database is not None:
            self.database.close()

    def server_cpu_seconds(self) -> float:
        if self.database is None:
            return 0.0
        import psutil

        with self.database.transaction() as tx:
            pid = tx.connection.exec_driver_sql("select pg_backend_pid()").scalar_one()
        try:
            used = psutil.Process(int(pid)).cpu_times()
        except psutil.NoSuchProcess:  # the server is on another machine
            return 0.0
        return float(used.user + used.system)


class LayerloopPack(LayerloopStore):
    """Ours: the same, packed into tars with an index."""

    def freeze(self) -> None:
        super().freeze()
        name = (self.folder / "name").read_text()
        pack_snapshot(self.store, name, LocalPackFolder(self.folder / "pack"))

    def open(self) -> StoreReader:
        pack = open_pack(LocalPackFolder(self.folder / "pack"))
        return StoreReader(pack, (self.folder / "name").read_text())


class StoreReader:
    """The layers of a snapshot in the order of the samples' ids; each is checked by its hash."""

    def __init__(self, store: Any, snapshot: str) -> None:
        self.store = store
        self.names = [one.layers[LayerRole.foreground] for one in read_samples(store, snapshot)]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: list[int]) -> Sequence[bytes]:
        return [self.store.get(self.names[index]) for index in indices]


def visible_hash(name: str) -> str:
    """Return a stand-in for the hash of visible pixels, which an import computes."""
    return hashlib.sha256(name.encode()).hexdigest()
