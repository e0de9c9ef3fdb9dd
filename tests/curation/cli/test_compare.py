"""`checkpoint compare` from end to end: a micro checkpoint beside generate-then-matte, with metrics and a contact sheet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from curation.cli.main import app
from curation.screening.signals import SIGNALS
from curation.settings import Settings
from curation.synthetic.dataset import draw_seed_set
from tests.curation.cli.test_cli import call, here

__all__ = ["here"]  # the fixture


@pytest.fixture
def trained(here: Settings, tmp_path: Path) -> str:
    draw_seed_set(tmp_path / "seeds", 80)
    call("seed", "import", str(tmp_path / "seeds"))
    call("snapshot", "freeze", "--tag", "latest")
    return call("train", "--preset", "micro", "--images", "64").strip()


def test_a_checkpoint_is_compared_with_matting(trained: str, tmp_path: Path) -> None:
    sheet = tmp_path / "sheets" / "beside.png"
    response = json.loads(
        call("checkpoint", "compare", trained[:12], "--count", "6", "--sheet", str(sheet), "--json")
    )
    assert response["checkpoint"] == trained
    assert set(response["ways"]) == {"with alpha", "matted"}
    for way in response["ways"].values():
        assert way["layers"] == 6
        assert 0 <= way["low"] <= way["defects"] <= way["high"] <= 100
        assert set(way["signals"]) == set(SIGNALS)
    assert response["how"] == {
        "opaque": "the checkpoint's own layers over mid-grey", "trimap": "GrabCut", "matting": "closed form, multi-level",
    }  # fmt: skip
    with Image.open(sheet) as opened:
        assert opened.format == "PNG"
    again = json.loads(call("checkpoint", "compare", trained[:12], "--count", "6", "--json"))
    assert again["ways"] == response["ways"]
    lines, triples = tmp_path / "prompts.txt", tmp_path / "triples.jsonl"
    lines.write_text("a red circle\n\na blue star\n")
    call("prompts", "generate", "--count", "2", "--out", str(triples))
    for file in (lines, triples):
        done = CliRunner().invoke(
            app, ["checkpoint", "compare", trained, "--count", "3", "--prompts", str(file)]
        )
        assert done.exit_code == 0, done.output
        assert "defects per 100 (95 % CI)" in done.stdout
        assert "contam_grey" in done.stdout
        assert "trimap: GrabCut" in done.stderr
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    done = CliRunner().invoke(app, ["checkpoint", "compare", trained, "--prompts", str(empty)])
    assert "no prompts" in str(done.exception)
