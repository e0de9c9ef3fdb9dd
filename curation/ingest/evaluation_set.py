"""Test set from a folder of images: a separate snapshot in a separate store, without an import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.datasets.manifest import Manifest, Part
from curation.datasets.samples import UNKNOWN_VALUE, NewSample
from curation.domain import Kind, Progress, Sample, Split
from curation.errors import NotFound, Refused
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.ingest import confined
from curation.ingest.folder_listing import list_folder
from curation.ingest.import_log import put_layers
from curation.ingest.items import ImportItems
from curation.ingest.sandbox_process import ItemFailure
from curation.ports import ObjectStore


@dataclass(frozen=True)
class EvaluationSet:
    """A folder as a snapshot in which all samples are held out.

    Attributes:
        snapshot: Hash of the snapshot's manifest.
        images: Number of samples.
        refused: Name of each refused file, and the reason.
    """

    snapshot: str
    images: int
    refused: Sequence[tuple[str, str]]


def read_evaluation_set(
    folder: Path,
    store: ObjectStore,
    report: Callable[[Progress], None] = lambda _: None,
    *,
    workers: int = 2,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> EvaluationSet:
    """Inspect every image of a folder as an import does, and write the accepted ones to a store.

    Images that an import would queue for review are included, and duplicates are merged. Captions
    come from manifests and caption files; splits are ignored.

    Args:
        folder: Images with alpha, and pairs that a manifest describes.
        store: Receives the layers and the snapshot; usually a temporary one.
        report: Receives the progress.
        workers: Number of confined decoder processes.
        limits: Limits of the images.

    Returns:
        The snapshot and the refused files.

    Raises:
        NotFound: The folder does not exist.
        Refused: No image is accepted.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "give the folder that holds the images")
    listing = list_folder(folder)
    items = ImportItems(listing, limits, lambda _: None)
    all_items = (
        item for index, name in enumerate(listing.files, 1) for item in items.of(name, index)
    )
    # Inspect the files; equal samples have one ID.
    samples: dict[str, Sample] = {}
    refused: list[tuple[str, str]] = []
    with confined.open_sandbox(workers, limits) as sandbox:
        for loaded, result in sandbox.run(map(items.load, all_items)):
            item = loaded.item
            found = (
                confined.failed_result(loaded, result)
                if isinstance(result, ItemFailure)
                else result
            )
            inner, name = items.where(item)
            if found.layer is None:
                refused.append((item.name, found.sentence))
            else:
                description = inner.describe(name)
                caption = description.caption or UNKNOWN_VALUE
                licence = description.licence or UNKNOWN_VALUE
                source = description.source or folder.name
                kind = Kind.pair if found.beside else Kind.single
                layers = put_layers(store, found)
                texts = description.prompt.texts
                new = NewSample(
                    kind, caption, licence, source, 0, layers, Split.heldout, texts=texts
                )
                samples[new.to_sample().id] = new.to_sample()
            report(Progress("reading the test set", item.position, len(listing.files)))
    if not samples:
        first = f": {refused[0][0]}, {refused[0][1]}" if refused else ""
        raise Refused(
            f"no image in {folder} can be evaluated{first}",
            "it must contain images with alpha, or pairs",
        )
    # The snapshot has one part, with the samples in the order of their IDs.
    lines = "".join(samples[id_].line() + "\n" for id_ in sorted(samples))
    part = Part("", store.put(lines.encode()), len(samples))
    return EvaluationSet(store.put(Manifest((part,), {}).bytes()), len(samples), refused)
