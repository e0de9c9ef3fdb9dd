"""Snapshots as tensors: letterboxing without color bleeding, and a sampler that resumes."""

from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curation.domain import LayerRole, Split
from curation.errors import Corrupt, Refused
from tests.support.composite_pairs import compose, freeze_pairs
from training.data.dataset import LayerDataset, prefetch
from training.data.layer_set_dataset import open_layer_sets
from training.data.letterbox import letterbox
from training.data.sampler import WeightedSampler, build_sampler
from training.data.splits import open_split

rgba_images = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: arrays(np.uint8, (*size, 4))
)


@given(rgba_images, st.integers(0, 2**32 - 1), st.sampled_from([8, 16]))
@settings(max_examples=60, deadline=None)
def test_letterboxing_ignores_hidden_colors(rgba, seed, size):
    rgba[..., 3] = np.where(rgba[..., 3] < 100, 0, rgba[..., 3])
    other = rgba.copy()
    hidden = rgba[..., 3] == 0
    other[hidden, :3] = np.random.default_rng(seed).integers(0, 256, (int(hidden.sum()), 3))
    assert np.array_equal(letterbox(rgba, size), letterbox(other, size))


def test_letterboxing_centers_and_keeps_edge_colors():
    rgba = np.zeros((40, 20, 4), np.uint8)
    rgba[...] = (0, 255, 0, 0)  # invisible green
    rgba[10:31, :10] = (200, 10, 10, 255)
    small = letterbox(rgba, 10)
    assert small.shape == (10, 10, 4)
    assert small[:, :2, 3].max() == 0
    assert small[:, 8:, 3].max() == 0
    seen = small[..., 3] > 0
    assert np.abs(small[seen][:, :3].astype(int) - (200, 10, 10)).max() <= 1
    assert small[..., 3].sum() / 255 == pytest.approx(21 * 10 / 16, rel=0.01)


def test_letterboxing_fills_one_side_of_the_target_size():
    rgba = np.full((40, 20, 4), 255, np.uint8)
    small = letterbox(rgba, (16, 12))
    assert small.shape == (16, 12, 4)
    assert (small[:, 2:10, 3] == 255).all()
    assert small[:, :2, 3].max() == small[:, 10:, 3].max() == 0


def test_an_image_of_the_target_size_is_unchanged():
    rgba = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    rgba[..., 3] = np.maximum(rgba[..., 3], 128)
    assert np.array_equal(letterbox(rgba, 16), rgba)


def test_splits_are_disjoint_and_in_memory_changes_nothing(store, snapshot):
    train, heldout = (open_split(store, snapshot, split, 16) for split in Split)
    assert (len(train), len(heldout)) == (24, 6)
    assert not {s.id for s in train.samples} & {s.id for s in heldout.samples}
    lazy = open_split(store, snapshot, Split.train, 16, in_memory=False)
    assert train.load_batch([3, 0]).equal(lazy.load_batch([3, 0]))
    assert train.load_batch([3]).shape == (1, 4, 16, 16)
    assert train.captions[0] == "a red square"


def test_an_empty_split_is_refused(store, freeze_shapes):
    with pytest.raises(Refused, match="no heldout samples"):
        open_split(store, freeze_shapes(range(3)), Split.heldout, 16)


def test_new_samples_are_drawn_twice_as_often(store, freeze_shapes):
    before, after = freeze_shapes(range(20)), freeze_shapes(range(30))
    images = open_split(store, after, Split.train, 16)
    order = build_sampler(store, images, before, 2.0, seed=5)
    lap = int(sum(order.weights))
    drawn = Counter(order.indices(0, 10 * lap))
    new = {index for index, sample in enumerate(images.samples) if int(sample.id, 16) >= 20}
    assert new
    assert {index: drawn[index] for index in drawn} == {
        p: 20 if p in new else 10 for p in range(len(images))
    }
    assert set(build_sampler(store, images, None, 2.0, seed=5).weights) == {1.0}


def test_seeds_are_at_least_their_share_of_every_epoch(store, freeze_shapes):
    images = open_split(store, freeze_shapes(range(30)), Split.train, 16)
    few = {0, 5, 11}
    images.samples = [replace(s, round=0 if i in few else 2) for i, s in enumerate(images.samples)]
    order = build_sampler(store, images, None, 2.0, seed=5, real_share=0.4)
    epoch = order.indices(0, order.epoch_length)
    assert sum(index in few for index in epoch) / len(epoch) == pytest.approx(0.4, abs=0.03)
    assert set(epoch) == set(range(len(images)))
    # All others are drawn once in an epoch, as without the share.
    assert all(epoch.count(index) == 1 for index in range(len(images)) if index not in few)
    # A share that the seeds have anyway, or no seeds at all, change nothing.
    plain = build_sampler(store, images, None, 2.0, seed=5)
    assert build_sampler(store, images, None, 2.0, seed=5, real_share=0.1) == plain
    images.samples = [replace(s, round=2) for s in images.samples]
    assert build_sampler(store, images, None, 2.0, seed=5, real_share=0.4) == plain


