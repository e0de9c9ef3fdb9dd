"""The loop in one process: two rounds are completed from a plain queue, and a second call finds nothing to do."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.checkpoints import registry
from curation.datasets import snapshots
from curation.datasets.manifest import read_samples
from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import events, training_runs
from curation.db.tables import rounds as rounds_table
from curation.domain import CandidateState, Job, Kind, Progress, TrainingRequest
from curation.errors import LayerloopError
from curation.jobs.looking import find_job
from curation.jobs.trouble import WorkerTrouble
from curation.loops.plan import LoopPlan
from curation.loops.prompts import choose_prompts
from curation.object_store import FolderStore
from curation.reporting import round_report
from curation.rounds import lifecycle
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import AppContext
from curation.runtime.loop import run_loop
from curation.settings import Settings
from tests.support.factories import make_candidates, make_round, states

PLAN = LoopPlan(rounds=2, quota=12, preset="micro", reviewer="rules")


@pytest.fixture
def context(settings: Settings, database: Database, store: FolderStore) -> AppContext:
    """Return an instance whose jobs are only collected: tests run them."""
    return AppContext(settings, database, store, CeleryQueue(make_app(settings, settings.database)))


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Return the settings, changed by the parameter of a test."""
    return settings.model_copy(update=getattr(request, "param", {}))


