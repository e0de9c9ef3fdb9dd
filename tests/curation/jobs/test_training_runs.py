"""Training runs as jobs: order, pauses, outages, saved states, metrics, logs and lost leases."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.checkpoints import registry, run_history, run_queue, run_states
from curation.datasets.named_objects import named_objects
from curation.db import leases
from curation.db.tables import leases as leases_table
from curation.db.tables import training_runs
from curation.domain import Checkpoint, Progress, TrainingRequest
from curation.errors import Conflict, LayerloopError, Unreachable
from curation.object_store import compute_sha256
from curation.ports import ObjectStore, ProgressCallback
from curation.runtime.context import AppContext, open_context
from curation.settings import Settings
from tests.curation.checkpoints.test_checkpoints import make_request
from tests.curation.cli.test_cli import call, here

__all__ = ["here"]

Step = Callable[[int, Path], None]
steps: list[Step] = []
"""The trainer below calls one of these at each step with the number of images seen and the run's folder."""


def trainer(
    request: TrainingRequest, store: ObjectStore, folder: Path, report: ProgressCallback
) -> Checkpoint:
    """Train by the list of steps, from the last saved state in the folder."""
    saved = sorted((folder / "base").glob("state-*"))
    start = int((saved[-1] / "facts.json").read_text()) if saved else 0
    report(Progress("base", start, len(steps)))
    for images, step in enumerate(steps[start:], start=start + 1):
        step(images, folder)
        report(Progress("base", images, len(steps), {"loss": 1 / images}))
    file = store.put(b"weights")
    return Checkpoint(
        {"base": file}, request.recipe, request.preset, request.snapshot, None, request.seed, "1"
    )


def save(images: int, folder: Path) -> None:
    """Save a state as a trainer does, atomically by a rename."""
    draft, target = folder / f"draft-{images}", folder / "base" / f"state-{images:012d}"
    draft.mkdir(parents=True)
    target.parent.mkdir(exist_ok=True)
    (draft / "facts.json").write_text(str(images))
    (draft / "same.bin").write_bytes(b"unchanged")
    (draft / "part.bin").write_bytes(bytes([images]) * 100)
    draft.rename(target)


def nothing(images: int, folder: Path) -> None:
    """Do nothing in a step."""


def wait_for_upload(context: AppContext, run: uuid.UUID, images: int) -> None:
    """Wait until a state is uploaded."""
    import time

    for _ in range(300):
        with context.database.transaction() as tx:
            if images in {state.images for state in run_states.list_states(tx, run)}:
                return
        time.sleep(0.1)
    raise AssertionError(f"the state after {images} images was not uploaded")


@pytest.fixture
def context(settings: Settings, tmp_path: Path) -> Iterator[AppContext]:
    steps[:] = [nothing] * 4
    with open_context(on_machine(settings, tmp_path, "a")) as opened:
        yield opened


def on_machine(settings: Settings, folder: Path, name: str) -> Settings:
    """Return the settings of a worker with its own home."""
    return settings.model_copy(
        update={
            "home": folder / name,
            "storage": f"file://{folder / 'store'}",
            "trainer": f"{__name__}:trainer",
        }
    )


def request_run(context: AppContext, seed: int = 0) -> uuid.UUID:
    request = make_request(context.database, seed)
    with context.database.transaction() as tx:
        return registry.request_training(tx, request, "test")


def row(context: AppContext, run: uuid.UUID) -> dict[str, object]:
    with context.database.transaction() as tx:
        return registry.find_run(tx, run)


def log_of(context: AppContext, run: uuid.UUID) -> str:
    with context.database.transaction() as tx:
        return "\n".join(batch.text for batch in run_history.read_log(tx, run))


def due_now(context: AppContext) -> None:
    """End the waits after outages."""
    with context.database.transaction() as tx:
        tx.execute(sa.update(training_runs).values(retry_at=sa.func.now()))


