"""Seed import: a folder of images becomes samples, in parallel and resumably.

The outcome of every file is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from curation.db.engine import Database
from curation.domain import Progress, content_id
from curation.errors import NotFound
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.ingest import confined
from curation.ingest.corrections import ImportChanges
from curation.ingest.folder_listing import list_folder
from curation.ingest.import_log import (
    ImportSummary,
)
from curation.ingest.import_run import ImportRun
from curation.ingest.inspection_result import ImportItem, InspectionResult, LoadedItem
from curation.ingest.listing import DEFAULT_OPTIONS, ListingOptions
from curation.ingest.sandbox_process import ItemFailure
from curation.ports import ObjectStore, ProgressCallback

BATCH_FILES = 200
BATCH_BYTES = 64 << 20
"""Files per transaction, or bytes of their layers: the most work that an interruption loses."""
WRITERS = 4
"""Threads that write layers to the store, which waits for disk or network rather than the CPU."""


def import_seeds(
    database: Database,
    store: ObjectStore,
    folder: Path,
    report: ProgressCallback = lambda _: None,
    *,
    workers: int = 2,
    actor: str = "seed import",
    link_roots: Sequence[Path] = (),
    limits: ImageLimits = DEFAULT_LIMITS,
    options: ListingOptions = DEFAULT_OPTIONS,
    update: bool = False,
) -> ImportSummary:
    """Import the images of a folder, recursively and including archives and Parquet files.

    Files that a manifest describes as a pair become one sample of three layers. Files are inspected
    in confined processes and stored in batches: first the layers, then one transaction with the
    samples, review candidates and a row per file or pair. Files of an earlier run are skipped
    unless their size or modification time changed. Changed metadata and pixels are reported.

    Args:
        database: The database.
        store: The object store for the layers.
        folder: The folder, or one Parquet file or archive.
        report: Receives the progress.
        workers: Number of confined decoder processes.
        actor: Name for the event log.
        link_roots: Folders into which symbolic links are followed.
        limits: Limits of the images.
        options: Options for reading the folder.
        update: Whether changed metadata and pixels are applied to existing samples.

    Returns:
        A summary of all imports of this folder.

    Raises:
        NotFound: The folder does not exist.
        Refused: The folder cannot be read, or the encoding is unknown.
    """
    if not folder.is_dir() and not folder.is_file():
        raise NotFound(f"there is no folder {folder}", "give the folder that holds the images")
    started = time.monotonic()
    report(Progress("listing seeds", 0, 0))
    listing = list_folder(folder, link_roots, options)
    corrections = ImportChanges(
        content_id("import", folder.resolve()), folder.resolve().name, actor, update=update
    )
    run = ImportRun(database, store, listing, corrections, limits)
    run.open()
    total = len(listing.files)
    # A pipeline of iterators: listing, loading and inspection run a little ahead of storing.
    with (
        closing(run.items.tables),
        confined.open_sandbox(workers, limits) as sandbox,
        ThreadPoolExecutor(WRITERS) as writers,
    ):
        for batch in _batches(sandbox.run(map(run.items.load, run.pending_items()))):
            run.keep(batch, writers)
            report(Progress("importing seeds", batch[-1][0].position, total))
    summary = run.close(time.monotonic() - started)
    report(Progress("importing seeds", total, total))
    return summary


def _batches(
    results: Iterable[tuple[LoadedItem, InspectionResult | ItemFailure]],
) -> Iterator[list[tuple[ImportItem, InspectionResult]]]:
    """Group results into lists of BATCH_FILES, fewer if the layers are large."""
    batch: list[tuple[ImportItem, InspectionResult]] = []
    batch_bytes = 0
    for loaded, result in results:
        item = loaded.item
        found = (
            confined.failed_result(loaded, result) if isinstance(result, ItemFailure) else result
        )
        batch.append((item, found))
        batch_bytes += len(found.layer or b"")
        batch_bytes += sum(len(other.layer) for other in found.beside.values())
        if len(batch) >= BATCH_FILES or batch_bytes >= BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
