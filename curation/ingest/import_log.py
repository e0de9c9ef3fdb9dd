"""The account of imports: what became of every file, kept in the records and summed up the same at any time."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.duplicates import Duplicate
from curation.datasets.samples import StoredLayer
from curation.db.engine import Transaction
from curation.db.tables import import_files, imports
from curation.domain import CaptionSource, LayerRole, content_id
from curation.errors import NotFound
from curation.ingest.caption_files import CAPTION_FILES
from curation.ingest.descriptions import Difference
from curation.ingest.folder_listing import BadLine, Listing
from curation.ingest.inspection import Intake, Outcome
from curation.ports import ObjectStore

READ_ARE = (
    "read are images, captions beside them (x.txt, x.caption, x.json), metadata (.jsonl, .csv, .tsv, .json), "
    "and all of these in zip and tar archives"
)
"""What is said of a file that is none of what an import reads."""

MAX_NAME: Final = 2_600
"""Bytes of a file's name in the records: a row of PostgreSQL's index holds 2,704, the import's id among them."""

NO_IMAGE_BESIDE = "a caption or metadata without an image: none beside it bears its name"


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file, archive member or manifest line ("manifest.jsonl:3")."""

    name: str
    outcome: Outcome
    codes: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class ImportSummary:
    """What became of a folder, the same whenever it is asked; what follows `seconds` is of this run alone."""

    folder: str
    outcomes: dict[Outcome, int]
    codes: dict[str, int]
    named: tuple[FileOutcome, ...]  # every file that did not become a sample, with the reason
    captions: dict[CaptionSource, int]  # of what was stored, by where they come from
    fresh: int
    seconds: float
    differences: tuple[
        Difference, ...
    ] = ()  # what the folder says otherwise than when it was imported
    gone: int = 0  # files that are not there any more; their samples stand
    hidden: int = 0  # files and folders whose names begin with a dot, which are not looked at
    folder_splits: Mapping[str, int] = field(
        default_factory=dict
    )  # folders called like a split that mean none: files

    @property
    def files(self) -> int:
        """How many files, members and bad lines there are an account of."""
        return sum(self.outcomes.values())

    @property
    def refused(self) -> int:
        """How many were not, or not all, taken: what `--strict` looks at."""
        return self.outcomes.get(Outcome.reject, 0) + self.outcomes.get(Outcome.partial, 0)


def summarise(tx: Transaction, folder: Path, fresh: int = 0, seconds: float = 0.0) -> ImportSummary:
    """The account of a folder imported before. Raises NotFound."""
    import_id = content_id("import", folder.resolve())
    if tx.scalar(sa.select(imports.c.id).where(imports.c.id == import_id)) is None:
        raise NotFound(f"{folder} was never imported", "'layerloop seed import' does it")
    mine = import_files.c.import_id == import_id
    by_outcome = (
        sa.select(import_files.c.outcome, sa.func.count())
        .where(mine)
        .group_by(import_files.c.outcome)
    )
    code = sa.func.unnest(import_files.c.codes).label("code")
    by_code = (
        sa.select(code, sa.func.count())
        .where(mine)
        .group_by(code)
        .order_by(sa.func.count().desc(), code)
    )
    source = import_files.c.described["caption_source"].astext
    by_source = (
        sa.select(source, sa.func.count())
        .where(mine, source.is_not(None))
        .group_by(source)
        .order_by(source)
    )
    stored = [Outcome.accept, Outcome.accept_strip, Outcome.accept_warn]
    named = (
        sa.select(import_files)
        .where(mine, import_files.c.outcome.not_in(stored))
        .order_by(import_files.c.name)
    )
    codes: dict[str, int] = {}
    for name, count in tx.execute(by_code):
        plain = str(name).partition(":")[0]  # duplicates of whichever file are one code
        codes[plain] = codes.get(plain, 0) + int(count)
    return ImportSummary(
        folder=str(folder),
        outcomes={Outcome(row[0]): int(row[1]) for row in tx.execute(by_outcome)},
        codes=codes,
        named=tuple(
            FileOutcome(r.name, Outcome(r.outcome), tuple(r.codes), r.sentence)
            for r in tx.execute(named)
        ),
        captions={CaptionSource(row[0]): int(row[1]) for row in tx.execute(by_source)},
        fresh=fresh,
        seconds=seconds,
    )


def names_of(tx: Transaction, import_id: uuid.UUID, layers: set[str]) -> dict[str, str]:
    """The files from which layers first came, those of this import before those of others."""
    if not layers:
        return {}
    came = sa.select(import_files.c.layer, import_files.c.name).where(
        import_files.c.layer.in_(layers), import_files.c.outcome != Outcome.duplicate
    )
    rows = tx.execute(
        came.order_by(import_files.c.import_id == import_id, import_files.c.name.desc())
    )
    return {row.layer: row.name for row in rows}


def keep_rows(tx: Transaction, rows: Sequence[dict[str, object]]) -> None:
    """Note what became of files; a row that is there is replaced."""
    if rows:
        adding = insert(import_files)
        fields = {
            name: adding.excluded[name]
            for name in ("stamp", "outcome", "codes", "sentence", "layer", "described")
        }
        tx.execute(
            adding.on_conflict_do_update(index_elements=["import_id", "name"], set_=fields),
            list({row["name"]: row for row in rows}.values()),
        )


def forget_gone(tx: Transaction, import_id: uuid.UUID, seen: set[str]) -> int:
    """Drop the rows of files that are not there any more and became nothing; returns how many others are gone."""
    mine = import_files.c.import_id == import_id
    rows = tx.execute(
        sa.select(import_files.c.name, import_files.c.layer, import_files.c.outcome).where(mine)
    )
    gone = [row for row in rows if row.name not in seen]
    dropped = [row.name for row in gone if row.layer is None or row.outcome == Outcome.duplicate]
    for start in range(0, len(dropped), 1_000):
        tx.execute(
            sa.delete(import_files).where(
                mine, import_files.c.name.in_(dropped[start : start + 1_000])
            )
        )
    return len(gone) - len(dropped)


def put_layers(store: ObjectStore, found: Intake) -> dict[LayerRole, StoredLayer]:
    """Store the layers of what was judged: one, or those of a pair."""
    encoded = {role: (one.layer, one.visible) for role, one in found.beside.items()}
    encoded[LayerRole.blended if found.beside else LayerRole.foreground] = (
        found.layer or b"",
        found.visible,
    )
    return {
        role: StoredLayer(store.put(data), found.width, found.height, len(data), visible)
        for role, (data, visible) in encoded.items()
    }


def file_row(
    import_id: uuid.UUID,
    name: str,
    stamp: str,
    found: Intake,
    layer: str | None = None,
    described: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Return what became of one file as a row to be kept."""
    sentence = found.sentence
    if found.code == "not_an_image":
        is_caption = PurePosixPath(name).suffix.lower() in CAPTION_FILES
        sentence = NO_IMAGE_BESIDE if is_caption else f"{sentence}; {READ_ARE}"
    return {
        "import_id": import_id,
        "name": row_name(name),
        "stamp": stamp,
        "outcome": found.outcome,
        "codes": [storable_name(code) for code in found.codes],
        "sentence": storable_name(sentence),
        "layer": layer,
        "described": described,
    }


