"""The memory estimate of a training run, as `train --dry-run` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.cli.output import console, print_json, print_rows

if TYPE_CHECKING:
    from curation.ports import StageMemory

PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "EMA": "average",
    "activations": "activations",
    "images": "images",
}
"""Headings of the parts of a stage's memory -> their names in `StageMemory.held`."""


def print_memory(stages: Sequence[StageMemory], run: str, as_json: bool) -> None:
    """Print the peak memory of each training stage by its parts, with advice; JSON is in bytes."""
    if as_json:
        print_json(
            {"run": run, "memory": [asdict(stage) | {"peak": stage.peak} for stage in stages]}
        )
        return
    # One row per stage; a part that a stage does not have is 0.
    rows = [
        {"stage": stage.stage, "on": stage.device, "peak": stage.peak, **stage.held}
        for stage in stages
    ]
    names = {"stage": "stage", "on": "on", **PARTS, "peak": "peak"}
    columns = {heading: partial(_cell, name) for heading, name in names.items()}
    print_rows(rows, columns, as_json=False)
    for stage in stages:
        console.print(f"{stage.stage}: {stage.advice}")


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name, 0)
    if isinstance(value, str):
        return value
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
