"""`prompts generate`: JSON lines on stdout or in a file that it completes, by the grammar or by a language model server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curation.cli.main import app
from curation.errors import Refused
from curation.prompts.pair_files import read_pair_prompts
from tests.curation.cli.test_cli import call
from tests.support.chat_server import error_reply, serving, text_reply


def answer(*things: str) -> str:
    rows = [
        {"text": f"a {a} in a park", "foreground": f"a {a}", "background": "an empty park"}
        for a in things
    ]
    return "\n".join(["Here you are:", *map(json.dumps, rows)])


def test_lines_on_stdout_are_pair_prompts():
    lines = call("prompts", "generate", "--count", "5").splitlines()
    assert len(lines) == 5
    assert all(set(json.loads(line)) == {"text", "foreground", "background"} for line in lines)
    assert call("prompts", "generate", "--count", "3").splitlines() == lines[:3]
    assert call("prompts", "generate", "--count", "3", "--seed", "1").splitlines() != lines[:3]
    response = json.loads(call("prompts", "generate", "--count", "5", "--json"))
    assert response["prompts"] == [json.loads(line) for line in lines]


def test_missing_lines_are_added_to_a_file(tmp_path: Path):
    out = tmp_path / "prompts.jsonl"
    making = ("prompts", "generate", "--out", str(out))
    assert call(*making, "--count", "4", "--dry-run") == ""
    assert not out.exists()
    assert call(*making, "--count", "4") == ""
    assert json.loads(call(*making, "--count", "4", "--json"))["made"] == 0
    assert json.loads(call(*making, "--count", "9", "--json")) == {
        "maker": "grammar",
        "out": str(out),
        "made": 5,
    }
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        json.loads(line) for line in call("prompts", "generate", "--count", "9").splitlines()
    ]


def test_a_model_behind_an_address_is_asked_with_the_key_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LAYERLOOP_LLM_KEY", "sesame")
    out = tmp_path / "prompts.jsonl"
    making = ["prompts", "generate", "--maker", "model", "--model", "m", "--out", str(out)]
    replies = [
        text_reply(answer("cat", "dog")),
        error_reply(429, "slow down", Retry_After="0"),
        text_reply(answer("cat", "fox")),
    ]
    with serving(replies) as server:
        done = CliRunner().invoke(
            app, [*making, "--count", "3", "--address", server.address, "--json"]
        )
        assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "maker": "m", "asked": 2, "refused": {"not a line of JSON": 2, "a repetition": 1}, "out": str(out), "made": 3,
    }  # fmt: skip
    assert "2 lines rejected: not a line of JSON" in done.stderr
    assert "'Here you are:'" in done.stderr
    assert set(server.keys) == {"Bearer sesame"}
    assert [one.foreground for one in read_pair_prompts(out)] == ["a cat", "a dog", "a fox"]
    with serving([text_reply(answer("owl"))]) as server:
        call(*making, "--count", "4", "--address", server.address)
    assert len(read_pair_prompts(out)) == 4


def test_invalid_values_are_refused(tmp_path: Path):
    for arguments, message in (
        (["--maker", "model"], "no language model is given"),
        (["--model", "m"], "uses no language model"),
        (["--count", "1000000"], "the grammar has"),
        (["--maker", "model", "--model", str(tmp_path / "nowhere")], "there is no folder"),
    ):
        done = CliRunner().invoke(app, ["prompts", "generate", *arguments])
        assert message in str(done.exception)
        assert done.stdout == ""
    (tmp_path / "p.txt").write_text("a red circle\n")
    with pytest.raises(Refused, match="line 1"):
        call("prompts", "generate", "--out", str(tmp_path / "p.txt"))
