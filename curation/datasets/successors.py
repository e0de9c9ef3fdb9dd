"""A snapshot of the samples that are left of another one, with the same lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import groupby

from curation.datasets.decision_records import (
    DecidedCandidates,
    DecisionRecord,
    read_decisions_part,
    write_decisions,
)
from curation.datasets.manifest import (
    DecisionsIndex,
    Manifest,
    Part,
    count_withheld,
    prefix_length,
    read_manifest,
    read_part,
    read_withheld_list,
    sum_counts,
)
from curation.domain import Sample
from curation.object_store import ObjectReader, ObjectWriter


def write_successor(
    source: ObjectReader, store: ObjectWriter, touched: str, removed: Collection[str]
) -> Manifest | None:
    """Store the snapshot of the samples that are left, and return it; None if none is left.

    Lines are taken over as they are. A sample that was withheld stays so, also if the held-out
    sample that was the reason is gone.

    Args:
        source: Store of the touched snapshot.
        store: Store of the successor.
        touched: Id of the touched snapshot.
        removed: Ids of the removed samples and candidates, as hex digits.
    """
    gone = frozenset(removed)
    former = read_manifest(source, touched)
    withheld = sorted(read_withheld_list(source, former) - gone)
    counts = sum_counts(
        ((one.kind, one.licence, one.split, str(one.round)), 1)
        for one in _remaining(source, former, gone)
    )
    total = sum(counts["kind"].values())
    if not total:
        return None
    digits = prefix_length(total)
    parts = tuple(
        _write_part(store, prefix, list(group))
        for prefix, group in groupby(_remaining(source, former, gone), lambda one: one.id[:digits])
    )
    listed = ""
    if withheld:
        count_withheld(counts, len(withheld))
        listed = store.put("".join(one + "\n" for one in withheld).encode())
    decisions = _remaining_decisions(source, store, former.decisions, gone)
    manifest = Manifest(parts, counts, listed, decisions)
    store.put(manifest.bytes())
    return manifest


def _remaining_decisions(
    source: ObjectReader, store: ObjectWriter, index: DecisionsIndex | None, gone: frozenset[str]
) -> DecisionsIndex | None:
    if index is None:
        return None

    def records() -> Iterator[DecisionRecord]:
        for part in index.parts:
            for one in read_decisions_part(source, part):
                if one.candidate not in gone:
                    yield one

    by_checkpoint = Counter(one.checkpoint for one in records())
    return write_decisions(store, DecidedCandidates(by_checkpoint, records()))


def _remaining(source: ObjectReader, manifest: Manifest, gone: frozenset[str]) -> Iterator[Sample]:
    for part in manifest.parts:
        yield from (sample for sample in read_part(source, part) if sample.id not in gone)


def _write_part(store: ObjectWriter, prefix: str, members: list[Sample]) -> Part:
    lines = "".join(sample.line() + "\n" for sample in members)
    return Part(prefix, store.put(lines.encode()), len(members))
