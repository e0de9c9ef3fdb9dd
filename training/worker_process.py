"""One process of a distributed training, started by torchrun.

training.launch starts it. By hand: torchrun --nproc-per-node 8 -m training.worker_process
ORDER.json STORE.json FOLDER CHECKPOINT.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from curation.domain import canonical_json
from curation.errors import LayerloopError
from curation.ports import ProgressCallback
from training.launch import MESSAGE_PREFIX, parse_request, reopen_store
from training.train import train


def main() -> None:
    """Run one training process under torchrun; the first process writes the checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("order", "store", "folder", "checkpoint"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    # Join the process group, then run the same training on every process.
    state = PartialState(cpu=not torch.cuda.is_available())
    order = parse_request(json.loads(arguments.order.read_text()))
    if state.is_main_process:
        logging.getLogger("layerloop").addHandler(_LogHandler(logging.INFO))
        logging.getLogger("layerloop").setLevel(logging.INFO)
    try:
        checkpoint = train(
            order,
            reopen_store(json.loads(arguments.store.read_text())),
            arguments.folder,
            _progress_callback(state.is_main_process),
        )
        if state.is_main_process:
            arguments.checkpoint.write_text(canonical_json(asdict(checkpoint)))
    # The launching process raises the first error again, with its own class.
    except LayerloopError as error:
        _send({"error": type(error).__name__, "message": error.message, "hint": error.hint})
        raise
    finally:
        state.destroy_process_group()


class _LogHandler(logging.Handler):
    """Sends the log of the first process to the launching process."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        _send({"log": record.getMessage(), "level": record.levelno})


def _progress_callback(first: bool) -> ProgressCallback:
    """Return the callback of the first process; the others report nothing."""
    return (lambda progress: _send(asdict(progress))) if first else (lambda _: None)


def _send(message: Mapping[str, Any]) -> None:
    """Write one message to standard output for the launching process."""
    # One write with its own line breaks: libraries in other processes write to the same pipe, in
    # partial lines too. If the launching process is gone this raises, which ends the training.
    os.write(sys.stdout.fileno(), f"\n{MESSAGE_PREFIX}{json.dumps(message)}\n".encode())


if __name__ == "__main__":
    main()