def test_the_run_with_the_largest_priority_comes_first(context: AppContext) -> None:
    first, second, third = (request_run(context, seed) for seed in range(3))
    with context.database.transaction() as tx:
        run_queue.set_priority(tx, third, 5, "test")
        assert run_queue.list_claimable(tx) == [third, first, second]
    # The job that was sent for the first run takes the most urgent one.
    jobs.train(context, str(first))
    assert [row(context, run)["state"] for run in (first, second, third)] == [
        *("requested", "requested", "finished")
    ]
    jobs.train(context, str(third))
    assert row(context, first)["state"] == "finished"


def test_metrics_and_log_lines_are_kept(context: AppContext) -> None:
    steps[:] = [nothing] * 100
    run = request_run(context)
    jobs.train(context, str(run))
    with context.database.transaction() as tx:
        curves = run_history.read_curves(tx, run, 1000)
        short = run_history.read_curves(tx, run, 10)
    assert curves == {"base": {"loss": [(images, 1 / images) for images in range(1, 101)]}}
    assert len(short["base"]["loss"]) == 10
    assert short["base"]["loss"][-1] == (
        100,
        pytest.approx(sum(1 / n for n in range(91, 101)) / 10),
    )
    log = log_of(context, run)
    assert "claimed by" in log
    assert "finished with checkpoint" in log


def test_points_of_a_resumed_run_replace_those_after_its_state(context: AppContext) -> None:
    run = request_run(context)
    with context.database.transaction() as tx:
        for points in ([(1, {"loss": 3.0}), (2, {"loss": 9.0})], [(2, {"loss": 2.0})]):
            run_history.append_metrics(tx, run, "w", "base", points)
        assert run_history.read_curves(tx, run, 9) == {"base": {"loss": [(1, 3.0), (2, 2.0)]}}


def test_states_go_to_the_store_and_another_home_continues_from_them(
    context: AppContext, settings: Settings, tmp_path: Path
) -> None:
    run = request_run(context)

    def stop(images: int, folder: Path) -> None:
        wait_for_upload(context, run, 4)
        raise Conflict("the machine is lost")

    def save_and_wait(images: int, folder: Path) -> None:
        save(images, folder)
        wait_for_upload(context, run, images)

    steps[:] = [save_and_wait] * 4 + [stop, nothing]
    jobs.train(context, str(run))
    with context.database.transaction() as tx:
        states = run_states.list_states(tx, run)
        named = set(named_objects(tx))
        leases.release_holder(tx, jobs.WORKER_ID)
    assert [state.images for state in states] == [4, 3]
    assert {sha256 for state in states for sha256 in state.files.values()} <= named
    # Equal files are one object, and those of former states are gone.
    assert states[0].files["same.bin"] == states[1].files["same.bin"]
    assert not context.store.has(compute_sha256(bytes([1]) * 100))
    assert context.store.has(compute_sha256(bytes([3]) * 100))

    # The newest state is damaged in the store: the one before it is used, which is logged.
    damaged = states[0].files["part.bin"]
    (tmp_path / "store" / damaged[:2] / damaged[2:]).write_bytes(b"another content")
    seen: list[int] = []
    steps[:] = [lambda images, folder: seen.append(images)] * 6
    with open_context(on_machine(settings, tmp_path, "b")) as other:
        jobs.train(other, str(run))
    assert seen == [4, 5, 6]
    log = log_of(context, run)
    assert "the saved state after 4 images is damaged" in log
    assert "fetched the state after 3 images" in log
    # A finished run needs no states.
    with context.database.transaction() as tx:
        assert registry.find_run(tx, run)["state"] == "finished"
        assert run_states.list_states(tx, run) == []
    assert not context.store.has(compute_sha256(bytes([3]) * 100))


