"""Drawing as jobs: both sides once, killed workers, failures, matting, and takedowns."""

from __future__ import annotations

import uuid
from collections import Counter

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.adapters.snapshot_sources import pack_folder
from curation.comparison_values import DrawingMethod
from curation.comparisons import drawing, sessions, votes
from curation.comparisons.result import read_result
from curation.comparisons.sessions import ComparedSide
from curation.datasets.named_objects import named_objects
from curation.db import leases
from curation.db.tables import (
    comparison_drawings,
    comparison_items,
    comparison_layers,
    layers,
)
from curation.db.tables import leases as leases_table
from curation.domain import Job, JobName, Kind, Role
from curation.errors import Refused
from curation.jobs.looking import find_job
from curation.jobs.model_cache import evict
from curation.jobs.trouble import WorkerTrouble, breakers
from curation.review.reviewers import add_reviewer
from curation.rounds.generation import store_layers
from curation.runtime.context import AppContext
from curation.takedown.execution import TakedownPlace, take_down
from curation.takedown.selectors import Selector
from tests.support import compared_checkpoints
from tests.support.compared_checkpoints import PROMPTS, make_compared, open_drawn, pair_prompts

GENERATOR = "tests.support.compared_checkpoints:load"
COMPARER = "tests.support.compared_checkpoints:compare"


@pytest.fixture(autouse=True)
def fresh_worker():
    evict()
    yield
    evict()
    breakers["generate"].succeed()


@pytest.fixture
def context(settings, database, store) -> AppContext:
    named = settings.model_copy(update={"generator": GENERATOR, "comparer": COMPARER})
    return AppContext(named, database, store, CeleryQueue(make_app(named, named.database)))


def open_(database, count=20, kind=Kind.single, **sides) -> int:
    with database.transaction() as tx:
        clean, hazy = make_compared(tx)
        return sessions.open_comparison(
            tx,
            sides.get("a") or ComparedSide(hazy),
            sides.get("b") or ComparedSide(clean),
            PROMPTS if kind is Kind.single else pair_prompts(count),
            count=count,
            kind=kind,
            actor="test",
        )


def states(database) -> Counter[str]:
    with database.transaction() as tx:
        return Counter(tx.execute(sa.select(comparison_drawings.c.state)).scalars())


def waiting(database) -> int:
    with database.transaction() as tx:
        query = sa.select(sa.func.count()).where(comparison_items.c.waiting)
        return int(tx.scalar(query))


@pytest.mark.parametrize(("kind", "roles"), [(Kind.single, 1), (Kind.pair, 3)])
def test_the_job_draws_both_sides_once(context, database, store, kind, roles):
    number = open_(database, kind=kind)
    with database.transaction() as tx:
        assert find_job(tx, "generate") == Job(JobName.draw_comparisons, (number,))
    for _ in range(2):
        jobs.draw_comparisons(context, number)
    assert states(database) == {"generated": 40}
    assert waiting(database) == 20
    with database.transaction() as tx:
        assert find_job(tx, "generate") is None
        rows = tx.execute(sa.select(comparison_layers)).all()
        assert tx.scalar(sa.select(sa.func.count()).select_from(leases_table)) == 0
        assert {row.sha256 for row in rows} <= set(named_objects(tx))
    assert len(rows) == 40 * roles


def test_a_side_may_be_matted(context, database):
    with database.transaction() as tx:
        clean, _ = make_compared(tx)
    matted = ComparedSide(clean, DrawingMethod.matted)
    number = open_(database, 4, a=ComparedSide(clean), b=matted)
    jobs.draw_comparisons(context, number)
    assert waiting(database) == 4
    with pytest.raises(Refused, match="single layers only"):
        open_(database, 4, kind=Kind.pair, b=matted)


