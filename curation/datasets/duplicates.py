"""Exact and near duplicates of layers, seen with their alpha, found in time that does not grow with the pool.

Exact: equal `visible` hashes. Near: fingerprints (curation.images.perceptual_hash) at most 11 of whose 192 bits differ
and whose tones agree.

The index is multi-index hashing (Norouzi, Punjani, Fleet 2012) in the plain table `layer_bands`: the 192 bits are cut
into 12 bands of 16; two fingerprints with at most 11 differing bits agree on one band at least. PostgreSQL answers
with twelve look-ups in a primary key; no extension is needed, and the verification is exact, where an approximate
vector index (pgvector's HNSW) may miss the one neighbour that matters. At most CROWD rows of one band value are looked
at, so that a band on which half of a pool agrees (all centred discs, say) costs no more than any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import layer_bands, layers
from curation.images.perceptual_hash import FINGERPRINT_BYTES, bands_of, find_nearest

CROWD = 64
"""Rows of one band value that are looked at; a true duplicate is nearly always found through a less crowded band."""


@dataclass(frozen=True)
class Duplicate:
    """The stored layer that a layer repeats, and how."""

    of: str  # sha256 of the stored layer
    bits: int | None = None  # of 192 that differ; None where the visible pixels are equal

    @property
    def exact(self) -> bool:
        """Whether the visible pixels are equal."""
        return self.bits is None


def find_duplicates(tx: Transaction, wanted: Sequence[tuple[str, bytes]]) -> list[Duplicate | None]:
    """For each (visible hash, fingerprint) the indexed layer that it repeats, exact ones first; two statements."""
    exact = _find_exact(tx, wanted)
    near = _find_near(tx, [(visible, mark) for visible, mark in wanted if visible not in exact])
    return [exact.get(visible) or near.get(visible) for visible, _ in wanted]


def add_to_index(tx: Transaction, prints: Mapping[str, bytes]) -> None:
    """Make recorded layers (sha256 -> fingerprint) findable; adding twice is adding once."""
    if not prints:
        return
    marks = [{"b_sha256": sha256, "b_fingerprint": mark} for sha256, mark in prints.items()]
    marked = sa.update(layers).where(layers.c.sha256 == sa.bindparam("b_sha256"))
    tx.execute(marked.values(fingerprint=sa.bindparam("b_fingerprint")), marks)
    rows = [
        {"band": band, "value": value, "sha256": sha256}
        for sha256, mark in prints.items()
        for band, value in enumerate(bands_of(mark))
    ]
    tx.execute(insert(layer_bands).on_conflict_do_nothing(), rows)


class Batch:
    """The duplicates inside one batch of layers that are not in the database yet."""

    def __init__(self) -> None:
        self._visible: dict[str, str] = {}
        self._prints: dict[str, bytes] = {}
        self._bands: dict[tuple[int, int], list[str]] = {}

    def find(self, visible: str, mark: bytes) -> Duplicate | None:
        """The layer added before that this one repeats."""
        if visible in self._visible:
            return Duplicate(self._visible[visible])
        met = dict.fromkeys(
            name for pair in enumerate(bands_of(mark)) for name in self._bands.get(pair, [])[:CROWD]
        )
        found = find_nearest(mark, {name: self._prints[name] for name in met})
        return Duplicate(*found) if found else None

    def add(self, visible: str, mark: bytes, sha256: str) -> None:
        """Remember a layer for those that follow."""
        self._visible[visible] = sha256
        self._prints[sha256] = mark
        for pair in enumerate(bands_of(mark)):
            self._bands.setdefault(pair, []).append(sha256)


def _find_exact(tx: Transaction, wanted: Sequence[tuple[str, bytes]]) -> dict[str, Duplicate]:
    """Layers with the same visible pixels that are in the index: their row of band 0 stands at a known key."""
    first_band = {visible: bands_of(mark)[0] for visible, mark in wanted}
    asked = (
        sa.func.unnest(
            sa.cast(list(first_band), sa.ARRAY(sa.Text)),
            sa.cast(list(first_band.values()), sa.ARRAY(sa.Integer)),
        )
        .table_valued("visible", "value", name="asked")
        .render_derived()
    )
    found = tx.execute(
        sa.select(asked.c.visible, sa.func.min(layers.c.sha256))
        .join(layers, layers.c.visible == asked.c.visible)
        .join(
            layer_bands,
            (layer_bands.c.band == 0)
            & (layer_bands.c.value == asked.c.value)
            & (layer_bands.c.sha256 == layers.c.sha256),
        )
        .group_by(asked.c.visible)
    )
    return {visible: Duplicate(sha256) for visible, sha256 in found}


def _find_near(tx: Transaction, wanted: Sequence[tuple[str, bytes]]) -> dict[str, Duplicate]:
    """Every row that shares a band value with a wanted fingerprint, at most CROWD a band, then verified bit by bit."""
    marks = dict(wanted)
    keys = [
        (visible, band, value)
        for visible, mark in marks.items()
        for band, value in enumerate(bands_of(mark))
    ]
    if not keys:
        return {}
    names, numbers, values = (list(column) for column in zip(*keys, strict=True))
    asked = (
        sa.func.unnest(
            sa.cast(names, sa.ARRAY(sa.Text)),
            sa.cast(numbers, sa.ARRAY(sa.Integer)),
            sa.cast(values, sa.ARRAY(sa.Integer)),
        )
        .table_valued("visible", "band", "value", name="asked")
        .render_derived()
    )
    crowd = (
        sa.select(layer_bands.c.sha256)
        .where(layer_bands.c.band == asked.c.band, layer_bands.c.value == asked.c.value)
        .limit(CROWD)
        .lateral("crowd")
    )
    pairs = (
        sa.select(asked.c.visible, crowd.c.sha256)
        .join(crowd, sa.true())
        .distinct()
        .subquery("pairs")
    )
    found = tx.execute(
        sa.select(pairs.c.visible, layers.c.sha256, layers.c.fingerprint)
        .join(layers, layers.c.sha256 == pairs.c.sha256)
        .where(sa.func.octet_length(layers.c.fingerprint) == FINGERPRINT_BYTES)
        .order_by(pairs.c.visible, layers.c.sha256)
    )
    met: dict[str, dict[str, bytes]] = {}
    for visible, sha256, mark in found:
        met.setdefault(visible, {})[sha256] = bytes(mark)
    nearest = {visible: find_nearest(marks[visible], others) for visible, others in met.items()}
    return {visible: Duplicate(*found) for visible, found in nearest.items() if found}
