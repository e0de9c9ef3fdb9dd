"""Control of loops by people: pause, resume, change and cancel, each within one batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from curation.checkpoints import registry, run_queue
from curation.db.engine import Transaction
from curation.db.tables import loop_turns
from curation.db.tables import rounds as rounds_table
from curation.domain import JobName, RoundState, RunState
from curation.errors import Conflict, Refused
from curation.loops import rows
from curation.loops.plan import (
    Budget,
    LoopPlan,
    LoopReviewer,
    LoopState,
    LoopStep,
    check_plan,
    plan_to_dict,
)
from curation.loops.rows import Loop
from curation.rounds import lifecycle, work

UNFINISHED_RUNS: Final = frozenset({RunState.requested, RunState.running, RunState.paused})
"""States of a training whose priority still matters."""


def pause_loop(tx: Transaction, loop_id: int, actor: str, reason: str = "") -> None:
    """Pause a running loop, with its training or its round; their workers stop within a batch.

    Args:
        tx: The transaction.
        loop_id: Number of the loop.
        actor: The name for the log.
        reason: Why; by default, who paused it.

    Raises:
        NotFound: There is no such loop.
        Conflict: It is not running.
    """
    loop = _lock(tx, loop_id, {LoopState.running}, "paused")
    reason = reason or f"paused by {actor}"
    rows.end_loop(tx, loop_id, LoopState.paused, reason)
    if _run_state(tx, loop) in {RunState.requested, RunState.running}:
        run_queue.pause_run(tx, loop.run, actor)  # type: ignore[arg-type]  # it has a state
    if _round_state(tx, loop) == RoundState.open:
        lifecycle.pause_round(tx, loop.round, actor)  # type: ignore[arg-type]  # it has a state
    tx.log(actor, "loop paused", f"loop {loop_id}", reason=reason)


def resume_loop(tx: Transaction, loop_id: int, actor: str) -> None:
    """Resume a paused loop, or try the failed step of a failed one again.

    Args:
        tx: The transaction.
        loop_id: Number of the loop.
        actor: The name for the log.

    Raises:
        NotFound: There is no such loop.
        Conflict: It is neither paused nor failed.
    """
    loop = _lock(tx, loop_id, {LoopState.paused, LoopState.failed}, "resumed")
    rows.update_loop(tx, loop_id, state=LoopState.running, reason=None, checked_at=sa.func.now())
    state = _run_state(tx, loop)
    if loop.run is not None and state == RunState.paused:
        run_queue.resume_run(tx, loop.run, actor)
    elif loop.run is not None and state in {RunState.failed, RunState.cancelled}:
        run_queue.retry_run(tx, loop.run, actor)
    if loop.round is not None and _round_state(tx, loop) == RoundState.paused:
        lifecycle.resume_round(tx, loop.round, actor)
    tx.log(actor, "loop resumed", f"loop {loop_id}")
    tx.enqueue(JobName.advance_loop, loop_id)


def cancel_loop(tx: Transaction, loop_id: int, actor: str) -> None:
    """Cancel a loop with its training, and close its round; accepted samples stay.

    Args:
        tx: The transaction.
        loop_id: Number of the loop.
        actor: The name for the log.

    Raises:
        NotFound: There is no such loop.
        Conflict: It has ended already.
    """
    active = {LoopState.running, LoopState.paused, LoopState.failed}
    loop = _lock(tx, loop_id, active, "cancelled")
    rows.end_loop(tx, loop_id, LoopState.cancelled, f"cancelled by {actor}")
    if loop.run is not None and loop.checkpoint is None:
        registry.cancel_run(tx, loop.run, actor)
    if loop.round is not None:
        lifecycle.close_round(tx, loop.round, actor)
    tx.log(actor, "loop cancelled", f"loop {loop_id}")


def change_loop(tx: Transaction, loop_id: int, actor: str, changes: dict[str, Any]) -> LoopPlan:
    """Change the plan of a loop that has not ended; the next step follows it.

    The reviewer of the open round and the priority of round and training change at once. Workers
    compare the budget with what is spent every few seconds.

    Args:
        tx: The transaction.
        loop_id: Number of the loop.
        actor: The name for the log.
        changes: New values of fields of the plan; those of `Budget` by their own names, where
            None removes a limit.

    Returns:
        The new plan.

    Raises:
        NotFound: There is no such loop.
        Conflict: It has ended.
        Refused: A value is invalid.
    """
    active = {LoopState.running, LoopState.paused, LoopState.failed}
    loop = _lock(tx, loop_id, active, "changed")
    limits = {name: changes[name] for name in Budget.__dataclass_fields__ if name in changes}
    others = {name: value for name, value in changes.items() if name not in limits}
    plan = check_plan(replace(loop.plan, **others, budget=replace(loop.plan.budget, **limits)))
    if plan.rounds < loop.turn:
        raise Refused(
            f"loop {loop_id} is at round {loop.turn} already", f"give at least {loop.turn} rounds"
        )
    rows.update_loop(tx, loop_id, plan=plan_to_dict(plan))
    reordered = plan.priority != loop.plan.priority
    if loop.round is not None and _round_state(tx, loop) != RoundState.closed:
        work.set_rule_reviewer(tx, loop.round, plan.reviewer == LoopReviewer.rules, actor)
        if reordered:
            work.set_priority(tx, loop.round, plan.priority, actor)
    if reordered and loop.run is not None and _run_state(tx, loop) in UNFINISHED_RUNS:
        run_queue.set_priority(tx, loop.run, plan.priority, actor)
    tx.log(actor, "loop changed", f"loop {loop_id}", **{key: str(changes[key]) for key in changes})
    tx.enqueue(JobName.advance_loop, loop_id)
    return plan


def resume_named_loop(tx: Transaction, plan: LoopPlan, actor: str, name: str) -> int:
    """Start the loop of a name, or let it go on with a plan that may have changed.

    Rounds that a former version generated without a loop become its first turns.

    Args:
        tx: The transaction.
        plan: The plan.
        actor: The name for the log.
        name: The name.

    Returns:
        The number of the loop.
    """
    loop_id = rows.find_named_loop(tx, name)
    if loop_id is None:
        loop_id = rows.start_loop(tx, plan, actor, name)
        _adopt_rounds(tx, loop_id)
    loop = rows.find_loop(tx, loop_id, lock=True)
    if loop.state in {LoopState.paused, LoopState.failed}:
        resume_loop(tx, loop_id, actor)
    rows.update_loop(tx, loop_id, plan=plan_to_dict(check_plan(plan)))
    if loop.round is not None and _round_state(tx, loop) != RoundState.closed:
        work.set_rule_reviewer(tx, loop.round, plan.reviewer == LoopReviewer.rules, actor)
    # A finished loop goes on if there are more rounds now.
    if loop.state in {LoopState.finished, LoopState.cancelled} and plan.rounds > loop.turn:
        rows.update_loop(tx, loop_id, state=LoopState.running, reason=None, finished_at=None)
        rows.begin_turn(tx, loop)
        tx.enqueue(JobName.advance_loop, loop_id)
    return loop_id


def _adopt_rounds(tx: Transaction, loop_id: int) -> None:
    """Make the generated rounds that belong to no loop the first turns of a new one."""
    taken = sa.select(loop_turns.c.round_id).where(loop_turns.c.round_id.is_not(None))
    free = (
        sa.select(rounds_table.c.id, rounds_table.c.checkpoint_id)
        .where(rounds_table.c.purpose == "generated", rounds_table.c.id.not_in(taken))
        .order_by(rounds_table.c.id)
    )
    for row in tx.execute(free).all():
        loop = rows.find_loop(tx, loop_id)
        if loop.round is not None:
            rows.begin_turn(tx, loop)
            loop = rows.find_loop(tx, loop_id)
        rows.update_turn(tx, loop, round_id=row.id, checkpoint_id=row.checkpoint_id)
        rows.update_loop(tx, loop_id, step=LoopStep.review)


def _lock(tx: Transaction, loop_id: int, states: set[LoopState], done: str) -> Loop:
    loop = rows.find_loop(tx, loop_id, lock=True)
    if loop.state not in states:
        raise Conflict(
            f"loop {loop_id} is {loop.state} and cannot be {done}",
            f"only loops that are {', '.join(sorted(states))} can",
        )
    return loop


def _run_state(tx: Transaction, loop: Loop) -> str | None:
    """Return the state of the training that the loop waits for."""
    if loop.run is None or loop.checkpoint is not None:
        return None
    return str(registry.find_run(tx, loop.run)["state"])


def _round_state(tx: Transaction, loop: Loop) -> str | None:
    return None if loop.round is None else str(lifecycle.find_round(tx, loop.round)["state"])
