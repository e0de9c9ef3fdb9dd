"""What `train --dry-run` prints: a table of memory for people, all of its bytes as JSON."""

import json

import pytest

from curation.cli.memory import print_memory
from curation.ports import StageMemory

GIB = 2**30
STAGES = [
    StageMemory("latents", "gpu", {"weights": GIB, "activations": 2 * GIB}, "fits a 8 GiB card"),
    StageMemory(
        "base",
        "gpu",
        {"weights": 10 * GIB, "optimizer": GIB // 2},
        "fits a 12 GiB card; less with [nothing]",
    ),
]


def test_the_table_and_the_fitting_memory_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_memory(STAGES, "run", as_json=False)
    output = capsys.readouterr()
    assert [line.split()[:3] for line in output.out.splitlines()] == [
        ["stage", "on", "weights"],
        ["latents", "gpu", "1.00"],
        ["base", "gpu", "10.00"],
    ]
    assert output.out.splitlines()[-1].split()[-2:] == ["10.50", "GiB"]
    assert "512 MiB" in output.out
    assert "less with [nothing]" in output.err


def test_json_output_has_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    print_memory(STAGES, "run", as_json=True)
    output = json.loads(capsys.readouterr().out)
    assert output["run"] == "run"
    assert [row["peak"] for row in output["memory"]] == [3 * GIB, 21 * GIB // 2]
    assert output["memory"][0]["held"] == {"weights": GIB, "activations": 2 * GIB}
