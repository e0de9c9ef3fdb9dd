"""Invalid files, settings and texts end with an error and a hint, and no text controls the terminal."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curation.cli import output
from curation.cli.main import run
from curation.db.engine import Database
from curation.domain import Prompt
from curation.errors import Refused
from curation.prompts.files import MAX_PROMPT, parse_prompts, read_prompt_file
from curation.review import reviewers
from curation.settings import Settings, read_settings, unknown_settings
from curation.synthetic.dataset import draw_seed_set
from tests.curation.cli.test_cli import here
from tests.support.factories import make_checkpoint

__all__ = ["here"]  # the fixture

ROOT = Path(__file__).resolve().parents[3]
EVIL = "\x1b]0;owned\x07\x1b[2J\u202e[red]x[/red][/bold]"
BAD_FILES = {
    "nul": b"a red\0 fox\n",
    "latin-1": "caf\xe9 au lait\n".encode("latin-1"),
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "half a surrogate": b'{"text": "\\ud800", "foreground": "a", "background": "b"}\n',
    "nul by escape": b'{"text": "\\u0000", "foreground": "a", "background": "b"}\n',
    "deep": b'{"text": ' + b"[" * 100_000 + b"\n",
    "long": b"x" * (MAX_PROMPT + 1) + b"\n",
}


def run_failing(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run a command that fails; return its exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["layerloop", *arguments])
    with pytest.raises(SystemExit) as ended:
        run()
    return int(ended.value.code or 0), capsys.readouterr().err


def prompts_commands(path: str) -> list[list[str]]:
    return [
        ["round", "open", "--prompts", path, "--quota", "2"],
        ["checkpoint", "compare", "0" * 64, "--prompts", path],
        ["generate", "--layers", path],
        ["prompts", "generate", "--out", path, "--count", "2"],
    ]


@pytest.mark.parametrize("command_index", range(4))
@pytest.mark.parametrize("kind", [*BAD_FILES, "missing", "folder", "endless"])
def test_no_invalid_file_argument_ends_in_a_traceback(
    here: Settings,
    database: Database,
    tmp_path: Path,
    monkeypatch,
    capsys,
    kind: str,
    command_index: int,
) -> None:
    monkeypatch.setattr("curation.prompts.files.MAX_FILE", 1 << 20)
    monkeypatch.setattr("curation.prompts.pair_files.MAX_FILE", 1 << 20)
    monkeypatch.chdir(tmp_path)
    with database.transaction() as tx:
        make_checkpoint(tx)
    path = tmp_path / "given"
    if kind in BAD_FILES:
        path.write_bytes(BAD_FILES[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path = Path("/dev/zero")
    elif command_index == 3:
        return  # `prompts generate` creates this file
    code, error = run_failing(prompts_commands(str(path))[command_index], monkeypatch, capsys)
    assert 0 < code < output.INTERNAL_ERROR, error
    assert error.startswith("error: ")
    assert "internal" not in error and "Traceback" not in error


def test_a_deep_scene_is_refused(here: Settings, tmp_path: Path, monkeypatch, capsys) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 50_000 + "]" * 50_000)
    code, error = run_failing(["generate", "--layers", str(path)], monkeypatch, capsys)
    assert (code, "nested too deeply" in error) == (2, True)


def test_prompts_are_read_by_their_byte_order_mark(tmp_path: Path) -> None:
    for name in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "p").write_bytes(
            "a red fox\r\n# a note\r\na red fox\r\n#1 fan\r\n#\r\n".encode(name)
        )
        found = read_prompt_file(tmp_path / "p")
        assert found.prompts == [Prompt("a red fox"), Prompt("#1 fan")]
        assert (found.comments, found.repeated) == (2, 1)


def test_lines_are_prompts_or_pairs() -> None:
    row = '{"text": "a cat on grass", "foreground": "a cat", "background": "grass"}'
    assert parse_prompts(["a hat", "", row]).prompts == [
        Prompt("a hat"),
        Prompt("a cat on grass", "a cat", "grass"),
    ]
    for line in ('{"text": "a cat"}', '{"text": 1, "foreground": "a", "background": "b"}', "{"):
        with pytest.raises(Refused, match="line 2 is not a valid prompt"):
            parse_prompts(["a hat", line])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "99999"), ("PORT", "many"), ("LEASE_SECONDS", "0"), ("DATABASE", "nonsense"),
        ("DATABASE", "mysql://h/x"), ("DATABASE", "postgresql://h:99999999/x"), ("QUEUE", "rabbit"),
        ("STORAGE_ENDPOINT", "http://h:port"), ("PUBLIC_URL", "example"), ("HOME", "/proc/nowhere/x"), ("HOME", "/etc/passwd"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["seed", "import", "."], ["doctor"], ["round", "list"]])
def test_an_invalid_setting_is_an_error(
    here: Settings, monkeypatch, capsys, name: str, value: str, command
) -> None:
    if name == "HOME":
        monkeypatch.delenv("LAYERLOOP_DATABASE")
    monkeypatch.setenv(f"LAYERLOOP_{name}", value)
    monkeypatch.setattr(sys, "argv", ["layerloop", *command])
    with pytest.raises(SystemExit) as ended:
        run()
    out, err = capsys.readouterr()
    assert 0 < int(ended.value.code or 0) < output.INTERNAL_ERROR, err
    response = out if command == ["doctor"] else err
    assert name in response or "home" in response or value in response
    assert "hint:" in response


def test_passwords_are_not_shown() -> None:
    with pytest.raises(Refused) as refused:
        read_settings(database="postgresql://anna:hush@h:nine/x")
    assert "hush" not in refused.value.message


def test_misspelt_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERLOOP_PROT", "1")
    monkeypatch.setenv("LAYERLOOP_QQQQQQ", "1")
    monkeypatch.setenv("LAYERLOOP_TRACEBACK", "1")
    found = dict(unknown_settings())
    assert found["LAYERLOOP_PROT"] == "LAYERLOOP_PORT"
    assert found["LAYERLOOP_QQQQQQ"] is None
    assert "LAYERLOOP_TRACEBACK" not in found


def test_an_unforeseen_error_leaves_its_traceback_in_a_file(
    here: Settings, monkeypatch, capsys
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(f"by {EVIL}")

    monkeypatch.setattr("curation.rounds.lifecycle.list_rounds", broken)
    here.path("logs")
    code, error = run_failing(["round", "list"], monkeypatch, capsys)
    assert code == output.INTERNAL_ERROR
    assert error.startswith("error: internal error: ZeroDivisionError")
    assert "\x1b" not in error
    assert "ZeroDivisionError" in (here.path("logs") / "errors.log").read_text()
    monkeypatch.setenv("LAYERLOOP_TRACEBACK", "1")
    assert "Traceback" in run_failing(["round", "list"], monkeypatch, capsys)[1]


def test_names_neither_act_on_the_terminal_nor_are_markup(
    here: Settings, database: Database, monkeypatch, capsys
) -> None:
    """Of every listing, as a table and as JSON; the values in JSON are unchanged."""
    with database.transaction() as tx:
        make_checkpoint(tx)
        tx.connection.exec_driver_sql("update checkpoints set preset = %s", (EVIL,))
        reviewers.add_reviewer(tx, EVIL)
    for words in (["checkpoint", "list"], ["reviewer", "list"], ["reviewer", "stats"]):
        for options in ([], ["--json"]):
            monkeypatch.setattr(sys, "argv", ["layerloop", *words, *options])
            with pytest.raises(SystemExit):
                run()
            out = capsys.readouterr().out
            assert not set("\x1b\x07\u202e") & set(out), words
            if options:
                assert EVIL in {
                    value
                    for row in json.loads(out)
                    for value in row.values()
                    if isinstance(value, str)
                }
            else:
                assert "[red]x[/red][/bold]" in out, words
    for words in (
        ["reviewer", "deactivate", EVIL],
        ["reviewer", "token", EVIL + "?"],
        ["checkpoint", "promote", EVIL],
    ):
        error = run_failing(words, monkeypatch, capsys)[1]
        assert not set("\x1b\x07\u202e") & set(error), words
        assert "[red]x[/red][/bold]" in error


def test_only_one_module_prints() -> None:
    for path in sorted((ROOT / "curation" / "cli").glob("*.py")):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        functions = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
        assert path.name == "output.py" or "print" not in functions, path.name


def test_json_with_control_characters_has_the_same_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = {"name": "\x9b2J\x7f\u202e\n\t ä"}
    output.print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert not set("\x9b\x7f\u202e") & set(out)


@pytest.mark.parametrize(
    "words",
    [["round", "list"], ["run", "list"], ["snapshot", "list"], ["doctor"], ["candidate", "list"]],
)
def test_a_reading_command_creates_no_instance(tmp_path: Path, words: list[str]) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "curation.cli.main", *words, "--home", str(home)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert not home.exists()
    assert done.returncode == (0 if words == ["doctor"] else 3)
    assert "'layerloop up' or 'layerloop demo' creates one" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [["-h"], ["round", "-h"], ["train", "-h"], ["run", "cancel", "-h"]]
)
def test_help_has_a_short_name_everywhere(words: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["layerloop", *words])
    with pytest.raises(SystemExit) as ended:
        run()
    assert not ended.value.code
    assert "Usage" in capsys.readouterr().out


def test_an_invalid_training_request_is_refused_at_once(
    here: Settings, database: Database, monkeypatch, capsys
) -> None:
    with database.transaction() as tx:
        name = make_checkpoint(tx)
        tx.connection.exec_driver_sql(
            "insert into tags (name, snapshot_id) select 'latest', id from snapshots"
        )
    for options in (["--preset", "huge"], ["--recipe", "soup"], ["--set", "base_batch=-1"], ["--set", "nothing=1"],
                 ["--preset", "sd15", "--parent", name], ["--recipe", "base"]):  # fmt: skip
        code, error = run_failing(["train", "--no-wait", *options], monkeypatch, capsys)
        assert code in {2, 3}, options
        assert error.startswith("error: ") and "hint: " in error
    assert run_failing(["run", "list", "--json"], monkeypatch, capsys)[0] == 0


def test_a_run_is_cancelled_by_the_beginning_of_its_id(
    here: Settings, tmp_path: Path, monkeypatch, capsys
) -> None:
    draw_seed_set(tmp_path / "seeds", 4)
    monkeypatch.setenv("LAYERLOOP_TRAINER", "tests.support.shape_generator:train_nothing")

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["layerloop", *words])
        with pytest.raises(SystemExit) as ended:
            run()
        response = capsys.readouterr()
        assert not ended.value.code, response.err
        return response.out

    call("seed", "import", str(tmp_path / "seeds"))
    call("snapshot", "freeze", "--tag", "latest")
    name = json.loads(call("train", "--no-wait", "--json"))["run"]
    [row] = json.loads(call("run", "list", "--json"))
    assert (row["id"], row["state"], row["kind"]) == (name, "requested", "training")
    assert json.loads(call("run", "cancel", name[:8], "--json"))["state"] == "cancelled"
    assert "cancelled by command line" in call("run", "show", name[:8])
    assert run_failing(["run", "cancel", name], monkeypatch, capsys)[0] == 2
    trained = json.loads(call("train", "--json"))
    assert trained["run"] == name
    assert trained["checkpoint"]
