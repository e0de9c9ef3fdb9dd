"""Read a folder of images as a test set: a snapshot of its own in a store of its own, nothing imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.datasets.manifest import Manifest, Part
from curation.datasets.samples import UNKNOWN, NewSample
from curation.domain import Kind, Progress, Sample, Split
from curation.errors import NotFound, Refused
from curation.image_limits import LIMITS, Limits
from curation.ingest import confined
from curation.ingest.folder_listing import list_folder
from curation.ingest.import_log import put_layers
from curation.ingest.items import Items
from curation.ingest.sandbox import Failure
from curation.ports import ObjectStore


@dataclass(frozen=True)
class EvaluationSet:
    """A folder as a snapshot whose samples are all held out, and the files that are no part of it."""

    snapshot: str
    images: int
    refused: Sequence[tuple[str, str]]  # name and reason


def read_evaluation_set(
    folder: Path,
    store: ObjectStore,
    report: Callable[[Progress], None] = lambda _: None,
    *,
    workers: int = 2,
    limits: Limits = LIMITS,
) -> EvaluationSet:
    """Judge every image of a folder as an import does, and write those that are taken to a store.

    Images that an import would show to people first are taken, duplicates are one. Captions come from manifests and
    texts beside the images; splits do not matter.

    Args:
        folder: Images with alpha, and pairs that a manifest names.
        store: Where the layers and the snapshot are written; give one that is thrown away.
        report: Hears the progress.
        workers: Confined processes that decode.
        limits: The largest image.

    Raises:
        NotFound: There is no such folder.
        Refused: No image of it is taken.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "give the folder that holds the images")
    listing = list_folder(folder)
    items = Items(listing, limits, lambda _: None)
    every = (item for place, name in enumerate(listing.files, 1) for item in items.of(name, place))
    samples: dict[str, Sample] = {}
    refused: list[tuple[str, str]] = []
    with confined.open_sandbox(workers, limits) as sandbox:
        for loaded, result in sandbox.run(map(items.load, every)):
            item = loaded.item
            found = confined.refusal(loaded, result) if isinstance(result, Failure) else result
            inner, name = items.where(item)
            if found.layer is None:
                refused.append((item.name, found.sentence))
            else:
                said = inner.describe(name)
                texts = (
                    said.caption or UNKNOWN,
                    said.licence or UNKNOWN,
                    said.source or folder.name,
                )
                kind = Kind.pair if found.beside else Kind.single
                new = NewSample(
                    kind,
                    *texts,
                    0,
                    put_layers(store, found),
                    Split.heldout,
                    texts=said.prompt.texts,
                )
                samples[new.as_sample().id] = new.as_sample()
            report(Progress("reading the test set", item.place, len(listing.files)))
    if not samples:
        first = f": {refused[0][0]}, {refused[0][1]}" if refused else ""
        raise Refused(
            f"no image of {folder} can be measured{first}",
            "images with alpha are read, and pairs of them",
        )
    lines = "".join(samples[id_].line() + "\n" for id_ in sorted(samples))
    part = Part("", store.put(lines.encode()), len(samples))
    return EvaluationSet(store.put(Manifest((part,), {}).bytes()), len(samples), refused)