def test_a_killed_worker_leaves_its_drawings_to_another(context, database):
    number = open_(database, 3)
    with database.transaction() as tx:
        killed = drawing.claim_drawings(tx, number, "killed", 2, 60)
        assert drawing.claim_drawings(tx, number, "other", 8, 60).side == killed.side
    assert states(database) == {"generating": 3, "requested": 3}
    with database.transaction() as tx:
        leases.release_dead_holder(tx, "killed")
        leases.release_dead_holder(tx, "other")
        # What the killed worker stores too late is not recorded.
        late = {id_: {} for id_ in killed.ids}
        assert drawing.save_drawings(tx, late, "killed") == 0
    assert states(database) == {"requested": 6}
    jobs.draw_comparisons(context, number)
    assert states(database) == {"generated": 6}
    assert waiting(database) == 3


def test_two_workers_that_save_both_sides_of_an_item_show_it(database, store):
    """The second one waits for the first, and then sees its side."""
    number = open_(database, 1)
    with database.transaction() as tx:
        claimed = [drawing.claim_drawings(tx, number, f"worker {i}", 8, 60) for i in range(2)]
    generator = compared_checkpoints.ComparedGenerator(hazy=False)
    for i, one in enumerate(claimed):
        [drawn] = generator.generate(one.requests)
        stored = {one.ids[0]: store_layers(store, drawn)}
        assert waiting(database) == 0
        with database.transaction() as tx:
            assert drawing.save_drawings(tx, stored, f"worker {i}") == 1
    assert waiting(database) == 1


def test_drawings_that_always_fail_end(context, database, monkeypatch):
    def fail(*_):
        raise ValueError("no such prompt")

    monkeypatch.setattr(compared_checkpoints.ComparedGenerator, "generate", fail)
    number = open_(database, 2)
    for _ in range(40):
        try:
            jobs.draw_comparisons(context, number)
        except WorkerTrouble:
            continue
        break
    assert states(database) == {"failed": 4}
    assert waiting(database) == 0
    with database.transaction() as tx:
        assert read_result(tx, number).drawings == {"failed": 4}
        notes = set(tx.execute(sa.select(comparison_drawings.c.note)).scalars())
    assert notes == {"ValueError: no such prompt"}


def test_a_closed_comparison_draws_nothing_more(context, database):
    number = open_(database, 2)
    with database.transaction() as tx:
        sessions.close_comparison(tx, number, "test")
    jobs.draw_comparisons(context, number)
    assert states(database) == {"requested": 4}
    with database.transaction() as tx:
        assert find_job(tx, "generate") is None


def test_a_takedown_removes_an_image_from_a_comparison(database, store):
    """The votes stay; the item is shown to nobody, and its object is gone."""
    number = open_drawn(database, store, 3)
    with database.transaction() as tx:
        ann = add_reviewer(tx, "ann", Role.annotator).id
        first, *_ = votes.claim_next(tx, ann, number, 1, (), 60)
        votes.vote(tx, ann, first.id, votes.ComparisonChoice.equal, key=uuid.uuid4())
        [second] = votes.claim_next(tx, ann, number, 1, (), 60)
        names = [item.left["foreground"].sha256 for item in (first, second)]
        visible = tx.execute(
            sa.select(layers.c.sha256, layers.c.visible).where(layers.c.sha256.in_(names))
        ).all()
    place = TakedownPlace(database, store, "s" * 40, "test", pack_folder)
    # The snapshot of the checkpoints is not in the store of this test.
    with database.transaction() as tx:
        tx.execute(sa.text("update checkpoints set snapshot_id = null"))
        tx.execute(sa.text("delete from snapshots"))
    selector = Selector("image", tuple(row.visible for row in visible))
    take_down(place, selector, "", lambda _: None)
    assert not any(store.has(row.sha256) for row in visible)
    assert states(database) == {"generated": 4, "removed": 2}
    assert waiting(database) == 1
    with database.transaction() as tx:
        found = read_result(tx, number)
        assert (found.equal, found.undecided) == (1, 2)
        with pytest.raises(Refused, match="taken down"):
            votes.undo_vote(tx, ann, None, key=uuid.uuid4(), seconds=60)
