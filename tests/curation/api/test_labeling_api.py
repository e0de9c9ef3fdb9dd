"""Previews are valid as long as their task exists, and the webhook enqueues one job."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.db.tables import candidates, labeling_projects, labeling_tasks
from curation.domain import Job, LayerRole, Verdict
from curation.labeling.previews import WEBHOOK_HEADER, PreviewUrls, webhook_secret
from curation.review import decisions, reviewers
from tests.support.factories import make_candidates, make_round


@pytest.fixture
def task(database, store):
    """Create a candidate with an open task; return the ids of task and candidate."""
    project, id_ = uuid.uuid4(), uuid.uuid4()
    with database.transaction() as tx:
        round_id = make_round(tx)
        [candidate] = make_candidates(tx, store, round_id, 1)
        row = {"id": project, "server_url": "http://127.0.0.1:1", "round_id": round_id, "part": 1}
        tx.execute(sa.insert(labeling_projects), row)
        row = {
            "id": id_,
            "project_id": project,
            "candidate_id": candidate,
            "state": "open",
            "batch": project,
            "remote_id": 1,
        }
        tx.execute(sa.insert(labeling_tasks), row)
    return id_, candidate


@pytest.fixture
def address(context, task):
    previews = PreviewUrls(context.signing_secret(), "http://127.0.0.1")
    return previews.sign_url(task[0], LayerRole.foreground)


def test_a_signed_url_shows_the_preview(client, address):
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert answer.content[:4] == b"RIFF"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"].startswith("private")


@pytest.mark.parametrize(
    "change",
    [("foreground", "background"), ("sign=", "sign=0"), ("sign=", "nothing=")],
    ids=["role", "forged", "bare"],
)
def test_a_changed_url_is_rejected(client, address, change):
    assert client.get(address.replace(*change)).status_code in {404, 422}


def test_previews_of_decided_candidates_stay_valid(client, database, address, task):
    with database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        decisions.decide(tx, ada, task[1], Verdict.accept, key=uuid.uuid4())
    assert client.get(address).status_code == 200


@pytest.mark.parametrize(
    ("state", "status"), [("annotated", 200), ("sending", 200), ("removed", 404), ("refused", 404)]
)
def test_previews_end_when_the_task_is_removed(client, database, address, task, state, status):
    with database.transaction() as tx:
        tx.execute(
            sa.update(labeling_tasks).where(labeling_tasks.c.id == task[0]).values(state=state)
        )
        tx.execute(
            sa.update(candidates).where(candidates.c.id == task[1]).values(state="withdrawn")
        )
    assert client.get(address).status_code == status


def test_the_webhook_enqueues_one_pull(client, context):
    requested: list[Job] = []
    context.database.send = requested.append
    secret = {WEBHOOK_HEADER: webhook_secret(context.signing_secret())}
    for _ in range(2):  # the same again is asked for again, and does nothing twice
        assert (
            client.post(
                "/api/labeling/webhook", json={"action": "ANNOTATION_CREATED"}, headers=secret
            ).status_code
            == 204
        )
    assert requested == [Job("pull_annotations")] * 2
    project = uuid.uuid4()
    assert (
        client.post(f"/api/labeling/webhook?project={project}", json={}, headers=secret).status_code
        == 204
    )
    assert requested[2:] == [Job("pull_annotations", (str(project),))]


@pytest.mark.parametrize(
    "secret", [None, "", "wrong", "ü"], ids=["none", "empty", "wrong", "strange"]
)
def test_the_webhook_requires_its_secret(client, context, secret):
    requested: list[Job] = []
    context.database.send = requested.append
    headers = {} if secret is None else {WEBHOOK_HEADER: secret.encode()}
    answer = client.post("/api/labeling/webhook", json={}, headers=headers)
    assert answer.status_code == 403
    assert requested == []
