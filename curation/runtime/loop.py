"""The loop of `layerloop demo`: start or resume a loop, and wait until its rounds are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from curation.checkpoints import registry
from curation.db.engine import Transaction
from curation.domain import JobName, Progress
from curation.errors import LayerloopError
from curation.loops import control, rows
from curation.loops.plan import LoopPlan, LoopState, LoopStep
from curation.loops.rows import Loop
from curation.rounds import lifecycle
from curation.runtime.context import AppContext

POLL_SECONDS: Final = 0.5
ACTOR: Final = "loop"
NAME: Final = "demo"
"""The name under which the loop of a home is found again."""

_GENERATING: Final = ("requested", "generating", "generated", "screened")
_DECIDING: Final = ("waiting", "showing")

OnProgress = Callable[[Progress], None]


def run_loop(context: AppContext, plan: LoopPlan, on_progress: OnProgress) -> list[int]:
    """Run the planned rounds to their end; a plan with more rounds goes on where the last ended.

    Args:
        context: The app context; its workers advance the loop, train, generate and review.
        plan: The plan.
        on_progress: Receives the progress of each step.

    Returns:
        The numbers of the rounds.

    Raises:
        LayerloopError: The loop failed or was cancelled.
    """
    with context.database.transaction() as tx:
        loop_id = control.resume_named_loop(tx, plan, ACTOR, NAME)
    while True:
        with context.database.transaction() as tx:
            loop = rows.find_loop(tx, loop_id)
            progress = _progress(tx, loop)
            # Idle workers look for it too; a message only wakes one at once.
            if rows.due_loop(tx) == loop_id:
                tx.enqueue(JobName.advance_loop, loop_id)
            if loop.state == LoopState.finished:
                turns = rows.list_turns(tx, loop_id)
                return [turn["round_id"] for turn in turns if turn["round_id"]]
        if loop.state in (LoopState.failed, LoopState.cancelled):
            hint = "see the worker's log in the home folder; the same command resumes"
            raise LayerloopError(str(loop.reason), hint)
        on_progress(progress)
        time.sleep(POLL_SECONDS)


def _progress(tx: Transaction, loop: Loop) -> Progress:
    """Return the progress of the current step."""
    turn = f"turn {loop.turn}"
    if loop.state == LoopState.paused:
        return Progress(f"{turn}: {loop.reason}", 0, 0)
    if loop.step == LoopStep.train and loop.run is not None:
        progress = registry.find_run(tx, loop.run)["progress"]
        if progress:
            stage = f"{turn}: {progress['stage']}"
            return Progress(stage, progress["done"], progress["total"], progress["metrics"])
    if loop.step == LoopStep.review and loop.round is not None:
        return _round_progress(lifecycle.count_states(tx, loop.round), turn)
    return Progress(f"{turn}: {loop.step}", 0, 0)


def _round_progress(counts: Mapping[str, int], turn: str) -> Progress:
    """Return the progress of a round, first of its generation, then of its review."""
    total = sum(counts.values())
    generating = sum(counts.get(state, 0) for state in _GENERATING)
    if generating:
        return Progress(f"{turn}: generating", total - generating, total)
    deciding = sum(counts.get(state, 0) for state in _DECIDING)
    metrics: dict[str, Any] = {"accepted": counts.get("accepted", 0)}
    return Progress(f"{turn}: review", total - deciding, total, metrics)
