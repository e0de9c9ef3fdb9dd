"""Snapshots as tensors: letterboxing that never bleeds, and an order of draws that resumes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curation.domain import Split
from curation.errors import Refused
from training.data import DrawOrder, batches, draw_order, letterbox, load_split

rgba_images = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays(np.uint8, (*size, 4)))


@given(rgba_images, st.integers(0, 2**32 - 1), st.sampled_from([8, 16]))
@settings(max_examples=60, deadline=None)
def test_letterboxing_never_sees_hidden_colours(rgba, seed, size):
    rgba[..., 3] = np.where(rgba[..., 3] < 100, 0, rgba[..., 3])
    other = rgba.copy()
    hidden = rgba[..., 3] == 0
    other[hidden, :3] = np.random.default_rng(seed).integers(0, 256, (int(hidden.sum()), 3))
    assert np.array_equal(letterbox(rgba, size), letterbox(other, size))


def test_letterboxing_centres_and_keeps_the_colour_of_an_edge():
    rgba = np.zeros((40, 20, 4), np.uint8)
    rgba[...] = (0, 255, 0, 0)  # green that nobody may see
    rgba[10:31, :10] = (200, 10, 10, 255)
    small = letterbox(rgba, 10)
    assert small.shape == (10, 10, 4)
    assert small[:, :2, 3].max() == 0
    assert small[:, 8:, 3].max() == 0
    seen = small[..., 3] > 0
    assert np.abs(small[seen][:, :3].astype(int) - (200, 10, 10)).max() <= 1
    assert small[..., 3].sum() / 255 == pytest.approx(21 * 10 / 16, rel=0.01)


def test_a_picture_of_the_right_size_is_left_alone():
    rgba = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    rgba[..., 3] = np.maximum(rgba[..., 3], 128)
    assert np.array_equal(letterbox(rgba, 16), rgba)


def test_splits_never_meet_and_memory_changes_nothing(store, snapshot):
    train, heldout = (load_split(store, snapshot, split, 16) for split in Split)
    assert (len(train), len(heldout)) == (24, 6)
    assert not {s.id for s in train.samples} & {s.id for s in heldout.samples}
    lazy = load_split(store, snapshot, Split.train, 16, in_memory=False)
    assert train.take([3, 0]).equal(lazy.take([3, 0]))
    assert train.take([3]).shape == (1, 4, 16, 16)
    assert train.captions[0] == "a red square"


def test_a_split_with_nothing_in_it_is_refused(store, freeze_shapes):
    with pytest.raises(Refused, match="no heldout samples"):
        load_split(store, freeze_shapes(range(3)), Split.heldout, 16)


def test_newly_added_samples_come_twice_as_often(store, freeze_shapes):
    before, after = freeze_shapes(range(20)), freeze_shapes(range(30))
    pictures = load_split(store, after, Split.train, 16)
    order = draw_order(store, pictures, before, 2.0, seed=5)
    lap = sum(2 if new else 1 for new in order.is_new)
    drawn = Counter(order.places(0, 10 * lap))
    new = {place for place, sample in enumerate(pictures.samples) if int(sample.id, 16) >= 20}
    assert new
    assert {place: drawn[place] for place in drawn} == {p: 20 if p in new else 10 for p in range(len(pictures))}
    assert not any(draw_order(store, pictures, None, 2.0, seed=5).is_new)


@given(
    st.lists(st.booleans(), min_size=1, max_size=30),
    st.sampled_from([1.0, 1.5, 2.0, 3.3]),
    st.lists(st.integers(1, 17), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_the_order_does_not_depend_on_how_it_is_cut(is_new, weight, cuts):
    order = DrawOrder(tuple(is_new), weight, seed=1)
    straight, pieces = order.places(0, sum(cuts)), []
    for cut in cuts:
        pieces += order.places(len(pieces), cut)
    assert pieces == straight
    assert [place for batch in batches(order, 0, sum(cuts), 4) for place in batch] == straight
    assert all(0 <= place < len(is_new) for place in straight)


def test_fractional_weights_are_kept_on_average():
    order = DrawOrder((False,) * 6 + (True,) * 4, 1.5, seed=2)
    drawn = Counter(order.places(0, 12_000))
    assert sum(drawn[p] for p in range(6, 10)) / 12_000 == pytest.approx(0.5, abs=0.01)