def test_a_damaged_state_in_the_home_is_fetched_again(context: AppContext) -> None:
    run = request_run(context)

    def stop(images: int, folder: Path) -> None:
        raise Conflict("the machine is lost")

    def save_and_wait(images: int, folder: Path) -> None:
        save(images, folder)
        wait_for_upload(context, run, images)

    steps[:] = [save_and_wait, stop]
    jobs.train(context, str(run))
    file = context.settings.path(f"runs/{run}") / "base/state-000000000001/part.bin"
    file.write_bytes(b"damaged")
    with context.database.transaction() as tx:
        leases.release_holder(tx, jobs.WORKER_ID)
    steps[:] = [nothing] * 2
    jobs.train(context, str(run))
    assert file.read_bytes() == bytes([1]) * 100
    assert row(context, run)["state"] == "finished"


def test_states_at_intervals_stay(context: AppContext) -> None:
    run = request_run(context)
    with context.database.transaction() as tx:
        for images in (40, 90, 120, 180, 240, 260):
            files = {"a": f"{images:064x}", "b": "f" * 64}
            state = run_states.SavedState("base", images, files, 10)
            run_states.record_state(tx, run, "w", state)
        released = run_states.prune_states(tx, run, 2, 100)
        assert [state.images for state in run_states.list_states(tx, run)] == [260, 240, 120]
        assert released == {f"{images:064x}" for images in (40, 90, 180)}
        run_states.prune_states(tx, run, 0, 100)
        assert [state.images for state in run_states.list_states(tx, run)] == [240, 120]


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("the object store does not answer"),
        OSError(28, "No space left on device"),
        sa.exc.OperationalError("select", {}, Exception("server closed")),
    ],
)
def test_an_outage_is_no_failure_of_the_run(context: AppContext, error: Exception) -> None:
    run = request_run(context)

    def fail(images: int, folder: Path) -> None:
        raise error

    steps[:] = [nothing, fail]
    jobs.train(context, str(run))
    found = row(context, run)
    assert (found["state"], found["outages"]) == ("requested", 1)
    assert "trying again after 5 s (outage 1 of at most 12)" in str(found["error"])
    # It waits: neither a job nor the reconcile job claims it before its time.
    jobs.train(context, str(run))
    with context.database.transaction() as tx:
        assert run_queue.list_claimable(tx) == []
    assert row(context, run)["attempts"] == 1
    due_now(context)
    steps[:] = [nothing] * 2
    jobs.train(context, str(run))
    found = row(context, run)
    assert (found["state"], found["error"], found["attempts"]) == ("finished", None, 2)


def test_a_lasting_outage_fails_the_run_with_its_reason(context: AppContext) -> None:
    run = request_run(context)

    def fail(images: int, folder: Path) -> None:
        raise Unreachable("the object store does not answer")

    steps[:] = [fail]
    for _ in range(run_queue.MAX_OUTAGES):
        due_now(context)
        jobs.train(context, str(run))
    found = row(context, run)
    assert found["state"] == "failed"
    assert "given up after 12 outages: remove the cause, then 'layerloop run retry'" in str(
        found["error"]
    )
    with context.database.transaction() as tx:
        run_queue.retry_run(tx, run, "test")
    assert (row(context, run)["state"], row(context, run)["outages"]) == ("requested", 0)


def test_errors_of_the_run_itself_fail_it_at_once(context: AppContext) -> None:
    run = request_run(context)

    def fail(images: int, folder: Path) -> None:
        raise LayerloopError("the loss is nan", "lower the learning rate")

    steps[:] = [fail]
    jobs.train(context, str(run))
    found = row(context, run)
    assert found["state"] == "failed"
    assert found["error"] == "LayerloopError: the loss is nan (lower the learning rate)"


