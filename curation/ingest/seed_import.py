"""Seeds: a folder of images becomes samples, in parallel, resumably, and with an account of every single file."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets import duplicates
from curation.datasets.duplicates import Duplicate
from curation.datasets.samples import UNKNOWN, NewSample, StoredLayer, add_samples
from curation.db.engine import Database, Transaction
from curation.db.tables import import_files, imports
from curation.domain import Kind, LayerRole, Progress, content_id
from curation.errors import NotFound
from curation.image_limits import LIMITS, Limits
from curation.images.headers import BadFile
from curation.ingest import confined
from curation.ingest.corrections import Corrections, former_layers, origin_of, visible_of
from curation.ingest.descriptions import Description
from curation.ingest.folder_listing import AS_IT_IS, Listing, Reading, list_folder
from curation.ingest.import_log import (
    MAX_NAME,
    ImportSummary,
    as_duplicate,
    bad_line_rows,
    file_row,
    forget_gone,
    keep_rows,
    names_of,
    put_layers,
    row_name,
    storable_name,
    summarise,
)
from curation.ingest.inspection import Intake, Item, Loaded, Outcome, refuse
from curation.ingest.items import Items
from curation.ingest.sandbox import Failure
from curation.ports import ObjectStore, Report
from curation.rounds import lifecycle

BATCH_FILES = 200
BATCH_BYTES = 64 << 20
"""A transaction keeps this many files, or layers of so many bytes together: what an interruption may cost."""
WRITERS = 4
"""Layers put into the store at once: a put waits for the disk or the network, not for the processor."""

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
    reading: Reading = AS_IT_IS,
    update: bool = False,
) -> ImportSummary:
    """Import every image of a folder (recursively, archives too); what an earlier run has done is passed by.

    Files that a manifest's row names as a pair become one sample of three layers. All are judged in `workers` confined
    processes and kept in batches: layers first, then one transaction with samples, review candidates and one row per
    file or pair. It is done again only when a size or time has changed. What is said of a file otherwise than when it
    was imported, and changed pixels, are told; with `update` they are taken. Raises NotFound where there is no such
    folder; Refused for an encoding that there is not.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "give the folder that holds the images")
    started = time.monotonic()
    report(Progress("listing seeds", 0, 0))
    listing = list_folder(folder, link_roots, reading)
    corrections = Corrections(
        content_id("import", folder.resolve()), folder.resolve().name, actor, update=update
    )
    one = _Import(database, store, listing, corrections, limits)
    one.open()
    total = len(listing.files)
    with confined.open_sandbox(workers, limits) as sandbox, ThreadPoolExecutor(WRITERS) as writers:
        for batch in _batches(sandbox.run(map(one.items.load, one.unfinished()))):
            one.keep(batch, writers)
            report(Progress("importing seeds", batch[-1][0].place, total))
    summary = one.close(time.monotonic() - started)
    report(Progress("importing seeds", total, total))
    return summary


