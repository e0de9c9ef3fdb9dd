"""The console entry point while it imports, and the choices of options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curation.cli.checkpoints import ExportFormat, Precision
from curation.cli.generate import SamplerName
from curation.cli.main import app

ROOT = Path(__file__).resolve().parents[3]

SLOW = """import sys, time
sys.stdout.write("importing\\n")
sys.stdout.flush()
try:
    time.sleep(60)
except BaseException as error:
    raise ImportError("renamed") from error
"""


def start(stub: Path, ignored: bool = False) -> subprocess.Popen[str]:
    """Start the entry point with a replacement of typer that imports slowly and wraps interruptions."""
    (stub / "typer.py").write_text(SLOW)
    path = os.pathsep.join([str(stub), str(ROOT)])
    program = [sys.executable, "-c", "from curation.cli.start import run; run()"]
    if ignored:
        program = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *program]
    running = subprocess.Popen(
        program,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "importing\n"
    return running


def test_ctrl_c_during_imports_of_modules_exits_with_130(tmp_path: Path) -> None:
    running = start(tmp_path)
    running.send_signal(signal.SIGINT)
    response = running.communicate(timeout=30)
    assert (running.returncode, *response) == (130, "", "stopped\n")


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    running = start(tmp_path, ignored=True)
    running.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    running.kill()
    running.communicate(timeout=30)


def test_the_console_script_calls_main() -> None:
    assert 'layerloop = "curation.cli.start:run"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("words", "option", "choices"),
    [
        (("generate", "a fox"), "--sampler", ["ddim", "euler", "euler_a", "dpm++2m", "unipc"]),
        (("round", "open"), "--rule", ["single", "majority", "dawid_skene"]),
        (
            ("checkpoint", "export", "ab"),
            "--format",
            ["released", "comfyui", "diffusers", "peft", "kohya", "layerloop"],
        ),
        (("checkpoint", "export", "ab"), "--precision", ["stored", "fp16", "fp32"]),
        (("demo",), "--labeling", ["pages", "label-studio"]),
    ],
)
def test_an_invalid_choice_is_refused_with_the_choices_that_help_lists(
    words: tuple[str, ...], option: str, choices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 240)
    refused = CliRunner().invoke(app, (*words, option, "fiat"))
    assert refused.exit_code == 2
    for choice in choices:
        assert repr(choice) in refused.output
    shown = CliRunner().invoke(app, (*words, "--help")).output
    assert "|".join(choices) in "".join(shown.split())


def test_the_choices_are_those_of_the_training_package() -> None:
    from training.interop.export_checkpoint import FORMATS, PRECISIONS
    from training.interop.own_format import FORMAT_NAME
    from training.pipelines.worker_generator import SCHEDULERS

    assert {one.value for one in SamplerName} == set(SCHEDULERS)
    assert {one.value for one in ExportFormat} == {*FORMATS, FORMAT_NAME}
    assert {one.value for one in Precision} == set(PRECISIONS)
