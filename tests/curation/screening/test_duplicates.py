"""Duplicates: which images count as equal, and an index that finds them without scanning the pool."""

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curation.datasets import duplicates
from curation.datasets.duplicates import DuplicateIndex, add_to_index, find_duplicates
from curation.db.tables import layer_bands, layers
from curation.images.codec import pixel_hash
from curation.images.perceptual_hash import (
    BANDS,
    FINGERPRINT_BYTES,
    HASH_BYTES,
    MAX_BITS,
    are_near_duplicates,
    fingerprint,
    index_keys,
)

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared"
COLORS = {
    "red": (220, 40, 40), "orange": (240, 140, 30), "yellow": (240, 220, 40), "green": (40, 160, 60),
    "blue": (40, 80, 200), "purple": (130, 60, 170), "white": (245, 245, 245), "black": (20, 20, 20),
}  # fmt: skip


def shape(
    sides: int, color: tuple[int, int, int], size: int = 64, radius: float = 0.3
) -> np.ndarray:
    """Return a regular polygon (0: a disc) with smooth edges."""
    image = Image.new("RGBA", (size * 4, size * 4), (*color, 0))
    if sides:
        ImageDraw.Draw(image).regular_polygon(
            (size * 2, size * 2, radius * size * 4), sides, fill=color
        )
    else:
        box = [size * 4 * (0.5 - radius), size * 4 * (0.5 + radius)]
        ImageDraw.Draw(image).ellipse([box[0], box[0], box[1], box[1]], fill=color)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def stored(tx, rgba: np.ndarray) -> str:
    """Record a layer under a name of its own and put it into the index."""
    sha = uuid.uuid4().hex * 2
    row = {"sha256": sha, "width": 64, "height": 64, "bytes": 1, "visible": pixel_hash(rgba)}
    tx.execute(sa.insert(layers), row)
    add_to_index(tx, {sha: fingerprint(rgba)})
    return sha


def query(rgba: np.ndarray) -> tuple[str, bytes]:
    return pixel_hash(rgba), fingerprint(rgba)


def rescaled(rgba: np.ndarray, share: float) -> np.ndarray:
    image = Image.fromarray(rgba)
    return np.asarray(
        image.resize(
            (round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS
        )
    )


def test_other_shapes_and_colors_are_no_duplicates():
    fingerprints = {
        (s, c): fingerprint(shape(s, rgb)) for s in (0, 3, 4, 5, 6) for c, rgb in COLORS.items()
    }
    names = list(fingerprints)
    near = [
        (a, b)
        for i, a in enumerate(names)
        for b in names[:i]
        if are_near_duplicates(fingerprints[a], fingerprints[b])
    ]
    assert near == []
    assert not are_near_duplicates(
        fingerprint(shape(0, COLORS["red"])), fingerprint(shape(0, COLORS["red"], radius=0.35))
    )


def test_scale_slight_light_and_loss_are_near_duplicates():
    rgba = shape(5, COLORS["orange"], 200)
    fingerprint_ = fingerprint(rgba)
    brighter = np.dstack([np.clip(rgba[..., :3] * 1.03, 0, 255).astype(np.uint8), rgba[..., 3]])
    for other in (rescaled(rgba, 0.96), rescaled(rgba, 0.5), rescaled(rgba, 2), brighter):
        assert are_near_duplicates(fingerprint_, fingerprint(other))
    assert not are_near_duplicates(fingerprint_, fingerprint(np.ascontiguousarray(rgba[::-1])))


def test_alpha_counts():
    rgba = shape(4, COLORS["blue"], 128)
    holed = rgba.copy()
    holed[54:74, 54:74, 3] = 0
    assert not are_near_duplicates(fingerprint(rgba), fingerprint(holed))
    faint = rgba.copy()
    faint[..., 3] //= 2
    assert not are_near_duplicates(fingerprint(rgba), fingerprint(faint))


def test_colors_under_alpha_0_do_not_count():
    rgba = shape(4, COLORS["blue"])
    other = rgba.copy()
    other[other[..., 3] == 0, :3] = 77
    assert fingerprint(rgba) == fingerprint(other)
    assert len(fingerprint(rgba)) == FINGERPRINT_BYTES


@settings(max_examples=200, deadline=None)
@given(
    st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES),
    st.sets(st.integers(0, 191), max_size=BANDS - 1),
)
def test_fingerprints_within_eleven_bits_share_a_band(fingerprint_, flips):
    other = np.unpackbits(np.frombuffer(fingerprint_, np.uint8))
    other[list(flips)] ^= 1
    pairs = zip(index_keys(fingerprint_), index_keys(np.packbits(other).tobytes()), strict=True)
    assert any(first == second for first, second in pairs)