@given(
    st.lists(st.booleans(), min_size=1, max_size=30),
    st.sampled_from([1.0, 1.5, 2.0, 3.3]),
    st.lists(st.integers(1, 17), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_the_order_does_not_depend_on_interruptions(is_new, weight, cuts):
    order = WeightedSampler(tuple(weight if new else 1.0 for new in is_new), seed=1)
    expected, pieces = order.indices(0, sum(cuts)), []
    for cut in cuts:
        pieces += order.indices(len(pieces), cut)
    assert pieces == expected
    assert all(0 <= index < len(is_new) for index in expected)


def test_layers_of_a_pair_are_images_with_their_own_texts(store):
    snapshot = freeze_pairs(store, range(20), singles=3, side=32)
    foregrounds = open_split(store, snapshot, Split.train, 16)
    assert len(foregrounds) == 16 + 3
    images = open_split(
        store, snapshot, Split.train, 16, roles=(LayerRole.foreground, LayerRole.background)
    )
    assert images.roles[:4] == [LayerRole.foreground, LayerRole.background] * 2
    assert len(images) == 2 * 16 + 3
    texts = compose(0, 32).texts
    assert images.captions[:2] == [texts[LayerRole.foreground], texts[LayerRole.background]]
    assert images[1][3].min() == 1  # a background is opaque
    whole = open_split(store, snapshot, Split.train, 16, roles=(LayerRole.blended,))
    assert whole.captions[0] == compose(0, 32).prompt.text  # it has no text of its own


def test_opaque_layers_are_drawn_by_their_weight(store):
    snapshot = freeze_pairs(store, range(20), side=32)
    images = open_split(
        store, snapshot, Split.train, 16, roles=(LayerRole.foreground, LayerRole.background)
    )
    order = build_sampler(store, images, None, 2.0, seed=5, opaque_weight=0.25)
    drawn = Counter(images.roles[index] for index in order.indices(0, 50 * order.epoch_length))
    assert drawn[LayerRole.background] / drawn[LayerRole.foreground] == pytest.approx(
        0.25, abs=0.02
    )


def test_fractional_weights_are_kept_on_average():
    order = WeightedSampler((1.0,) * 6 + (1.5,) * 4, seed=2)
    drawn = Counter(order.indices(0, 12_000))
    assert sum(drawn[p] for p in range(6, 10)) / 12_000 == pytest.approx(0.5, abs=0.01)


def test_a_broken_image_is_left_out_in_memory_and_recorded(store, snapshot):
    samples = broken(store, open_split(store, snapshot, Split.train, 16).samples, 2)
    images = LayerDataset(store, samples, 16, in_memory=True)
    assert len(images) == len(samples) - 1 == len(images.captions) == len(images.shapes)
    assert list(images.unreadable) == [samples[2].id]
    assert [sample.id for sample in images.samples] == [
        s.id for s in samples if s is not samples[2]
    ]
    assert images.load_batch(images.readable_indices(range(len(images)))).shape == (
        len(images),
        4,
        16,
        16,
    )


def test_the_next_image_replaces_a_broken_one(store, snapshot):
    samples = open_split(store, snapshot, Split.train, 16).samples
    last = len(samples) - 1
    images = LayerDataset(store, broken(store, samples, last), 16, in_memory=False)
    with pytest.raises(Corrupt):
        images.load_batch([last])
    index, pixels = images.read_or_replace(last)
    assert (index, pixels.equal(images[0])) == (0, True)
    assert images.read_or_replace(3)[0] == 3
    assert images.readable_indices([1, last]) == [1, 0]
    assert images.unreadable == {samples[last].id: images.unreadable[samples[last].id]}


def test_too_many_broken_images_raise_corrupt(store, snapshot):
    samples = open_split(store, snapshot, Split.train, 16).samples
    twice = broken(store, broken(store, samples, 1), 2)
    with pytest.raises(Corrupt, match="2 of 24 images cannot be read; for example sample 0000"):
        LayerDataset(store, twice, 16, in_memory=True)
    lazy = LayerDataset(store, twice, 16, in_memory=False)
    with pytest.raises(Corrupt, match="2 of 24"):
        lazy.read_or_replace(1)


def broken(store, samples, index):
    other = {LayerRole.foreground: store.put(f"not an image: {index}".encode())}
    return [*samples[:index], replace(samples[index], layers=other), *samples[index + 1 :]]


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=8),
    st.integers(1, 4),
    st.integers(0, 4),
)
@settings(max_examples=30, deadline=None)
def test_prefetch_keeps_the_order(batches, workers, ahead):
    with closing(prefetch(lambda index: index * 2, batches, workers, ahead)) as read:
        assert list(read) == [[index * 2 for index in batch] for batch in batches]


def test_prefetch_reads_a_limited_number_of_batches_ahead():
    started = []

    def read(index):
        started.append(index)
        return index

    with closing(prefetch(read, ([index] for index in range(100)), workers=1, ahead=3)) as ahead:
        for index in range(5):
            assert next(ahead) == [index]
            assert max(started, default=0) <= index + 3


def test_an_exception_is_raised_in_place_of_its_batch():
    def read(index):
        if index == 2:
            raise Corrupt("not an image")
        return index

    with closing(prefetch(read, [[0], [1], [2], [3]], workers=2)) as ahead:
        assert [next(ahead), next(ahead)] == [[0], [1]]
        with pytest.raises(Corrupt, match="not an image"):
            next(ahead)


def test_pairs_and_single_foregrounds_have_the_share_of_seeds_each(store):
    snapshot = freeze_pairs(store, range(20), singles=10, side=32)
    roles = [LayerRole.foreground, LayerRole.background]
    images = open_layer_sets(store, snapshot, Split.train, 16, roles, with_single_foregrounds=True)
    images.samples = [replace(s, round=i % 4) for i, s in enumerate(images.samples)]
    order = images.order(store, None, 2.0, 0.25, 0, real_share=0.6)
    drawn = order.indices(0, 40 * order.epoch_length)
    for count in (1, 2):
        group = [index for index in drawn if len(images.layer_indices[index]) == count]
        seeds = sum(images.samples[index].round == 0 for index in group)
        assert seeds / len(group) == pytest.approx(0.6, abs=0.02)
        expected = 0.25 if count == 1 else 0.75
        assert len(group) / len(drawn) == pytest.approx(expected, abs=0.02)
