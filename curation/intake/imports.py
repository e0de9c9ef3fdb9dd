"""The account of imports: what became of every file, kept in the records and summed up the same at any time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.database import Transaction
from curation.domain import content_id
from curation.errors import NotFound
from curation.intake.examination import Outcome
from curation.tables import import_files, imports


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file, archive member or manifest line ("manifest.jsonl:3")."""

    name: str
    outcome: Outcome
    codes: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class ImportSummary:
    """What became of a folder, the same whenever it is asked; `fresh` and `seconds` are of this run alone."""

    folder: str
    outcomes: dict[Outcome, int]
    codes: dict[str, int]
    named: tuple[FileOutcome, ...]  # every file that did not become a sample, with the reason
    fresh: int
    seconds: float

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
    by_outcome = sa.select(import_files.c.outcome, sa.func.count()).where(mine).group_by(import_files.c.outcome)
    code = sa.func.unnest(import_files.c.codes).label("code")
    by_code = sa.select(code, sa.func.count()).where(mine).group_by(code).order_by(sa.func.count().desc(), code)
    stored = [Outcome.accept, Outcome.accept_strip, Outcome.accept_warn]
    named = sa.select(import_files).where(mine, import_files.c.outcome.not_in(stored)).order_by(import_files.c.name)
    codes: dict[str, int] = {}
    for name, count in tx.execute(by_code):
        plain = str(name).partition(":")[0]  # duplicates of whichever file are one code
        codes[plain] = codes.get(plain, 0) + int(count)
    return ImportSummary(
        folder=str(folder),
        outcomes={Outcome(row[0]): int(row[1]) for row in tx.execute(by_outcome)},
        codes=codes,
        named=tuple(FileOutcome(r.name, Outcome(r.outcome), tuple(r.codes), r.sentence) for r in tx.execute(named)),
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
    rows = tx.execute(came.order_by(import_files.c.import_id == import_id, import_files.c.name.desc()))
    return {row.layer: row.name for row in rows}


def keep_rows(tx: Transaction, rows: Sequence[dict[str, object]]) -> None:
    """Note what became of files; a row that is there is replaced."""
    if rows:
        adding = insert(import_files)
        fields = {name: adding.excluded[name] for name in ("stamp", "outcome", "codes", "sentence", "layer")}
        tx.execute(
            adding.on_conflict_do_update(index_elements=["import_id", "name"], set_=fields),
            list({row["name"]: row for row in rows}.values()),
        )


def storable_name(text: str) -> str:
    """File names are bytes; those that are no UTF-8, and NUL, are written as escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace").replace("\0", "\\0")
