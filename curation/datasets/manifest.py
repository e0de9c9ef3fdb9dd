"""The format of snapshots: objects with lines of JSON, and a manifest whose hash is the id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from curation.domain import Sample, Split, canonical_json
from curation.errors import Corrupt
from curation.object_store import ObjectReader

FORMAT = "layerloop snapshot 1"

COUNTED = ("kind", "licence", "split", "round")
"""What the samples of a snapshot are counted by."""


@dataclass(frozen=True)
class Part:
    """The samples whose id begins with `prefix`: an object with a line per sample, sorted by id."""

    prefix: str
    sha256: str
    samples: int


@dataclass(frozen=True)
class DecisionsIndex:
    """The decided candidates of a snapshot: objects with a line each, sorted by the candidate's id.

    Attributes:
        parts: The parts; `samples` is the number of candidates.
        counts: Numbers of candidates by verdict, decided_by, kind and round, and of reasons.
        propensity: The smallest and the largest propensity; empty if none was shown to people.
    """

    parts: tuple[Part, ...]
    counts: dict[str, dict[str, int]]
    propensity: tuple[float, ...] = ()

    @property
    def candidates(self) -> int:
        """The number of candidates."""
        return sum(part.samples for part in self.parts)


@dataclass(frozen=True)
class Manifest:
    """The root of a snapshot: its parts and its counts; equal samples give equal bytes."""

    parts: tuple[Part, ...]
    # Numbers of samples by kind, license, split and round.
    counts: dict[str, dict[str, int]]
    # sha256 of the list of withheld samples (curation.datasets.holdout); empty if there are none.
    withheld: str = ""
    # Candidates with their verdicts; None in snapshots that were frozen without them.
    decisions: DecisionsIndex | None = None

    def bytes(self) -> bytes:
        """Return the canonical bytes, whose sha256 is the snapshot's id."""
        root = {
            "format": FORMAT,
            "parts": [part.__dict__ for part in self.parts],
            "counts": self.counts,
        }
        if self.withheld:
            root["withheld"] = self.withheld
        if self.decisions:
            root["decisions"] = {
                "parts": [part.__dict__ for part in self.decisions.parts],
                "counts": self.decisions.counts,
                "propensity": list(self.decisions.propensity),
            }
        return (canonical_json(root) + "\n").encode()

    @property
    def id(self) -> str:
        """The snapshot's id: the sha256 of the manifest."""
        return hashlib.sha256(self.bytes()).hexdigest()

    @property
    def samples(self) -> int:
        """The number of samples, including withheld samples."""
        return sum(part.samples for part in self.parts)


def sum_counts(
    groups: Iterable[tuple[tuple[str, str, str, str], int]],
) -> dict[str, dict[str, int]]:
    """Return the counts of a manifest.

    Args:
        groups: Numbers of samples by kind, license, split and round; a group may come repeatedly.
    """
    counts: dict[str, dict[str, int]] = {name: {} for name in COUNTED}
    for key, number in groups:
        for by_value, value in zip(counts.values(), key, strict=True):
            by_value[str(value)] = by_value.get(str(value), 0) + number
    return counts


def count_withheld(counts: dict[str, dict[str, int]], number: int) -> None:
    """Count samples of the split "train" as withheld ones, in the counts of a manifest."""
    if number:
        counts["split"] |= {
            Split.train.value: counts["split"][Split.train.value] - number,
            "withheld": number,
        }


def prefix_length(samples: int) -> int:
    """Return the number of hex digits of an id that are a part's prefix.

    A part has about 250 to 4,000 samples, so that few parts change when few samples are added. The
    result depends only on the count; otherwise equal samples would not give equal bytes.

    Args:
        samples: Number of samples in the snapshot.
    """
    return 0 if samples < 4_096 else 1 if samples < 65_536 else 2 if samples < 1_048_576 else 3


def read_manifest(store: ObjectReader, snapshot: str) -> Manifest:
    """Read the manifest of a snapshot. Raises NotFound, Corrupt."""
    return parse_manifest(store.get(snapshot), snapshot)


