"""Weights of other programs are imported and exported by commands, through the ports that settings name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from curation.cli.main import run
from curation.settings import Settings
from tests.curation.cli.test_cli import call, here
from tests.training.interop.test_transparency_weights import NARROW, narrow
from tests.training.pretrained import write_sdxl
from tests.training.released_files import SDXL_CHANNELS, TINY_SDXL, network_shapes, write

__all__ = ["here"]  # the fixture


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [
        str(write(tmp_path / f"{n}.any", network_shapes(narrow(), n)))
        for n in ("encoder", "decoder")
    ]


@pytest.fixture
def changes(tmp_path: Path) -> list[str]:
    model = write_sdxl(tmp_path / "model", SDXL_CHANNELS, **TINY_SDXL)
    pairs = {**NARROW, "model": str(model)}
    return [word for name, value in pairs.items() for word in ("--set", f"{name}={value}")]


def test_an_import_is_previewed_run_and_listed(
    here: Settings, files: list[str], changes: list[str]
) -> None:
    looked = json.loads(call("checkpoint", "import", *files, *changes, "--dry-run", "--json"))
    assert looked["checkpoint"] is None
    assert [file["what"] for file in looked["files"]] == ["offset encoder", "alpha decoder"]
    assert "--offset-scale 300" in looked["notes"][0]
    assert json.loads(call("checkpoint", "list", "--json")) == []
    made = call("checkpoint", "import", *files, *changes, "--offset-scale", "300").strip()
    assert call("checkpoint", "import", *files, *changes, "--offset-scale", "300").strip() == made
    [row] = json.loads(call("checkpoint", "list", "--json"))
    assert (row["id"], row["recipe"], row["snapshot_id"]) == (made, "imported", None)
    assert row["changes"]["offset_scale"] == "300.0"
    assert made[:12] in call("checkpoint", "list")
    call("checkpoint", "promote", made[:12])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("checkpoint", "import", "{pickle}"), 2, "pickles can run code when they are loaded"),
        (("checkpoint", "import", "{absent}"), 3, "there is no file"),
        (("checkpoint", "import", "{encoder}", "--set", "wings"), 2, "hint: for example --set"),
        (
            ("checkpoint", "import", "{encoder}", "--set", "wings=2"),
            3,
            "a preset has no column 'wings'",
        ),
        (
            ("checkpoint", "import", "{encoder}", "--set", "draw_batch=many"),
            2,
            "invalid draw_batch 'many'",
        ),
        (
            ("checkpoint", "import", "{encoder}", "--preset", "tiny"),
            2,
            "preset 'tiny' has no pretrained model",
        ),
        (("checkpoint", "import", "{encoder}"), 2, "none of the files is an alpha decoder"),
        (("checkpoint", "export", "{made}", "--format", "gguf"), 2, "'released', 'comfyui'"),
        (("checkpoint", "export", "{made}", "--precision", "int8"), 2, "'stored', 'fp16', 'fp32'"),
        (("checkpoint", "export", "{made}"), 2, "other programs do not support the networks"),
    ],
)
def test_errors_have_a_hint_and_leave_nothing(
    here: Settings,
    files: list[str],
    changes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt")
    made = call("checkpoint", "import", *files, *changes).strip() if "{made}" in arguments else ""
    before = call("checkpoint", "list", "--json")
    paths = {
        "pickle": tmp_path / "weights.pt",
        "absent": tmp_path / "absent",
        "encoder": files[0],
        "made": made,
    }
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setattr(sys, "argv", ["layerloop", *(word.format(**paths) for word in arguments)])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == code
    assert message in capsys.readouterr().err
    assert call("checkpoint", "list", "--json") == before
