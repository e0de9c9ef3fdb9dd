"""Screening: the two fixed rules, duplicates, rules as data, and each candidate screened once."""

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from curation.datasets.samples import StoredLayer, record_layers
from curation.db.tables import candidate_layers, candidates, screenings
from curation.domain import CandidateState
from curation.errors import Refused
from curation.images.codec import encode_layer, pixel_hash
from curation.screening import rules
from curation.screening.rules import HARD_RULES, ScreeningRule, apply_rules
from curation.screening.signals import SIGNALS, compute_signals
from tests.support.factories import OpenTransaction, make_candidates, make_round
from tests.support.pipeline_steps import screen_candidates


def disc(radius: float, color=(200, 60, 40), size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    alpha = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)
    rgba = np.dstack(
        [np.full((size, size, 3), color, np.uint8), np.rint(alpha * 255).astype(np.uint8)]
    )
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def draw(database, store, images) -> list:
    """Return generated candidates with these layers, in the order of their ids."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        ids = sorted(make_candidates(tx, store, round_id, len(images), CandidateState.generated))
        for one, rgba in zip(ids, images, strict=True):
            data = encode_layer(rgba)
            layer = StoredLayer(
                store.put(data), rgba.shape[1], rgba.shape[0], len(data), pixel_hash(rgba)
            )
            record_layers(tx, [layer])
            own = candidate_layers.c.candidate_id == one
            tx.execute(sa.update(candidate_layers).where(own).values(sha256=layer.sha256))
    return ids


def states(database, ids) -> list[str]:
    with database.transaction() as tx:
        found = {
            row.id: row.state
            for row in tx.execute(sa.select(candidates).where(candidates.c.id.in_(ids)))
        }
    return [found[one] for one in ids]


def refused(database, ids) -> list:
    with database.transaction() as tx:
        found = {row.candidate_id: row for row in tx.execute(sa.select(screenings))}
    return [found[one] for one in ids]


def test_the_rules_include_the_two_of_the_paper():
    assert apply_rules(compute_signals(disc(20))) is None
    opaque = apply_rules(compute_signals(np.full((32, 32, 4), 255, np.uint8)))
    assert (opaque.rule, opaque.signal, opaque.value) == ("no_transparent", "alpha_min", 1.0)
    empty = apply_rules(compute_signals(np.zeros((32, 32, 4), np.uint8)))
    assert (empty.rule, empty.signal, empty.value) == ("no_visible", "alpha_max", 0.0)
    assert "alpha_max is 0, below 0.02" in empty.sentence


def test_rules_are_data_and_a_signal_without_value_refuses_nothing():
    hazy = ScreeningRule("hazy", "haze", "above", 0.1, "too much haze")
    assert apply_rules({"haze": 0.2}, [hazy]).sentence == "too much haze: haze is 0.2, above 0.1"
    assert apply_rules({"haze": None}, [hazy]) is None
    assert apply_rules({}, [hazy]) is None
    with pytest.raises(Refused, match="unknown signal 'beauty'"):
        ScreeningRule("beauty", "beauty", "below", 1, "")


def test_each_candidate_is_refused_or_passed_with_its_signals(database, store):
    opaque, empty = np.full((64, 64, 4), 200, np.uint8), np.zeros((64, 64, 4), np.uint8)
    opaque[..., 3] = 255
    ids = draw(database, store, [disc(20), opaque, empty, disc(12, (20, 90, 200))])
    with database.transaction() as tx:
        assert screen_candidates(OpenTransaction(tx), store, ids) == 4
    assert states(database, ids) == ["screened", "refused", "refused", "screened"]
    rows = refused(database, ids)
    assert [row.refused_by for row in rows] == [None, "no_transparent", "no_visible", None]
    assert rows[1].refused_value == 1.0
    assert set(rows[0].signals) == set(SIGNALS)


def test_duplicates_of_the_pool_and_of_the_batch_are_refused(database, store):
    first = draw(database, store, [disc(20), disc(12, (20, 90, 200))])
    with database.transaction() as tx:
        screen_candidates(OpenTransaction(tx), store, first)
    smaller = np.asarray(Image.fromarray(disc(20)).resize((60, 60), Image.Resampling.LANCZOS))
    copies = [
        disc(20),
        smaller,
        disc(15, (40, 160, 60)),
        disc(15, (40, 160, 60)),
        disc(26, (240, 220, 40)),
    ]
    ids = draw(database, store, copies)
    with database.transaction() as tx:
        screen_candidates(OpenTransaction(tx), store, ids)
    assert states(database, ids) == ["refused", "refused", "screened", "refused", "screened"]
    rows = refused(database, ids)
    assert [row.refused_by for row in rows] == [
        "duplicate",
        "near_duplicate",
        None,
        "duplicate",
        None,
    ]
    assert "of 192 bits differ" in rows[1].message


def test_refused_candidates_are_not_compared_with(database, store):
    strict = [*HARD_RULES, ScreeningRule("small", "coverage", "below", 0.9, "too small")]
    first = draw(database, store, [disc(20)])
    with database.transaction() as tx:
        screen_candidates(OpenTransaction(tx), store, first, strict)
    second = draw(database, store, [disc(20)])
    with database.transaction() as tx:
        screen_candidates(OpenTransaction(tx), store, second)
    assert states(database, first + second) == ["refused", "screened"]


def test_screening_is_idempotent(database, store):
    ids = draw(database, store, [disc(20), np.zeros((32, 32, 4), np.uint8)])
    with database.transaction() as tx:
        assert screen_candidates(OpenTransaction(tx), store, ids) == 2
    before = refused(database, ids)
    with database.transaction() as tx:
        assert screen_candidates(OpenTransaction(tx), store, ids) == 0
    assert refused(database, ids) == before
    assert states(database, ids) == ["screened", "refused"]
    with database.transaction() as tx:
        assert screen_candidates(OpenTransaction(tx), store, []) == 0


def test_a_layer_that_is_gone_fails_its_candidate_alone(database, store):
    ids = draw(database, store, [disc(20), disc(12, (20, 90, 200))])
    with database.transaction() as tx:
        sha = tx.scalar(
            sa.select(candidate_layers.c.sha256).where(candidate_layers.c.candidate_id == ids[0])
        )
        (store.folder / sha[:2] / sha[2:]).unlink()
        screen_candidates(OpenTransaction(tx), store, ids)
        note = tx.scalar(sa.select(candidates.c.note).where(candidates.c.id == ids[0]))
    assert states(database, ids) == ["failed", "screened"]
    assert "no object" in note


def test_a_batch_that_rolls_back_leaves_nothing(database, store, monkeypatch):
    ids = draw(database, store, [disc(20)])
    monkeypatch.setattr(rules.duplicates, "add_to_index", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), database.transaction() as tx:
        screen_candidates(OpenTransaction(tx), store, ids)
    assert states(database, ids) == ["generated"]