def _batches(
    results: Iterable[tuple[Loaded, Intake | Failure]],
) -> Iterator[list[tuple[Item, Intake]]]:
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
        self,
        database: Database,
        store: ObjectStore,
        listing: Listing,
        corrections: Corrections,
        limits: Limits,
    ) -> None:
        self.database = database
        self.store = store
        self.listing = listing
        self.corrections = corrections
        self.id = corrections.import_id
        self.actor = corrections.actor
        self.source = corrections.source
        self.items = Items(listing, limits, self._keep_bad_lines)
        self.fresh = 0
        self.hidden = listing.tree.hidden
        self.folder_splits: dict[
            str, int
        ] = {}  # folders called like a split that mean none, with their files
        self._said: dict[str, Description] = {}  # of what is being examined
        self._before: dict[
            str, sa.Row[Any]
        ] = {}  # rows of files that were imported with other bytes
        self._seen: set[str] = set()

    def open(self) -> None:
        """Keep the import's own row, and those of the manifests' bad lines instead of those of earlier runs."""
        folder = self.listing.tree.root
        with self.database.transaction() as tx:
            row = {"id": self.id, "folder": storable_name(folder)}
            tx.execute(insert(imports).on_conflict_do_nothing(), row)
            tx.execute(
                sa.delete(import_files).where(
                    import_files.c.import_id == self.id, import_files.c.stamp == ""
                )
            )
        self._keep_bad_lines(self.listing)

    def _keep_bad_lines(self, listing: Listing) -> None:
        rows = bad_line_rows(self.id, listing)
        self._seen |= {str(row["name"]) for row in rows}
        with self.database.transaction() as tx:
            keep_rows(tx, rows)

    def unfinished(self) -> Iterator[Item]:
        """Yield what is not done yet, in the order of the list; the database is asked in blocks."""
        files = enumerate(self.listing.files, 1)
        found = (
            self._bounded(item) for place, name in files for item in self.items.of(name, place)
        )
        while items := list(islice(found, 500)):
            wanted = {row_name(item.name): item for item in items}
            self._seen |= wanted.keys()
            said = {name: self._describe(item) for name, item in wanted.items()}
            with self.database.transaction() as tx:
                mine = (import_files.c.import_id == self.id) & import_files.c.name.in_(wanted)
                rows = {row.name: row for row in tx.execute(sa.select(import_files).where(mine))}
                same = [
                    (row, said[name])
                    for name, row in rows.items()
                    if row.stamp == wanted[name].stamp or said[name].refusal is not None
                ]
                self.corrections.compare(tx, same)
            for name, item in wanted.items():
                yield from self._to_do(item, said[name], rows.get(name))

    def _bounded(self, item: Item) -> Item:
        """Refuse an item whose name the records cannot hold."""
        short = row_name(item.name)
        if short == storable_name(item.name):
            return item
        self.items.where(item)  # it is not asked for under its own name any more
        bad = BadFile(
            "name_too_long",
            f"its path has more than {MAX_NAME:,} bytes: give its folders shorter names",
        )
        return replace(item, name=short, known=refuse(short, bad))

    def _describe(self, item: Item) -> Description:
        """Return what is said of an item, and count it where its folder is called like a split."""
        listing, name = self.items.where(item)
        if item.known is not None:
            return Description()
        said = listing.describe(name)
        for folder in listing.splits_of(name) if said.split is None else ():
            self.folder_splits[folder] = self.folder_splits.get(folder, 0) + 1
        return said

    def _to_do(self, item: Item, said: Description, row: sa.Row[Any] | None) -> Iterator[Item]:
        """Yield an item that is to be examined: its bytes are new, or it is not held back any more."""
        imported = row is not None and row.layer is not None and row.outcome != Outcome.duplicate
        if said.refusal is not None:
            if imported:
                return  # told as a difference; what was imported stands
            stamp = f"held back {content_id(said.refusal.code, said.refusal.sentence).hex}"
            item = replace(item, stamp=stamp, known=refuse(item.name, said.refusal))
        if item.stamp and row is not None and row.stamp == item.stamp:
            return
        self._said[item.name] = said
        if row is not None and imported:
            self._before[item.name] = row
        yield item

    def keep(self, batch: Sequence[tuple[Item, Intake]], writers: ThreadPoolExecutor) -> None:
        """Objects first, rows second, duplicates neither; of files imported before, only what is taken."""
        looked_at = len(batch)
        batch, replaced = self._settle(batch)
        good = [(item, found) for item, found in batch if found.layer is not None]
        firsts = self._find_duplicates([found for _, found in good], replaced)
        fresh = [(item, found) for item, found in good if found.name not in firsts]
        stored = dict(
            zip(
                (found.name for _, found in fresh),
                writers.map(partial(put_layers, self.store), (f for _, f in fresh)),
                strict=True,
            )
        )
        with self.database.transaction() as tx:
            for row in replaced.values():
                now = stored.get(row.name)
                self.corrections.withdraw(tx, row, _telling(now) if now else "a duplicate")
            self._keep_layers(tx, fresh, stored)
            names = names_of(tx, self.id, {first.of for first in firsts.values()}) | {
                _telling(layers): name for name, layers in reversed(stored.items())
            }
            rows = []
            for item, found in batch:
                first = firsts.get(found.name)
                layer = (
                    first.of
                    if first
                    else _telling(stored[found.name])
                    if found.name in stored
                    else None
                )
                told = as_duplicate(found, first, names) if first else self._with_licence(found)
                said = self._said.pop(item.name, None)
                described = said.record() if said and found.name in stored else None
                rows.append(file_row(self.id, item.name, item.stamp, told, layer, described))
            keep_rows(tx, rows)
        self.fresh += looked_at

    def _settle(
        self, batch: Sequence[tuple[Item, Intake]]
    ) -> tuple[list[tuple[Item, Intake]], dict[str, sa.Row[Any]]]:
        """Compare files with what was imported from them: the same pixels stand, others are told.

        Returns what is to be kept, and the rows of files whose new pixels replace what they became.
        """
        before = {
            found.name: row
            for item, found in batch
            if (row := self._before.pop(item.name, None)) is not None
        }
        if not before:
            return list(batch), {}
        left, replaced = [], {}
        with self.database.transaction() as tx:
            pixels = visible_of(tx, [row.layer for row in before.values()])
            for item, found in batch:
                row = before.get(found.name)
                if row is None:
                    left.append((item, found))
                elif found.layer is None:
                    self._said.pop(item.name, None)
                    self.corrections.tell_pixels(
                        row.name, row.layer[:12], f"refused: {found.sentence}"
                    )
                elif pixels.get(row.layer) == _visible(found):
                    here = (import_files.c.import_id == self.id) & (import_files.c.name == row.name)
                    tx.execute(sa.update(import_files).where(here).values(stamp=item.stamp))
                    self.corrections.compare(tx, [(row, self._said.pop(item.name))])
                else:
                    taken = self.corrections.update
                    self.corrections.tell_pixels(
                        row.name, row.layer[:12], found.visible[:12], taken=taken
                    )
                    if taken:
                        left.append((item, found))
                        replaced[found.name] = row
                    else:
                        self._said.pop(item.name, None)
        return left, replaced

    def _find_duplicates(
        self, found: Sequence[Intake], replaced: Mapping[str, sa.Row[Any]]
    ) -> dict[str, Duplicate]:
        """By file name: the layer in the pool, or earlier in this batch, that a file repeats.

        A replaced file repeats neither what it was before, nor what it was before that.
        """
        with self.database.transaction() as tx:
            known = duplicates.find_duplicates(
                tx, [(one.visible, one.fingerprint) for one in found]
            )
            former = {name: former_layers(tx, row) for name, row in replaced.items()}
        known = [
            None if earlier and earlier.of in former.get(one.name, ()) else earlier
            for one, earlier in zip(found, known, strict=True)
        ]
        batch = duplicates.Batch()
        firsts: dict[str, Duplicate] = {}
        for one, earlier in zip(found, known, strict=True):
            # The name that the store will give it; hashing twice is cheap beside encoding.
            again = earlier or batch.find(one.visible, one.fingerprint)
            if again:
                firsts[one.name] = again
            else:
                batch.add(
                    one.visible, one.fingerprint, hashlib.sha256(one.layer or b"").hexdigest()
                )
        return firsts

    def _keep_layers(
        self,
        tx: Transaction,
        fresh: Sequence[tuple[Item, Intake]],
        stored: dict[str, dict[LayerRole, StoredLayer]],
    ) -> None:
        samples, numbers = [], dict[Kind, int]()
        for _, found in fresh:
            said = self._said[found.name]
            layers, prompt = stored[found.name], said.prompt
            kind = Kind.pair if found.beside else Kind.single
            if found.outcome is Outcome.review:
                number = numbers[kind] = numbers.get(kind) or lifecycle.open_seed_review(
                    tx, self.actor, kind
                )
                origin = origin_of(said, self.source) | {"file": storable_name(found.name)}
                lifecycle.add_for_review(tx, number, layers, prompt, found.codes, origin)
            else:
                told = (said.licence or UNKNOWN, said.source or self.source)
                new = NewSample(kind, prompt.text, *told, 0, layers, said.split, texts=prompt.texts)
                samples.append((replace(new, caption_source=said.caption_source), said))
        added = add_samples(tx, [new for new, _ in samples])
        for new, said in samples:
            if uuid.UUID(new.as_sample().id) not in added:  # it came back with the line that it had
                self.corrections.describe_again(tx, _telling(dict(new.layers)), said)
        duplicates.add_to_index(
            tx, {_telling(stored[found.name]): found.fingerprint for _, found in fresh}
        )

    def _with_licence(self, found: Intake) -> Intake:
        """The same, flagged where it is stored and nobody said under which licence."""
        if found.layer is None or self._said[found.name].licence:
            return found
        return replace(found, codes=(*found.codes, NO_LICENCE))

    def close(self, seconds: float) -> ImportSummary:
        """Note the end, and sum up all that was ever imported from this folder and what has changed in it."""
        with self.database.transaction() as tx:
            gone = forget_gone(tx, self.id, self._seen)
            tx.execute(
                sa.update(imports).where(imports.c.id == self.id).values(finished_at=sa.func.now())
            )
            summary = summarise(tx, Path(self.listing.tree.root), self.fresh, seconds)
            if self.fresh:
                counts = {str(outcome): count for outcome, count in summary.outcomes.items()}
                tx.log(self.actor, "seeds imported", self.id, files=self.fresh, outcomes=counts)
        differences = tuple(self.corrections.differences)
        return replace(
            summary,
            differences=differences,
            gone=gone,
            hidden=self.hidden,
            folder_splits=self.folder_splits,
        )


def _telling(layers: dict[LayerRole, StoredLayer]) -> str:
    """The stored layer by which duplicates are told: a pair's blended one."""
    return layers.get(LayerRole.blended, layers[LayerRole.foreground]).sha256


def _visible(found: Intake) -> dict[LayerRole, str]:
    """Return the hash of what can be seen of each layer of an examined file."""
    main = LayerRole.blended if found.beside else LayerRole.foreground
    return {main: found.visible} | {role: one.visible for role, one in found.beside.items()}
