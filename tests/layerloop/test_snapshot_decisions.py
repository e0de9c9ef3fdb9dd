"""Decided candidates through the public API: typed records, pairs, and aligned tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import layerloop
from curation.domain import LayerRole, Verdict
from curation.errors import Refused
from curation.images.codec import clear_hidden_colors, decode_layer
from tests.support.snapshots import make_decision, make_sample, make_snapshot

SIZE = 24


@pytest.fixture
def decided(store):
    return sorted((make_decision(store, n) for n in range(24)), key=lambda one: one.candidate)


@pytest.fixture
def snapshot(store, decided):
    frozen = make_snapshot(store, [make_sample(store, 1)], decisions=decided)
    return layerloop.open_snapshot(frozen, store=store)


def test_records_are_typed_and_automatic_ones_are_left_out(decided, snapshot):
    people = [one for one in decided if not one.automatic]
    assert list(snapshot.decisions()) == people
    assert list(snapshot.decisions(automatic=True)) == decided
    assert len(snapshot.decisions()) == len(people) < len(decided)
    assert isinstance(snapshot.decisions().records[0], layerloop.DecisionRecord)


def test_a_snapshot_without_decisions_has_none(store):
    plain = make_snapshot(store, [make_sample(store, 1)])
    found = layerloop.open_snapshot(plain, store=store).decisions()
    assert len(found) == 0
    assert found.pairs() == []
    with pytest.raises(Refused, match="no decided candidate"):
        found.dataset(size=SIZE)


def test_pairs_have_an_accepted_and_a_rejected_candidate_of_one_prompt(snapshot):
    pairs = snapshot.decisions().pairs()
    assert pairs
    for chosen, rejected, weight in pairs:
        assert (chosen.verdict, rejected.verdict) == (Verdict.accept, Verdict.reject)
        assert (chosen.prompt, chosen.texts) == (rejected.prompt, rejected.texts)
        assert weight == pytest.approx(0.9 * 0.8)


def test_layers_are_aligned_tensors_with_labels_weights_and_seeds(store, snapshot):
    roles = ("background", "foreground")
    dataset = snapshot.decisions().dataset(size=SIZE, roles=roles)
    assert all(LayerRole.background in one.layers for one in dataset.records)
    batches = list(DataLoader(dataset, batch_size=2, collate_fn=dataset.collate))
    assert sum(map(len, batches)) == len(dataset) > 2
    for batch in batches:
        assert batch.layers.shape == (len(batch), 2, 4, SIZE, SIZE)
        for place, one in enumerate(batch.records):
            assert bool(batch.accepted[place]) == (one.verdict is Verdict.accept)
            assert float(batch.weights[place]) == pytest.approx(one.label_weight())
            assert float(batch.propensities[place]) == pytest.approx(one.propensity)
            assert int(batch.seeds[place]) == one.seed
            for index, role in enumerate(roles):
                stored = decode_layer(store.get(one.layers[LayerRole(role)]))
                visible = clear_hidden_colors(stored)
                # 24 x 20 pixels are centered in the square.
                inside = batch.layers[place, index, :, 2:22].permute(1, 2, 0)
                assert np.array_equal((inside * 255).round().to(torch.uint8).numpy(), visible)


def test_what_nobody_saw_has_no_propensity_and_the_full_weight(snapshot):
    dataset = snapshot.decisions(automatic=True).dataset(size=SIZE)
    batch = dataset.collate([dataset[n] for n in range(len(dataset))])
    automatic = torch.tensor([one.automatic for one in batch.records])
    assert automatic.any()
    assert torch.equal(batch.propensities.isnan(), automatic)
    assert (batch.weights[automatic] == 1).all()
