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
    prefix_length,
    read_manifest,
    read_samples,
    read_withheld,
)
from curation.domain import Sample, Split
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
    withheld = sorted(read_withheld(source, touched) - gone)
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("kind", "licence", "split", "round")
    }
    for sample in _remaining(source, touched, gone):
        counts["kind"][sample.kind] += 1
        counts["licence"][sample.licence] += 1
        counts["split"][sample.split] += 1
        counts["round"][str(sample.round)] += 1
    total = counts["kind"].total()
    if not total:
        return None
    digits = prefix_length(total)
    parts = tuple(
        _write_part(store, prefix, list(group))
        for prefix, group in groupby(_remaining(source, touched, gone), lambda one: one.id[:digits])
    )
    listed = ""
    if withheld:
        counts["split"][Split.train] -= len(withheld)
        counts["split"]["withheld"] = len(withheld)
        listed = store.put("".join(one + "\n" for one in withheld).encode())
    decisions = _remaining_decisions(source, store, touched, gone)
    manifest = Manifest(parts, _plain(counts), listed, decisions)
    store.put(manifest.bytes())
    return manifest


def _remaining_decisions(
    source: ObjectReader, store: ObjectWriter, touched: str, gone: frozenset[str]
) -> DecisionsIndex | None:
    index = read_manifest(source, touched).decisions
    if index is None:
        return None

    def records() -> Iterator[DecisionRecord]:
        for part in index.parts:
            for one in read_decisions_part(source, part):
                if one.candidate not in gone:
                    yield one

    by_checkpoint = Counter(one.checkpoint for one in records())
    return write_decisions(store, DecidedCandidates(by_checkpoint, records()))


def _remaining(source: ObjectReader, touched: str, gone: frozenset[str]) -> Iterator[Sample]:
    return (sample for sample in read_samples(source, touched) if sample.id not in gone)


def _write_part(store: ObjectWriter, prefix: str, members: list[Sample]) -> Part:
    lines = "".join(sample.line() + "\n" for sample in members)
    return Part(prefix, store.put(lines.encode()), len(members))


def _plain(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: {str(key): n for key, n in one.items()} for name, one in counts.items()}
