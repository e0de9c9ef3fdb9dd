"""`checkpoint evaluate`: metrics on stdout, omitted ones on stderr, and a contact sheet in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from curation.checkpoints.registry import find_checkpoint, register_checkpoint
from curation.cli.evaluation import MAIN_METRICS, format_metrics
from curation.cli.main import app
from curation.db.engine import Database
from curation.domain import TrainingRequest
from curation.runtime.context import open_context
from curation.settings import Settings
from curation.synthetic.dataset import draw_seed_set
from curation.synthetic.pair_dataset import draw_pair_seed_set
from tests.curation.cli.test_cli import call, here
from tests.training.evaluation.test_evaluate import untrained_checkpoint
from training.evaluation.heldout import HIGHER_IS_BETTER
from training.evaluation.heldout import evaluate as evaluate_light
from training.train import train

__all__ = ["here"]  # the fixture


@pytest.fixture
def made(here: Settings, tmp_path: Path) -> str:
    """Return the id of a registered checkpoint with fresh networks, on a snapshot of drawn shapes."""
    draw_seed_set(tmp_path / "seeds", 80)
    call("seed", "import", str(tmp_path / "seeds"))
    snapshot = json.loads(call("snapshot", "freeze", "--tag", "latest", "--json"))["snapshot"]
    with open_context(here) as opened:
        checkpoint, _, _ = untrained_checkpoint(opened.store, snapshot)
        with opened.database.transaction() as tx:
            return register_checkpoint(tx, checkpoint, "test")


def test_metrics_are_printed_and_stored(
    here: Settings, database: Database, made: str, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheets" / "one.png"
    response = json.loads(
        call("checkpoint", "evaluate", made[:12], "--published", "--sheet", str(sheet), "--json")
    )
    assert response["checkpoint"] == made
    assert response["kept"] is True
    assert (
        {"psnr", "psnr_jpeg", "unknown_conn", "offset_energy"}
        <= set(response["evaluation"])
        <= set(HIGHER_IS_BETTER)
    )
    assert set(response["backgrounds"]["cyan"]) == {"psnr", "ssim", "psnr_jpeg", "ssim_jpeg"}
    assert "ALPHA: AlphaVAE FLUX" in response["published"]
    with Image.open(sheet) as opened:
        assert opened.format == "PNG"
    with database.transaction() as tx:
        assert find_checkpoint(tx, made).evaluation == pytest.approx(response["evaluation"])
    listed = call("checkpoint", "list")
    assert "more" in listed
    assert "psnr_jpeg" not in listed


def test_the_tables_are_read_by_people_and_a_part_is_not_kept(
    here: Settings, database: Database, made: str
) -> None:
    done = CliRunner().invoke(app, ["checkpoint", "evaluate", made, "--limit", "2", "--published"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("psnr ")
    assert sum(line.startswith("magenta") for line in done.stdout.splitlines()) == 1
    assert "this checkpoint" in done.stdout
    assert "AIM-500: LayerDiffuse SDXL" in done.stdout
    assert "no lpips: it needs weights (--perceptual)" in done.stderr
    assert "not stored" in done.stderr
    with database.transaction() as tx:
        assert find_checkpoint(tx, made).evaluation == {}


def test_metrics_of_pairs_are_printed_together_and_by_layer(
    here: Settings, database: Database, tmp_path: Path
) -> None:
    draw_pair_seed_set(tmp_path / "seeds", 12)
    listing = tmp_path / "seeds" / "metadata.jsonl"
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    lines = [
        line | {"split": "heldout" if number % 3 == 0 else "train"}
        for number, line in enumerate(lines)
    ]
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    call("seed", "import", str(tmp_path / "seeds"))
    snapshot = json.loads(call("snapshot", "freeze", "--tag", "latest", "--json"))["snapshot"]
    with open_context(here) as opened:
        order = TrainingRequest("pairs", "micro", snapshot, None, None, 0, 32)
        checkpoint = train(order, opened.store, tmp_path / "run", lambda _: None)
        with opened.database.transaction() as tx:
            made = register_checkpoint(tx, checkpoint, "test")
    sheet = tmp_path / "sheets" / "pairs.png"
    response = json.loads(
        call("checkpoint", "evaluate", made, "--pairs-sheet", str(sheet), "--json")
    )
    assert response["kept"] is True
    assert list(response["pairs"]["empty"]) == ["joint", "apart", "joint - apart", "real"]
    assert set(response["pairs"]["empty"]["apart"]) == {"mean", "low", "high", "count"}
    assert response["evaluation"]["pair_empty"] == response["pairs"]["empty"]["joint"]["mean"]
    with Image.open(sheet) as opened_sheet:
        assert opened_sheet.format == "PNG"
    with database.transaction() as tx:
        assert (
            find_checkpoint(tx, made).evaluation["pair_empty"]
            == response["evaluation"]["pair_empty"]
        )
    done = CliRunner().invoke(app, ["checkpoint", "evaluate", made, "--draws", "4"])
    assert done.exit_code == 0, done.output
    row = next(line for line in done.stdout.splitlines() if line.startswith("empty"))
    assert row.count(" to ") == 4
    assert "Student's t" in done.stderr
    assert "no text agreement" in done.stderr


def test_a_checkpoint_that_cannot_be_evaluated_is_an_error_with_a_hint(
    here: Settings, made: str, tmp_path: Path
) -> None:
    pickled = tmp_path / "alex.pth"
    pickled.write_bytes(b"PK\x03\x04" + bytes(64))
    done = CliRunner().invoke(app, ["checkpoint", "evaluate", made, "--perceptual", str(pickled)])
    assert done.exit_code != 0
    assert "pickled" in str(done.exception)
    done = CliRunner().invoke(app, ["checkpoint", "evaluate", made, "--views", "5"])
    assert "number of views 5" in str(done.exception)


def test_the_main_metrics_are_those_that_a_training_measures() -> None:
    assert evaluate_light.__doc__ is not None
    assert all(name in evaluate_light.__doc__ for name in MAIN_METRICS)
    assert list(MAIN_METRICS) == list(HIGHER_IS_BETTER)[: len(MAIN_METRICS)]
    assert format_metrics({"lpips": 0.1, "psnr": 30.0, "rfid": 2.0}) == "psnr 30  + 2 more"
    assert format_metrics({"taste": 1.0}) == "taste 1"
