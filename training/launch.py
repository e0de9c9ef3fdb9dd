"""A training in several processes of this machine: the one process that starts them and listens."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import curation.errors
from curation.domain import Checkpoint, Progress, TrainingRequest, canonical_json
from curation.errors import LayerloopError, Refused
from curation.ports import ObjectStore, Report
from training.engine.metrics_buffer import Diverged

MARK = "layerloop "
"""Lines of standard output that begin so are for the process that listens; all others are the libraries' talk."""


def launch(
    order: TrainingRequest, store: ObjectStore, folder: Path, report: Report, processes: int
) -> Checkpoint:
    """Train in so many processes of this machine, one per GPU where there are any; the first one's progress is told.

    Whatever `report` raises ends them all; if this process dies they end at their next word. Raises Refused where
    there are fewer GPUs or the store cannot be opened again, and whatever error the first process raised.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        hint = f"--set processes={torch.cuda.device_count()}"
        raise Refused(
            f"{processes} processes need as many GPUs, and {torch.cuda.device_count()} are here",
            hint,
        )
    cores = max(2, os.cpu_count() or 1)
    if not torch.cuda.is_available() and processes > cores:
        raise Refused(f"{processes} processes need as many processor cores, and {cores} are here",
                      f"--set processes={cores}")  # fmt: skip
    with TemporaryDirectory(prefix="layerloop-launch-") as talk:
        asked = (
            _write(Path(talk) / "order.json", asdict(order)),
            _write(Path(talk) / "store.json", _opening(store)),
        )
        made = Path(talk) / "checkpoint.json"
        run = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr",
            "127.0.0.1",
        ]
        run += [
            "--nproc-per-node",
            str(processes),
            "-m",
            "training.worker_process",
            *map(str, asked),
            str(folder),
            str(made),
        ]
        with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as running:
            try:
                _listen(running, report)
            finally:
                if running.poll() is None:
                    running.terminate()
        if running.returncode or not made.exists():
            raise LayerloopError(
                f"the processes of the training ended with {running.returncode}",
                "see the log above",
            )
        return read_checkpoint(json.loads(made.read_text()))


def read_order(row: Mapping[str, Any]) -> TrainingRequest:
    """An order from its JSON (dataclasses.asdict). Raises TypeError, KeyError for anything else."""
    parent = read_checkpoint(row["parent"]) if row["parent"] else None
    return TrainingRequest(**{**row, "parent": parent})


def read_checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint from its JSON (dataclasses.asdict). Raises TypeError for anything else."""
    return Checkpoint(**row)


def open_again(opening: list[str | None]) -> ObjectStore:
    """A store from how it says it is opened: the dotted name of its class, and its arguments."""
    dotted, *arguments = opening
    module, _, name = str(dotted).partition(":")
    store: ObjectStore = getattr(importlib.import_module(module), name)(*arguments)
    return store


def _opening(store: ObjectStore) -> list[str | None]:
    opening = getattr(store, "opening", None)
    if opening is None:
        raise Refused(
            f"a store of the class {type(store).__name__} cannot be opened by other processes",
            "processes=1",
        )
    return list(opening)


def _listen(running: subprocess.Popen[str], report: Report) -> None:
    """Report what the first process says, until all have ended. Raises the error that it told of."""
    assert running.stdout is not None  # noqa: S101 - it is a pipe
    for line in running.stdout:
        if not line.startswith(MARK):
            sys.stderr.write(line.lstrip("\n"))
            continue
        said = json.loads(line.removeprefix(MARK))
        if "error" in said:
            kinds = {"Diverged": Diverged, **vars(curation.errors)}
            kind = kinds.get(said["error"], LayerloopError)
            raise kind(said["message"], said["hint"])
        report(Progress(**said))


def _write(path: Path, value: Any) -> Path:
    path.write_text(canonical_json(value))
    return path