def test_the_index_returns_exact_before_near_duplicates(database):
    red, blue = shape(0, COLORS["red"], 128), shape(0, COLORS["blue"], 128)
    with database.transaction() as tx:
        first, near = stored(tx, red), stored(tx, rescaled(red, 0.96))
        other = stored(tx, blue)
        exact, scaled, missing, again = find_duplicates(
            tx,
            [
                query(rescaled(red, 0.96)),
                query(rescaled(blue, 0.9)),
                query(shape(3, COLORS["red"])),
                query(red),
            ],
        )
    assert (exact.of, exact.exact) == (near, True)
    assert (scaled.of, scaled.exact) == (other, False)
    assert scaled.bits <= MAX_BITS
    assert missing is None
    assert again.of == first


def test_layers_outside_the_index_are_not_found(database):
    red = shape(0, COLORS["red"])
    with database.transaction() as tx:
        row = {
            "sha256": "a" * 64,
            "width": 64,
            "height": 64,
            "bytes": 1,
            "visible": pixel_hash(red),
        }
        tx.execute(sa.insert(layers), row)
        assert find_duplicates(tx, [query(red)]) == [None]
        add_to_index(tx, {"a" * 64: fingerprint(red)})
        add_to_index(tx, {"a" * 64: fingerprint(red)})
        assert find_duplicates(tx, [query(red)])[0].of == "a" * 64
        assert tx.scalar(sa.select(sa.func.count()).select_from(layer_bands)) == BANDS
        assert find_duplicates(tx, []) == []


def test_a_crowded_band_costs_no_more_and_the_duplicate_is_found_elsewhere(database, monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_ROWS_PER_BAND", 4)
    pool = [shape(0, COLORS["red"], 64, 0.1 + 0.01 * step) for step in range(30)]
    with database.transaction() as tx:
        names = [stored(tx, rgba) for rgba in pool]
        duplicates_ = find_duplicates(tx, [query(pool[22]), query(rescaled(pool[22], 0.96))])
    assert [duplicate.of for duplicate in duplicates_] == [names[22], names[22]]


def test_a_batch_finds_its_own_duplicates():
    batch = DuplicateIndex()
    red = shape(0, COLORS["red"], 128)
    assert batch.find(*query(red)) is None
    batch.add(*query(red), "first")
    assert batch.find(*query(red)) == duplicates.Duplicate("first")
    assert batch.find(*query(rescaled(red, 0.9))).bits is not None
    assert batch.find(*query(shape(0, COLORS["green"], 128))) is None


def test_real_images_differ_and_their_copies_are_found():
    if not (SHARED / "seed_rgba").is_dir():
        pytest.skip("the folder 'shared' with real images is not beside this checkout")
    rows = [
        json.loads(line) for line in (SHARED / "seed_rgba/metadata.jsonl").read_text().splitlines()
    ][::4]
    images = [
        np.asarray(Image.open(SHARED / "seed_rgba" / row["file_name"]).convert("RGBA"))
        for row in rows
    ]
    batch, wrong, lost = DuplicateIndex(), 0, 0
    for index, rgba in enumerate(images):
        visible, fingerprint_ = query(rgba)
        wrong += batch.find(visible, fingerprint_) is not None
        batch.add(visible, fingerprint_, str(index))
        if min(rgba.shape[:2]) >= 64:
            hidden = rgba.copy()
            hidden[hidden[..., 3] == 0] = 0
            lost += not are_near_duplicates(fingerprint_, fingerprint(rescaled(hidden, 0.96)))
    assert wrong <= 0.01 * len(images)
    assert lost <= 0.02 * len(images)
