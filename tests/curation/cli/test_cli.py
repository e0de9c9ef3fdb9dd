"""The command line: quick help, data on stdout, errors with a hint, the whole way from seeds to a snapshot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curation.cli.main import app, run
from curation.db.engine import Database
from curation.errors import Refused
from curation.object_store import FolderStore
from curation.settings import Settings
from curation.synthetic.dataset import draw_seed_set
from curation.synthetic.pair_dataset import draw_pair_seed_set
from tests.support.factories import make_candidates, make_checkpoint, make_round


@pytest.fixture
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Commands run in this test's own instance."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    return settings


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_help_is_quick_because_it_imports_neither_torch_nor_the_database() -> None:
    code = (
        "import sys; sys.argv = ['layerloop', '--help']\n"
        "from curation.cli.main import run\n"
        "try: run()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'sqlalchemy', 'celery', 'numpy', 'fastapi') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
    for command in (
        "up",
        "doctor",
        "seed",
        "round",
        "snapshot",
        "train",
        "checkpoint",
        "worker",
        "api",
        "demo",
    ):
        assert command in done.stdout


def test_seeds_become_a_snapshot(here: Settings, tmp_path: Path) -> None:
    draw_seed_set(tmp_path / "seeds", 20)
    (tmp_path / "seeds" / "note.png").write_text("not an image")
    response = json.loads(call("seed", "import", str(tmp_path / "seeds"), "--json"))
    assert response["outcomes"]["reject"] == 1
    assert call("seed", "import", str(tmp_path / "seeds"), "--strict", code=1).startswith("reject")
    frozen = json.loads(call("snapshot", "freeze", "--tag", "latest", "--json"))
    assert frozen["samples"] == response["outcomes"]["accept"] + response["outcomes"].get(
        "accept_warn", 0
    )
    [listed] = json.loads(call("snapshot", "list", "--json"))
    assert (listed["id"], listed["tags"]) == (frozen["snapshot"], ["latest"])
    assert f"{frozen['samples']} samples" in call("snapshot", "show", "latest")
    lines = call("snapshot", "show", "latest", "--samples").splitlines()
    assert len(lines) == frozen["samples"]
    assert json.loads(lines[0])["licence"] == "CC0-1.0"


def test_a_round_is_opened_watched_paused_and_closed(
    here: Settings, database: Database, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\na blue star\n")
    with database.transaction() as tx:
        make_checkpoint(tx)
    opening = ("round", "open", "--quota", "7", "--prompts", str(prompts))
    assert call(*opening, "--dry-run") == ""
    assert call(*opening).strip() == "1"
    [row] = json.loads(call("round", "list", "--json"))
    assert row["counts"] == {"requested": 7}
    assert "7" in call("round", "list")
    for verb in ("pause", "resume", "close"):
        call("round", verb, "1")
    response = json.loads(call("round", "show", "1", "--json"))
    assert response["round"]["state"] == "closed"
    assert "Round 1 (closed)" in call("round", "show", "1")


def test_pairs_become_samples_and_prompts_of_a_round(
    here: Settings, database: Database, tmp_path: Path
) -> None:
    """Imported pairs are listed with their kind and texts; a round of pairs takes prompts from them or from a file."""
    draw_pair_seed_set(tmp_path / "seeds", 5, 2)
    response = json.loads(call("seed", "import", str(tmp_path / "seeds"), "--json"))
    assert response["files"] == 7
    call("snapshot", "freeze", "--tag", "latest")
    assert re.search(r"kind +5  pair", call("snapshot", "show", "latest"))
    lines = [
        json.loads(line) for line in call("snapshot", "show", "latest", "--samples").splitlines()
    ]
    assert sorted(len(line["layers"]) for line in lines) == [1, 1, 3, 3, 3, 3, 3]
    with database.transaction() as tx:
        make_checkpoint(tx)
    assert call("round", "open", "--quota", "4", "--pairs").strip() == "1"
    triples = tmp_path / "triples.jsonl"
    triples.write_text('{"text": "a cat on grass", "foreground": "a cat", "background": "grass"}\n')
    assert (
        call("round", "open", "--quota", "3", "--pairs", "--prompts", str(triples)).strip() == "2"
    )
    triples.write_text("a cat on grass\n")
    for more in ((), ("--dry-run",)):
        with pytest.raises(Refused, match="three texts"):
            call("round", "open", "--pairs", "--prompts", str(triples), *more)
    assert [row["kind"] for row in json.loads(call("round", "list", "--json"))] == ["pair", "pair"]


def test_a_token_is_issued_once_and_a_reviewer_is_deactivated(here: Settings) -> None:
    call("reviewer", "add", "anna")
    assert len(call("reviewer", "token", "anna").strip()) > 20
    call("reviewer", "deactivate", "anna")
    [row] = json.loads(call("reviewer", "list", "--json"))
    assert (row["name"], row["active"]) == ("anna", False)
    call("reviewer", "reactivate", "anna")
    [row] = json.loads(call("reviewer", "list", "--json"))
    assert row["active"] is True
    issued = json.loads(call("reviewer", "token", "anna", "--json"))
    assert issued["link"] == f"{here.public_address}/sign-in?token={issued['token']}"
    assert len(call("reviewer", "token", "anna").strip()) > 20
    call("reviewer", "sign-out", "anna")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("round", "show", "404"), 3, "hint: 'layerloop round list' shows all rounds"),
        (("snapshot", "freeze"), 2, "error: there are no samples to freeze"),
        (("checkpoint", "promote", "00000000"), 3, "error: there is no checkpoint '00000000'"),
        (("round", "open"), 2, "error: no checkpoint is promoted yet"),
    ],
)
def test_errors_are_a_sentence_a_hint_and_a_code(
    here: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["layerloop", *arguments])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_every_listing_is_empty_json_in_an_empty_instance(here: Settings) -> None:
    for group in ("round", "snapshot", "checkpoint", "reviewer"):
        assert json.loads(call(group, "list", "--json")) == []


def test_the_doctor_names_a_missing_object(here: Settings, database: Database) -> None:
    assert "BAD" not in call("doctor")
    with database.transaction() as tx:
        make_round(tx)
    findings = json.loads(call("doctor", "--json", code=1))
    [bad] = [finding for finding in findings if not finding["ok"]]
    assert bad["part"] == "objects"
    assert "missing" in bad["message"]


@pytest.mark.slow
def test_a_snapshot_becomes_a_checkpoint_that_generates(here: Settings, tmp_path: Path) -> None:
    draw_seed_set(tmp_path / "seeds", 80)
    call("seed", "import", str(tmp_path / "seeds"))
    call("snapshot", "freeze", "--tag", "latest")
    training = ("train", "--preset", "micro", "--images", "64")
    assert "transparency" in call(*training, "--dry-run")
    response = json.loads(call(*training, "--dry-run", "--json"))["memory"]
    assert [stage["stage"] for stage in response] == ["transparency", "latents", "base", "sheets"]
    assert all(stage["peak"] == sum(stage["held"].values()) > 0 for stage in response)
    queued = json.loads(call(*training, "--no-wait", "--json"))["run"]
    assert len(queued) == 36
    first = json.loads(call(*training, "--json"))["checkpoint"]
    assert call(*training).strip() == first, "the same order is the same run"
    call("checkpoint", "promote", first[:12])
    [row] = json.loads(call("checkpoint", "list", "--json"))
    assert row["id"] == first
    assert "yes" in call("checkpoint", "list")
    response = json.loads(call("checkpoint", "evaluate", first[:12], "--json"))
    assert response["evaluation"]["psnr"] == pytest.approx(row["evaluation"]["psnr"])
    assert "psnr" in call("checkpoint", "evaluate", first, "--snapshot", "latest")
    second = call(*training, "--parent", first[:12], "--seed", "1").strip()
    assert second != first
    [newest, _] = json.loads(call("checkpoint", "list", "--json"))
    assert newest["parent_id"] == first
    assert call("round", "open", "--quota", "3").strip().isdigit()


def test_a_truncated_listing_is_reported_and_a_complete_one_is_not(
    here: Settings, database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        make_candidates(tx, store, make_round(tx), 3)
    for limit, cut in ((2, True), (3, False), (0, False)):
        done = CliRunner().invoke(app, ("candidate", "list", "--json", "--limit", str(limit)))
        assert len(json.loads(done.stdout)) == (limit or 3)
        assert ("--limit 0 lists all" in done.stderr) is cut
    assert "--limit" not in CliRunner().invoke(app, ("sample", "list", "--limit", "1")).stderr


def test_a_dry_import_speaks_json_too(here: Settings, tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "a.png").write_bytes(b"")
    response = json.loads(call("seed", "import", str(tmp_path / "seeds"), "--dry-run", "--json"))
    assert response == {"folder": str(tmp_path / "seeds"), "would_look_at": 1}
    assert call("seed", "import", str(tmp_path / "seeds"), "--dry-run") == ""