class SentJobs(list[Job]):
    """The sent jobs in order; `on_progress` records stages, and raises the errors of jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[BaseException] = []
        self.stages: list[str] = []

    def on_progress(self, progress: Progress) -> None:
        self.stages.append(progress.stage)
        for fault in self.faults:
            raise fault


@pytest.fixture
def sent_jobs(context: AppContext) -> Iterator[SentJobs]:
    """Yield a worker in a thread."""
    sent = SentJobs()
    waiting: queue.Queue[Job | None] = queue.Queue()

    def send(job: Job) -> None:
        sent.append(job)
        waiting.put(job)

    def work() -> None:
        while (job := waiting.get()) is not None:
            try:
                jobs.JOBS[job.name](context, *job.args)
            except BaseException as error:  # raised at the end of the test
                sent.faults.append(error)

    context.database.send = send
    thread = threading.Thread(target=work)
    thread.start()
    yield sent
    waiting.put(None)
    thread.join(60)
    assert sent.faults == []


@pytest.mark.slow
def test_two_rounds_are_completed_and_a_second_call_repeats_nothing(
    context: AppContext, sent_jobs: SentJobs
) -> None:
    import_initial_seeds(context, None, 80, sent_jobs.on_progress)
    numbers = run_loop(context, PLAN, sent_jobs.on_progress)
    assert len(numbers) == PLAN.rounds
    with context.database.transaction() as tx:
        for round_id in numbers:
            counts = lifecycle.count_states(tx, round_id)
            assert sum(counts.values()) == PLAN.quota
            assert set(counts) <= {"accepted", "rejected", "refused"}
            funnel = round_report.round_report(tx, round_id)["funnel"]
            assert funnel["decided"] == counts.get("accepted", 0) + counts.get("rejected", 0)
        made = registry.list_checkpoints(tx)
        assert len(made) == PLAN.rounds
        assert made[0]["parent_id"] == made[1]["id"]
        assert {"psnr", "ssim", "alpha_sad", "alpha_mse", "identity_harm_db", "noise_mse"} <= set(
            made[0]["evaluation"]
        )
        assert context.store.has(made[0]["sample_grid"])
        before = tx.scalar(sa.select(sa.func.count()).select_from(events))
        assert snapshots.find_snapshot(tx, "latest")
    sent_jobs.clear()
    assert run_loop(context, PLAN, sent_jobs.on_progress) == numbers
    with context.database.transaction() as tx:
        after = tx.scalar(sa.select(sa.func.count()).select_from(events))
        assert tx.scalar(sa.select(sa.func.count()).select_from(training_runs)) == PLAN.rounds
    assert after == before
    assert sent_jobs == []
    stages = list(dict.fromkeys(sent_jobs.stages))
    assert stages[:2] == ["drawing seeds", "listing seeds"]
    assert any("generating" in stage for stage in stages[3:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {
            "generator": "tests.support.shape_generator:open_painter",
            "trainer": "tests.support.shape_generator:train_nothing",
        }
    ],
    indirect=True,
    ids=["painter"],
)
def test_a_round_of_pairs_is_generated_screened_decided_and_becomes_samples(
    context: AppContext, sent_jobs: SentJobs
) -> None:
    """The loop of `demo --pairs`, with a generator that needs no training."""
    import_initial_seeds(context, None, 60, sent_jobs.on_progress, Kind.pair)
    plan = LoopPlan(
        rounds=1, quota=24, preset="micro", reviewer="rules", recipe="pairs", kind=Kind.pair
    )
    [round_id] = run_loop(context, plan, sent_jobs.on_progress)
    with context.database.transaction() as tx:
        report = round_report.round_report(tx, round_id)
        snapshot = snapshots.find_snapshot(tx, "latest")
    assert report["round"]["kind"] == "pair"
    assert report["funnel"]["decided"] + report["funnel"]["refused"] == 24
    assert report["funnel"]["accepted"] >= 12
    assert ("clash", "blended") in {(one["reason"], one["layer"]) for one in report["reasons"]}
    assert all(one["layer"] for one in report["reasons"])
    assert {one["name"] for one in report["signals"]} >= {
        "leakage",
        "harmony",
        "light_gap",
        "foot_gap",
    }
    drawn = [one for one in read_samples(context.store, snapshot) if one.round == round_id]
    assert len(drawn) == report["funnel"]["accepted"]
    assert all(
        one.kind is Kind.pair and len(one.layers) == 3 and len(one.texts) == 2 for one in drawn
    )
    assert run_loop(context, plan, sent_jobs.on_progress) == [round_id]


def test_prompts_of_pairs_have_three_texts_and_single_ones_are_of_foregrounds(
    context: AppContext,
) -> None:
    import_initial_seeds(context, None, 20, lambda _: None, Kind.pair)
    with context.database.transaction() as tx:
        pairs = choose_prompts(tx, 50, 1, Kind.pair)
        singles = choose_prompts(tx, 50, 1)
        assert choose_prompts(tx, 5, 2, Kind.pair) != pairs[:5]
    assert len(pairs) == 12
    assert all(
        one.foreground and one.background and one.text.startswith(one.foreground) for one in pairs
    )
    assert len(singles) == 20
    assert all(one.background is None and " under " not in one.text for one in singles)


def test_a_failed_training_ends_the_loop_with_its_reason(
    context: AppContext, sent_jobs: SentJobs
) -> None:
    import_initial_seeds(context, None, 20, lambda _: None)
    with pytest.raises(LayerloopError, match="training failed"):
        run_loop(
            context,
            LoopPlan(rounds=1, quota=4, preset="no such row", reviewer="rules"),
            lambda _: None,
        )


def test_a_checkpoint_that_cannot_be_loaded_fails_no_candidate(context: AppContext) -> None:
    with context.database.transaction() as tx:
        round_id = make_round(
            tx
        )  # its checkpoint has no files, so that nothing can be drawn with it
        make_candidates(tx, context.store, round_id, 2, CandidateState.requested)
    for _ in range(2 * leases.MAX_ATTEMPTS):
        with pytest.raises(WorkerTrouble, match="could not be loaded"):
            jobs.generate(context, round_id)
    assert states(context.database, round_id) == {"requested": 2}


def test_reconcile_sends_jobs_only_for_work_that_workers_do_not_find(context: AppContext) -> None:
    with context.database.transaction() as tx:
        screened, idle, paused = (make_round(tx) for _ in range(3))
        make_candidates(tx, context.store, screened, 1, CandidateState.screened)
        make_candidates(tx, context.store, idle, 1, CandidateState.requested)
        make_candidates(tx, context.store, paused, 1, CandidateState.screened)
        tx.execute(
            sa.update(rounds_table).where(rounds_table.c.id == paused).values(state="paused")
        )
    sent: list[Job] = []
    context.database.send = sent.append
    jobs.reconcile(context)
    # Rounds without candidates to draw or to screen are measured.
    measured = [Job("measure_diversity", (round_id,)) for round_id in (screened, paused)]
    assert sent == [Job("select", (screened,)), *measured]
    with context.database.transaction() as tx:
        assert find_job(tx, "generate") == Job("generate", (idle,))
        assert find_job(tx, "screen") is None


def test_a_stopped_training_is_released(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_initial_seeds(context, None, 20, lambda _: None)
    snapshot = snapshots.freeze_snapshot(context.database, context.store, tag=None, actor="test").id
    with context.database.transaction() as tx:
        run = registry.request_training(
            tx, TrainingRequest("whole", "micro", snapshot, None, None, 0), "test"
        )
    jobs.stop_requested.set()
    try:
        jobs.train(context, str(run))
    finally:
        jobs.stop_requested.clear()
    with context.database.transaction() as tx:
        assert registry.find_run(tx, run)["state"] == "requested"
        assert registry.find_run(tx, run)["error"] is None
