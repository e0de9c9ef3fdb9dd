"""Dump of all rows of an instance in one transaction, and its loading into another instance."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curation.datasets.named_objects import list_manifests, named_objects
from curation.datasets.snapshots import next_snapshot
from curation.db import schema, table_copy
from curation.db.engine import Database, Transaction
from curation.domain import Progress
from curation.errors import Conflict, Corrupt, Refused
from curation.object_store import compute_sha256
from curation.ports import ProgressCallback

FORMAT = "layerloop rows 1"
CHUNK_BYTES = 16 << 20
"""Size of a chunk of rows before compression, in bytes."""


@dataclass(frozen=True)
class TableRows:
    """The rows of one table: their number and checksum, and the chunks that contain them."""

    name: str
    columns: tuple[str, ...]
    rows: int
    digest: str
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class RowDump:
    """All rows of an instance, with checksums to verify a copy of them."""

    # Revision of the schema.
    revision: str
    tables: tuple[TableRows, ...]
    # The next number of each identity column.
    sequences: dict[str, int]
    # The id that a snapshot of all samples would have; empty without samples.
    next_snapshot: str

    @property
    def rows(self) -> int:
        """The number of rows in all tables."""
        return sum(table.rows for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        """Return the dump's description as a JSON value."""
        return {"format": FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RowDump:
        """Read a description. Raises Corrupt, and Refused for a format of another version."""
        root = dict(value)
        if root.pop("format", None) != FORMAT:
            raise Refused("the rows have a format that this version cannot read", "upgrade")
        try:
            tables = tuple(
                TableRows(**table | {name: tuple(table[name]) for name in ("columns", "chunks")})
                for table in root.pop("tables")
            )
            return cls(tables=tables, **root)
        except (TypeError, KeyError) as error:
            raise Corrupt(f"the description of rows cannot be read: {error}") from error


@dataclass(frozen=True)
class ChunkFolder:
    """A folder on a local disk for chunks of rows, which are read while a transaction is open."""

    folder: Path

    def put(self, data: bytes) -> str:
        """Store a chunk, and return its sha256."""
        name = compute_sha256(data)
        (self.folder / name).write_bytes(data)
        return name

    def get(self, sha256: str) -> bytes:
        """Return a chunk."""
        return (self.folder / sha256).read_bytes()


@dataclass(frozen=True)
class InstanceView:
    """A dump of rows, and the objects that these rows refer to."""

    dump: RowDump
    objects: set[str]
    # Kind and name of objects that name other objects.
    manifests: list[tuple[str, str]]


def dump_rows(
    database: Database, chunks: ChunkFolder, on_progress: ProgressCallback
) -> InstanceView:
    """Read all rows in one repeatable-read transaction; other transactions may write meanwhile.

    Args:
        database: The database.
        chunks: Folder for the chunks.
        on_progress: Receives the progress.
    """
    tables = table_copy.copied_tables()
    with database.transaction(repeatable_read=True) as tx:
        table_copy.fix_formats(tx)
        revision = schema.read_state(tx).revision or ""
        dumped = []
        for index, table in enumerate(tables):
            on_progress(Progress("reading rows", index, len(tables)))
            columns = table_copy.copied_columns(table)
            writer = _ChunkWriter(chunks)
            table_copy.copy_out(tx, table.name, columns, writer)
            rows, digest = table_copy.measure_table(tx, table.name, columns)
            dumped.append(TableRows(table.name, tuple(columns), rows, digest, writer.finish()))
        objects, manifests = set(named_objects(tx)), list_manifests(tx)
        sequences = table_copy.read_sequences(tx)
        dump = RowDump(revision, tuple(dumped), sequences, next_snapshot(tx))
    on_progress(Progress("reading rows", len(tables), len(tables)))
    return InstanceView(dump, objects, manifests)


def load_rows(
    tx: Transaction, dump: RowDump, chunks: ChunkFolder, on_progress: ProgressCallback
) -> None:
    """Load a dump into an empty instance with the same schema, and check it, in one transaction.

    Args:
        tx: The transaction.
        dump: The dump.
        chunks: Folder with its chunks.
        on_progress: Receives the progress.

    Raises:
        Conflict: The instance is not empty.
        Corrupt: The loaded rows differ from the dumped rows.
    """
    names = [table.name for table in dump.tables]
    table_copy.fix_formats(tx)
    refuse_filled(tx)
    table_copy.prepare_tables(tx, names)
    for index, table in enumerate(dump.tables):
        on_progress(Progress("loading rows", index, len(names)))
        table_copy.copy_in(tx, table.name, table.columns, _open_chunks(chunks, table.chunks))
    table_copy.set_sequences(tx, dump.sequences)
    table_copy.finish_tables(tx, names)
    if different := find_differences(tx, dump):
        raise Corrupt(f"the loaded rows differ in {', '.join(different)}", "try again")
    on_progress(Progress("loading rows", len(names), len(names)))


def find_differences(
    tx: Transaction, dump: RowDump, ignored: frozenset[str] = frozenset()
) -> list[str]:
    """Return the tables whose rows differ from a dump, by their number and checksum.

    Args:
        tx: The transaction.
        dump: The dump.
        ignored: Names of tables that may differ.
    """
    table_copy.fix_formats(tx)
    return [
        table.name
        for table in dump.tables
        if table.name not in ignored
        and table_copy.measure_table(tx, table.name, table.columns) != (table.rows, table.digest)
    ]


def find_obstacle(tx: Transaction) -> str | None:
    """Return why rows cannot be loaded into this database, or None if it is empty."""
    if table_copy.is_replica(tx):
        return "it is a replica, which refuses writes"
    if filled := table_copy.find_filled_table(tx):
        return f"it is not empty: table {filled} has rows"
    return None


def refuse_filled(tx: Transaction) -> None:
    """Raise Conflict if rows cannot be loaded into this database."""
    if obstacle := find_obstacle(tx):
        raise Conflict(
            f"rows cannot be loaded into this database: {obstacle}", "name an empty database"
        )


class _ChunkWriter:
    """Splits text into compressed chunks; texts with an equal beginning share its chunks."""

    def __init__(self, folder: ChunkFolder) -> None:
        self.folder = folder
        self.pending = bytearray()
        self.chunks: list[str] = []

    def write(self, data: bytes) -> int:
        self.pending += data
        while len(self.pending) >= CHUNK_BYTES:
            self._store(bytes(self.pending[:CHUNK_BYTES]))
            del self.pending[:CHUNK_BYTES]
        return len(data)

    def finish(self) -> tuple[str, ...]:
        if self.pending:
            self._store(bytes(self.pending))
            self.pending.clear()
        return tuple(self.chunks)

    def _store(self, data: bytes) -> None:
        self.chunks.append(self.folder.put(zlib.compress(data, 3)))


class _ChunkReader(io.RawIOBase):
    """The text of chunks, one after the other."""

    def __init__(self, texts: Iterator[bytes]) -> None:
        self.texts = texts
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.rest = self.rest or next(self.texts, b"")
        part = self.rest[: len(buffer)]
        buffer[: len(part)] = part
        self.rest = self.rest[len(part) :]
        return len(part)


def _open_chunks(folder: ChunkFolder, chunks: Sequence[str]) -> io.BufferedReader:
    return io.BufferedReader(_ChunkReader(zlib.decompress(folder.get(sha)) for sha in chunks))
