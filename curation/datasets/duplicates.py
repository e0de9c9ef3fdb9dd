"""Search for exact and near duplicates of layers, in a time that does not depend on their number.

Exact duplicates have equal `visible` hashes. The fingerprints of near duplicates
(curation.images.perceptual_hash) differ in at most 11 of 192 bits and have similar tones.

The index is multi-index hashing (Norouzi, Punjani, Fleet 2012) in the table `layer_bands`: the 192
bits are split into 12 bands of 16 bits, so that two fingerprints with at most 11 differing bits
have at least one equal band. PostgreSQL answers with twelve primary key lookups. No extension is
needed, and the result is exact, while an approximate vector index (pgvector's HNSW) may miss the
nearest neighbor. At most MAX_ROWS_PER_BAND rows of one band value are compared, so that a band
that many layers share (all centered discs, for example) costs no more than any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import layer_bands, layers
from curation.images.perceptual_hash import FINGERPRINT_BYTES, find_nearest, index_keys

MAX_ROWS_PER_BAND = 64
"""Rows of one band value that are compared; a duplicate nearly always has a rarer band too."""


@dataclass(frozen=True)
class Duplicate:
    """The stored layer that a layer duplicates."""

    # sha256 of the stored layer.
    of: str
    # Number of differing bits, of 192; None if the visible pixels are equal.
    bits: int | None = None

    @property
    def exact(self) -> bool:
        """Whether the visible pixels are equal."""
        return self.bits is None


def find_duplicates(tx: Transaction, layers: Sequence[tuple[str, bytes]]) -> list[Duplicate | None]:
    """Find the indexed layer that each layer duplicates, with two SQL statements.

    Args:
        tx: The transaction.
        layers: Visible hash and fingerprint of each layer.

    Returns:
        For each layer its duplicate, exact before near; None if it is new.
    """
    exact = _find_exact(tx, layers)
    near = _find_near(tx, [(visible, mark) for visible, mark in layers if visible not in exact])
    return [exact.get(visible) or near.get(visible) for visible, _ in layers]


def add_to_index(tx: Transaction, fingerprints: Mapping[str, bytes]) -> None:
    """Add recorded layers to the index; the call is idempotent.

    Args:
        tx: The transaction.
        fingerprints: sha256 of a layer -> its fingerprint.
    """
    if not fingerprints:
        return
    # Store the fingerprints with the layers.
    params = [{"b_sha256": sha256, "b_fingerprint": mark} for sha256, mark in fingerprints.items()]
    storing = sa.update(layers).where(layers.c.sha256 == sa.bindparam("b_sha256"))
    tx.execute(storing.values(fingerprint=sa.bindparam("b_fingerprint")), params)
    # Add their bands to the index.
    rows = [
        {"band": band, "value": value, "sha256": sha256}
        for sha256, mark in fingerprints.items()
        for band, value in enumerate(index_keys(mark))
    ]
    tx.execute(insert(layer_bands).on_conflict_do_nothing(), rows)


class DuplicateIndex:
    """An index of layers that are not in the database yet, for duplicates within one batch."""

    def __init__(self) -> None:
        self._visible: dict[str, str] = {}
        self._prints: dict[str, bytes] = {}
        self._bands: dict[tuple[int, int], list[str]] = {}

    def find(self, pixel_hash: str, fingerprint: bytes) -> Duplicate | None:
        """Return the layer added before that this layer duplicates; None if it is new.

        Args:
            pixel_hash: Hash of the visible pixels.
            fingerprint: Fingerprint.
        """
        if pixel_hash in self._visible:
            return Duplicate(self._visible[pixel_hash])
        # Compare only layers that share a band, as in the database.
        sharing = dict.fromkeys(
            name
            for pair in enumerate(index_keys(fingerprint))
            for name in self._bands.get(pair, [])[:MAX_ROWS_PER_BAND]
        )
        found = find_nearest(fingerprint, {name: self._prints[name] for name in sharing})
        return Duplicate(*found) if found else None

    def add(self, pixel_hash: str, fingerprint: bytes, sha256: str) -> None:
        """Add a layer.

        Args:
            pixel_hash: Hash of the visible pixels.
            fingerprint: Fingerprint.
            sha256: Name of the layer.
        """
        self._visible[pixel_hash] = sha256
        self._prints[sha256] = fingerprint
        for pair in enumerate(index_keys(fingerprint)):
            self._bands.setdefault(pair, []).append(sha256)


def _find_exact(tx: Transaction, wanted: Sequence[tuple[str, bytes]]) -> dict[str, Duplicate]:
    """Return indexed layers with the same visible pixels, by visible hash."""
    # Not every layer is indexed. The key of an indexed layer's row of band 0 is known, since equal
    # pixels have equal bands.
    first_band = {visible: index_keys(mark)[0] for visible, mark in wanted}
    requested = (
        sa.func.unnest(
            sa.cast(list(first_band), sa.ARRAY(sa.Text)),
            sa.cast(list(first_band.values()), sa.ARRAY(sa.Integer)),
        )
        .table_valued("visible", "value", name="requested")
        .render_derived()
    )
    found = tx.execute(
        sa.select(requested.c.visible, sa.func.min(layers.c.sha256))
        .join(layers, layers.c.visible == requested.c.visible)
        .join(
            layer_bands,
            (layer_bands.c.band == 0)
            & (layer_bands.c.value == requested.c.value)
            & (layer_bands.c.sha256 == layers.c.sha256),
        )
        .group_by(requested.c.visible)
    )
    return {visible: Duplicate(sha256) for visible, sha256 in found}


def _find_near(tx: Transaction, wanted: Sequence[tuple[str, bytes]]) -> dict[str, Duplicate]:
    """Return the nearest near duplicates, by visible hash."""
    marks = dict(wanted)
    keys = [
        (visible, band, value)
        for visible, mark in marks.items()
        for band, value in enumerate(index_keys(mark))
    ]
    if not keys:
        return {}
    # Read the layers that share a band, at most MAX_ROWS_PER_BAND each.
    names, numbers, values = (list(column) for column in zip(*keys, strict=True))
    requested = (
        sa.func.unnest(
            sa.cast(names, sa.ARRAY(sa.Text)),
            sa.cast(numbers, sa.ARRAY(sa.Integer)),
            sa.cast(values, sa.ARRAY(sa.Integer)),
        )
        .table_valued("visible", "band", "value", name="requested")
        .render_derived()
    )
    sharing = (
        sa.select(layer_bands.c.sha256)
        .where(layer_bands.c.band == requested.c.band, layer_bands.c.value == requested.c.value)
        .limit(MAX_ROWS_PER_BAND)
        .lateral("sharing")
    )
    pairs = (
        sa.select(requested.c.visible, sharing.c.sha256)
        .join(sharing, sa.true())
        .distinct()
        .subquery("pairs")
    )
    found = tx.execute(
        sa.select(pairs.c.visible, layers.c.sha256, layers.c.fingerprint)
        .join(layers, layers.c.sha256 == pairs.c.sha256)
        .where(sa.func.octet_length(layers.c.fingerprint) == FINGERPRINT_BYTES)
        .order_by(pairs.c.visible, layers.c.sha256)
    )
    # Compare all bits of the fingerprints.
    compared: dict[str, dict[str, bytes]] = {}
    for visible, sha256, mark in found:
        compared.setdefault(visible, {})[sha256] = bytes(mark)
    nearest = {
        visible: find_nearest(marks[visible], prints) for visible, prints in compared.items()
    }
    return {visible: Duplicate(*match) for visible, match in nearest.items() if match}


def find_all_near(tx: Transaction, fingerprint: bytes) -> dict[str, int]:
    """Return all indexed layers that are nearly the same image as one, however many share a band.

    Args:
        tx: The transaction.
        fingerprint: The fingerprint of the image.

    Returns:
        By name of the layer, the number of differing bits, of 192.
    """
    keys = sa.tuple_(layer_bands.c.band, layer_bands.c.value).in_(
        list(enumerate(index_keys(fingerprint)))
    )
    sharing = sa.select(layer_bands.c.sha256).where(keys).distinct()
    query = sa.select(layers.c.sha256, layers.c.fingerprint).where(layers.c.sha256.in_(sharing))
    found = {}
    for sha256, mark in tx.execute(query):
        near = find_nearest(fingerprint, {sha256: bytes(mark or b"")}) if mark else None
        if near is not None and len(mark) == FINGERPRINT_BYTES:
            found[sha256] = near[1]
    return found
