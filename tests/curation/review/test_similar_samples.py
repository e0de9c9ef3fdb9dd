"""The most similar accepted sample of a candidate: found in any pool, never its own sample, and quickly."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from curation.datasets.duplicates import add_to_index
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.tables import candidate_layers, layers, samples
from curation.domain import Kind, LayerRole, Prompt, Verdict
from curation.errors import NotFound
from curation.images.codec import decode_layer
from curation.images.perceptual_hash import fingerprint
from curation.review import similar_samples
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from tests.support.factories import make_pairs, make_round, scenes


@pytest.fixture
def round_id(database, store) -> int:
    """Return a round of forty waiting shapes, with their layers in the index."""
    drawn = [
        (prompt, {LayerRole.foreground: pair[LayerRole.foreground]}) for prompt, pair in scenes(40)
    ]
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_pairs(tx, store, round_id, drawn)
        index(tx, store)
    return round_id


def index(tx, store) -> None:
    names = tx.execute(sa.select(layers.c.sha256)).scalars().all()
    add_to_index(tx, {sha: fingerprint(decode_layer(store.get(sha))) for sha in names})


def waiting(tx, round_id: int) -> list[uuid.UUID]:
    query = "select id from candidates where round_id = :round_id order by seed"
    return list(tx.execute(sa.text(query), {"round_id": round_id}).scalars())


def accept(tx, ids) -> None:
    grace = add_reviewer(tx, "Grace")
    for one in ids:
        decide(tx, grace.id, one, Verdict.accept, key=uuid.uuid4())


def mark_of(tx, candidate: uuid.UUID) -> bytes:
    query = (
        sa.select(layers.c.fingerprint)
        .join(candidate_layers)
        .where(candidate_layers.c.candidate_id == candidate)
    )
    return bytes(tx.scalar(query))


def test_the_sample_with_the_fewest_differing_bits_is_returned(database, round_id):
    with database.transaction() as tx:
        ids = waiting(tx, round_id)
        accept(tx, ids[:30])
        names = dict(tx.execute(sa.select(samples.c.id, samples.c.candidate_id)).all())
        for one in ids[30:]:
            found = similar_samples.most_similar_sample(tx, one)
            bits = [_bits(mark_of(tx, one), mark_of(tx, other)) for other in ids[:30]]
            assert found.bits == min(bits)
            assert bits[ids.index(names[found.sample])] == min(bits)
            assert set(found.layers) == {LayerRole.foreground}


def _bits(one: bytes, other: bytes) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(one[:24], other[:24], strict=True))


def test_own_and_withdrawn_samples_are_left_out(database, round_id):
    with database.transaction() as tx:
        ids = waiting(tx, round_id)
        accept(tx, ids[:2])
        assert similar_samples.most_similar_sample(tx, ids[0]).sample == tx.scalar(
            sa.select(samples.c.id).where(samples.c.candidate_id == ids[1])
        )
        tx.execute(
            sa.update(samples)
            .where(samples.c.candidate_id == ids[1])
            .values(withdrawn_at=sa.func.now())
        )
        assert similar_samples.most_similar_sample(tx, ids[0]) is None
        with pytest.raises(NotFound):
            similar_samples.most_similar_sample(tx, uuid.uuid4())


def test_a_duplicate_is_found_behind_any_number_of_others(database, store, round_id, monkeypatch):
    """Through its bands alone: it is neither of the same prompt nor among those that are looked at anyway."""
    monkeypatch.setattr(similar_samples, "MAX_COMPARED", 1)
    with database.transaction() as tx:
        ids = waiting(tx, round_id)
        accept(tx, ids)
        again = make_round(tx)
        twin = decode_layer(store.get(_layer_of(tx, ids[3])))
        make_pairs(
            tx, store, again, [(Prompt("another text"), {LayerRole.foreground: _brighter(twin)})]
        )
        index(tx, store)
        copy = waiting(tx, again)[0]
        found = similar_samples.most_similar_sample(tx, copy)
        assert found.sample == tx.scalar(
            sa.select(samples.c.id).where(samples.c.candidate_id == ids[3])
        )
        assert found.bits <= 11


def _layer_of(tx, candidate: uuid.UUID) -> str:
    return tx.scalar(
        sa.select(candidate_layers.c.sha256).where(candidate_layers.c.candidate_id == candidate)
    )


def _brighter(rgba: np.ndarray) -> np.ndarray:
    colors = np.clip(rgba[..., :3].astype(int) + 2, 0, 255).astype(np.uint8)
    return np.dstack([np.where(rgba[..., 3:] > 0, colors, rgba[..., :3]), rgba[..., 3]])


def test_a_pair_is_compared_by_its_blended_layer_with_pairs(database, store, round_id):
    with database.transaction() as tx:
        accept(tx, waiting(tx, round_id)[:3])
        pairs = make_round(tx, kind="pair")
        made = make_pairs(tx, store, pairs, scenes(6, 64, start=50))
        index(tx, store)
        assert similar_samples.most_similar_sample(tx, made[0]) is None, (
            "single layers are no pairs"
        )
        accept(tx, made[1:])
        found = similar_samples.most_similar_sample(tx, made[0])
        assert set(found.layers) == set(LayerRole)
        assert 0 < found.bits < 192


def test_seeds_are_found_too(database, store, round_id):
    with database.transaction() as tx:
        one, other = waiting(tx, round_id)[:2]
        row = tx.execute(sa.select(layers).where(layers.c.sha256 == _layer_of(tx, other))).one()
        stored = StoredLayer(row.sha256, row.width, row.height, row.bytes, row.visible)
        seed = NewSample(
            Kind.single, "a seed", "CC0-1.0", "test", 0, {LayerRole.foreground: stored}
        )
        add_samples(tx, [seed])
        found = similar_samples.most_similar_sample(tx, one)
    assert (found.caption, found.round) == ("a seed", 0)
    assert found.bits > 0


def test_no_table_is_scanned(database, round_id):
    """With sequential scans disabled, the planner scans no table but the short one of rounds."""
    with database.transaction() as tx:
        ids = waiting(tx, round_id)
        accept(tx, ids[:5])
        compiled = similar_samples._NEAR.compile(dialect=database.engine.dialect)
        values = compiled.construct_params(similar_samples.similarity_query(tx, ids[9]).values)
        tx.execute(sa.text("set local enable_seqscan = off"))
        plan = tx.connection.exec_driver_sql(f"explain {compiled}", values).scalars().all()
    assert any("pk_layer_bands" in line for line in plan)
    assert not [line for line in plan if "Seq Scan" in line and " on rounds" not in line], (
        "\n".join(plan)
    )
