"""Seeds: a folder of images becomes samples, in parallel, resumably, and with an account of every single file."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation import rounds
from curation.database import Database, Transaction
from curation.domain import Kind, LayerRole, Progress, Prompt, content_id
from curation.errors import NotFound
from curation.images.headers import BadFile
from curation.images.limits import LIMITS, Limits
from curation.input_files import UnsafeFile
from curation.intake import archives, confined
from curation.intake.examination import Intake, Item, Loaded, Outcome, refuse
from curation.intake.imports import ImportSummary, keep_rows, names_of, storable_name, summarise
from curation.intake.listing import Listing, list_folder
from curation.intake.sandbox import Failure
from curation.ports import ObjectStore, Report
from curation.samples import NewSample, StoredLayer, add_samples
from curation.screening import duplicates
from curation.screening.duplicates import Duplicate
from curation.tables import import_files, imports

BATCH_FILES = 200
BATCH_BYTES = 64 << 20
"""A transaction keeps this many files, or layers of so many bytes together: what an interruption may cost."""
WRITERS = 4
"""Layers put into the store at once: a put waits for the disk or the network, not for the processor."""

HEAD = 512
"""Bytes at the head of a file that tell an archive from an image."""

UNKNOWN = "unknown"
NO_LICENCE = "licence_unknown"
"""The flag of a file that is stored although nobody said under which licence; its sample says "unknown"."""


def import_seeds(
    database: Database,
    store: ObjectStore,
    folder: Path,
    report: Report = lambda _: None,
    *,
    workers: int = 2,
    actor: str = "seed import",
    link_roots: Sequence[Path] = (),
    limits: Limits = LIMITS,
) -> ImportSummary:
    """Import every image of a folder (recursively, zip archives too); what an earlier run has done is passed by.

    Files that a manifest's row names as a pair become one sample of three layers. All are judged in `workers` confined
    processes and kept in batches: layers first, then one transaction with samples, review candidates and one row per
    file or pair. It is done again only when a size or time has changed. Raises NotFound where there is no such folder.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "give the folder that holds the images")
    started = time.monotonic()
    report(Progress("listing seeds", 0, 0))
    listing = list_folder(folder, link_roots)
    one = _Import(database, store, listing, content_id("import", folder.resolve()), actor, limits)
    one.open()
    total = len(listing.files)
    with confined.open_sandbox(workers, limits) as sandbox, ThreadPoolExecutor(WRITERS) as writers:
        for batch in _batches(sandbox.run(map(one.load, one.unfinished()))):
            one.keep(batch, writers)
            report(Progress("importing seeds", batch[-1][0].place, total))
    summary = one.close(time.monotonic() - started)
    report(Progress("importing seeds", total, total))
    return summary


def _batches(results: Iterable[tuple[Loaded, Intake | Failure]]) -> Iterator[list[tuple[Item, Intake]]]:
    """Results in lists of BATCH_FILES, fewer where the layers are large."""
    batch: list[tuple[Item, Intake]] = []
    weight = 0
    for loaded, result in results:
        item = loaded.item
        found = confined.refusal(loaded, result) if isinstance(result, Failure) else result
        batch.append((item, found))
        weight += len(found.layer or b"") + sum(len(one.layer) for one in found.beside.values())
        if len(batch) >= BATCH_FILES or weight >= BATCH_BYTES:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


