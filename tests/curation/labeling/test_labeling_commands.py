"""`layerloop labeling` and the doctor with a real Label Studio and both kinds of its tokens."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest
from typer.testing import CliRunner

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.cli.main import app
from curation.errors import Refused, Unreachable
from curation.review import decisions, reviewers
from curation.runtime.context import AppContext, open_labeling_backend
from curation.runtime.doctor import run_checks
from curation.runtime.label_studio_server import OWNER
from curation.settings import Settings
from tests.support.factories import make_candidates, make_round
from tests.support.label_studio import ACCEPT, REJECT, LabeledRound
from tests.support.servers import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def here(studio, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Configure commands to use this test's own instance and the running Label Studio."""
    there = {
        "labeling": f"label-studio+{studio.server.address}/",
        "labeling_token": studio.server.token,
    }
    settings = Settings(**settings.model_dump() | there)
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    return settings


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["labeling", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_commands_push_pull_and_reconcile_a_round(here, studio, database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, 3)
    [response] = json.loads(call("reconcile", "--json", code=1))
    assert response["message"] == f"3 waiting candidates of round {round_id} have no task"
    assert json.loads(call("push", str(round_id), "--json")) == {"pushed": 3, "removed": 0}
    [row] = json.loads(call("status", "--json"))
    assert (row["round"], row["open"], row["annotated"]) == (round_id, 3, 0)
    labeled = LabeledRound(studio, database, None, round_id, made)
    studio.annotate(labeled.task(0), ACCEPT)
    response = json.loads(call("reconcile", "--json", code=1))
    assert [(one["kind"], one["repairable"]) for one in response] == [("unpulled", True)]
    assert json.loads(call("reconcile", "--apply", "--json")) == []
    assert labeled.state(0) == "accepted"
    studio.annotate(labeled.task(1), REJECT)
    assert json.loads(call("pull", "--round", str(round_id), "--json")) == {"decided": 1}
    call("switch", str(round_id), "pages")
    assert json.loads(call("push", str(round_id), "--json")) == {"pushed": 0, "removed": 1}
    with database.transaction() as tx:
        reviewers.add_reviewer(tx, "Olga")
    [person] = json.loads(call("users", "--match", f"{OWNER}=Olga", "--json"))
    assert (person["email"], person["name"]) == (OWNER, "Olga")
    assert "nothing new" in CliRunner().invoke(app, ["labeling", "pull"]).output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["switch", "1", "the moon"], "unknown labeling interface"),
        (["switch", "77", "pages"], "there is no round 77"),
        (["users", "--match", "nobody=x"], "is not an e-mail address"),
    ],
)
def test_invalid_arguments_are_refused(here, database, arguments, code):
    with database.transaction() as tx:
        make_round(tx)
    assert code in str(CliRunner().invoke(app, ["labeling", *arguments]).exception)


def test_personal_access_tokens_are_supported(studio, here):
    with httpx.Client(base_url=studio.server.address) as browser:
        form = browser.get("/user/login/").text
        hidden = form.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
        error = {
            "csrfmiddlewaretoken": hidden,
            "email": OWNER,
            "password": studio.server.password,
        }
        browser.post("/user/login/", data=error, headers={"Referer": studio.server.address})
        ours = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": studio.server.address}
        answer = browser.post("/api/token/", headers=ours)
        assert answer.status_code == 201, answer.text
        token = answer.json()["token"]
    backend = open_labeling_backend(
        Settings(**here.model_dump() | {"labeling_token": token}), "s" * 32
    )
    assert OWNER in backend.list_users().values()
    backend.close()


def test_doctor_checks_the_labeling_server(here):
    [found] = [one for one in run_checks(here) if one.part == "labeling"]
    assert found.ok
    assert here.labeling.removesuffix("/").removeprefix("label-studio+") in found.message
    for change, hint in (
        ({"labeling_token": "0" * 40}, "LAYERLOOP_LABELING_TOKEN"),
        ({"labeling": "label-studio+http://127.0.0.1:1"}, "check that it runs"),
    ):
        [found] = [
            one
            for one in run_checks(Settings(**here.model_dump() | change))
            if one.part == "labeling"
        ]
        assert not found.ok
        assert hint in found.hint


@pytest.mark.parametrize(
    "url", ["label-studio", "label-studio+ftp://x", "cvat+http://x", "http://x"]
)
def test_unsupported_urls_are_refused(settings, url):
    with pytest.raises(Refused, match="LAYERLOOP_LABELING"):
        open_labeling_backend(settings.model_copy(update={"labeling": url}), "s" * 32)


def test_an_unreachable_server_loses_nothing(settings, database, store):
    from curation.runtime.context import open_labeling_sync

    away = {"labeling": f"label-studio+http://127.0.0.1:{free_port()}", "labeling_token": "0" * 40}
    settings = Settings(**settings.model_dump() | away)
    context = AppContext(
        settings, database, store, CeleryQueue(make_app(settings, settings.database))
    )
    with database.transaction() as tx:
        round_id = make_round(tx)
        [made] = make_candidates(tx, store, round_id, 1)
    with open_labeling_sync(context, "test") as sync, pytest.raises(Unreachable):
        sync.push(round_id)
    with database.transaction() as tx:  # the pages go on
        ada = reviewers.add_reviewer(tx, "ada").id
        assert decisions.decide(tx, ada, made, ACCEPT, key=uuid.uuid4()).state == "accepted"
