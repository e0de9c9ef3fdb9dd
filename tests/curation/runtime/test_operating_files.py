"""The dashboard, the alerts and the guide name metrics that exist, and all of them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from curation.db.engine import Database
from curation.runtime import gpu_metrics
from curation.runtime.gpu_metrics import FIELDS, GpuCollector, read_gpus
from curation.runtime.instance_metrics import read_metrics
from curation.runtime.metrics import HTTP_SECONDS, JOB_ERRORS, JOB_SECONDS

ROOT = Path(__file__).resolve().parents[3]
BOARD = ROOT / "docker" / "grafana" / "dashboards" / "layerloop.json"
ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
GUIDE = ROOT / "docs" / "guides" / "operating.md"
SUFFIXES = r"_(total|bucket|count|sum)$"
CONDITIONAL = {
    "layerloop_database_up",
    "layerloop_torch_memory_bytes",
    "layerloop_labeling_lag_seconds",
}


@pytest.fixture
def known(database: Database) -> set[str]:
    """The names of all metrics, without the suffixes of their samples."""
    names = {metric.name for metric in read_metrics(database)} | CONDITIONAL
    own = {one._name for one in (HTTP_SECONDS, JOB_SECONDS, JOB_ERRORS)}
    return names | own | {name for _, name, _, _ in FIELDS}


def named(text: str) -> set[str]:
    found = re.findall(r"\blayerloop_[a-z_]*[a-z]", text)
    return {re.sub(SUFFIXES, "", name) for name in found}


def test_the_files_name_metrics_that_exist(known: set[str]) -> None:
    board = json.loads(BOARD.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load(ALERTS.read_text())
    expressions += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    for expression in expressions:
        assert named(expression) <= known, expression


def test_the_guide_names_every_metric(known: set[str]) -> None:
    listed = named(GUIDE.read_text()) - {"layerloop_gpu"}
    assert listed <= known
    assert {name for name in known if not name.startswith("layerloop_gpu")} <= listed


def test_the_fields_of_each_gpu_are_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program on PATH answers the fields that are asked for, as nvidia-smi does; no GPU is needed."""
    write_tool(tmp_path, NVIDIA_SMI)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin")
    found = {metric.name: metric for metric in GpuCollector().collect()}
    use = {one.labels["gpu"]: one.value for one in found["layerloop_gpu_utilization_ratio"].samples}
    assert use == {"0": 0.37, "1": 0.0}
    assert found["layerloop_gpu_memory_used_bytes"].samples[0].value == 1 << 30
    assert len(found["layerloop_gpu_power_watts"].samples) == 1
    heat = {
        one.labels["gpu"]: one.value for one in found["layerloop_gpu_temperature_celsius"].samples
    }
    assert heat == {"0": 45, "1": 30}


def test_a_gpu_tool_that_fails_or_hangs_gives_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        read_gpus(write_tool(tmp_path, "#!/bin/sh\necho 'No devices were found'; exit 6\n")) == []
    )
    assert read_gpus(str(tmp_path / "missing")) == []
    # A line with other fields than were asked for is not taken for numbers of a GPU.
    assert read_gpus(write_tool(tmp_path, "#!/bin/sh\necho 'NVIDIA-SMI has failed'\n")) == []
    monkeypatch.setattr(gpu_metrics, "TIMEOUT_SECONDS", 0.2)
    assert read_gpus(write_tool(tmp_path, "#!/bin/sh\nexec sleep 60\n")) == []


def write_tool(folder: Path, script: str) -> str:
    """Write a program in the place of nvidia-smi, and return its path."""
    tool = folder / "nvidia-smi"
    tool.write_text(script)
    tool.chmod(0o755)
    return str(tool)


NVIDIA_SMI = """#!/usr/bin/env python
import sys

# As recorded by nvidia-smi --query-gpu=... --format=csv,noheader,nounits on a machine with two GPUs,
# of which the second does not measure its power.
GPUS = [
    {
        "index": "0",
        "name": "NVIDIA H200",
        "utilization.gpu": "37",
        "memory.used": "1024",
        "memory.total": "143771",
        "temperature.gpu": "45",
        "power.draw": "120.50",
    },
    {
        "index": "1",
        "name": "NVIDIA H200",
        "utilization.gpu": "0",
        "memory.used": "0",
        "memory.total": "143771",
        "temperature.gpu": "30",
        "power.draw": "[N/A]",
    },
]
query, form = sys.argv[1:]
if form != "--format=csv,noheader,nounits":
    sys.exit("Invalid combination of input arguments.")
fields = query.removeprefix("--query-gpu=").split(",")
for gpu in GPUS:
    print(", ".join(gpu[field] for field in fields))
"""
