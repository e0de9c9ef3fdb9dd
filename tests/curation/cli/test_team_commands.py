"""Commands for access, the audit log and webhooks."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from curation.cli.main import app
from curation.errors import Corrupt, LayerloopError, Refused, Unreachable
from tests.support.webhook_receiver import receiver


@pytest.fixture
def run_with_stderr(settings, database, monkeypatch):
    """Run a command against this test's database; return its stdout and stderr."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_"):
            monkeypatch.setenv(name, value)

    def run_(*words: str) -> tuple[str, str]:
        done = CliRunner().invoke(app, list(words))
        if isinstance(done.exception, LayerloopError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout, done.stderr

    return run_


@pytest.fixture
def run(run_with_stderr):
    """Run a command against this test's database; return its stdout, or raise its error."""
    return lambda *words: run_with_stderr(*words)[0]


def test_tokens_are_created_listed_and_revoked(run):
    token = run("token", "create", "loader", "--scope", "snapshots:read", "--expires", "12h")
    assert token.startswith("layerloop_")
    [row] = json.loads(run("token", "list", "--json"))
    assert (row["name"], row["scopes"], row["state"]) == ("loader", ["snapshots:read"], "active")
    assert token.strip() not in run("audit", "list", "--json")
    run("token", "revoke", "loader")
    assert json.loads(run("token", "list", "--json"))[0]["state"] == "revoked"
    for wrong in ("30", "d", "0x1d", "-3d", "400d"):
        with pytest.raises(Refused):
            run("token", "create", "x", "--scope", "snapshots:read", "--expires", wrong)


def test_a_changed_role_is_in_the_audit_log(run, database):
    run("reviewer", "add", "ann")
    run("reviewer", "set-role", "ann", "engineer")
    run("reviewer", "set-role", "ann", "engineer")
    run("reviewer", "token", "ann")
    kinds = [row["kind"] for row in json.loads(run("audit", "list", "--json"))]
    assert kinds == ["sign-in token issued", "reviewer role changed", "reviewer added"]
    [row] = json.loads(run("audit", "list", "--kind", "reviewer role changed", "--json"))
    assert row["data"] == {"before": "annotator", "after": "engineer"}
    head = run("audit", "verify").strip()
    assert head.startswith("3:")
    exported = [json.loads(line) for line in run("audit", "export").splitlines()]
    assert f"{exported[-1]['position']}:{exported[-1]['hash']}" == head
    run("reviewer", "deactivate", "ann")
    assert json.loads(run("audit", "verify", "--head", head, "--json"))["events"] == 4
    with database.transaction() as tx:
        tx.connection.exec_driver_sql("set local session_replication_role = replica")
        tx.connection.exec_driver_sql("update events set actor = 'eve' where id = 2")
    with pytest.raises(Corrupt, match="1 problems"):
        run("audit", "verify")


def test_a_webhook_is_added_tested_and_removed(run, monkeypatch):
    with receiver() as got:
        with pytest.raises(Refused, match="not a public address"):
            run("webhook", "add", got.url, "--events", "round.closed")
        monkeypatch.setenv("LAYERLOOP_WEBHOOK_NETWORKS", "127.0.0.0/8")
        got.secret = run("webhook", "add", got.url, "--events", "round.closed,tag.moved").strip()
        assert json.loads(run("webhook", "test", "1", "--json")) == {"webhook": 1, "status": 204}
        assert got.received[0][1]["type"] == "webhook.tested"
        got.statuses = [500]
        with pytest.raises(Unreachable, match="answered 500"):
            run("webhook", "test", "1")
        [row, _] = json.loads(run("webhook", "deliveries", "--json"))
        assert (row["state"], row["last_status"]) == ("pending", 500)
        assert json.loads(run("webhook", "replay", row["id"], "--json")) == {"replayed": 1}
        with pytest.raises(Refused, match="either"):
            run("webhook", "replay")
        assert json.loads(run("webhook", "list", "--json"))[0]["delivered"] == 1
        run("webhook", "enable", "1")
        run("webhook", "remove", "1")
        assert json.loads(run("webhook", "list", "--json")) == []


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_long_list_says_on_stderr_how_it_goes_on(run_with_stderr, as_json):
    for number in range(5):
        run_with_stderr("reviewer", "add", f"ann {number}")
    out, err = run_with_stderr("reviewer", "list", "--limit", "2", *as_json)
    assert "ann 1" in out
    assert "ann 2" not in out
    assert "there are more: --after 'ann 1' continues, --limit 0 lists all" in err
    out, err = run_with_stderr("reviewer", "list", "--limit", "2", "--after", "ann 2", *as_json)
    assert "ann 4" in out
    assert "there are more" not in err
    everything, err = run_with_stderr("reviewer", "list", "--limit", "0", *as_json)
    assert everything.count("ann ") == 5
    assert "there are more" not in err


def test_every_list_takes_a_limit_and_a_place(run):
    for command in (
        *("round", "candidate", "sample", "snapshot", "checkpoint", "loop", "run"),
        *("reviewer", "token", "audit"),
    ):
        help_text = run(command, "list", "--help")
        assert "--limit" in help_text
        assert "--after" in help_text
    assert "--after" in run("webhook", "deliveries", "--help")
