"""Rounds: opened with their candidates, paused, resumed, closed, each allowed transition once."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.datasets.samples import StoredLayer
from curation.db.engine import Database, Transaction
from curation.db.tables import candidates, events, leases, prompts
from curation.db.tables import rounds as rounds_table
from curation.domain import CandidateState, Job, Kind, LayerRole, Progress, Prompt
from curation.errors import Conflict, NotFound, Refused
from curation.object_store import FolderStore
from curation.rounds import lifecycle, requests
from tests.support.factories import make_candidates, make_checkpoint, make_round, states

PROMPTS = [Prompt("a red circle"), Prompt("a blue star"), Prompt("grey smoke")]


def open_round(database: Database, quota: int = 10, **options) -> int:
    with database.transaction() as tx:
        checkpoint = make_checkpoint(tx, uuid.uuid4().hex)
        return lifecycle.open_round(
            tx, checkpoint=checkpoint, prompt_list=PROMPTS, quota=quota, actor="test", **options
        )


def test_an_opened_round_has_its_quota_of_different_candidates_and_a_job(
    database: Database,
) -> None:
    sent: list[Job] = []
    database.send = sent.append
    round_id = open_round(database, quota=7_000)
    assert states(database, round_id) == {"requested": 7_000}
    assert sent == [Job("generate", (round_id,))]
    with database.transaction() as tx:
        per_prompt = tx.execute(
            sa.select(sa.func.count()).select_from(candidates).group_by(candidates.c.prompt_id)
        )
        assert sorted(per_prompt.scalars()) == [2_333, 2_333, 2_334]


def test_equal_seeds_of_a_large_round_are_derived_again(database: Database, monkeypatch) -> None:
    monkeypatch.setattr(requests, "SEED_BYTES", 1)
    round_id = open_round(database, quota=300)
    assert states(database, round_id) == {"requested": 300}
    assert states(database, open_round(database, quota=300)) == {"requested": 300}


def test_the_candidates_do_not_depend_on_the_size_of_batches(
    database: Database, monkeypatch
) -> None:
    """Equal seeds within a batch and of two batches are among them."""
    monkeypatch.setattr(requests, "SEED_BYTES", 1)
    ids = sa.select(candidates.c.id).order_by(candidates.c.id)
    found = []
    with database.transaction() as tx:
        checkpoint = make_checkpoint(tx)
    for size in (7, 90, 20_000):
        monkeypatch.setattr(requests, "COPY_BATCH_SIZE", size)
        # Rolled back, so that each round gets the same number.
        with database.engine.connect() as connection:
            tx = Transaction(connection)
            lifecycle.open_round(
                tx, checkpoint=checkpoint, prompt_list=PROMPTS, quota=300, actor="test"
            )
            found.append(tx.execute(ids).scalars().all())
    assert len(found[0]) == 300
    assert found[0] == found[1] == found[2]


def test_progress_is_told_and_an_interrupted_round_leaves_nothing(
    database: Database, monkeypatch
) -> None:
    monkeypatch.setattr(requests, "COPY_BATCH_SIZE", 40)
    sent: list[Job] = []
    database.send = sent.append
    told: list[Progress] = []

    def interrupt(state: Progress) -> None:
        told.append(state)
        if state.done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_round(database, quota=100, on_progress=interrupt)
    assert [(one.stage, one.done, one.total) for one in told] == [
        ("prompts", 3, 3), ("candidates", 40, 100), ("candidates", 80, 100),
    ]  # fmt: skip
    with database.transaction() as tx:
        assert lifecycle.list_rounds(tx) == []
        for table in (candidates, prompts):
            assert tx.scalar(sa.select(sa.func.count()).select_from(table)) == 0
    assert sent == []
    number = open_round(database, quota=100)
    assert states(database, number) == {"requested": 100}, (
        "the lock and the temporary table are gone"
    )


def test_a_refused_round_leaves_no_row_and_no_job(database: Database) -> None:
    sent: list[Job] = []
    database.send = sent.append
    for options in (
        {"quota": 0},
        {"policy": {"kind": "random", "share": 0}},
        {"policy": {"kind": "best"}},
    ):
        with pytest.raises(Refused):
            open_round(database, **options)
    with database.transaction() as tx:
        assert lifecycle.list_rounds(tx) == []
    assert sent == []


def test_pause_and_resume_are_logged_and_refused_a_second_time(database: Database) -> None:
    round_id = open_round(database)
    with database.transaction() as tx:
        lifecycle.pause_round(tx, round_id, "anna")
    with pytest.raises(Conflict), database.transaction() as tx:
        lifecycle.pause_round(tx, round_id, "anna")
    with database.transaction() as tx:
        lifecycle.resume_round(tx, round_id, "anna")
        kinds = tx.execute(
            sa.select(events.c.kind).where(events.c.actor == "anna").order_by(events.c.id)
        ).scalars()
        assert list(kinds) == ["round paused", "round open"]


def test_closing_withdraws_undecided_candidates_and_deletes_their_leases(
    database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 3, CandidateState.waiting)
    with database.transaction() as tx:
        other = make_round(tx)
        make_candidates(tx, store, other, 2, CandidateState.accepted)
        shown = (
            tx.execute(sa.select(candidates.c.id).where(candidates.c.round_id == round_id))
            .scalars()
            .first()
        )
        tx.execute(sa.update(candidates).where(candidates.c.id == shown).values(state="showing"))
        lease = {"subject": shown, "purpose": "review", "holder": "x", "expires_at": sa.func.now()}
        tx.execute(sa.insert(leases).values(lease))
    with database.transaction() as tx:
        assert lifecycle.close_round(tx, round_id, "test") == 3
        assert lifecycle.close_round(tx, round_id, "test") == 0
        assert lifecycle.close_round(tx, other, "test") == 0
        assert tx.scalar(sa.select(sa.func.count()).select_from(leases)) == 0
    assert states(database, round_id) == {"withdrawn": 3}
    assert states(database, other) == {"accepted": 2}
    with pytest.raises(Conflict), database.transaction() as tx:
        lifecycle.resume_round(tx, round_id, "test")


def test_an_imported_layer_waits_for_people_once(database: Database) -> None:
    layer = StoredLayer("a" * 64, 10, 10, 100, "b" * 64)
    origin = {"licence": "CC0-1.0", "source": "a folder"}
    with database.transaction() as tx:
        round_id = lifecycle.open_seed_review(tx, "test")
        assert lifecycle.open_seed_review(tx, "test") == round_id
        first = lifecycle.add_for_review(
            tx, round_id, {LayerRole.foreground: layer}, Prompt("a cat"), ["alpha_haze"], origin
        )
        assert (
            lifecycle.add_for_review(
                tx, round_id, {LayerRole.foreground: layer}, Prompt("a cat"), ["alpha_haze"], origin
            )
            == first
        )
        assert lifecycle.find_round(tx, round_id)["quota"] == 1
    assert states(database, round_id) == {"waiting": 1}


def test_unknown_rounds_are_not_found(database: Database) -> None:
    with database.transaction() as tx:
        for move in (lifecycle.pause_round, lifecycle.resume_round, lifecycle.close_round):
            with pytest.raises(NotFound):
                move(tx, 404, "test")


def test_a_round_of_pairs_needs_three_texts(database):
    with database.transaction() as tx:
        checkpoint = make_checkpoint(tx)
        with pytest.raises(Refused, match="three texts"):
            lifecycle.open_round(
                tx,
                checkpoint=checkpoint,
                prompt_list=[Prompt("a cat")],
                quota=2,
                kind=Kind.pair,
                actor="test",
            )
        pair = Prompt("a cat on grass", "a cat", "grass")
        round_id = lifecycle.open_round(
            tx, checkpoint=checkpoint, prompt_list=[pair], quota=2, kind=Kind.pair, actor="test"
        )
        assert lifecycle.find_round(tx, round_id)["kind"] == "pair"


def test_the_round_of_gold_cannot_be_reviewed(database: Database) -> None:
    with database.transaction() as tx:
        row = {
            "purpose": lifecycle.GOLD_PURPOSE,
            "kind": "single",
            "quota": 0,
            "policy": {},
            "state": "open",
        }
        round_id = tx.scalar(sa.insert(rounds_table).values(row).returning(rounds_table.c.id))
        assert lifecycle.list_rounds(tx) == []
        for move in (lifecycle.pause_round, lifecycle.close_round):
            with pytest.raises(NotFound):
                move(tx, round_id, "test")
