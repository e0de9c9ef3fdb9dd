"""A worker that kills itself once at each point of a loop's steps, recorded in a folder.

LAYERLOOP_TEST_KILLS is the folder. The points of a step are "STEP result", when its result is written and not
committed, and "STEP committed".
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curation.cli import main
from curation.loops import advance, rows
from curation.loops.plan import LoopState, LoopStep

POINTS = [f"{step} {point}" for step in LoopStep for point in ("result", "committed")]


def _die_once(point: str) -> None:
    try:
        os.close(os.open(Path(os.environ["LAYERLOOP_TEST_KILLS"]) / point, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_before_commit(step: LoopStep, take: Callable[..., bool]) -> Callable[..., bool]:
    def killed(*args: Any) -> bool:
        moved = take(*args)
        _die_once(f"{step} result")
        return moved

    return killed


def _killed_after_commit(take: Callable[..., bool]) -> Callable[..., bool]:
    def killed(database: Any, store: Any, loop_id: int) -> bool:
        with database.transaction() as tx:
            step = rows.find_loop(tx, loop_id).step
        moved = take(database, store, loop_id)
        with database.transaction() as tx:
            loop = rows.find_loop(tx, loop_id)
        if loop.step != step or loop.state == LoopState.finished:
            _die_once(f"{step} committed")
        return moved

    return killed


if __name__ == "__main__":
    for table in (advance._STEPS, advance._FREEZING):
        for step, take in list(table.items()):
            table[step] = _killed_before_commit(step, take)
    advance.advance = _killed_after_commit(advance.advance)
    sys.argv = ["layerloop", "worker", "--queue", "cpu", "--queue", "gpu"]
    main.run()
