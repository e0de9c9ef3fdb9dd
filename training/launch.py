"""Training in several processes, on one or several machines: start torchrun, relay its reports."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import curation.errors
from curation.domain import Checkpoint, Progress, TrainingRequest, canonical_json
from curation.errors import LayerloopError, Refused, Unreachable
from curation.ports import ObjectStore, ProgressCallback
from curation.settings import read_settings
from training.engine.metrics_buffer import Diverged
from training.presets.preset import Preset
from training.presets.presets import find_requested_preset

log = logging.getLogger("layerloop.training")

MESSAGE_PREFIX = "layerloop "
"""Prefix of the lines of standard output that carry messages; other lines are library logs."""


@dataclass(frozen=True)
class Launch:
    """How the processes of a training start: on each of some machines, which meet at an address."""

    processes: int = 1  # on this machine
    machines: int = 1
    endpoint: str = ""  # host:port of the first machine, for several machines
    join_seconds: int = 600  # how long the machines wait for each other


def choose_launch(preset: Preset) -> Launch:
    """Return how to launch a preset on this machine: as its settings say, or as the preset says."""
    settings = read_settings()
    return Launch(
        settings.train_processes or preset.processes,
        settings.train_machines,
        settings.train_endpoint or "",
        settings.train_join_seconds,
    )


def launch(
    request: TrainingRequest,
    store: ObjectStore,
    folder: Path,
    report: ProgressCallback,
    chosen: Launch,
) -> Checkpoint:
    """Train in several processes, one per GPU if there are any, as the first machine.

    Progress is that of the first process. An exception from `report` ends all processes; if this
    process dies, they end at their next message.

    Args:
        request: The training request.
        store: The store; it must have an attribute `opening`.
        folder: The folder of the run's state.
        report: The progress callback.
        chosen: The number of processes and machines.

    Raises:
        Refused: There are fewer GPUs or CPU cores, or the store cannot be opened again.
        Unreachable: Another machine did not join, or was lost.
        LayerloopError: The error that a process raised, of its own class.
    """
    with TemporaryDirectory(prefix="layerloop-launch-") as scratch:
        result = Path(scratch) / "checkpoint.json"
        status = _run_processes(request, store, folder, report, chosen, 0, Path(scratch))
        if status and chosen.machines > 1:
            raise Unreachable(
                f"the training on {chosen.machines} machines ended early (status {status}): "
                "a machine did not join or was lost",
                "see the log above, and that of 'layerloop run join' on the other machines",
            )
        if status or not result.exists():
            raise LayerloopError(
                f"the training processes exited with status {status}", "see the log above"
            )
        return parse_checkpoint(json.loads(result.read_text()))


def join(request: TrainingRequest, store: ObjectStore, folder: Path, machine: int) -> bool:
    """Train as another machine of a run that the first machine has claimed.

    Args:
        request: The training request, as on the first machine.
        store: The store; it must have an attribute `opening`.
        folder: The folder of the run's state on this machine.
        machine: The number of this machine, from 1.

    Returns:
        Whether the training ended in order.

    Raises:
        Refused: The settings name no other machines, or the store cannot be opened again.
    """
    chosen = choose_launch(find_requested_preset(request))
    if chosen.machines < 2 or not 0 < machine < chosen.machines:
        raise Refused(
            f"there is no machine {machine} of {chosen.machines}",
            "set LAYERLOOP_TRAIN_MACHINES alike on all machines; the worker is machine 0",
        )
    with TemporaryDirectory(prefix="layerloop-join-") as scratch:
        try:
            status = _run_processes(
                request, store, folder, lambda _: None, chosen, machine, Path(scratch)
            )
        except LayerloopError as error:  # the first machine records it
            log.warning("run %s ended: %s", request.id, error)
            return False
    return status == 0


def _run_processes(
    request: TrainingRequest,
    store: ObjectStore,
    folder: Path,
    report: ProgressCallback,
    chosen: Launch,
    machine: int,
    scratch: Path,
) -> int:
    """Run this machine's processes under torchrun, and return its exit status."""
    _check_processes(chosen.processes)
    # The worker processes read the request and how to open the store from files.
    inputs = (
        _write(scratch / "order.json", asdict(request)),
        _write(scratch / "store.json", _opening(store)),
    )
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *_rendezvous(chosen, machine, str(request.id)),
        *("--nproc-per-node", str(chosen.processes), "-m", "training.worker_process"),
        *map(str, (*inputs, folder, scratch / "checkpoint.json")),
    ]
    # Relay messages until the processes end; stop them if the relay raises.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            _relay(running, report)
        finally:
            if running.poll() is None:
                running.terminate()
    return running.returncode


def _rendezvous(chosen: Launch, machine: int, run: str) -> list[str]:
    """Return the options of torchrun that say how the machines meet.

    Raises:
        Refused: Several machines have no address to meet at.
    """
    if chosen.machines == 1:
        return ["--standalone", "--local-addr", "127.0.0.1"]
    if not chosen.endpoint:
        raise Refused(
            f"{chosen.machines} machines need an address to meet at",
            "set LAYERLOOP_TRAIN_ENDPOINT to host:port of the machine with the worker",
        )
    # Numbers are given, not negotiated: the first process must be the worker's.
    return [
        *("--nnodes", str(chosen.machines), "--node-rank", str(machine)),
        *("--rdzv-backend", "static", "--rdzv-endpoint", chosen.endpoint, "--rdzv-id", run),
        *("--rdzv-conf", f"timeout={chosen.join_seconds}"),
    ]


def _check_processes(processes: int) -> None:
    """Raise Refused if this machine has fewer GPUs, or without GPUs fewer cores, than processes."""
    hint = "--set processes={0}, or LAYERLOOP_TRAIN_PROCESSES={0} on this machine"
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        count = torch.cuda.device_count()
        raise Refused(
            f"{processes} processes need as many GPUs; this machine has {count}", hint.format(count)
        )
    # Without GPUs, more processes than cores only wait for each other.
    cores = max(2, os.cpu_count() or 1)
    if not torch.cuda.is_available() and processes > cores:
        raise Refused(
            f"{processes} processes need as many CPU cores; this machine has {cores}",
            hint.format(cores),
        )


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
            "--set processes=1, and LAYERLOOP_TRAIN_PROCESSES unset",
        )
    return list(opening)


def _relay(running: subprocess.Popen[str], report: ProgressCallback) -> None:
    """Relay the messages of the first process until all have ended. Raises the error it sent."""
    assert running.stdout is not None  # noqa: S101 - it is a pipe
    for line in running.stdout:
        # Library logs pass through.
        if not line.startswith(MESSAGE_PREFIX):
            if line.strip():
                log.info("%s", line.rstrip())
            continue
        message = json.loads(line.removeprefix(MESSAGE_PREFIX))
        if "log" in message:
            log.log(message["level"], "%s", message["log"])
            continue
        if "error" in message:
            kinds = {"Diverged": Diverged, **vars(curation.errors)}
            kind = kinds.get(message["error"], LayerloopError)
            raise kind(message["message"], message["hint"])
        report(Progress(**message))


def _write(path: Path, value: Any) -> Path:
    path.write_text(canonical_json(value))
    return path
