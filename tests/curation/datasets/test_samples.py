"""Samples: equal images are one sample, lines never change, and a new accept restores a withdrawn sample."""

from __future__ import annotations

import sqlalchemy as sa

from curation.datasets.sample_records import list_samples
from curation.datasets.samples import (
    NewSample,
    StoredLayer,
    add_samples,
    withdraw_sample_of,
)
from curation.db.engine import Database
from curation.db.tables import sample_layers, samples
from curation.domain import Kind, LayerRole, Sample, Split
from tests.support.factories import make_candidates, make_round


def new_sample(index: int, role: LayerRole = LayerRole.foreground, **changes) -> NewSample:
    layer = StoredLayer(f"{index:064x}", 8, 8, 100, f"{index + 7:064x}")
    values = {
        "kind": Kind.single,
        "caption": "a cat",
        "licence": "CC0-1.0",
        "source": "here",
        "round": 0,
    }
    return NewSample(**(values | {"layers": {role: layer}} | changes))


def test_equal_images_are_one_sample(database: Database) -> None:
    with database.transaction() as tx:
        assert (
            len(
                add_samples(
                    tx, [new_sample(1), new_sample(2), new_sample(1, caption="the same cat")]
                )
            )
            == 2
        )
        assert add_samples(tx, [new_sample(1)]) == set()
        assert len(list_samples(tx)) == 2
        assert tx.scalar(sa.select(sa.func.count()).select_from(sample_layers)) == 2


def test_a_line_has_all_fields_of_the_sample(database: Database) -> None:
    with database.transaction() as tx:
        add_samples(tx, [new_sample(3, split=Split.heldout, round=4)])
        line = tx.scalar(sa.select(samples.c.line))
    read = Sample.read(line)
    assert read.line() == line
    assert (read.caption, read.licence, read.split, read.round) == (
        "a cat",
        "CC0-1.0",
        Split.heldout,
        4,
    )
    assert read.layers == {LayerRole.foreground: f"{3:064x}"}


def test_a_pair_is_named_by_both_of_its_layers() -> None:
    back = StoredLayer("c" * 64, 8, 8, 1, "d" * 64)
    pair = new_sample(1, kind=Kind.pair)
    both = NewSample(**(pair.__dict__ | {"layers": {**pair.layers, LayerRole.background: back}}))
    assert both.visible() not in {pair.visible(), back.visible}
    assert both.visible() == NewSample(**both.__dict__).visible()


def test_an_undone_accept_leaves_the_next_snapshot_and_comes_back(
    database: Database, store
) -> None:
    with database.transaction() as tx:
        [candidate] = make_candidates(tx, store, make_round(tx), 1)
        add_samples(tx, [new_sample(1, candidate=candidate)])
        withdraw_sample_of(tx, candidate)
        assert len(list_samples(tx)) == 0
        add_samples(tx, [new_sample(1, candidate=candidate)])
        assert len(list_samples(tx)) == 1
