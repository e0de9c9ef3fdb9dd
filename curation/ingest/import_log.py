"""Import log: the outcome of every file in the database, and summaries of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.samples import StoredLayer
from curation.db.engine import Transaction
from curation.db.tables import import_files, imports
from curation.domain import CaptionSource, LayerRole, content_id
from curation.errors import NotFound
from curation.ingest.descriptions import ImportDifference
from curation.ingest.inspection_result import InspectionOutcome, InspectionResult
from curation.ports import ObjectStore


@dataclass(frozen=True)
class FileOutcome:
    """The outcome of one file, archive member or manifest line ("manifest.jsonl:3")."""

    name: str
    outcome: InspectionOutcome
    codes: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class ImportSummary:
    """Summary of the imports of one folder; the fields from `fresh` on describe the last run only.

    Attributes:
        folder: Path of the folder.
        outcomes: Number of files by outcome.
        codes: Number of files by code.
        named: Every file that did not become a sample, with the reason.
        captions: Number of stored images by the source of their caption.
        fresh: Files that this run inspected.
        seconds: Duration of this run.
        differences: Changes in the folder since files were imported.
        gone: Imported files that no longer exist; their samples are kept.
        hidden: Skipped files and folders whose names begin with a dot.
        folder_splits: Number of files in folders named like a split that was not applied.
    """

    folder: str
    outcomes: dict[InspectionOutcome, int]
    codes: dict[str, int]
    named: tuple[FileOutcome, ...]
    captions: dict[CaptionSource, int]
    fresh: int
    seconds: float
    differences: tuple[ImportDifference, ...] = ()
    gone: int = 0
    hidden: int = 0
    folder_splits: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> int:
        """Number of files, archive members and bad manifest lines with an outcome."""
        return sum(self.outcomes.values())

    @property
    def refused(self) -> int:
        """Number of files that were refused or only partly imported, for `--strict`."""
        return self.outcomes.get(InspectionOutcome.reject, 0) + self.outcomes.get(
            InspectionOutcome.partial, 0
        )


def summarize(
    tx: Transaction, folder: Path, inspected: int = 0, seconds: float = 0.0
) -> ImportSummary:
    """Summarize the imports of a folder.

    Args:
        tx: The transaction.
        folder: The imported folder.
        inspected: Number of files that the last run inspected.
        seconds: Duration of the last run.

    Raises:
        NotFound: The folder was never imported.
    """
    import_id = content_id("import", folder.resolve())
    if tx.scalar(sa.select(imports.c.id).where(imports.c.id == import_id)) is None:
        raise NotFound(f"{folder} was never imported", "run 'layerloop seed import' to import it")
    in_import = import_files.c.import_id == import_id
    # Count by outcome, code and caption source.
    by_outcome = (
        sa.select(import_files.c.outcome, sa.func.count())
        .where(in_import)
        .group_by(import_files.c.outcome)
    )
    code = sa.func.unnest(import_files.c.codes).label("code")
    by_code = (
        sa.select(code, sa.func.count())
        .where(in_import)
        .group_by(code)
        .order_by(sa.func.count().desc(), code)
    )
    source = import_files.c.description["caption_source"].astext
    by_source = (
        sa.select(source, sa.func.count())
        .where(in_import, source.is_not(None))
        .group_by(source)
        .order_by(source)
    )
    # List the files that did not become samples.
    stored = [
        InspectionOutcome.accept,
        InspectionOutcome.accept_strip,
        InspectionOutcome.accept_warn,
    ]
    named = (
        sa.select(import_files)
        .where(in_import, import_files.c.outcome.not_in(stored))
        .order_by(import_files.c.name)
    )
    # The code of a duplicate ends with the name of the first file, which is not counted apart.
    codes: dict[str, int] = {}
    for name, count in tx.execute(by_code):
        kind = str(name).partition(":")[0]
        codes[kind] = codes.get(kind, 0) + int(count)
    return ImportSummary(
        folder=str(folder),
        outcomes={InspectionOutcome(row[0]): int(row[1]) for row in tx.execute(by_outcome)},
        codes=codes,
        named=tuple(
            FileOutcome(r.name, InspectionOutcome(r.outcome), tuple(r.codes), r.message)
            for r in tx.execute(named)
        ),
        captions={CaptionSource(row[0]): int(row[1]) for row in tx.execute(by_source)},
        fresh=inspected,
        seconds=seconds,
    )


def original_names(tx: Transaction, import_id: uuid.UUID, layers: set[str]) -> dict[str, str]:
    """Return the file that each layer was first imported from, preferring files of this import.

    Args:
        tx: The transaction.
        import_id: ID of this import.
        layers: Hashes of layers.
    """
    if not layers:
        return {}
    originals = sa.select(import_files.c.layer, import_files.c.name).where(
        import_files.c.layer.in_(layers), import_files.c.outcome != InspectionOutcome.duplicate
    )
    # The last row of a layer wins below, so the preferred one comes last.
    rows = tx.execute(
        originals.order_by(import_files.c.import_id == import_id, import_files.c.name.desc())
    )
    return {row.layer: row.name for row in rows}


def upsert_rows(tx: Transaction, rows: Sequence[dict[str, object]]) -> None:
    """Insert or replace rows of import_files; of several rows for one file the last is kept."""
    if rows:
        adding = insert(import_files)
        fields = {
            name: adding.excluded[name]
            for name in ("stamp", "outcome", "codes", "message", "layer", "description")
        }
        tx.execute(
            adding.on_conflict_do_update(index_elements=["import_id", "name"], set_=fields),
            list({row["name"]: row for row in rows}.values()),
        )


def delete_missing(tx: Transaction, import_id: uuid.UUID, seen: set[str]) -> int:
    """Delete the rows of files that no longer exist and did not become a sample or candidate.

    Args:
        tx: The transaction.
        import_id: ID of the import.
        seen: Names of the files that exist.

    Returns:
        The number of missing files whose rows are kept.
    """
    in_import = import_files.c.import_id == import_id
    query = sa.select(import_files.c.name, import_files.c.layer, import_files.c.outcome)
    rows = tx.execute(query.where(in_import))
    missing = [row for row in rows if row.name not in seen]
    dropped = [
        row.name
        for row in missing
        if row.layer is None or row.outcome == InspectionOutcome.duplicate
    ]
    # In blocks: PostgreSQL limits the number of parameters of a statement.
    for start in range(0, len(dropped), 1_000):
        block = dropped[start : start + 1_000]
        tx.execute(sa.delete(import_files).where(in_import, import_files.c.name.in_(block)))
    return len(missing) - len(dropped)


def put_layers(store: ObjectStore, found: InspectionResult) -> dict[LayerRole, StoredLayer]:
    """Store the layers of an inspected file or pair.

    Args:
        store: The object store.
        found: An accepted file or pair.

    Returns:
        The stored layer of each role.
    """
    encoded = {role: (other.layer, other.visible) for role, other in found.beside.items()}
    encoded[LayerRole.blended if found.beside else LayerRole.foreground] = (
        found.layer or b"",
        found.visible,
    )
    return {
        role: StoredLayer(store.put(data), found.width, found.height, len(data), visible)
        for role, (data, visible) in encoded.items()
    }
