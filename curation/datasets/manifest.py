"""A snapshot as objects: parts of canonical lines, and a root that names them and is named by its own hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from curation.domain import Sample, canonical_json
from curation.errors import Corrupt
from curation.ports import ObjectStore

FORMAT = "layerloop snapshot 1"


@dataclass(frozen=True)
class Part:
    """The samples whose id begins with `prefix`: a text object of one canonical line each, sorted by id."""

    prefix: str
    sha256: str
    samples: int


@dataclass(frozen=True)
class Manifest:
    """The root of a snapshot: its parts, and what it counts. Equal samples always give equal bytes."""

    parts: tuple[Part, ...]
    counts: dict[str, dict[str, int]]  # of kinds, licences, splits, rounds
    withheld: str = (
        ""  # sha256 of the list of withheld samples (curation.datasets.holdout), empty without any
    )

    def bytes(self) -> bytes:
        """The canonical bytes whose sha256 is the snapshot's id."""
        root = {
            "format": FORMAT,
            "parts": [part.__dict__ for part in self.parts],
            "counts": self.counts,
        }
        if self.withheld:
            root["withheld"] = self.withheld
        return (canonical_json(root) + "\n").encode()

    @property
    def id(self) -> str:
        """The snapshot's name."""
        return hashlib.sha256(self.bytes()).hexdigest()

    @property
    def samples(self) -> int:
        """How many samples it lists."""
        return sum(part.samples for part in self.parts)


def prefix_length(samples: int) -> int:
    """How many hex digits of the id make a part: some 250 to 4,000 samples, so that few change when few are added.

    It depends on nothing but the count, or equal samples would not give equal bytes.
    """
    return 0 if samples < 4_096 else 1 if samples < 65_536 else 2 if samples < 1_048_576 else 3


def read_manifest(store: ObjectStore, snapshot: str) -> Manifest:
    """The root of a snapshot. Raises NotFound, Corrupt."""
    root = _parse(store.get(snapshot), snapshot)
    parts = tuple(
        Part(str(p["prefix"]), str(p["sha256"]), int(p["samples"])) for p in root["parts"]
    )
    return Manifest(parts, root["counts"], str(root.get("withheld", "")))


def read_withheld(store: ObjectStore, snapshot: str) -> frozenset[str]:
    """Return the ids of the samples that share a layer with a held-out sample and so are not trained on.

    Raises:
        NotFound: The snapshot, or its list, is not in the store.
        Corrupt: They are not what they are named by.
    """
    listed = read_manifest(store, snapshot).withheld
    return frozenset(store.get(listed).decode().split()) if listed else frozenset()


def read_samples(store: ObjectStore, snapshot: str, after: str = "") -> Iterator[Sample]:
    """Every sample of a snapshot in the order of their ids, one part in memory at a time. Raises NotFound, Corrupt.

    With `after`, only those whose id follows it; parts that lie before it are not read.
    """
    for part in read_manifest(store, snapshot).parts:
        if part.prefix >= after[: len(part.prefix)]:
            yield from (
                sample for sample in _lines(store.get(part.sha256), part) if sample.id > after
            )


def find_sample(store: ObjectStore, snapshot: str, sample: str) -> Sample | None:
    """One sample of a snapshot by its id, reading a single part."""
    for part in read_manifest(store, snapshot).parts:
        if sample.startswith(part.prefix):
            return next((s for s in _lines(store.get(part.sha256), part) if s.id == sample), None)
    return None


def _lines(text: bytes, part: Part) -> Iterator[Sample]:
    try:
        # Not splitlines: it also ends a line at U+2028 and U+0085, which JSON leaves as they stand in a caption.
        samples = [Sample.read(line) for line in text.decode().split("\n") if line]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"part {part.sha256[:12]} of a snapshot cannot be read: {error}") from error
    if len(samples) != part.samples:
        raise Corrupt(
            f"part {part.sha256[:12]} of a snapshot lists {len(samples)} samples, not {part.samples}"
        )
    yield from samples


def _parse(data: bytes, snapshot: str) -> dict[str, Any]:
    try:
        root: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise Corrupt(f"{snapshot[:12]} is not a snapshot: {error}") from error
    if not isinstance(root, dict) or root.get("format") != FORMAT:
        raise Corrupt(
            f"{snapshot[:12]} is not a snapshot this version reads",
            "upgrade Layerloop, or check the name",
        )
    return root