def test_a_short_outage_of_the_database_only_delays_a_report(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = request_run(context)
    record, calls = registry.record_progress, []

    def away(*args: object) -> None:
        calls.append(1)
        if len(calls) in {2, 3}:
            raise Unreachable("the database does not answer")
        record(*args)

    monkeypatch.setattr(registry, "record_progress", away)
    jobs.train(context, str(run))
    assert (row(context, run)["state"], len(calls)) == ("finished", 7)


def test_the_worker_that_lost_its_lease_stops_at_its_next_report(context: AppContext) -> None:
    run = request_run(context)

    def lose(images: int, folder: Path) -> None:
        # The lease expired unnoticed, and another worker claimed the run.
        with context.database.transaction() as tx:
            tx.execute(sa.update(leases_table).values(expires_at=sa.func.now()))
            leases.expire(tx)
        with context.database.transaction() as tx:
            assert registry.claim_run(tx, run, "another", 60)

    def save_too_late(images: int, folder: Path) -> None:
        raise AssertionError("it went on without the lease")

    steps[:] = [nothing, lose, save_too_late]
    jobs.train(context, str(run))
    with context.database.transaction() as tx:
        assert leases.find_lease(tx, run)[0] == "another"
        assert registry.find_run(tx, run)["state"] == "running"
        # Neither states nor metrics of the loser are accepted.
        state = run_states.SavedState("base", 9, {"a": "1" * 64}, 1)
        with pytest.raises(Conflict):
            run_states.record_state(tx, run, jobs.WORKER_ID, state)
        with pytest.raises(Conflict):
            run_history.append_metrics(tx, run, jobs.WORKER_ID, "base", [(9, {"loss": 1.0})])
        with pytest.raises(Conflict):
            run_queue.postpone_run(tx, run, jobs.WORKER_ID, "too late")


def test_a_paused_run_keeps_its_last_state(context: AppContext) -> None:
    run = request_run(context)

    def pause(images: int, folder: Path) -> None:
        save(images, folder)
        with context.database.transaction() as tx:
            run_queue.pause_run(tx, run, "ada")

    steps[:] = [nothing, pause, nothing]
    jobs.train(context, str(run))
    found = row(context, run)
    assert (found["state"], found["error"]) == ("paused", "paused by ada")
    with context.database.transaction() as tx:
        assert [state.images for state in run_states.list_states(tx, run)] == [2]
        assert run_queue.list_claimable(tx) == []
        with pytest.raises(Conflict, match="is paused and cannot be paused"):
            run_queue.pause_run(tx, run, "ada")
        run_queue.resume_run(tx, run, "ada")
    jobs.train(context, str(run))
    assert row(context, run)["state"] == "finished"


def test_runs_are_paused_resumed_and_cancelled_by_commands(
    here: Settings, context: AppContext, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = (request_run(context, seed) for seed in range(3))
    call("run", "set-priority", str(second)[:8], "7")
    output = json.loads(call("run", "pause", str(first), "--json"))
    assert (output["state"], output["was"]) == ("paused", "requested")
    with pytest.raises(Conflict):
        call("run", "retry", str(first))
    call("run", "resume", str(first))
    call("run", "cancel", str(third))
    assert json.loads(call("run", "retry", str(third), "--json"))["state"] == "requested"
    jobs.train(context, str(first))
    assert row(context, second)["state"] == "finished"

    listed = json.loads(call("run", "list", "--json"))
    assert [(entry["id"], entry["priority"]) for entry in listed] == [
        *((str(third), 0), (str(second), 7), (str(first), 0))
    ]
    page = json.loads(call("run", "list", "--json", "--limit", "1", "--after", str(third)))
    assert [entry["id"] for entry in page] == [str(second)]
    shown = json.loads(call("run", "show", str(second), "--json"))
    assert (shown["attempts"], shown["states"]) == (1, [])
    log = call("run", "logs", str(second), "--follow")
    assert "INFO claimed by" in log
    lines = [json.loads(line) for line in call("run", "logs", str(second), "--json").splitlines()]
    assert {line["worker"] for line in lines} == {jobs.WORKER_ID}
