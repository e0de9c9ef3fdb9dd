"""Checkpoints and training runs: one request is one run, one run is one checkpoint, one checkpoint is promoted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from curation.checkpoints import registry
from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import checkpoints as checkpoints_table
from curation.db.tables import snapshots
from curation.domain import Checkpoint, Job, Progress, TrainingRequest
from curation.errors import Conflict, NotFound


def make_request(database: Database, seed: int = 0) -> TrainingRequest:
    with database.transaction() as tx:
        row = {"id": "5" * 64, "samples": 0, "counts": {}}
        if not tx.scalar(sa.select(snapshots.c.id)):
            tx.execute(sa.insert(snapshots), row)
    return TrainingRequest("whole", "tiny", "5" * 64, None, None, seed)


def make_result(request: TrainingRequest, file: str = "1") -> Checkpoint:
    return Checkpoint(
        {"base": file * 64},
        request.recipe,
        request.preset,
        request.snapshot,
        None,
        request.seed,
        "test",
    )


def test_a_repeated_training_request_is_one_run_and_sends_its_job_again(database: Database) -> None:
    requested: list[Job] = []
    database.send = requested.append
    request = make_request(database)
    for _ in range(2):
        with database.transaction() as tx:
            registry.request_training(tx, request, "test")
    with database.transaction() as tx:
        assert [run["id"] for run in registry.list_runs(tx)] == [request.id]
    assert requested == [Job("train", (str(request.id),))] * 2


def test_a_run_is_claimed_once_reports_and_finishes(database: Database) -> None:
    request = make_request(database)
    with database.transaction() as tx:
        registry.request_training(tx, request, "test")
        assert registry.claim_run(tx, request.id, "me", 60) == request
        assert registry.claim_run(tx, request.id, "you", 60) is None
        registry.record_progress(tx, request.id, "me", Progress("base", 3, 10, {"loss": 0.5}), 60)
        assert registry.find_run(tx, request.id)["progress"]["metrics"] == {"loss": 0.5}
        registry.finish_run(tx, request.id, "me", make_result(request))
        assert registry.find_run(tx, request.id)["checkpoint_id"] == make_result(request).id


def test_a_run_that_was_taken_over_fails_at_its_next_report(database: Database) -> None:
    request = make_request(database)
    with database.transaction() as tx:
        registry.request_training(tx, request, "test")
        registry.claim_run(tx, request.id, "me", 60)
        leases.release_holder(tx, "me")
        assert registry.claim_run(tx, request.id, "you", 60) is not None
    for report in (
        lambda tx: registry.record_progress(tx, request.id, "me", Progress("base", 1, 2), 60),
        lambda tx: registry.finish_run(tx, request.id, "me", make_result(request)),
    ):
        with pytest.raises(Conflict), database.transaction() as tx:
            report(tx)


def test_a_failed_run_keeps_its_reason_and_starts_again_when_ordered_again(
    database: Database,
) -> None:
    request = make_request(database)
    with database.transaction() as tx:
        registry.request_training(tx, request, "test")
        registry.claim_run(tx, request.id, "me", 60)
        registry.fail_run(tx, request.id, "me", "ValueError: nothing to train on")
        assert registry.find_run(tx, request.id)["error"] == "ValueError: nothing to train on"
        registry.request_training(tx, request, "test")
        assert registry.claim_run(tx, request.id, "me", 60) == request


def test_the_checkpoint_promoted_last_draws(database: Database) -> None:
    request = make_request(database)
    first, second = make_result(request, "1"), make_result(request, "2")
    with database.transaction() as tx:
        assert registry.find_promoted_checkpoint(tx) is None
        for checkpoint in (first, second, first):
            registry.register_checkpoint(tx, checkpoint, "test")
            registry.promote_checkpoint(tx, checkpoint.id[:12], "test")
        assert registry.find_promoted_checkpoint(tx) == first
        assert tx.scalar(sa.select(sa.func.count()).select_from(checkpoints_table)) == 2
        for name in ("12345678", first.id[:4]):
            with pytest.raises(NotFound):
                registry.find_checkpoint(tx, name)


def test_later_metrics_are_merged_with_those_of_the_training(database: Database) -> None:
    request = make_request(database)
    with database.transaction() as tx:
        name = registry.register_checkpoint(tx, make_result(request), "test")
        registry.record_metrics(tx, name, {"psnr": 31.0}, "test")
        registry.record_metrics(tx, name, {"ssim": 0.9}, "test")
        assert registry.find_checkpoint(tx, name).evaluation == {"psnr": 31.0, "ssim": 0.9}


def test_changed_numbers_make_another_run_and_another_checkpoint(database: Database) -> None:
    plain = make_request(database)
    changed = replace(plain, changes={"base_lr": "1e-4", "base_batch": "8"})
    assert len({plain.id, changed.id, replace(plain, changes={"base_lr": "1e-3"}).id}) == 3
    result = replace(make_result(changed), changes=changed.changes)
    assert result.id != make_result(changed).id
    with database.transaction() as tx:
        registry.request_training(tx, changed, "test")
        assert registry.get_training_request(tx, changed.id) == changed
        registry.register_checkpoint(tx, result, "test")
        assert registry.find_checkpoint(tx, result.id) == result


def test_ids_without_changes_are_those_of_the_first_version(database: Database) -> None:
    assert str(make_request(database).id) == "7d533e42-c49f-34fc-e699-5d91783bf326"
    assert (
        make_result(make_request(database)).id
        == "9fb489dafcdbe6dc3f46ea1decec0f4ccbbcb18935c77a59e42c0a577bbd66c4"
    )


def test_imported_weights_need_no_snapshot(database: Database) -> None:
    imported = Checkpoint(
        {"transparency": "1" * 64},
        "imported",
        "sdxl",
        None,
        None,
        0,
        "test",
        changes={"model": "m"},
    )
    with database.transaction() as tx:
        name = registry.register_checkpoint(tx, imported, "test")
        assert registry.find_checkpoint(tx, name[:12]) == imported