def bad_line_rows(import_id: uuid.UUID, listing: Listing) -> list[dict[str, object]]:
    """Return rows for the bad lines of a listing's manifests, and one for each manifest that has any."""
    rows = []
    manifests: dict[str, list[BadLine]] = {}
    for line in listing.bad_lines:
        manifests.setdefault(line.name.rpartition(":")[0], []).append(line)
        name = listing.inside + line.name
        rows.append(
            file_row(import_id, name, "", Intake(name, line.outcome, (line.code,), line.sentence))
        )
    for manifest, mine in manifests.items():
        name = listing.inside + manifest
        code = next((line.code for line in mine if line.outcome is Outcome.reject), mine[0].code)
        sentence = f"{len(mine)} of its lines cannot be followed, each is named"
        rows.append(file_row(import_id, name, "", Intake(name, Outcome.partial, (code,), sentence)))
    return rows


def as_duplicate(found: Intake, first: Duplicate, names: dict[str, str]) -> Intake:
    """A duplicate by file name where the first came from a file, else by its layer; its own findings stay listed."""
    of = names.get(first.of, f"layer {first.of[:12]}")
    kind = "duplicate_of" if first.exact else "near_duplicate_of"
    sentence = (
        f"the same visible pixels as {of}" if first.exact else f"nearly the same picture as {of}"
    )
    findings = f"; {found.sentence}" if found.sentence else ""
    codes = (f"{kind}:{of}", *found.codes)
    return replace(
        found, outcome=Outcome.duplicate, codes=codes, sentence=sentence + findings, layer=None
    )


def storable_name(text: str) -> str:
    """File names are bytes; those that are no UTF-8, and NUL, are written as escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace").replace("\0", "\\0")


def row_name(name: str) -> str:
    """A file's name as the records hold it: one that is too long for their index is cut, with its hash behind it."""
    data = storable_name(name).encode()
    if len(data) <= MAX_NAME:
        return data.decode()
    return f"{data[:200].decode('utf-8', 'ignore')}...{hashlib.sha256(data).hexdigest()[:16]}"
