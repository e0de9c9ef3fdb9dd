"""Loops: rounds follow each other by themselves, through crashes, pauses, gates and budgets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.adapters.celery_queue import QUEUE_JOBS, CeleryQueue, make_app
from curation.checkpoints import registry
from curation.datasets.decision_records import read_decisions
from curation.db.engine import Database
from curation.db.tables import candidates, checkpoints, loop_turns, training_runs
from curation.db.tables import rounds as rounds_table
from curation.domain import Job
from curation.errors import Conflict, Refused
from curation.jobs.looking import find_next_job
from curation.loops import control, diversity_guard, rows, spending
from curation.loops.estimate import estimate_dict, estimate_loop
from curation.loops.plan import Budget, DiversityGuard, LoopPlan, LoopReviewer, LoopState
from curation.loops.report import loop_report
from curation.object_store import FolderStore
from curation.reporting import round_report
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import AppContext
from curation.settings import Settings
from tests.support.decision_history import PastDecision, make_history
from tests.support.factories import fresh_database, with_database
from tests.support.loop_worker import POINTS

ROOT = Path(__file__).resolve().parents[3]
STAND_INS = {
    "generator": "tests.support.shape_generator:open_painter",
    "trainer": "tests.support.shape_generator:train_nothing",
}
PLAN = LoopPlan(rounds=2, quota=8, preset="micro", reviewer=LoopReviewer.rules)


class Instance:
    """An instance whose jobs the test runs in this process, as one worker of all queues would."""

    def __init__(self, home: Path, address: str) -> None:
        settings = Settings(home=home, database=address, **STAND_INS)
        self.sent: list[Job] = []
        self.database = Database(address, self.sent.append)
        queue = CeleryQueue(make_app(settings, address))
        self.context = AppContext(settings, self.database, FolderStore(home / "objects"), queue)

    def use_trainer(self, name: str) -> None:
        settings = self.context.settings.model_copy(update={"trainer": name})
        self.context = replace(self.context, settings=settings)

    def use_generator(self, name: str) -> None:
        settings = self.context.settings.model_copy(update={"generator": name})
        self.context = replace(self.context, settings=settings)

    def seed(self, count: int = 40) -> None:
        import_initial_seeds(self.context, None, count, lambda _: None)

    def start(self, plan: LoopPlan) -> int:
        with self.database.transaction() as tx:
            return rows.start_loop(tx, plan, "test")

    def loop(self, loop_id: int) -> rows.Loop:
        with self.database.transaction() as tx:
            return rows.find_loop(tx, loop_id)

    def work(self, until: Callable[[], bool], seconds: float = 120) -> None:
        """Run the jobs that workers would find, until a condition holds."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, "the loop does not go on"
            with self.database.transaction() as tx:
                found = find_next_job(tx, list(QUEUE_JOBS))
            job = found[1] if found else self.sent.pop(0) if self.sent else None
            if job is None:
                time.sleep(0.05)
            else:
                jobs.JOBS[job.name](self.context, *job.args)

    def finish(self, loop_id: int) -> None:
        self.work(lambda: self.loop(loop_id).state != LoopState.running)

    def names(self, loop_id: int) -> list[str]:
        """Return the snapshots of the turns and the last one."""
        with self.database.transaction() as tx:
            turns = [turn["snapshot_id"] for turn in rows.list_turns(tx, loop_id)]
            [row] = rows.list_loops(tx, 1, after=loop_id + 1)
        return [*turns, row["snapshot_id"]]

    def count(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        with self.database.transaction() as tx:
            return int(tx.scalar(sa.select(sa.func.count()).select_from(table).where(*where)))


@pytest.fixture
def instance(tmp_path: Path, database_address: str) -> Iterator[Instance]:
    new_instance = Instance(tmp_path / "home", database_address)
    yield new_instance
    new_instance.database.close()


def test_two_rounds_follow_each_other(instance: Instance) -> None:
    instance.seed()
    loop_id = instance.start(replace(PLAN, gate=("psnr>=0", "psnr>=last*0.9")))
    instance.finish(loop_id)
    with instance.database.transaction() as tx:
        report = loop_report(tx, loop_id)
        states = [lifecycle.find_round(tx, turn["round"])["state"] for turn in report["turns"]]
        estimate = estimate_dict(estimate_loop(tx, PLAN))
    assert report["state"] == "finished", report
    assert states == ["closed", "closed"]
    assert len({turn["checkpoint"] for turn in report["turns"]}) == 2
    assert report["spent"]["accepted"] > 0
    assert report["spent"]["gpu_seconds"] > 0
    assert report["spent"]["human_hours"] == 0
    assert len(set(instance.names(loop_id))) == 3
    # Estimates now use the rates of this instance.
    assert estimate["generation_seconds"]["value"] > 0
    assert "16 candidates" in estimate["generation_seconds"]["basis"]
    assert estimate["training_seconds"]["value"] is not None
    assert 0 < estimate["accepted"]["value"] <= 16
    # A person decides too: each of 16 candidates is estimated by the time that the one took.
    with instance.database.transaction() as tx:
        reviewer = add_reviewer(tx, "anna").id
        make_history(tx, reviewer, [PastDecision(0, accept=True, dwell_ms=4_500)])
        by_people = replace(PLAN, reviewer=LoopReviewer.person)
        estimate = estimate_dict(estimate_loop(tx, by_people))
    assert estimate["human_hours"]["value"] == pytest.approx(16 * 4.5 / 3_600)


def test_the_snapshots_of_a_loop_have_the_decisions_that_were_made_before(
    instance: Instance,
) -> None:
    instance.seed()
    loop_id = instance.start(replace(PLAN, recipe="whole-kto"))
    instance.finish(loop_id)
    store = instance.context.store
    decided = [list(read_decisions(store, name)) for name in instance.names(loop_id)]
    assert [len(records) for records in decided] == [0, 8, 16]
    assert all(record.automatic for record in decided[1])
    # Its second training continues the first one; a loop with another recipe continues it too.
    with instance.database.transaction() as tx:
        turns = rows.list_turns(tx, loop_id)
    plain = instance.start(replace(PLAN, rounds=1, seed=7))
    instance.finish(plain)
    with instance.database.transaction() as tx:
        [last] = rows.list_turns(tx, plain)
        found = [registry.find_checkpoint(tx, turn["checkpoint_id"]) for turn in (*turns, last)]
    assert [made.parent for made in found] == [None, found[0].id, found[1].id]
    assert [len(list(read_decisions(store, name))) for name in instance.names(plain)] == [16, 24]


def test_a_loop_steers_its_prompts_by_its_own_rounds(instance: Instance) -> None:
    instance.seed()
    loop_id = instance.start(replace(PLAN, rounds=2, steering={"random_share": 0.5}))
    instance.finish(loop_id)
    query = sa.select(rounds_table.c.steering).where(rounds_table.c.steering.is_not(None))
    with instance.database.transaction() as tx:
        first, second = tx.execute(query.order_by(rounds_table.c.id)).scalars()
    assert (first["random"], first["steered"]) == (8, 0)
    assert (second["random"], second["steered"]) == (4, 4)
    # The rule reviewer decided the first round.
    assert second["automatic"] == second["decisions"] > 0
    assert instance.count(candidates, candidates.c.prompt_source == "steered") == 4


def test_a_gate_keeps_the_former_checkpoint_and_pauses_without_one(instance: Instance) -> None:
    instance.seed()
    loop_id = instance.start(replace(PLAN, rounds=1, gate=("psnr>=1000",)))
    instance.finish(loop_id)
    loop = instance.loop(loop_id)
    assert loop.state == LoopState.paused
    assert "does not satisfy psnr>=1000, and no other is promoted" in str(loop.reason)
    # The loop goes on after a promotion by hand.
    from curation.checkpoints import registry

    with instance.database.transaction() as tx:
        registry.promote_checkpoint(tx, str(loop.checkpoint), "test")
        control.change_loop(tx, loop_id, "test", {"rounds": 2})
        control.resume_loop(tx, loop_id, "test")
    instance.finish(loop_id)
    with instance.database.transaction() as tx:
        first, second = rows.list_turns(tx, loop_id)
        generators = list(tx.execute(sa.select(rounds_table.c.checkpoint_id)).scalars())
    assert instance.loop(loop_id).state == LoopState.finished
    assert (first["promoted"], second["promoted"]) == (True, False)
    assert set(filter(None, generators)) == {first["checkpoint_id"]}


def test_a_loop_is_paused_changed_resumed_and_cancelled(instance: Instance) -> None:
    instance.seed()
    loop_id = instance.start(replace(PLAN, reviewer=LoopReviewer.person))
    instance.work(lambda: instance.loop(loop_id).round is not None)
    round_id = int(instance.loop(loop_id).round or 0)
    with instance.database.transaction() as tx:
        control.pause_loop(tx, loop_id, "test")
        assert lifecycle.find_round(tx, round_id)["state"] == "paused"
        with pytest.raises(Conflict, match="is paused and cannot be paused"):
            control.pause_loop(tx, loop_id, "test")
        with pytest.raises(Refused, match="rounds is 0"):
            control.change_loop(tx, loop_id, "test", {"rounds": 0})
        control.change_loop(
            tx, loop_id, "test", {"reviewer": LoopReviewer.rules, "rounds": 1, "accepted": 100}
        )
        assert lifecycle.find_round(tx, round_id)["rule_reviewer"]
        assert rows.due_loop(tx) is None
        control.resume_loop(tx, loop_id, "test")
        assert lifecycle.find_round(tx, round_id)["state"] == "open"
    instance.finish(loop_id)
    assert instance.loop(loop_id).state == LoopState.finished
    # Another one is cancelled while it waits for people: its round is closed.
    other = instance.start(replace(PLAN, reviewer=LoopReviewer.person, seed=5))
    instance.work(lambda: instance.loop(other).round is not None)
    with instance.database.transaction() as tx:
        control.cancel_loop(tx, other, "test")
        round_id = int(rows.find_loop(tx, other).round or 0)
        assert lifecycle.find_round(tx, round_id)["state"] == "closed"
    assert instance.loop(other).state == LoopState.cancelled


def _requested_changes(instance: Instance) -> list[dict[str, str]]:
    """Return the changes of the preset of each training, in order."""
    order = sa.select(training_runs.c.changes).order_by(training_runs.c.created_at)
    with instance.database.transaction() as tx:
        return list(tx.execute(order).scalars())


@pytest.mark.slow
def test_a_loop_that_loses_diversity_mixes_in_seeds(instance: Instance) -> None:
    instance.use_generator("tests.support.shape_generator:open_collapsing_painter")
    instance.seed(90)
    loop_id = instance.start(replace(PLAN, rounds=3, quota=64))
    instance.finish(loop_id)
    with instance.database.transaction() as tx:
        turns = loop_report(tx, loop_id)["turns"]
        events = tx.execute(sa.text("select data from events where kind = 'diversity lost'"))
        [event] = events.scalars()
        first, second = turns[0]["round"], turns[1]["round"]
        report = round_report.round_report(tx, second)
    assert instance.loop(loop_id).state == LoopState.finished
    # Nothing came before the first turn, and the first round is compared with none.
    assert turns[0]["guard"] is None
    assert turns[1]["guard"] == {"round": first, "first": None, "action": None}
    answer = turns[2]["guard"]
    assert answer == event
    assert (answer["round"], answer["first"], answer["action"]) == (second, first, "mix")
    assert answer["high"] < 1
    assert answer["real_share"] == 0.4
    assert [changes.get("real_share") for changes in _requested_changes(instance)] == [
        None,
        None,
        "0.4",
    ]
    assert report["diversity"]["lost"]
    assert "at least 40% of the next training are seeds" in report["diversity_guard"]
    assert report["diversity_guard"] in round_report.as_text(report)


@pytest.mark.slow
def test_a_loop_that_loses_diversity_is_paused_once(instance: Instance) -> None:
    instance.use_generator("tests.support.shape_generator:open_collapsing_painter")
    instance.seed(90)
    plan = replace(PLAN, rounds=3, quota=64, diversity_guard=DiversityGuard.stop)
    loop_id = instance.start(plan)
    instance.finish(loop_id)
    loop = instance.loop(loop_id)
    assert (loop.state, loop.step, loop.turn) == (LoopState.paused, "train", 3)
    assert "lost diversity: its Vendi score is 0." in str(loop.reason)
    # A person lets it go on.
    with instance.database.transaction() as tx:
        control.resume_loop(tx, loop_id, "test")
    instance.finish(loop_id)
    assert instance.loop(loop_id).state == LoopState.finished
    assert all("real_share" not in changes for changes in _requested_changes(instance))


def test_a_round_that_cannot_be_measured_stops_no_loop(instance: Instance) -> None:
    instance.seed()
    loop_id = instance.start(PLAN)
    instance.work(lambda: instance.loop(loop_id).turn == 2)
    with instance.database.transaction() as tx:
        loop = rows.find_loop(tx, loop_id)
        assert not diversity_guard.awaits_measurement(tx, 1)
        tx.execute(sa.text("delete from kept_reports"))
        tx.execute(sa.text("update loop_turns set guard = null"))
        assert diversity_guard.awaits_measurement(tx, 1)
        assert not diversity_guard.check_diversity(tx, loop, "test")
        tx.execute(sa.text("update loop_turns set created_at = now() - interval '1 hour'"))
        tx.execute(sa.text("update rounds set closed_at = now() - interval '1 hour'"))
        assert diversity_guard.check_diversity(tx, loop, "test")
        assert not diversity_guard.awaits_measurement(tx, 1)
        [event] = tx.execute(sa.text("select data from events where kind like 'diversity not%'"))
        assert event.data == {"round": 1}


def test_budgets_end_or_pause_a_loop(instance: Instance) -> None:
    instance.seed()
    enough = instance.start(replace(PLAN, rounds=9, budget=Budget(accepted=2)))
    instance.finish(enough)
    with instance.database.transaction() as tx:
        report = loop_report(tx, enough)
    assert report["state"] == "finished"
    assert report["turn"] == 1
    assert report["spent"]["accepted"] >= 2
    spent = instance.start(replace(PLAN, seed=3, budget=Budget(gpu_seconds=1)))
    with instance.database.transaction() as tx:
        rows.update_loop(tx, spent, training_seconds=2)
    instance.finish(spent)
    loop = instance.loop(spent)
    assert (loop.state, loop.reason) == (
        LoopState.paused,
        "the budget of 1 GPU seconds is spent",
    )
    assert spending.exceeded(Budget(human_hours=1), Budget(human_hours=1.5)) is not None


def test_a_failed_step_keeps_its_reason_and_is_tried_again(instance: Instance) -> None:
    instance.seed()
    loop_id = instance.start(replace(PLAN, rounds=1))
    instance.use_trainer("tests.support.shape_generator:nothing_like_it")
    instance.finish(loop_id)
    loop = instance.loop(loop_id)
    assert loop.state == LoopState.failed
    assert str(loop.reason).startswith("training failed: ")
    instance.use_trainer(STAND_INS["trainer"])
    with instance.database.transaction() as tx:
        control.resume_loop(tx, loop_id, "test")
    instance.finish(loop_id)
    assert instance.loop(loop_id).state == LoopState.finished


def test_a_loop_without_prompts_is_refused_before_it_starts(instance: Instance) -> None:
    instance.seed()
    with instance.database.transaction() as tx:
        tx.execute(sa.text("update samples set line = (line::jsonb - 'caption')::text"))
    with pytest.raises(Refused, match="no seed has a caption"):
        instance.start(PLAN)
    assert instance.count(loop_turns) == 0


@pytest.mark.slow
def test_two_workers_killed_at_every_step_make_the_snapshots_of_an_undisturbed_run(
    instance: Instance, tmp_path: Path, postgres_address: str, template_database: str
) -> None:
    instance.seed()
    expected_id = instance.start(PLAN)
    instance.finish(expected_id)
    kills = tmp_path / "kills"
    kills.mkdir()
    with fresh_database(postgres_address, template_database) as name:
        address = with_database(postgres_address, name)
        interrupted = Instance(tmp_path / "killed", address)
        interrupted.seed()
        loop_id = interrupted.start(PLAN)
        _run_workers(interrupted, loop_id, address, kills)
        assert interrupted.loop(loop_id).state == LoopState.finished
        assert interrupted.names(loop_id) == instance.names(expected_id)
        for table in (candidates, checkpoints, training_runs, rounds_table):
            assert interrupted.count(table) == instance.count(table)
        interrupted.database.close()
    assert sorted(file.name for file in kills.iterdir()) == sorted(POINTS)


def _run_workers(interrupted: Instance, loop_id: int, address: str, kills: Path) -> None:
    """Keep two workers running until the loop ends."""
    environment = os.environ | {
        "LAYERLOOP_HOME": str(interrupted.context.settings.home),
        "LAYERLOOP_DATABASE": address,
        "LAYERLOOP_LEASE_SECONDS": "3",
        "LAYERLOOP_TEST_KILLS": str(kills),
        **{f"LAYERLOOP_{key.upper()}": value for key, value in STAND_INS.items()},
    }
    command = [sys.executable, "-m", "tests.support.loop_worker"]
    log = (kills.parent / "workers.log").open("ab")

    def start() -> subprocess.Popen[Any]:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)

    workers = [start(), start()]
    deadline = time.monotonic() + 400
    try:
        while interrupted.loop(loop_id).state == LoopState.running:
            assert time.monotonic() < deadline, Path(log.name).read_text()[-4_000:]
            for index, worker in enumerate(workers):
                if worker.poll() is not None:
                    assert worker.returncode == -9, Path(log.name).read_text()[-4_000:]
                    workers[index] = start()
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(30)
        log.close()
