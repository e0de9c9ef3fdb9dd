"""Held-out images stay out of training as single samples, as layers of pairs, and as near duplicates."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from curation.datasets import snapshots
from curation.datasets.holdout import fingerprint_layers, is_plain
from curation.datasets.manifest import read_manifest, read_samples, read_withheld
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.engine import Database
from curation.domain import Kind, LayerRole, Split
from curation.images.codec import composite_over, encode_layer, pixel_hash
from curation.images.perceptual_hash import fingerprint
from curation.object_store import FolderStore
from curation.ports import RGBA
from training.data.splits import read_split

WHITE = np.full((96, 96, 4), 255, np.uint8)


def subject(seed: int, side: int = 96) -> RGBA:
    """Return a soft blob with coarse random colors."""
    rng = np.random.default_rng(seed)
    colors = cv2.resize(
        rng.integers(0, 256, (5, 5, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC
    )
    mask = np.zeros((side, side), np.uint8)
    points = (rng.uniform(0.15, 0.85, (6, 2)) * side).astype(np.int32)
    cv2.fillPoly(mask, [cv2.convexHull(points)], 255)
    return np.dstack([colors, cv2.GaussianBlur(mask, (0, 0), 1.5)])


def scene(seed: int) -> RGBA:
    """Return an opaque background with detail."""
    rgba = subject(1_000 + seed)
    rgba[..., 3] = 255
    return rgba


def store_layer(store: FolderStore, rgba: RGBA) -> StoredLayer:
    data = encode_layer(rgba)
    return StoredLayer(store.put(data), rgba.shape[1], rgba.shape[0], len(data), pixel_hash(rgba))


def single(store: FolderStore, rgba: RGBA, split: Split) -> NewSample:
    layers = {LayerRole.foreground: store_layer(store, rgba)}
    return NewSample(Kind.single, "a thing", "CC0-1.0", "test", 0, layers, split)


def pair(store: FolderStore, front: RGBA, back: RGBA, split: Split) -> NewSample:
    blended = np.dstack([composite_over(front, back), np.full(front.shape[:2], 255, np.uint8)])
    rows = {LayerRole.foreground: front, LayerRole.background: back, LayerRole.blended: blended}
    layers = {role: store_layer(store, rgba) for role, rgba in rows.items()}
    return NewSample(Kind.pair, "a scene", "CC0-1.0", "test", 0, layers, split)


def trained_on(database: Database, store: FolderStore, new: list[NewSample]) -> set[int]:
    """Freeze these samples; return the positions of those that a training reads."""
    with database.transaction() as tx:
        add_samples(tx, new)
    fingerprint_layers(database, store)
    frozen = snapshots.freeze_snapshot(database, store, tag=None, actor="test")
    read = {sample.id for sample in read_split(store, frozen.id, Split.train)}
    withheld = read_withheld(store, frozen.id)
    indices = {one.to_sample().id: index for index, one in enumerate(new)}
    train = {index for index, one in enumerate(new) if one.split is Split.train}
    assert {indices[id_] for id_ in read | withheld} == train
    assert not read & withheld
    assert read_manifest(store, frozen.id).counts["split"].get("withheld", 0) == len(withheld)
    return {indices[id_] for id_ in read}


def shrunk(rgba: RGBA) -> RGBA:
    """Return the same image at 96 % of its size."""
    side = round(rgba.shape[0] * 0.96)
    return np.asarray(cv2.resize(rgba, (side, side), interpolation=cv2.INTER_AREA))


def test_a_held_out_single_keeps_pairs_with_that_foreground_out_of_training(
    database: Database, store: FolderStore
) -> None:
    new = [
        single(store, subject(1), Split.heldout),
        pair(store, subject(1), scene(1), Split.train),
        pair(store, subject(2), scene(2), Split.train),
        single(store, subject(3), Split.train),
    ]
    assert trained_on(database, store, new) == {2, 3}


def test_near_duplicates_of_held_out_layers_are_kept_out_in_both_directions(
    database: Database, store: FolderStore
) -> None:
    new = [
        single(store, subject(1), Split.heldout),
        pair(store, shrunk(subject(1)), cv2.resize(scene(1), (92, 92)), Split.train),
        pair(store, subject(4), scene(4), Split.heldout),
        single(store, shrunk(subject(4)), Split.train),
        pair(store, subject(5), scene(4), Split.train),
        single(store, subject(6), Split.train),
    ]
    assert trained_on(database, store, new) == {5}


def test_a_plain_background_that_is_shared_withholds_nothing(
    database: Database, store: FolderStore
) -> None:
    assert is_plain(fingerprint(WHITE))
    new = [
        pair(store, subject(n), WHITE, Split.heldout if n == 1 else Split.train)
        for n in range(1, 4)
    ]
    assert trained_on(database, store, new) == {1, 2}


def test_the_id_of_a_snapshot_without_shared_layers_is_unchanged(
    database: Database, store: FolderStore
) -> None:
    new = [single(store, subject(1), Split.heldout), single(store, subject(2), Split.train)]
    assert trained_on(database, store, new) == {1}
    frozen = snapshots.freeze_snapshot(database, store, tag=None, actor="test")
    assert b"withheld" not in frozen.bytes()
    assert len(list(read_samples(store, frozen.id))) == 2


@pytest.mark.parametrize("computed_before", [True, False])
def test_freezing_equal_samples_gives_one_name_whenever_fingerprints_are_computed(
    database: Database, store: FolderStore, computed_before: bool
) -> None:
    new = [single(store, subject(1), Split.heldout), pair(store, subject(1), scene(1), Split.train)]
    with database.transaction() as tx:
        add_samples(tx, [*new, single(store, subject(2), Split.train)])
    if computed_before:
        assert fingerprint_layers(database, store) == 4  # the single's foreground is the pair's
        assert fingerprint_layers(database, store) == 0
    frozen = snapshots.freeze_snapshot(database, store, tag=None, actor="test")
    assert read_withheld(store, frozen.id) == {new[1].to_sample().id}


def test_a_missing_object_does_not_stop_the_fingerprints(
    database: Database, store: FolderStore
) -> None:
    gone = StoredLayer("f" * 64, 8, 8, 8, "e" * 64)
    new = [
        NewSample(Kind.single, "a", "MIT", "test", 0, {LayerRole.foreground: gone}, Split.train),
        single(store, subject(2), Split.heldout),
    ]
    with database.transaction() as tx:
        add_samples(tx, new)
    assert fingerprint_layers(database, store) == 1
