"""The loader: one sequence of batches in every topology, weights, buckets, pairs and bad images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from curation.domain import LayerRole, Split
from curation.errors import Corrupt, Refused
from curation.object_store import FolderStore
from tests.support.composite_pairs import freeze_pairs
from tests.support.loader_topologies import (
    hash_rows,
    make_case,
    rows_in_one_rank,
    rows_in_random_topologies,
)
from training.data.loader import aspect_buckets, open_loader

# `LAYERLOOP_TEST_TOPOLOGIES=1000` runs the full number; CI runs fewer.
TOPOLOGIES = int(os.environ.get("LAYERLOOP_TEST_TOPOLOGIES", "60"))
SEED = 20261130


def test_every_topology_gives_the_same_sequence(tmp_path: Path) -> None:
    for turn in range(TOPOLOGIES):
        rng = np.random.default_rng([SEED, turn])
        store = FolderStore(tmp_path / str(turn // 50))
        case = make_case(store, rng)
        # Enough hostile rows can leave no readable image of a size; that is an error everywhere.
        try:
            expected = rows_in_one_rank(case, store)
        except (Corrupt, Refused) as error:
            with pytest.raises(type(error)):
                list(rows_in_random_topologies(case, store, rng))
            continue
        assert list(rows_in_random_topologies(case, store, rng)) == expected, (
            f"seed {SEED}, turn {turn}"
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_of_a_data_loader_keep_the_order(
    store: FolderStore, snapshot: str, workers: int
) -> None:
    loader = open_loader(store, snapshot, Split.train, size=16, batch_size=5, images=23)
    expected = [(batch.number, hash_rows(batch)) for batch in loader]
    loader.load_state_dict({"images_seen": 0})
    parallel = DataLoader(
        loader, batch_size=None, num_workers=workers, multiprocessing_context="fork"
    )
    assert [(batch.number, hash_rows(batch)) for batch in parallel] == expected


def test_the_state_resumes_after_the_last_batch(store: FolderStore, snapshot: str) -> None:
    loader = open_loader(store, snapshot, Split.train, size=16, batch_size=4, images=20)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    assert state == {"images_seen": 4}
    expected = [hash_rows(batch) for batch in batches]
    other = open_loader(store, snapshot, Split.train, size=16, batch_size=4, images=20)
    other.load_state_dict(state)
    assert [hash_rows(batch) for batch in other] == expected


def test_weights_set_how_often_a_sample_is_drawn(store: FolderStore, snapshot: str) -> None:
    def weight(sample: object) -> float:
        return {0: 0.0, 1: 2.0}.get(int(sample.id, 16) % 3, 1.0)  # type: ignore[attr-defined]

    loader = open_loader(store, snapshot, Split.train, size=8, batch_size=6, weight=weight)
    length = loader.epoch_length
    assert length == sum(weight(sample) for sample in loader.samples)
    whole = open_loader(
        store, snapshot, Split.train, size=8, batch_size=6, weight=weight, images=length
    )
    drawn = Counter(sample for batch in whole for sample in batch.sample_ids)
    assert drawn == {sample.id: weight(sample) for sample in loader.samples}
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="the weight of sample"):
            open_loader(
                store, snapshot, Split.train, size=8, batch_size=6, weight=lambda _, bad=bad: bad
            )
    with pytest.raises(Refused, match="positive weight"):
        open_loader(store, snapshot, Split.train, size=8, batch_size=6, weight=lambda _: 0)


def test_the_layers_of_a_pair_are_aligned(store: FolderStore) -> None:
    snapshot = freeze_pairs(store, range(10), singles=4)
    roles = (LayerRole.foreground, LayerRole.background, LayerRole.blended)
    loader = open_loader(store, snapshot, Split.train, size=32, batch_size=8, roles=roles, images=8)
    assert len(loader.samples) == 8  # the single layers and the two held-out pairs are left out
    (batch,) = loader
    foreground, background, blended = (batch.layers[role] for role in roles)
    assert foreground.shape == (8, 4, 32, 32)
    # The blended image is the foreground over the background.
    alpha = foreground[:, 3:]
    composed = foreground[:, :3] * alpha + background[:, :3] * (1 - alpha)
    assert (composed - blended[:, :3]).abs().mean() < 0.02
    assert batch.captions["foreground"] != batch.captions["background"]


def test_buckets_give_one_size_a_batch(store: FolderStore, freeze_sized) -> None:
    snapshot = freeze_sized([(20, 40), (40, 20), (30, 30)] * 8)
    buckets = aspect_buckets(32, 4, step=8)
    loader = open_loader(
        store, snapshot, Split.train, size=32, batch_size=4, buckets=buckets, images=72
    )
    shapes = Counter(tuple(batch.layers["foreground"].shape[2:]) for batch in loader)
    assert len(shapes) == 3
    assert sum(shapes.values()) == 18


def test_a_bad_image_is_replaced_and_listed(store: FolderStore, snapshot: str) -> None:
    loader = open_loader(store, snapshot, Split.train, size=8, batch_size=24, images=24)
    bad = loader.samples[5]
    path = store._path(bad.layers[LayerRole.foreground])
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    (batch,) = loader
    assert bad.id not in batch.sample_ids
    assert len(batch) == 24
    assert list(loader.unreadable) == [bad.id]


def test_invalid_numbers_are_refused(store: FolderStore, snapshot: str) -> None:
    for wrong in ({"rank": 2, "world_size": 2}, {"batch_size": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match=r"rank|batch_size"):
            open_loader(store, snapshot, Split.train, **({"size": 8, "batch_size": 2} | wrong))
