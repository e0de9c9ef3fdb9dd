"""Pages of every list: together they have each row once, whatever is added or removed between two pages."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from curation.access import tokens
from curation.checkpoints import registry
from curation.datasets import sample_records, snapshots
from curation.datasets.samples import add_samples, find_sample_id
from curation.db import tables
from curation.db.engine import Transaction
from curation.domain import TrainingRequest
from curation.errors import NotFound
from curation.events import listing, webhooks
from curation.loops import rows as loops
from curation.loops.plan import LoopPlan
from curation.review import reviewers
from curation.rounds import lifecycle
from curation.rounds.candidate_list import list_candidates
from tests.curation.datasets.test_samples import new_sample
from tests.support.factories import make_candidates, make_checkpoint, make_round

COUNT = 7


class List(NamedTuple):
    """A list: how its rows are made and read a page at a time, and what continues after a row."""

    make: Callable[[Transaction, Any], object]
    read: Callable[[Transaction, int, Any], list[Any]]
    key: Callable[[Any], Any]


def make_rounds(tx: Transaction, _: Any) -> None:
    for _ in range(COUNT):
        make_round(tx)


def make_several_rounds(tx: Transaction, store: Any) -> None:
    """Candidates of three rounds, of which the middle one has none."""
    for count in (4, 0, 3):
        make_candidates(tx, store, make_round(tx), count)


def make_snapshots(tx: Transaction, _: Any) -> None:
    rows = [{"id": f"{i:064x}", "samples": i, "counts": {}} for i in range(COUNT)]
    tx.execute(sa.insert(tables.snapshots), rows)


def make_runs(tx: Transaction, _: Any) -> None:
    make_snapshots(tx, _)
    for seed in range(COUNT):
        registry.request_training(
            tx, TrainingRequest("whole", "tiny", f"{0:064x}", None, None, seed), "test"
        )


def make_checkpoints(tx: Transaction, _: Any) -> None:
    first = make_checkpoint(tx)
    row = dict(tx.execute(sa.select(tables.checkpoints)).mappings().one())
    assert row["id"] == first
    copies = [row | {"id": f"{i:064x}"} for i in range(COUNT - 1)]
    tx.execute(sa.insert(tables.checkpoints), copies)


def make_loops(tx: Transaction, _: Any) -> None:
    add_samples(tx, [new_sample(0)])
    for _ in range(COUNT):
        loops.start_loop(tx, LoopPlan(1, 8, "micro"), "test")


def make_deliveries(tx: Transaction, _: Any) -> None:
    hook, _secret = webhooks.add_webhook(tx, "https://example.org/x", ["round.opened"], "test")
    for _ in range(COUNT):
        webhooks.add_test_delivery(tx, hook, "test")


def make_events(tx: Transaction, _: Any) -> None:
    for number in range(COUNT):
        tx.log("ann", "counted", f"number {number}")


LISTS = {
    "rounds": List(
        make_rounds,
        lambda tx, limit, after: lifecycle.list_rounds(tx, limit=limit, after=after),
        lambda row: row["id"],
    ),
    "candidates": List(
        make_several_rounds,
        lambda tx, limit, after: list_candidates(tx, limit=limit, after=after),
        lambda row: row["id"],
    ),
    "samples": List(
        lambda tx, _: add_samples(tx, [new_sample(one) for one in range(COUNT)]),
        lambda tx, limit, after: sample_records.list_samples(tx, limit=limit, after=after),
        lambda row: uuid.UUID(row["id"]),
    ),
    "snapshots": List(make_snapshots, snapshots.list_snapshots, lambda row: row["id"]),
    "checkpoints": List(make_checkpoints, registry.list_checkpoints, lambda row: row["id"]),
    "runs": List(
        make_runs,
        lambda tx, limit, after: registry.list_runs(
            tx, limit, registry.find_run(tx, after) if after else None
        ),
        lambda row: row["id"],
    ),
    "loops": List(make_loops, loops.list_loops, lambda row: row["id"]),
    "reviewers": List(
        lambda tx, _: [reviewers.add_reviewer(tx, f"person {i}") for i in range(COUNT)],
        lambda tx, limit, after: reviewers.list_reviewers(tx, limit=limit, after=after),
        lambda row: row.name,
    ),
    "tokens": List(
        lambda tx, _: [
            tokens.create_token(tx, f"token {i}", [tokens.Scope.rounds_read], 60, "test")
            for i in range(COUNT)
        ],
        tokens.list_tokens,
        lambda row: row["id"],
    ),
    "deliveries": List(
        make_deliveries,
        lambda tx, limit, after: webhooks.list_deliveries(tx, limit=limit, after=after),
        lambda row: row["id"],
    ),
    "events": List(
        make_events,
        lambda tx, limit, after: listing.list_events(tx, actor="ann", limit=limit, after=after),
        lambda row: row["id"],
    ),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("size", [1, 3, COUNT])
def test_pages_have_every_row_once_in_the_order_of_the_whole_list(database, store, name, size):
    """All rows are of one transaction, so that their times are equal."""
    make, read, key = LISTS[name]
    with database.transaction() as tx:
        make(tx, store)
    with database.transaction() as tx:
        whole = [key(row) for row in read(tx, 0, None)]
        assert len(set(whole)) == len(whole) == COUNT
        paged: list[Any] = []
        while page := read(tx, size, paged[-1] if paged else None):
            assert len(page) <= size
            paged += [key(row) for row in page]
    assert paged == whole


def test_new_rows_do_not_move_older_ones_to_the_next_page(database):
    with database.transaction() as tx:
        numbers = [make_round(tx) for _ in range(4)]
        first = [row["id"] for row in lifecycle.list_rounds(tx, limit=2)]
        make_round(tx)
        second = [row["id"] for row in lifecycle.list_rounds(tx, limit=2, after=first[-1])]
    assert [*first, *second] == numbers[::-1]


def test_a_page_after_a_row_that_is_not_there_is_refused(database):
    with database.transaction() as tx:
        for read in (registry.list_checkpoints, snapshots.list_snapshots):
            with pytest.raises(NotFound, match="go on after"):
                read(tx, 3, "f" * 64)
        with pytest.raises(NotFound):
            sample_records.list_samples(tx, limit=3, after=uuid.uuid4())
        with pytest.raises(NotFound):
            reviewers.list_reviewers(tx, limit=3, after="nobody")


@pytest.mark.parametrize("name", ["", "1234567", "x" * 8, "12345678%", "f" * 33, "ffffffff\0"])
def test_a_prefix_that_names_no_id_finds_nothing(database, name):
    with database.transaction() as tx, pytest.raises(NotFound):
        find_sample_id(tx, name)


def test_the_shortest_and_the_whole_id_find_a_sample(database):
    with database.transaction() as tx:
        add_samples(tx, [new_sample(1)])
        [row] = sample_records.list_samples(tx)
        whole = uuid.UUID(row["id"])
        for name in (whole.hex[:8], whole.hex.upper(), str(whole), str(whole)[:11]):
            assert find_sample_id(tx, name) == whole
