"""Selectors of a takedown: which samples and candidates it concerns, and which layers go with them.

A sample and the candidate that it was accepted from go together, and so do the gold candidates that
were made from the sample. Candidates count in any state, also rejected ones. Generated candidates
are not derived from a source: they go only by their own id, licence or image.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from curation.datasets.licences import normalize_licence
from curation.datasets.samples import find_sample_id
from curation.db.engine import Transaction
from curation.db.id_prefixes import has_prefix
from curation.db.tables import (
    candidate_layers,
    candidates,
    comparison_layers,
    gold,
    import_files,
    layers,
    sample_layers,
    samples,
)
from curation.domain import canonical_json
from curation.errors import NotFound

BLOCK = 5_000
"""Ids in one statement."""


@dataclass(frozen=True)
class Selector:
    """What is to be taken down.

    Attributes:
        kind: "source", "sample", "licence", "image", "reviewer" or "record".
        values: A source, an id, a licence, a name, or the visible hashes of images; sorted.
        extra: With "image", ids of samples or candidates that a person confirmed.
    """

    kind: str
    values: tuple[str, ...]
    extra: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """The sha256 under which the record names it."""
        return hashlib.sha256(
            canonical_json([self.kind, sorted(self.values), sorted(self.extra)]).encode()
        ).hexdigest()


@dataclass
class TakedownScope:
    """The samples and candidates of a takedown, and their layers.

    Attributes:
        samples: Ids of samples, withdrawn ones too.
        candidates: Ids of candidates.
        layers: Names of layers that only these hold, or only comparisons: their objects are
            removed and blocked.
        shared: Names of layers that other samples or candidates hold too: they stay.
        duplicates: Number of imported files that were duplicates of one of the layers.
    """

    samples: set[uuid.UUID] = field(default_factory=set)
    candidates: set[uuid.UUID] = field(default_factory=set)
    layers: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    duplicates: int = 0


def select(tx: Transaction, selector: Selector) -> TakedownScope:
    """Return what a selector concerns now.

    Args:
        tx: The transaction.
        selector: The selector; one of reviewers selects no samples.

    Raises:
        NotFound: There is no sample and no candidate of an id.
    """
    found = TakedownScope()
    if selector.kind == "source":
        _by_source(tx, selector.values[0], found)
    elif selector.kind == "licence":
        _by_licence(tx, selector.values[0], found)
    elif selector.kind in ("image", "record"):
        _by_pixels(tx, selector.values, found)
    for name in (*selector.extra, *(selector.values if selector.kind == "sample" else ())):
        _by_id(tx, name, found)
    _close(tx, found)
    _divide_layers(tx, found)
    if selector.kind in ("image", "record"):
        found.layers |= _in_comparisons(tx, selector.values) - found.shared
    return found


def _by_source(tx: Transaction, source: str, found: TakedownScope) -> None:
    # Of a pair, either layer may be of the source (curation.ingest.pair_rows).
    def matches(column: Any) -> Any:
        first = column.startswith(f"foreground: {source}; background: ", autoescape=True)
        second = column.startswith("foreground: ") & column.endswith(
            f"; background: {source}", autoescape=True
        )
        return sa.or_(column == source, first, second)

    line = sa.cast(samples.c.line, JSONB)
    found.samples |= _ids(tx, sa.select(samples.c.id).where(matches(line["source"].astext)))
    of_file = matches(candidates.c.origin["source"].astext)
    found.candidates |= _ids(tx, sa.select(candidates.c.id).where(of_file))


def _by_licence(tx: Transaction, licence: str, found: TakedownScope) -> None:
    names = sorted({licence, normalize_licence(licence)[0]})
    line = sa.cast(samples.c.line, JSONB)
    found.samples |= _ids(tx, sa.select(samples.c.id).where(line["licence"].astext.in_(names)))
    # The origin keeps the text as it was imported.
    written = candidates.c.origin["licence"].astext
    texts = tx.execute(sa.select(written).where(written.is_not(None)).distinct()).scalars()
    same = [text for text in texts if text in names or normalize_licence(text)[0] in names]
    found.candidates |= _ids(tx, sa.select(candidates.c.id).where(written.in_(same)))


def _by_pixels(tx: Transaction, visible: Collection[str], found: TakedownScope) -> None:
    for block in blocks(visible):
        names = sa.select(layers.c.sha256).where(layers.c.visible.in_(block))
        of_samples = sa.select(sample_layers.c.sample_id)
        found.samples |= _ids(tx, of_samples.where(sample_layers.c.sha256.in_(names)))
        of_candidates = sa.select(candidate_layers.c.candidate_id)
        found.candidates |= _ids(tx, of_candidates.where(candidate_layers.c.sha256.in_(names)))


def _in_comparisons(tx: Transaction, visible: Collection[str]) -> set[str]:
    """Return the names of layers with these pixels that a comparison shows."""
    names: set[str] = set()
    for block in blocks(visible):
        query = sa.select(layers.c.sha256).where(layers.c.visible.in_(block))
        shown = sa.exists().where(comparison_layers.c.sha256 == layers.c.sha256)
        names |= set(tx.execute(query.where(shown)).scalars())
    return names


def _by_id(tx: Transaction, name: str, found: TakedownScope) -> None:
    try:
        found.samples.add(find_sample_id(tx, name))
    except NotFound:
        query = sa.select(candidates.c.id).where(has_prefix(candidates.c.id, name))
        ids = _ids(tx, query.limit(2))
        if len(ids) != 1:
            raise NotFound(
                f"there is no sample and no candidate {name[:100]!r}",
                "'layerloop sample list' and 'candidate list' show ids; eight digits are enough",
            ) from None
        found.candidates |= ids


def _close(tx: Transaction, found: TakedownScope) -> None:
    """Add the candidates of samples, the samples of candidates, and gold made from samples."""
    for block in blocks(found.candidates):
        query = sa.select(samples.c.id).where(samples.c.candidate_id.in_(block))
        found.samples |= _ids(tx, query)
    for block in blocks(found.samples):
        query = sa.select(samples.c.candidate_id).where(samples.c.id.in_(block))
        found.candidates |= _ids(tx, query.where(samples.c.candidate_id.is_not(None)))
        planted = sa.select(gold.c.candidate_id).where(gold.c.sample_id.in_(block))
        found.candidates |= _ids(tx, planted)


def _divide_layers(tx: Transaction, found: TakedownScope) -> None:
    """Sort the layers into those that go, and those that others hold too."""
    owners = (
        (sample_layers, sample_layers.c.sample_id, found.samples),
        (candidate_layers, candidate_layers.c.candidate_id, found.candidates),
    )
    held: set[str] = set()
    for table, owner, ids in owners:
        for block in blocks(ids):
            held |= set(tx.execute(sa.select(table.c.sha256).where(owner.in_(block))).scalars())
    for block in blocks(held):
        for table, owner, ids in owners:
            rows = tx.execute(sa.select(table.c.sha256, owner).where(table.c.sha256.in_(block)))
            found.shared |= {row[0] for row in rows if row[1] not in ids}
        count = sa.select(sa.func.count()).select_from(import_files)
        copies = (import_files.c.layer.in_(block)) & (import_files.c.outcome == "duplicate")
        found.duplicates += int(tx.scalar(count.where(copies)))
    found.layers = held - found.shared


def blocks(ids: Iterable[Any]) -> Iterable[list[Any]]:
    """Yield ids in sorted blocks, since a statement takes a limited number of parameters."""
    ordered = sorted(ids)
    return (ordered[start : start + BLOCK] for start in range(0, len(ordered), BLOCK))


def _ids(tx: Transaction, query: sa.Select[Any]) -> set[uuid.UUID]:
    return set(tx.execute(query).scalars())