def parse_manifest(data: bytes, snapshot: str) -> Manifest:
    """Parse the bytes of a manifest. Raises Corrupt if they are not a manifest."""
    root = _parse(data, snapshot)
    decided = root.get("decisions")
    index = decided and DecisionsIndex(
        _parse_parts(decided["parts"]), decided["counts"], tuple(decided["propensity"])
    )
    withheld = str(root.get("withheld", ""))
    return Manifest(_parse_parts(root["parts"]), root["counts"], withheld, index)


def snapshot_objects(store: ObjectReader, snapshot: str) -> list[str]:
    """Return the names of all parts and the withheld list. Raises NotFound, Corrupt."""
    manifest = read_manifest(store, snapshot)
    return [
        *(part.sha256 for part in manifest.parts),
        *([manifest.withheld] if manifest.withheld else []),
        *(part.sha256 for part in (manifest.decisions.parts if manifest.decisions else ())),
    ]


def read_withheld(store: ObjectReader, snapshot: str) -> frozenset[str]:
    """Read the ids of the withheld samples, which share a layer with a held-out sample.

    Args:
        store: Store of the snapshot.
        snapshot: Id of the snapshot.

    Raises:
        NotFound: The snapshot or its list is not in the store.
        Corrupt: The stored bytes do not match their hash or the format.
    """
    return read_withheld_list(store, read_manifest(store, snapshot))


def read_withheld_list(store: ObjectReader, manifest: Manifest) -> frozenset[str]:
    """Read the ids of the withheld samples of a manifest. Raises NotFound, Corrupt."""
    listed = manifest.withheld
    return frozenset(store.get(listed).decode().split()) if listed else frozenset()


def read_samples(store: ObjectReader, snapshot: str, after: str = "") -> Iterator[Sample]:
    """Yield the samples of a snapshot in the order of their ids, reading one part at a time.

    Args:
        store: Store of the snapshot.
        snapshot: Id of the snapshot.
        after: Yield only samples with a greater id; parts before it are not read.

    Raises:
        NotFound: The snapshot or a part is not in the store.
        Corrupt: The stored bytes do not match their hash or the format.
    """
    for part in read_manifest(store, snapshot).parts:
        if part.prefix >= after[: len(part.prefix)]:
            yield from (sample for sample in read_part(store, part) if sample.id > after)


def read_part(store: ObjectReader, part: Part) -> Iterator[Sample]:
    """Yield the samples of a part in the order of their ids. Raises NotFound, Corrupt."""
    yield from _read_lines(store.get(part.sha256), part)


def find_sample(store: ObjectReader, snapshot: str, sample: str) -> Sample | None:
    """Return a sample of a snapshot by its id, or None; only one part is read.

    Args:
        store: Store of the snapshot.
        snapshot: Id of the snapshot.
        sample: Id of the sample.

    Raises:
        NotFound: The snapshot or the part is not in the store.
        Corrupt: The stored bytes do not match their hash or the format.
    """
    for part in read_manifest(store, snapshot).parts:
        if sample.startswith(part.prefix):
            samples = _read_lines(store.get(part.sha256), part)
            return next((found for found in samples if found.id == sample), None)
    return None


def _read_lines(text: bytes, part: Part) -> Iterator[Sample]:
    try:
        # splitlines would also split at U+2028 and U+0085, which JSON does not escape in captions.
        samples = [Sample.read(line) for line in text.decode().split("\n") if line]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"part {part.sha256[:12]} of a snapshot cannot be read: {error}") from error
    if len(samples) != part.samples:
        raise Corrupt(
            f"part {part.sha256[:12]} of a snapshot has {len(samples)} samples instead of "
            f"{part.samples}"
        )
    yield from samples


def _parse_parts(rows: list[dict[str, Any]]) -> tuple[Part, ...]:
    return tuple(Part(str(p["prefix"]), str(p["sha256"]), int(p["samples"])) for p in rows)


def _parse(data: bytes, snapshot: str) -> dict[str, Any]:
    try:
        root: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{snapshot[:12]} is not a snapshot: {error}") from error
    if not isinstance(root, dict) or root.get("format") != FORMAT:
        raise Corrupt(
            f"{snapshot[:12]} is not a snapshot that this version can read",
            "upgrade Layerloop, or check the name",
        )
    return root
