"""Exact and near duplicates of layers, seen with their alpha, found in time that does not grow with the pool.

Exact: equal `visible` hashes. Near: of 192 bits, three 64-bit DCT hashes (of the layer on white, on black, and of its
alpha), at most MAX_BITS differ, and an 8 x 8 table of tones agrees as well, because a DCT hash sees shapes and not
colours: without the table a red and a green apple were one (measured).

The index is multi-index hashing (Norouzi, Punjani, Fleet 2012) in the plain table `layer_bands`: the 192 bits are cut
into 12 bands of 16; two fingerprints with at most 11 differing bits agree on one band at least. PostgreSQL answers
with twelve look-ups in a primary key; no extension is needed, and the verification is exact, where an approximate
vector index (pgvector's HNSW) may miss the one neighbour that matters. At most CROWD rows of one band value are looked
at, so that a band on which half of a pool agrees (all centred discs, say) costs no more than any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import insert

from curation.database import Transaction
from curation.measured import shrink
from curation.ports import RGBA
from curation.tables import layer_bands, layers

BANDS = 12
HASH_BYTES = 24
TONE_SIDE = 8
FINGERPRINT_BYTES = HASH_BYTES + TONE_SIDE * TONE_SIDE * 4

MAX_BITS = BANDS - 1
MAX_TONE_MEAN = 1.0
MAX_TONE = 6
"""How far near duplicates may be apart: bits of 192; mean and largest difference of tones on scales of 0..100."""

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


def fingerprint(rgba: RGBA) -> bytes:
    """The 280 bytes by which a layer is compared: 24 of hash bits, then 8 x 8 tones (L*, a*, b* on grey, and alpha)."""
    small = shrink(rgba, 256).astype(np.float32)
    alpha = small[..., 3:]
    premultiplied = np.concatenate([small[..., :3] * (alpha / 255), alpha], axis=2)
    square = np.asarray(cv2.resize(premultiplied, (32, 32), interpolation=cv2.INTER_AREA), np.float32)
    light = square[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    clear = 255 - square[..., 3]
    bits = np.concatenate([_dct_bits(plane) for plane in (light + clear, light, square[..., 3])])
    return np.packbits(bits).tobytes() + _tones(square).tobytes()


def bands_of(print_: bytes) -> list[int]:
    """The twelve 16-bit values of a fingerprint; each takes bits from all three hashes, so that none is all alpha."""
    interleaved = np.unpackbits(np.frombuffer(print_[:HASH_BYTES], np.uint8)).reshape(3, 64).T.reshape(BANDS, 16)
    return [int(value) for value in interleaved @ (1 << np.arange(15, -1, -1))]


def are_near(first: bytes, second: bytes) -> bool:
    """Whether two fingerprints are of one picture: scaled, recompressed, slightly brightened or shifted by a pixel."""
    return _nearest(first, {"": second}) is not None


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
        met = dict.fromkeys(name for pair in enumerate(bands_of(mark)) for name in self._bands.get(pair, [])[:CROWD])
        return _nearest(mark, {name: self._prints[name] for name in met})

    def add(self, visible: str, mark: bytes, sha256: str) -> None:
        """Remember a layer for those that follow."""
        self._visible[visible] = sha256
        self._prints[sha256] = mark
        for pair in enumerate(bands_of(mark)):
            self._bands.setdefault(pair, []).append(sha256)


def _dct_bits(plane: NDArray[np.float32]) -> NDArray[np.bool_]:
    """64 bits of a 32 x 32 plane: which low frequencies rise above a twentieth of their root mean square.

    The classical threshold, the median, lies at 0 for symmetric shapes and turns rounding noise into bits: at 96 %
    scale 1 % of seed images then lost 26 bits or more, with this one 3 (measured).
    """
    low = cv2.dct(np.ascontiguousarray(plane))[:8, :8].ravel()
    low[0] = 0
    bits: NDArray[np.bool_] = low > 0.05 * np.sqrt(np.mean(low**2)) + 1e-3
    return bits


def _tones(square: NDArray[np.float32]) -> NDArray[np.uint8]:
    cells = cv2.resize(square, (TONE_SIDE, TONE_SIDE), interpolation=cv2.INTER_AREA)
    alpha = cells[..., 3:]
    on_grey = (cells[..., :3] + (255 - alpha) * 0.5) / 255
    lab = cv2.cvtColor(np.clip(on_grey, 0, 1), cv2.COLOR_RGB2Lab) + np.array([0, 128, 128], np.float32)
    return np.clip(np.rint(np.dstack([lab, alpha / 2.55])), 0, 255).astype(np.uint8)


def _nearest(mark: bytes, others: Mapping[str, bytes]) -> Duplicate | None:
    """The nearest of some layers (sha256 -> fingerprint) that is near enough, the first of equals."""
    if not others:
        return None
    rows = np.frombuffer(b"".join([mark, *others.values()]), np.uint8).reshape(-1, FINGERPRINT_BYTES)
    bits = np.bitwise_count(rows[1:, :HASH_BYTES] ^ rows[0, :HASH_BYTES]).sum(axis=1, dtype=np.int32)
    tones = np.abs(rows[1:, HASH_BYTES:].astype(np.int16) - rows[0, HASH_BYTES:].astype(np.int16))
    near = (bits <= MAX_BITS) & (tones.mean(axis=1) <= MAX_TONE_MEAN) & (tones.max(axis=1) <= MAX_TONE)
    if not near.any():
        return None
    best = int(np.argmin(np.where(near, bits, 999)))
    return Duplicate(list(others)[best], int(bits[best]))


def _find_exact(tx: Transaction, wanted: Sequence[tuple[str, bytes]]) -> dict[str, Duplicate]:
    """Layers with the same visible pixels that are in the index: their row of band 0 stands at a known key."""
    first_band = {visible: bands_of(mark)[0] for visible, mark in wanted}
    asked = (
        sa.func.unnest(
            sa.cast(list(first_band), sa.ARRAY(sa.Text)), sa.cast(list(first_band.values()), sa.ARRAY(sa.Integer))
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
    keys = [(visible, band, value) for visible, mark in marks.items() for band, value in enumerate(bands_of(mark))]
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
    pairs = sa.select(asked.c.visible, crowd.c.sha256).join(crowd, sa.true()).distinct().subquery("pairs")
    found = tx.execute(
        sa.select(pairs.c.visible, layers.c.sha256, layers.c.fingerprint)
        .join(layers, layers.c.sha256 == pairs.c.sha256)
        .where(sa.func.octet_length(layers.c.fingerprint) == FINGERPRINT_BYTES)
        .order_by(pairs.c.visible, layers.c.sha256)
    )
    met: dict[str, dict[str, bytes]] = {}
    for visible, sha256, mark in found:
        met.setdefault(visible, {})[sha256] = bytes(mark)
    nearest = {visible: _nearest(marks[visible], others) for visible, others in met.items()}
    return {visible: duplicate for visible, duplicate in nearest.items() if duplicate}
