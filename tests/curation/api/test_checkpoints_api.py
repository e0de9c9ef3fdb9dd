"""Checkpoints and training runs over HTTP."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from curation.checkpoints.registry import (
    claim_run,
    find_promoted_checkpoint,
    record_progress,
    register_checkpoint,
    request_training,
)
from curation.datasets.samples import add_samples, samples_from_candidates
from curation.db.tables import candidates, checkpoints, rounds
from curation.domain import CandidateState, Checkpoint, Progress, Role, TrainingRequest
from tests.support.factories import make_candidates, make_checkpoint, make_round


@pytest.fixture
def two(database, store) -> tuple[str, str]:
    """Return a checkpoint with a sample grid that drew a round, and a newer one."""
    with database.transaction() as tx:
        first = make_checkpoint(tx, "first")
        make_round(tx, first)
        sheet = store.put(b"\x89PNG\r\n\x1a\n and so on")
        tx.execute(
            sa.update(checkpoints).where(checkpoints.c.id == first).values(sample_grid=sheet)
        )
    with database.transaction() as tx:
        return first, make_checkpoint(tx, "second")


def test_the_list_has_metrics_lineage_and_rounds(signed_in, two):
    first, second = two
    engineer = signed_in(Role.engineer)
    newest, oldest = engineer.get("/api/checkpoints").json()
    assert (newest["id"], oldest["id"]) == (second, first)
    assert (oldest["evaluation"], oldest["preset"], oldest["rounds"]) == (
        {"psnr": 30.0},
        "tiny",
        [1],
    )
    assert (newest["rounds"], newest["sample_grid_url"]) == ([], None)
    assert engineer.get(oldest["sample_grid_url"]).headers["content-type"] == "image/png"
    assert engineer.get(f"/api/checkpoints/{first[:8]}").json()["id"] == first
    assert engineer.get("/api/checkpoints/" + "0" * 64).status_code == 404


def test_promoting_requires_the_role_trainer(signed_in, two, database):
    first, second = two
    assert signed_in(Role.engineer).post(f"/api/checkpoints/{first}/promote").status_code == 403
    with database.transaction() as tx:
        assert find_promoted_checkpoint(tx).id == second
    answer = signed_in(Role.trainer).post(f"/api/checkpoints/{first}/promote")
    assert answer.json()["promoted_at"]
    with database.transaction() as tx:
        assert find_promoted_checkpoint(tx).id == first


def test_runs_report_their_progress(signed_in, two, database):
    visitor = signed_in()
    with database.transaction() as tx:
        snapshot = tx.scalar(sa.select(checkpoints.c.snapshot_id).where(checkpoints.c.id == two[0]))
        run = request_training(
            tx, TrainingRequest("whole", "tiny", snapshot, None, None, 1), "test"
        )
    (row,) = visitor.get("/api/runs").json()
    assert (row["id"], row["state"], row["progress"], row["checkpoint"]) == (
        str(run),
        "requested",
        None,
        None,
    )
    with database.transaction() as tx:
        claim_run(tx, run, "w1", 60)
        record_progress(tx, run, "w1", Progress("base", 128, 512, {"loss": 0.5}), 60)
    (row,) = visitor.get("/api/runs").json()
    assert row["progress"] == {"stage": "base", "done": 128, "total": 512, "metrics": {"loss": 0.5}}
    assert (row["state"], bool(row["started_at"])) == ("running", True)


def test_imported_weights_have_changes_and_no_snapshot(signed_in, two, database):
    changes = {"offset_scale": "300.0"}
    with database.transaction() as tx:
        made = register_checkpoint(
            tx, Checkpoint({}, "imported", "sdxl", None, None, 0, "test", changes=changes), "test"
        )
    output = signed_in(Role.engineer).get(f"/api/checkpoints/{made}").json()
    assert (output["recipe"], output["snapshot"], output["changes"]) == ("imported", None, changes)


def test_lineage_is_for_engineers_and_hides_open_candidates(signed_in, database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        [candidate] = make_candidates(tx, store, round_id, 1, CandidateState.accepted)
        [sample] = add_samples(tx, samples_from_candidates(tx, [candidate]))
        made_by = tx.scalar(sa.select(rounds.c.checkpoint_id).where(rounds.c.id == round_id))
    of_sample = f"/api/samples/{sample.hex}/lineage"
    of_checkpoint = f"/api/checkpoints/{made_by}/lineage"
    engineer = signed_in(Role.engineer)
    assert engineer.get(of_sample).json()["candidate"]["checkpoint"] == made_by
    assert engineer.get(of_checkpoint).json()["rounds"] == [
        {"id": round_id, "candidates": 1, "accepted": 1}
    ]
    with database.transaction() as tx:
        reopening = sa.update(candidates).where(candidates.c.id == candidate)
        tx.execute(reopening.values(state=CandidateState.showing))
    found = engineer.get(of_sample).json()
    assert (found["open"], found["candidate"]) == (True, None)
    assert engineer.get(f"/api/samples/{'0' * 32}/lineage").status_code == 404
    assert engineer.get("/api/samples/abc/lineage").status_code == 422
    annotator = signed_in(Role.annotator)
    for path in (of_sample, of_checkpoint):
        assert annotator.get(path).status_code == 403
