"""Aspect buckets: sizes of about one area, and batches of one size that resume without loss."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.domain import Split
from curation.images.codec import encode_layer
from training.data.buckets import (
    BucketConfig,
    BucketSampler,
    assign_buckets,
    bucket_config,
    count_buckets,
    make_bucket_table,
    nearest_bucket,
    read_sizes,
    size_conditions,
)
from training.data.sampler import WeightedSampler
from training.data.splits import open_split
from training.presets.presets import find_preset

originals = st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=60)


@given(
    st.sampled_from([64, 256, 512, 1024]),
    st.sampled_from([8, 32, 64]),
    st.sampled_from([1.0, 1.5, 2.0, 4.0]),
)
def test_buckets_have_about_one_area_and_the_square_is_the_largest(side, step, ratio):
    table = make_bucket_table(side, step, ratio)
    assert (side, side) in table
    assert set(table) == {(width, height) for height, width in table}
    for height, width in table:
        assert height % step == width % step == 0
        assert max(height, width) <= ratio * min(height, width)
        assert side * side - step * max(height, width) < height * width <= side * side


def test_the_table_of_sdxl_has_its_published_sizes():
    table = make_bucket_table(1024, 64, 2.0)
    assert {(832, 1216), (896, 1152), (1152, 896), (1216, 832), (768, 1344)} <= set(table)
    assert len(table) == 9


def test_an_image_goes_into_the_bucket_of_the_nearest_aspect_ratio():
    table = make_bucket_table(1024, 64, 2.0)
    assert nearest_bucket((1000, 1000), table) == (1024, 1024)
    assert nearest_bucket((300, 200), table) == (1216, 832)
    assert nearest_bucket((200, 300), table) == (832, 1216)
    assert nearest_bucket((10, 4000), table) == (768, 1344)


@given(originals, st.integers(1, 8))
def test_every_used_bucket_except_the_square_has_enough_images(sizes, min_images):
    table = make_bucket_table(512, 64, 3.0)
    shapes = assign_buckets(sizes, table, min_images)
    counts = Counter(shapes)
    assert all(count >= min_images for shape, count in counts.items() if shape != (512, 512))
    kept = {*counts, (512, 512)}
    for size, shape in zip(sizes, shapes, strict=True):
        distances = [
            abs(math.log(s[0] / s[1]) - math.log(size[0] / size[1]))
            for s in (shape, nearest_bucket(size, sorted(kept)))
        ]
        assert distances[0] == pytest.approx(distances[1])


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.sampled_from([1.0, 1.5, 2.0]),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_batches_have_one_shape_and_nothing_is_lost(kinds, weight, batch, seed):
    shapes = [(64, 64 + 8 * kind) for kind in kinds]
    sampler = WeightedSampler(tuple(weight if kind == 1 else 1.0 for kind in kinds), seed)
    bucket_sampler = BucketSampler(sampler, shapes, batch)
    total = 4 * sampler.epoch_length // batch * batch
    indices = bucket_sampler.indices(0, total)
    for start in range(0, total, batch):
        assert len({shapes[index] for index in indices[start : start + batch]}) == 1
    # Samples drawn but not batched yet wait in their bucket, and no bucket holds a batch.
    drawn = sampler.indices(0, bucket_sampler._walked)
    waiting = Counter(drawn) - Counter(bucket_sampler.indices(0, len(bucket_sampler._sorted)))
    assert len(drawn) - len(bucket_sampler._sorted) == sum(waiting.values())
    per_shape = Counter(shapes[index] for index in waiting.elements())
    assert all(count < batch for count in per_shape.values())


@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=20),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_the_order_does_not_depend_on_where_a_run_was_interrupted(kinds, cuts):
    shapes = [(8, 8 * (kind + 1)) for kind in kinds]

    def make_sampler():
        return BucketSampler(WeightedSampler((1.0,) * len(kinds), 3), shapes, 4)

    expected, pieces = make_sampler().indices(0, sum(cuts)), []
    for cut in cuts:
        pieces += make_sampler().indices(len(pieces), cut)  # a new sampler, as after a restart
    assert pieces == expected


def test_new_samples_are_drawn_twice_as_often_in_every_bucket():
    shapes = [(8, 8), (8, 16)] * 20
    bucket_sampler = BucketSampler(
        WeightedSampler(tuple(2.0 if index < 10 else 1.0 for index in range(40)), 1),
        shapes,
        4,
    )
    drawn = Counter(bucket_sampler.indices(0, 50 * 100))
    assert {round(drawn[index] / 100) for index in range(10)} == {2}
    assert {round(drawn[index] / 100) for index in range(10, 40)} == {1}


def test_sizes_are_read_once_and_unreadable_images_are_named(store, tmp_path):
    wide = store.put(encode_layer(np.zeros((20, 60, 4), np.uint8)))
    broken = store.put(b"not an image")
    missing = "0" * 64
    sizes, unreadable = read_sizes(store, [wide, broken, wide, missing], tmp_path / "sizes")
    assert sizes == {wide: (20, 60)}
    assert unreadable.keys() == {broken, missing}
    (tmp_path / "objects" / wide[:2] / wide[2:]).unlink()
    assert read_sizes(store, [wide], tmp_path / "sizes") == ({wide: (20, 60)}, {})
    assert read_sizes(store, [wide])[0] == {}


def test_images_are_letterboxed_into_their_bucket(store, freeze_sized):
    snapshot = freeze_sized([(40, 20)] * 6 + [(20, 40)] * 6 + [(30, 30)] * 6 + [(10, 200)])
    buckets = BucketConfig(make_bucket_table(64, 16, 2.0), min_images=2)
    images = open_split(store, snapshot, Split.train, 64, in_memory=False, buckets=buckets)
    by_original = dict(zip(images.original_sizes, images.shapes, strict=True))
    assert by_original == {
        (40, 20): (80, 48),
        (20, 40): (48, 80),
        (30, 30): (64, 64),
        (10, 200): (48, 80),
    }
    for index, shape in enumerate(images.shapes):
        assert images[index].shape == (4, *shape)
    in_memory = open_split(store, snapshot, Split.train, 64, in_memory=True, buckets=buckets)
    assert all(in_memory[index].equal(images[index]) for index in range(len(images)))
    index = images.original_sizes.index((20, 40))
    assert images.size_conditions([index]).tolist() == [[20, 40, 0, 0, 48, 80]]
    assert count_buckets(images.shapes) == {"48x80": 7, "64x64": 6, "80x48": 6}


def test_images_without_buckets_have_size_conditions(store, snapshot):
    images = open_split(store, snapshot, Split.train, 32)
    assert images.size_conditions([0, 1]).tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    assert size_conditions([(5, 6)], [(7, 8)]).tolist() == [[5, 6, 0, 0, 7, 8]]


def test_presets_determine_the_buckets():
    assert bucket_config(find_preset("tiny"), 4, None) is None
    buckets = bucket_config(find_preset("sdxl"), 16, None)
    assert buckets == BucketConfig(make_bucket_table(1024, 64, 2.0), 16, None)
