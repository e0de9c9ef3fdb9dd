"""The order hash of checkpoint files: it changes with the sequence of samples, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curation.domain import TrainingRequest
from training.data.order import order_hash
from training.presets.presets import find_preset

REQUEST = TrainingRequest("pairs", "micro", "ab" * 32, None, None, 7)
MICRO = find_preset("micro", {})
PARTS = ("transparency", "base", "layers", "kto", "layers-kto")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_definition_changes_the_hash(part: str) -> None:
    previous = replace(REQUEST, previous="cd" * 32)
    hashes = [
        order_hash(part, REQUEST, MICRO),
        order_hash(part, replace(REQUEST, snapshot="cd" * 32), MICRO),
        order_hash(part, replace(REQUEST, seed=8), MICRO),
        order_hash(part, previous, MICRO),
        order_hash(part, previous, replace(MICRO, new_sample_weight=3.5)),
        order_hash(part, REQUEST, replace(MICRO, real_share=0.5)),
        order_hash(part, REQUEST, replace(MICRO, buckets=not MICRO.buckets)),
        order_hash(part, REQUEST, replace(MICRO, image_size=MICRO.image_size * 2)),
    ]
    assert len(set(hashes)) == len(hashes)
    assert all(len(one) == 64 for one in hashes)


def test_what_leaves_the_order_alone_leaves_the_hash_alone() -> None:
    for part in PARTS:
        expected = order_hash(part, REQUEST, MICRO)
        same = replace(MICRO, transparency_lr=0.5, base_images=9, threads=3, workers=9)
        assert order_hash(part, replace(REQUEST, images=64), same) == expected
    # The weight of new samples matters only where samples can be new.
    heavy = replace(MICRO, new_sample_weight=9.0)
    assert order_hash("base", REQUEST, heavy) == order_hash("base", REQUEST, MICRO)
    # The batch size matters only where batches have one size each.
    plain, sorted_ = replace(MICRO, buckets=False), replace(MICRO, buckets=True)
    for preset, is_equal in ((plain, True), (sorted_, False)):
        other = replace(preset, base_batch=preset.base_batch + 1)
        assert (
            order_hash("base", REQUEST, other) == order_hash("base", REQUEST, preset)
        ) is is_equal


def test_the_parts_differ_and_the_backbone_has_no_order() -> None:
    assert len({order_hash(part, REQUEST, MICRO) for part in PARTS}) == len(PARTS)
    with pytest.raises(ValueError, match="backbone"):
        order_hash("backbone", REQUEST, MICRO)
