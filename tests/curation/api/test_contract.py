"""Schemathesis on the running API: every response matches the contract, also in the stateful phase."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import uvicorn

from curation.access import tokens
from curation.checkpoints.registry import request_training
from curation.datasets import snapshots
from curation.datasets.samples import add_samples
from curation.db.tables import labeling_projects, labeling_tasks
from curation.domain import LayerRole, Role, TrainingRequest
from curation.labeling.previews import WEBHOOK_HEADER, PreviewUrls, webhook_secret
from curation.loops.plan import LoopPlan
from curation.loops.rows import start_loop
from curation.review import reviewers
from curation.review.claims import record_claims
from tests.curation.datasets.test_samples import new_sample
from tests.support.compared_checkpoints import open_drawn
from tests.support.factories import make_candidates, make_checkpoint, make_round
from tests.support.servers import free_port, wait_for
from tests.support.snapshots import assume_whole

CONFIG = """
seed = 1
hooks = "tests.curation.api.contract_hooks"
continue-on-failure = true
headers = {{ X-Layerloop = "1" }}

[auth.openapi.session]
api_key = "{session}"

[auth.openapi.token]
bearer = "{token}"

[generation]
max-examples = {examples}
database = "none"

[phases.stateful]
max-steps = 8
generation = {{ max-examples = {stateful} }}

# Of a single layer, or with reasons for fewer layers than are named, a decision is refused by the rules of reasons.
[[operations]]
include-path-regex = "^/api/review/decisions"

[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422]

# Texts with characters that cannot be stored are refused, which a schema cannot express.
[[operations]]
include-path = "/api/snapshots"

[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422]

[warnings]
fail-on = ["missing_auth", "missing_test_data"]
"""
PHASES = "examples,coverage,fuzzing,stateful"


@pytest.fixture
def address(app) -> Iterator[str]:
    """Yield the application on a free port."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", proxy_headers=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for("the application", lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def known(app, context, database, store) -> dict[str, dict[str, dict[str, str]]]:
    """Return rounds with candidates, samples, a snapshot and a checkpoint, by the operations that take them."""
    with database.transaction() as tx:
        reviewers.add_reviewer(tx, "visitor")
        checkpoint = make_checkpoint(tx)
        other = [make_round(tx) for _ in range(8)][-1]  # small numbers are guessed, and closed
        round_id = make_round(tx, quota=400)
        [candidate, *_] = make_candidates(tx, store, round_id, 400)
        sample, *_ = add_samples(tx, [new_sample(one) for one in range(3)])
        assume_whole(tx)
    preview = previewed(context, database, store)
    snapshot = snapshots.freeze_snapshot(database, store, tag="first", actor="test").id
    with database.transaction() as tx:
        order = TrainingRequest("whole", "tiny", snapshot, None, None, 1)
        run = {"path": {"run": str(request_training(tx, order, "test"))}}
        loop = {"path": {"number": str(start_loop(tx, LoopPlan(1, 8, "micro"), "test"))}}
    compared, closing = (
        {"path": {"number": str(open_drawn(database, store, 80, reverse=bool(one)))}}
        for one in range(2)
    )
    with database.transaction() as tx:
        [layer] = tx.connection.exec_driver_sql("select sha256 from layers limit 1").scalars()
    path, _, query = app.state.links.address(layer).partition("?")
    image = {
        "path": {"sha256": layer, "form": path.rpartition(".")[2]},
        "query": dict(one.split("=") for one in query.split("&")),
    }
    rounds = {"path": {"number": str(other)}}
    secret = webhook_secret(context.signing_secret())
    return {
        "GET /api/rounds/{number}": rounds,
        "GET /api/rounds/{number}/agreement": rounds,
        "POST /api/rounds/{number}/pause": rounds,
        "POST /api/rounds/{number}/resume": rounds,
        "POST /api/rounds/{number}/close": rounds,
        **{
            f"GET /api/snapshots/{{name}}{part}": {"path": {"name": "first"}}
            for part in ("", "/changes", "/statistics", "/formats")
        },
        "GET /api/snapshots/{name}/objects/{sha256}": {
            "path": {"name": "first", "sha256": snapshot}
        },
        **{f"GET /api/runs/{{run}}{part}": run for part in ("", "/metrics", "/log")},
        **{
            f"POST /api/runs/{{run}}/{action}": run
            for action in ("pause", "resume", "retry", "cancel", "priority")
        },
        "GET /api/loops/{number}": loop,
        "POST /api/loops/{number}/cancel": loop,
        "POST /api/loops/{number}/change": loop,
        "POST /api/loops/{number}/pause": loop,
        "POST /api/loops/{number}/resume": loop,
        "GET /api/comparisons/{number}": compared,
        "POST /api/comparisons/{number}/close": closing,
        "GET /api/checkpoints/{name}": {"path": {"name": checkpoint}},
        "GET /api/checkpoints/{name}/lineage": {"path": {"name": checkpoint}},
        "GET /api/samples/{sample}/lineage": {"path": {"sample": sample.hex}},
        "POST /api/checkpoints/{name}/promote": {"path": {"name": checkpoint}},
        "GET /api/layers/{sha256}.{form}": image,
        "GET /api/review/nearest": {"query": {"candidate": str(candidate)}},
        "GET /api/labeling/previews/{task_id}/{role}.webp": preview,
        "POST /api/labeling/webhook": {"headers": {WEBHOOK_HEADER: secret}},
    }


def previewed(context, database, store) -> dict[str, dict[str, str]]:
    """Create a candidate with an open task, in the newest round."""
    project, task = uuid.uuid4(), uuid.uuid4()
    with database.transaction() as tx:
        round_id = make_round(tx)
        [candidate] = make_candidates(tx, store, round_id, 1)
        row = {"id": project, "server_url": "http://127.0.0.1:1", "round_id": round_id, "part": 1}
        tx.execute(sa.insert(labeling_projects), row)
        row = {"id": task, "project_id": project, "candidate_id": candidate, "batch": project}
        tx.execute(sa.insert(labeling_tasks), row | {"state": "open", "remote_id": 1})
    previews = PreviewUrls(context.signing_secret(), "http://127.0.0.1")
    sign = previews.sign_url(task, LayerRole.foreground).partition("sign=")[2]
    return {"path": {"task_id": str(task), "role": "foreground"}, "query": {"sign": sign}}


@pytest.mark.slow
def test_every_response_matches_the_contract(
    app, address, known, signed_in, database, database_address, tmp_path: Path
) -> None:
    """LAYERLOOP_TEST_EXAMPLES raises the number of examples."""
    examples = int(os.environ.get("LAYERLOOP_TEST_EXAMPLES", "8"))
    session = signed_in(Role.admin).cookies[app.state.session_cookie]
    shown = known["GET /api/review/nearest"]["query"]["candidate"]
    with database.transaction() as tx:
        token = tokens.create_token(tx, "contract", list(tokens.Scope), 3_600, "test")
        record_claims(tx, reviewers.find_reviewer(tx, "the admin").id, [uuid.UUID(shown)])
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        CONFIG.format(session=session, token=token, examples=examples, stateful=examples)
    )
    environment = {"CONTRACT_KNOWN": json.dumps(known), "CONTRACT_DATABASE": database_address}
    command = ["run", f"{address}/api/openapi.json", "--phases", PHASES, "--no-color"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), *command],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=tmp_path,
        env=os.environ | environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    message = done.stdout + done.stderr
    assert done.returncode == 0, message
    for warning in ("Missing authentication", "Missing test data"):
        assert warning not in message
    assert "Stateful" in message
