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
        {"weights": 10 * GIB, "optimiser": GIB // 2},
        "fits a 12 GiB card; less with [nothing]",
    ),
]


def test_people_read_a_table_and_where_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    print_memory(STAGES, "run", as_json=False)
    told = capsys.readouterr()
    assert [line.split()[:3] for line in told.out.splitlines()] == [
        ["stage", "on", "weights"],
        ["latents", "gpu", "1.00"],
        ["base", "gpu", "10.00"],
    ]
    assert told.out.splitlines()[-1].split()[-2:] == ["10.50", "GiB"]
    assert "512 MiB" in told.out
    assert "less with [nothing]" in told.err


def test_programs_read_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    print_memory(STAGES, "run", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == "run"
    assert [row["peak"] for row in told["memory"]] == [3 * GIB, 21 * GIB // 2]
    assert told["memory"][0]["held"] == {"weights": GIB, "activations": 2 * GIB}
