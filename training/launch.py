"""Training in several processes on one machine: start torchrun and relay its reports."""

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
from curation.ports import ObjectStore, ProgressCallback
from training.engine.metrics_buffer import Diverged

MESSAGE_PREFIX = "layerloop "
"""Prefix of the lines of standard output that carry messages; other lines are library logs."""


def launch(
    request: TrainingRequest,
    store: ObjectStore,
    folder: Path,
    report: ProgressCallback,
    processes: int,
) -> Checkpoint:
    """Train in several processes on this machine, one per GPU if there are any.

    Progress is that of the first process. An exception from `report` ends all processes; if this
    process dies, they end at their next message.

    Args:
        request: The training request.
        store: The store; it must have an attribute `opening`.
        folder: The folder of the run's state.
        report: The progress callback.
        processes: The number of processes.

    Raises:
        Refused: There are fewer GPUs or CPU cores, or the store cannot be opened again.
        LayerloopError: The error that the first process raised, of its own class.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        hint = f"--set processes={torch.cuda.device_count()}"
        raise Refused(
            f"{processes} processes need as many GPUs; this machine has "
            f"{torch.cuda.device_count()}",
            hint,
        )
    # Without GPUs, more processes than cores only wait for each other.
    cores = max(2, os.cpu_count() or 1)
    if not torch.cuda.is_available() and processes > cores:
        raise Refused(f"{processes} processes need as many CPU cores; this machine has {cores}",
                      f"--set processes={cores}")  # fmt: skip
    with TemporaryDirectory(prefix="layerloop-launch-") as scratch:
        # The worker processes read the request and how to open the store from files.
        inputs = (
            _write(Path(scratch) / "order.json", asdict(request)),
            _write(Path(scratch) / "store.json", _opening(store)),
        )
        result = Path(scratch) / "checkpoint.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr",
            "127.0.0.1",
        ]
        command += [
            "--nproc-per-node",
            str(processes),
            "-m",
            "training.worker_process",
            *map(str, inputs),
            str(folder),
            str(result),
        ]
        # Relay messages until the processes end; stop them if the relay raises.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                _relay(running, report)
            finally:
                if running.poll() is None:
                    running.terminate()
        if running.returncode or not result.exists():
            raise LayerloopError(
                f"the training processes exited with status {running.returncode}",
                "see the log above",
            )
        return parse_checkpoint(json.loads(result.read_text()))


def parse_request(row: Mapping[str, Any]) -> TrainingRequest:
    """Build a training request from its JSON (dataclasses.asdict).

    Raises:
        KeyError: A field is missing.
        TypeError: A field is unknown.
    """
    parent = parse_checkpoint(row["parent"]) if row["parent"] else None
    return TrainingRequest(**{**row, "parent": parent})


def parse_checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    """Build a checkpoint from its JSON (dataclasses.asdict). Raises TypeError for other fields."""
    return Checkpoint(**row)


def reopen_store(opening: list[str | None]) -> ObjectStore:
    """Open a store from its `opening`: the dotted name of its class, then the arguments."""
    dotted, *arguments = opening
    module, _, name = str(dotted).partition(":")
    store: ObjectStore = getattr(importlib.import_module(module), name)(*arguments)
    return store


def _opening(store: ObjectStore) -> list[str | None]:
    """Return how a store is opened in another process. Raises Refused without `opening`."""
    opening = getattr(store, "opening", None)
    if opening is None:
        raise Refused(
            f"a store of the class {type(store).__name__} cannot be opened by other processes",
            "--set processes=1",
        )
    return list(opening)


def _relay(running: subprocess.Popen[str], report: ProgressCallback) -> None:
    """Relay the messages of the first process until all have ended. Raises the error it sent."""
    assert running.stdout is not None  # noqa: S101 - it is a pipe
    for line in running.stdout:
        # Library logs pass through.
        if not line.startswith(MESSAGE_PREFIX):
            sys.stderr.write(line.lstrip("\n"))
            continue
        message = json.loads(line.removeprefix(MESSAGE_PREFIX))
        if "error" in message:
            kinds = {"Diverged": Diverged, **vars(curation.errors)}
            kind = kinds.get(message["error"], LayerloopError)
            raise kind(message["message"], message["hint"])
        report(Progress(**message))


def _write(path: Path, value: Any) -> Path:
    path.write_text(canonical_json(value))
    return path
