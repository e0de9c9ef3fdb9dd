"""One process of a training in several, as torchrun starts it.

By hand, on as many machines as torchrun knows of:
torchrun --nproc-per-node 8 -m training.worker_process ORDER.json STORE.json FOLDER CHECKPOINT.json
"""

from __future__ import annotations

import argparse
import json
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
from curation.ports import Report
from training.launch import MARK, open_again, read_order
from training.train import train


def main() -> None:
    """One process of a training that torchrun started; the first one writes the checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("order", "store", "folder", "checkpoint"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    state = PartialState(cpu=not torch.cuda.is_available())
    order = read_order(json.loads(given.order.read_text()))
    try:
        made = train(
            order,
            open_again(json.loads(given.store.read_text())),
            given.folder,
            _tell(state.is_main_process),
        )
        if state.is_main_process:
            given.checkpoint.write_text(canonical_json(asdict(made)))
    except LayerloopError as error:
        if state.is_main_process:
            _say({"error": type(error).__name__, "message": error.message, "hint": error.hint})
        raise
    finally:
        state.destroy_process_group()


def _tell(first: bool) -> Report:
    return (lambda progress: _say(asdict(progress))) if first else (lambda _: None)


def _say(said: Mapping[str, Any]) -> None:
    # One write, between line ends of its own: libraries of other processes talk in between, and not in whole lines.
    # Where nobody listens any more this raises, and the training ends.
    os.write(sys.stdout.fileno(), f"\n{MARK}{json.dumps(said)}\n".encode())


if __name__ == "__main__":
    main()
