"""Content of a snapshot: read in one transaction, and written to the store after its end."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.datasets.decision_records import DecidedCandidates, write_decisions
from curation.datasets.holdout import withheld_samples
from curation.datasets.manifest import Manifest, Part, count_withheld, prefix_length, sum_counts
from curation.datasets.review_statistics import review_statistics
from curation.db.engine import Transaction
from curation.db.tables import samples
from curation.object_store import ObjectWriter

MEMORY_BYTES = 64 << 20
"""Lines that are larger than this together are kept in a temporary file on the disk."""


class WaitingObjects:
    """Objects that are written to a store later; until then they are in a temporary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lengths: list[int] = []

    def put(self, source: bytes) -> str:
        """Keep bytes, and return the sha256 in hex."""
        self._file.write(source)
        self._lengths.append(len(source))
        return hashlib.sha256(source).hexdigest()

    def write(self, store: ObjectWriter) -> None:
        """Write the objects in their order."""
        self._file.seek(0)
        for length in self._lengths:
            store.put(self._file.read(length))


@dataclass(frozen=True)
class SnapshotContent:
    """What a snapshot is made of, independent of the transaction that it was read in.

    Attributes:
        manifest: The manifest.
        review: Statistics of the decisions on its samples.
        objects: The parts, the list of withheld samples, and last the manifest.
    """

    manifest: Manifest
    review: dict[str, Any]
    objects: WaitingObjects


def count_samples(tx: Transaction, chosen: sa.ColumnElement[bool]) -> dict[str, dict[str, int]]:
    """Return the numbers of samples of a condition by kind, licence, split and round."""
    line = sa.cast(samples.c.line, sa.dialects.postgresql.JSONB)
    keys = [
        samples.c.kind,
        line["licence"].astext,
        samples.c.split,
        sa.cast(samples.c.round, sa.Text),
    ]
    grouped = sa.select(*keys, sa.func.count()).where(chosen).group_by(*keys)
    return sum_counts(
        ((kind, licence, split, round_), n)
        for kind, licence, split, round_, n in tx.execute(grouped)
    )


@contextmanager
def read_content(
    tx: Transaction,
    counts: dict[str, dict[str, int]],
    chosen: sa.ColumnElement[bool],
    decided: DecidedCandidates | None = None,
) -> Iterator[SnapshotContent]:
    """Read the samples of a condition.

    The parts are joined in the database and streamed into a temporary file, so that only one part
    at a time is in memory.

    Args:
        tx: A transaction with `repeatable_read`; it may end within the block.
        counts: Result of `count_samples` in the same transaction.
        chosen: Condition on the table `samples`.
        decided: Decided candidates to add.

    Yields:
        The content, until the end of the block.
    """
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
        objects = WaitingObjects(file)
        parts = _read_parts(tx, prefix_length(sum(counts["kind"].values())), chosen, objects)
        withheld = _withheld(tx, chosen)
        listed = ""
        if withheld:
            count_withheld(counts, len(withheld))
            listed = objects.put("".join(id_ + "\n" for id_ in withheld).encode())
        index = write_decisions(objects, decided) if decided else None
        manifest = Manifest(parts, counts, listed, index)
        objects.put(manifest.bytes())
        yield SnapshotContent(manifest, review_statistics(tx, chosen), objects)


def _read_parts(
    tx: Transaction, digits: int, chosen: sa.ColumnElement[bool], objects: ObjectWriter
) -> tuple[Part, ...]:
    """Read the lines of all parts."""
    prefix = sa.func.substr(sa.cast(samples.c.id, sa.Text), 1, digits).label("prefix")
    # The database joins the lines of a part, so that 100,000 rows are sent as 256.
    lines = sa.func.string_agg(sa.literal_column(r"line || E'\n', '' order by samples.id")).label(
        "lines"
    )
    grouped = sa.select(prefix, lines, sa.func.count().label("n")).where(chosen).group_by(prefix)
    # The order of the collation "C" does not depend on the locale.
    ordered = grouped.order_by(sa.collate(prefix, "C")).execution_options(
        stream_results=True, max_row_buffer=16
    )
    return tuple(
        Part(row.prefix, objects.put(row.lines.encode()), row.n) for row in tx.execute(ordered)
    )


def _withheld(tx: Transaction, chosen: sa.ColumnElement[bool]) -> list[str]:
    """Return the ids of the withheld samples among those of a condition, sorted."""
    ids = withheld_samples(tx)
    if not ids:
        return ids
    listed = samples.c.id == sa.any_(sa.cast(ids, ARRAY(UUID)))
    return sorted(
        one.hex for one in tx.execute(sa.select(samples.c.id).where(chosen, listed)).scalars()
    )
