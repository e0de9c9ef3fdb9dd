"""State and storage of one seed import: skip finished files, store new ones, report changes."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
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
from curation.datasets.samples import UNKNOWN_VALUE, NewSample, StoredLayer, add_samples
from curation.db.engine import Database, Transaction
from curation.db.tables import import_files, imports
from curation.domain import Kind, LayerRole, content_id
from curation.image_limits import ImageLimits
from curation.images.headers import InvalidImage
from curation.ingest.corrections import ImportChanges, former_layers
from curation.ingest.descriptions import FileMetadata
from curation.ingest.import_log import (
    ImportSummary,
    delete_missing,
    original_names,
    put_layers,
    summarize,
    upsert_rows,
)
from curation.ingest.import_rows import (
    MAX_NAME,
    as_duplicate,
    bad_line_rows,
    file_row,
    row_name,
    storable_name,
)
from curation.ingest.imported_items import candidate_origin, pixel_hashes
from curation.ingest.inspection_result import (
    ImportItem,
    InspectionOutcome,
    InspectionResult,
    refused_result,
)
from curation.ingest.items import ImportItems
from curation.ingest.listing import Listing
from curation.ingest.taken_down import refuse_taken_down
from curation.ports import ObjectStore
from curation.rounds import lifecycle

NO_LICENSE = "licence_unknown"
"""Code of a stored file without a license; its sample has the license "unknown"."""


class ImportRun:
    """State of one import run over one folder."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        listing: Listing,
        corrections: ImportChanges,
        limits: ImageLimits,
    ) -> None:
        """Create the state of a run.

        Args:
            database: The database.
            store: The object store for the layers.
            listing: The files of the folder.
            corrections: Collector of the changes since earlier runs.
            limits: Limits of the images.
        """
        self.database = database
        self.store = store
        self.listing = listing
        self.corrections = corrections
        self.id = corrections.import_id
        self.actor = corrections.actor
        self.source = corrections.source
        self.items = ImportItems(listing, limits, self._keep_bad_lines)
        self.fresh = 0
        self.hidden = listing.tree.hidden
        # Number of files in folders named like a split that is not applied.
        self.folder_splits: dict[str, int] = {}
        # Descriptions of the items that are being inspected.
        self._descriptions: dict[str, FileMetadata] = {}
        # Rows of files that were imported with other bytes.
        self._previous: dict[str, sa.Row[Any]] = {}
        self._seen: set[str] = set()

    def open(self) -> None:
        """Insert the import's row, and replace the rows of bad manifest lines of earlier runs."""
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
            upsert_rows(tx, rows)

    def pending_items(self) -> Iterator[ImportItem]:
        """Yield the items to inspect in listing order, querying the database in blocks."""
        files = enumerate(self.listing.files, 1)
        found = (
            self._bounded(item) for index, name in files for item in self.items.of(name, index)
        )
        while items := list(islice(found, 500)):
            block = {row_name(item.name): item for item in items}
            self._seen |= block.keys()
            described = {name: self._describe(item) for name, item in block.items()}
            with self.database.transaction() as tx:
                in_block = (import_files.c.import_id == self.id) & import_files.c.name.in_(block)
                query = sa.select(import_files).where(in_block)
                rows = {row.name: row for row in tx.execute(query)}
                # Files with unchanged bytes may still have a changed description.
                same = [
                    (row, described[name])
                    for name, row in rows.items()
                    if row.stamp == block[name].stamp or described[name].refusal is not None
                ]
                self.corrections.compare(tx, same)
            for name, item in block.items():
                yield from self._needs_inspection(item, described[name], rows.get(name))

    def _bounded(self, item: ImportItem) -> ImportItem:
        """Refuse an item whose name is too long for the database."""
        short = row_name(item.name)
        if short == storable_name(item.name):
            return item
        # Drops its entry, since it is not looked up under its full name any more.
        self.items.where(item)
        bad = InvalidImage(
            "name_too_long", f"its path has more than {MAX_NAME:,} bytes: shorten its folder names"
        )
        return replace(item, name=short, known=refused_result(short, bad))

    def _describe(self, item: ImportItem) -> FileMetadata:
        """Return the description of an item, and count it if its folder is named like a split."""
        listing, name = self.items.where(item)
        if item.known is not None:
            return FileMetadata()
        description = listing.describe(name)
        for folder in listing.folder_splits(name) if description.split is None else ():
            self.folder_splits[folder] = self.folder_splits.get(folder, 0) + 1
        return description

    def _needs_inspection(
        self, item: ImportItem, description: FileMetadata, row: sa.Row[Any] | None
    ) -> Iterator[ImportItem]:
        """Yield the item if its bytes are new or it is no longer held back."""
        imported = (
            row is not None and row.layer is not None and row.outcome != InspectionOutcome.duplicate
        )
        if description.refusal is not None:
            # Reported as a difference; the imported sample is kept.
            if imported:
                return
            # Stamped with the reason: the file is skipped as long as the reason stays the same.
            reason = content_id(description.refusal.code, description.refusal.sentence)
            stamp = f"held back {reason.hex}"
            item = replace(item, stamp=stamp, known=refused_result(item.name, description.refusal))
        if item.stamp and row is not None and row.stamp == item.stamp:
            return
        self._descriptions[item.name] = description
        if row is not None and imported:
            self._previous[item.name] = row
        yield item

    def keep(
        self, batch: Sequence[tuple[ImportItem, InspectionResult]], writers: ThreadPoolExecutor
    ) -> None:
        """Store a batch of inspected items: first their layers, then all rows in one transaction.

        Args:
            batch: Items with their outcomes.
            writers: Threads that write to the store.
        """
        inspected = len(batch)
        batch, replaced = self._compare_imported(refuse_taken_down(self.database, batch))
        accepted = [(item, found) for item, found in batch if found.layer is not None]
        firsts = self._find_duplicates([found for _, found in accepted], replaced)
        fresh = [(item, found) for item, found in accepted if found.name not in firsts]
        # Layers are stored before the rows refer to them; duplicates are not stored.
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
                self.corrections.withdraw(tx, row, _identifying(now) if now else "a duplicate")
            self._add_layers(tx, fresh, stored)
            # A duplicate names the file of the first layer, in this batch or an earlier one.
            names = original_names(tx, self.id, {first.of for first in firsts.values()}) | {
                _identifying(layers): name for name, layers in reversed(stored.items())
            }
            rows = []
            for item, found in batch:
                first = firsts.get(found.name)
                layer = (
                    first.of
                    if first
                    else _identifying(stored[found.name])
                    if found.name in stored
                    else None
                )
                outcome = as_duplicate(found, first, names) if first else self._with_licence(found)
                description = self._descriptions.pop(item.name, None)
                is_stored = found.name in stored
                described = description.record() if description and is_stored else None
                rows.append(file_row(self.id, item.name, item.stamp, outcome, layer, described))
            upsert_rows(tx, rows)
        self.fresh += inspected

    def _compare_imported(
        self, batch: Sequence[tuple[ImportItem, InspectionResult]]
    ) -> tuple[list[tuple[ImportItem, InspectionResult]], dict[str, sa.Row[Any]]]:
        """Compare the pixels of files that were imported before; report those that changed.

        Returns:
            The items to store, and the rows of the files whose new pixels replace a sample.
        """
        previous = {
            found.name: row
            for item, found in batch
            if (row := self._previous.pop(item.name, None)) is not None
        }
        if not previous:
            return list(batch), {}
        to_store, replaced = [], {}
        with self.database.transaction() as tx:
            pixels = pixel_hashes(tx, [row.layer for row in previous.values()])
            for item, found in batch:
                row = previous.get(found.name)
                # A file without an imported sample is stored in any case.
                if row is None:
                    to_store.append((item, found))
                # A file that is refused now keeps its sample.
                elif found.layer is None:
                    self._descriptions.pop(item.name, None)
                    self.corrections.record_pixel_change(
                        row.name, row.layer[:12], f"refused: {found.sentence}"
                    )
                # The same pixels in other bytes: only the description can differ.
                elif pixels.get(row.layer) == _visible(found):
                    in_import = import_files.c.import_id == self.id
                    update = sa.update(import_files).where(
                        in_import, import_files.c.name == row.name
                    )
                    tx.execute(update.values(stamp=item.stamp))
                    self.corrections.compare(tx, [(row, self._descriptions.pop(item.name))])
                # Other pixels replace the sample only with `update`.
                else:
                    applied = self.corrections.update
                    self.corrections.record_pixel_change(
                        row.name, row.layer[:12], found.visible[:12], taken=applied
                    )
                    if applied:
                        to_store.append((item, found))
                        replaced[found.name] = row
                    else:
                        self._descriptions.pop(item.name, None)
        return to_store, replaced

    def _find_duplicates(
        self, found: Sequence[InspectionResult], replaced: Mapping[str, sa.Row[Any]]
    ) -> dict[str, Duplicate]:
        """Return the layer that each file duplicates, in the database or earlier in this batch.

        A replaced file is no duplicate of its own former versions.
        """
        with self.database.transaction() as tx:
            known = duplicates.find_duplicates(
                tx, [(file.visible, file.fingerprint) for file in found]
            )
            former = {name: former_layers(tx, row) for name, row in replaced.items()}
        known = [
            None if earlier and earlier.of in former.get(file.name, ()) else earlier
            for file, earlier in zip(found, known, strict=True)
        ]
        batch = duplicates.DuplicateIndex()
        firsts: dict[str, Duplicate] = {}
        for file, earlier in zip(found, known, strict=True):
            first = earlier or batch.find(file.visible, file.fingerprint)
            if first:
                firsts[file.name] = first
            else:
                # The hash that the store will return; hashing twice is cheap compared to encoding.
                sha256 = hashlib.sha256(file.layer or b"").hexdigest()
                batch.add(file.visible, file.fingerprint, sha256)
        return firsts

    def _add_layers(
        self,
        tx: Transaction,
        fresh: Sequence[tuple[ImportItem, InspectionResult]],
        stored: dict[str, dict[LayerRole, StoredLayer]],
    ) -> None:
        """Insert samples, review candidates, and the fingerprints of their layers."""
        samples = []
        review_rounds = dict[Kind, int]()
        for _, found in fresh:
            description = self._descriptions[found.name]
            layers, prompt = stored[found.name], description.prompt
            kind = Kind.pair if found.beside else Kind.single
            if found.outcome is InspectionOutcome.review:
                if kind not in review_rounds:
                    review_rounds[kind] = lifecycle.open_seed_review(tx, self.actor, kind)
                origin = candidate_origin(description, self.source) | {
                    "file": storable_name(found.name)
                }
                lifecycle.add_for_review(
                    tx, review_rounds[kind], layers, prompt, found.codes, origin
                )
            else:
                licence = description.licence or UNKNOWN_VALUE
                source = description.source or self.source
                split = description.split
                new = NewSample(
                    kind, prompt.text, licence, source, 0, layers, split, texts=prompt.texts
                )
                new = replace(new, caption_source=description.caption_source)
                samples.append((new, description))
        added = add_samples(tx, [new for new, _ in samples])
        for new, description in samples:
            # A withdrawn sample is restored with its former description.
            if uuid.UUID(new.to_sample().id) not in added:
                self.corrections.describe_again(tx, _identifying(dict(new.layers)), description)
        duplicates.add_to_index(
            tx, {_identifying(stored[found.name]): found.fingerprint for _, found in fresh}
        )

    def _with_licence(self, found: InspectionResult) -> InspectionResult:
        """Add the code NO_LICENSE to a stored file without a license."""
        if found.layer is None or self._descriptions[found.name].licence:
            return found
        return replace(found, codes=(*found.codes, NO_LICENSE))

    def close(self, seconds: float) -> ImportSummary:
        """Finish the import and return the summary of all imports of this folder.

        Args:
            seconds: Duration of this run.
        """
        with self.database.transaction() as tx:
            gone = delete_missing(tx, self.id, self._seen)
            tx.execute(
                sa.update(imports).where(imports.c.id == self.id).values(finished_at=sa.func.now())
            )
            summary = summarize(tx, Path(self.listing.tree.root), self.fresh, seconds)
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


def _identifying(layers: dict[LayerRole, StoredLayer]) -> str:
    """Return the hash of the layer that identifies a sample: of a pair, the blended image."""
    return layers.get(LayerRole.blended, layers[LayerRole.foreground]).sha256


def _visible(found: InspectionResult) -> dict[LayerRole, str]:
    """Return the hash of each layer's visible pixels."""
    main = LayerRole.blended if found.beside else LayerRole.foreground
    return {main: found.visible} | {role: other.visible for role, other in found.beside.items()}
