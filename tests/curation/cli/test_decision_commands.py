"""Commands for decisions in snapshots: freeze, show, list, diff, verify and pull."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from curation.cli.main import app
from curation.domain import Kind
from curation.runtime.context import open_context
from tests.support.small_instance import fill_instance


@pytest.fixture
def made(settings, monkeypatch):
    """Return a small instance that commands find by the environment."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    with open_context(settings) as context:
        return fill_instance(context.database, context.store, 8)


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["snapshot", *map(str, arguments)])
    assert done.exit_code == code, (done.stderr, done.exception)
    return done.stdout


def test_decisions_are_frozen_shown_compared_and_verified(made):
    told = json.loads(run("freeze", "--with-rejects", "--dry-run", "--json"))
    assert (told["would_freeze"], told["would_freeze_decisions"]) == (4, 8)
    frozen = json.loads(run("freeze", "--with-rejects", "--tag", "v1", "--json"))
    assert frozen == {"snapshot": made.snapshot, "samples": 4, "decisions": 8}
    lines = [json.loads(line) for line in run("show", "v1", "--decisions").splitlines()]
    assert [one["verdict"] for one in lines].count("reject") == 4
    assert "Åsa" not in json.dumps(lines, ensure_ascii=False)
    assert "decisions, verdict" in run("show", "v1")
    assert json.loads(run("show", "v1", "--json"))["decisions"]["verdict"] == {
        "accept": 4, "reject": 4,
    }  # fmt: skip
    assert "+4 -4" in run("list")
    plain = json.loads(run("freeze", "--json"))
    assert plain["decisions"] == 0
    assert plain["snapshot"] != made.snapshot
    assert "decisions: 8 added, 0 removed" in run("diff", plain["snapshot"][:12], "v1")
    diff = json.loads(run("diff", "v1", plain["snapshot"][:12], "--json"))
    assert len(diff["decisions"]["removed"]) == 8
    assert json.loads(run("verify", "v1", "--json")) == []


def test_decisions_are_pulled_as_labels_and_refused_where_they_make_no_sense(made, tmp_path):
    told = json.loads(
        run(
            "pull",
            "first",
            tmp_path / "p",
            "--format",
            "parquet",
            "--decisions",
            "labels",
            "--json",
        )
    )
    assert told["samples"] == 8
    run("verify", tmp_path / "p")
    # Each prompt of this instance has one candidate.
    pairs = ["--format", "parquet", "--decisions", "pairs"]
    assert "no prompt has" in _refused("pull", "first", tmp_path / "q", *pairs)
    assert "unknown" in _refused("pull", "first", tmp_path / "q", "--decisions", "triples")
    assert "--automatic" in _refused("pull", "first", tmp_path / "q", "--automatic")
    assert "kohya" in _refused(
        "pull", "first", tmp_path / "q", "--format", "kohya", "--decisions", "labels"
    )
    assert not (tmp_path / "q").exists()
    assert Kind.single in (tmp_path / "p" / "README.md").read_text()


def _refused(*arguments):
    done = CliRunner().invoke(app, ["snapshot", *map(str, arguments)])
    assert done.exit_code, done.stdout
    return str(done.exception) + done.stderr