class _Import:
    """One run over one folder."""

    def __init__(
        self, database: Database, store: ObjectStore, listing: Listing, id_: uuid.UUID, actor: str, limits: Limits
    ) -> None:
        self.database = database
        self.store = store
        self.listing = listing
        self.id = id_
        self.actor = actor
        self.limits = limits
        self.fresh = 0

    def open(self) -> None:
        """The import's own row, and those of the manifests' bad lines."""
        bad = self.listing.bad_lines
        rows = [
            self._row(line.name, "", Intake(line.name, Outcome.reject, (line.code,), line.sentence)) for line in bad
        ]
        for manifest in dict.fromkeys(line.name.rpartition(":")[0] for line in bad):
            mine = [line for line in bad if line.name.rpartition(":")[0] == manifest]
            sentence = f"{len(mine)} of its lines cannot be followed, each is named"
            rows.append(self._row(manifest, "", Intake(manifest, Outcome.partial, (mine[0].code,), sentence)))
        with self.database.transaction() as tx:
            row = {"id": self.id, "folder": storable_name(str(self.listing.folder.resolve()))}
            tx.execute(insert(imports).on_conflict_do_nothing(), row)
            keep_rows(tx, rows)

    def unfinished(self) -> Iterator[Item]:
        """What is not done yet, in the order of the list; the database is asked in blocks."""
        files = enumerate(self.listing.files, 1)
        found = (item for place, name in files for item in self._items(name, place))
        while items := list(islice(found, 500)):
            with self.database.transaction() as tx:
                wanted = [storable_name(item.name) for item in items]
                mine = (import_files.c.import_id == self.id) & import_files.c.name.in_(wanted)
                finished = {(r.name, r.stamp) for r in tx.execute(sa.select(import_files).where(mine))}
            yield from (
                item for item in items if not item.stamp or (storable_name(item.name), item.stamp) not in finished
            )

    def _items(self, name: str, place: int) -> Iterator[Item]:
        """Name what is to be judged of one listed file; whatever goes wrong with it is its refusal."""
        pair = self.listing.pairs.get(name)
        files = tuple(one for one in (name, pair.background, pair.blended) if one) if pair else (name,)
        item = Item(name, files, "", place)
        try:
            stamps = []
            for one in files:
                with self.listing.open(one) as file:
                    status = os.fstat(file.fileno())
                    stamps.append(f"{status.st_size}:{status.st_mtime_ns}")
                    head = file.read(HEAD)
            item = replace(item, stamp=" ".join(stamps))
        except (UnsafeFile, OSError) as error:
            bad = _bad_file(error)
            yield replace(item, known=refuse(name, bad), stamp=self._stamp_of_refused(files, bad))
            return
        if pair is not None or archives.archive_kind(head) is None:
            yield item
        else:
            yield from self._archive_items(item)

    def _stamp_of_refused(self, files: Sequence[str], bad: BadFile) -> str:
        """Stamp a file that is not opened by its own entry; none for what may be readable the next time."""
        if bad.code == "unreadable":
            return ""
        status = [(self.listing.folder / one).lstat() for one in files if os.path.lexists(self.listing.folder / one)]
        return " ".join(f"{one.st_mode}:{one.st_size}:{one.st_mtime_ns}" for one in status)

    def _archive_items(self, item: Item) -> Iterator[Item]:
        """Name the members of an archive, those refused by its directory known already, and last the archive itself."""
        try:
            with self.listing.open(item.name) as file:
                members = archives.list_members(file, self.limits.bytes)
        except (BadFile, UnsafeFile, OSError) as error:
            yield replace(item, known=refuse(item.name, _bad_file(error)))
            return
        names = Counter(member.name for member in members)
        for member in members:
            again = f"#{member.index}" if names[member.name] > 1 else ""  # an archive may hold one name twice
            name = f"{item.name}/{member.name}{again}"
            known = refuse(name, member.refusal) if member.refusal else None
            yield replace(item, name=name, member=None if known else member, known=known)
        refused = [member.refusal for member in members if member.refusal]
        if refused:
            sentence = f"{len(refused)} of {len(members)} members are refused, each is named"
            outcome = Outcome.partial if len(refused) < len(members) else Outcome.reject
            yield replace(item, known=Intake(item.name, outcome, (refused[0].code,), sentence))

    def load(self, item: Item) -> Loaded:
        """Read an item's bytes, never more than allowed; a file that has gone or changed meanwhile is refused."""
        if item.known is not None:
            return Loaded(item)
        try:
            parts = []
            for name in item.files:
                with self.listing.open(name) as file:
                    if item.member is not None:
                        parts.append(archives.read_member(file, item.member, self.limits.bytes))
                    else:
                        parts.append(file.read(self.limits.bytes + 1))
        except Exception as error:  # also MemoryError: one file is no reason to end an import
            bad = _bad_file(error)
            stamp = "" if bad.code == "unreadable" else item.stamp
            return Loaded(replace(item, known=refuse(item.name, bad), stamp=stamp))
        return Loaded(item, tuple(parts), self.limits)

    def keep(self, batch: Sequence[tuple[Item, Intake]], writers: ThreadPoolExecutor) -> None:
        """Objects first, rows second, duplicates neither."""
        good = [(item, found) for item, found in batch if found.layer is not None]
        firsts = self._find_duplicates([found for _, found in good])
        fresh = [(item, found) for item, found in good if found.name not in firsts]
        stored = dict(
            zip((found.name for _, found in fresh), writers.map(self._put, (f for _, f in fresh)), strict=True)
        )
        with self.database.transaction() as tx:
            self._keep_layers(tx, fresh, stored)
            names = names_of(tx, self.id, {first.of for first in firsts.values()}) | {
                _telling(layers): name for name, layers in reversed(stored.items())
            }
            rows = []
            for item, found in batch:
                first = firsts.get(found.name)
                layer = first.of if first else _telling(stored[found.name]) if found.name in stored else None
                told = _as_duplicate(found, first, names) if first else self._with_licence(found)
                rows.append(self._row(item.name, item.stamp, told, layer))
            keep_rows(tx, rows)
        self.fresh += len(batch)

    def _find_duplicates(self, found: Sequence[Intake]) -> dict[str, Duplicate]:
        """By file name: the layer in the pool, or earlier in this batch, that a file repeats."""
        with self.database.transaction() as tx:
            known = duplicates.find_duplicates(tx, [(one.visible, one.fingerprint) for one in found])
        batch = duplicates.Batch()
        firsts: dict[str, Duplicate] = {}
        for one, earlier in zip(found, known, strict=True):
            # The name that the store will give it; hashing twice is cheap beside encoding.
            again = earlier or batch.find(one.visible, one.fingerprint)
            if again:
                firsts[one.name] = again
            else:
                batch.add(one.visible, one.fingerprint, hashlib.sha256(one.layer or b"").hexdigest())
        return firsts

    def _put(self, found: Intake) -> dict[LayerRole, StoredLayer]:
        main = LayerRole.blended if found.beside else LayerRole.foreground
        encoded = {role: (one.layer, one.visible) for role, one in found.beside.items()}
        encoded[main] = (found.layer or b"", found.visible)
        return {
            role: StoredLayer(self.store.put(data), found.width, found.height, len(data), visible)
            for role, (data, visible) in encoded.items()
        }

    def _keep_layers(
        self, tx: Transaction, fresh: Sequence[tuple[Item, Intake]], stored: dict[str, dict[LayerRole, StoredLayer]]
    ) -> None:
        samples, numbers = [], dict[Kind, int]()
        for _, found in fresh:
            said = self.listing.describe(found.name)
            layers = stored[found.name]
            pair = self.listing.pairs.get(found.name)
            kind = Kind.pair if pair else Kind.single
            prompt = pair.prompt if pair else Prompt(said.caption or UNKNOWN)
            licence = said.licence or UNKNOWN
            source = said.source or f"seed folder {self.listing.folder.resolve().name}"
            if found.outcome is Outcome.review:
                number = numbers[kind] = numbers.get(kind) or rounds.open_seed_review(tx, self.actor, kind)
                origin = {"licence": licence, "source": source, "file": storable_name(found.name)}
                origin |= {"split": said.split} if said.split else {}
                rounds.add_for_review(tx, number, layers, prompt, found.codes, origin)
            else:
                fields = (kind, prompt.text, licence, source, 0, layers, said.split)
                samples.append(NewSample(*fields, texts=prompt.texts))
        add_samples(tx, samples)
        duplicates.add_to_index(tx, {_telling(stored[found.name]): found.fingerprint for _, found in fresh})

    def _with_licence(self, found: Intake) -> Intake:
        """The same, flagged where it is stored and nobody said under which licence."""
        if found.layer is None or self.listing.describe(found.name).licence:
            return found
        return replace(found, codes=(*found.codes, NO_LICENCE))

    def close(self, seconds: float) -> ImportSummary:
        """Note the end, and sum up all that was ever imported from this folder."""
        with self.database.transaction() as tx:
            tx.execute(sa.update(imports).where(imports.c.id == self.id).values(finished_at=sa.func.now()))
            summary = summarise(tx, self.listing.folder, self.fresh, seconds)
            if self.fresh:
                counts = {str(outcome): count for outcome, count in summary.outcomes.items()}
                tx.log(self.actor, "seeds imported", self.id, files=self.fresh, outcomes=counts)
        return summary

    def _row(self, name: str, stamp: str, found: Intake, layer: str | None = None) -> dict[str, object]:
        return {
            "import_id": self.id,
            "name": storable_name(name),
            "stamp": stamp,
            "outcome": found.outcome,
            "codes": [storable_name(code) for code in found.codes],
            "sentence": storable_name(found.sentence),
            "layer": layer,
        }


def _telling(layers: dict[LayerRole, StoredLayer]) -> str:
    """The stored layer by which duplicates are told: a pair's blended one."""
    return layers.get(LayerRole.blended, layers[LayerRole.foreground]).sha256


def _bad_file(error: Exception) -> BadFile:
    """Say of anything that opening or reading a file raised why the file is refused."""
    if isinstance(error, BadFile):
        return error
    if isinstance(error, UnsafeFile):
        return BadFile(error.code, error.message)
    return BadFile("unreadable", f"the file cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}")


def _as_duplicate(found: Intake, first: Duplicate, names: dict[str, str]) -> Intake:
    """A duplicate by file name where the first came from a file, else by its layer; its own findings stay listed."""
    of = names.get(first.of, f"layer {first.of[:12]}")
    kind = "duplicate_of" if first.exact else "near_duplicate_of"
    sentence = f"the same visible pixels as {of}" if first.exact else f"nearly the same picture as {of}"
    findings = f"; {found.sentence}" if found.sentence else ""
    codes = (f"{kind}:{of}", *found.codes)
    return replace(found, outcome=Outcome.duplicate, codes=codes, sentence=sentence + findings, layer=None)
