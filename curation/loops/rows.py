"""Rows of loops and their turns: start, find, list and finish."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.paging import read_page
from curation.db.tables import leases as held
from curation.db.tables import loop_turns, loops
from curation.db.time_spans import seconds
from curation.domain import JobName
from curation.errors import NotFound
from curation.loops.plan import LoopPlan, LoopState, LoopStep, check_plan, plan_to_dict, read_plan
from curation.loops.prompts import choose_prompts

CHECK_SECONDS: Final = 2.0
"""Seconds between two looks at a loop that waits for a training or a round."""

ADVANCEABLE: Final = (LoopStep.freeze, LoopStep.promote, LoopStep.open, LoopStep.finish)
"""Steps that wait for nothing."""

INTERNAL: Final = frozenset({"lease_id", "checked_at"})
"""Columns of loops that only workers need."""


@dataclass(frozen=True)
class Loop:
    """A loop and its current turn.

    Attributes:
        id: Number of the loop.
        lease_id: Subject of the lease under which a worker advances it.
        name: A name by which it is resumed; None for most.
        state: Its state.
        step: The step that it is at.
        turn: The turn, from 1.
        plan: Its plan.
        reason: Why it is paused or failed.
        training_seconds: Time of training for it so far.
        snapshot: Snapshot of the turn.
        run: Training run of the turn.
        checkpoint: Checkpoint that the run made.
        round: Round of the turn.
        created_at: When it was started.
    """

    id: int
    lease_id: uuid.UUID
    name: str | None
    state: LoopState
    step: LoopStep
    turn: int
    plan: LoopPlan
    reason: str | None
    training_seconds: float
    snapshot: str | None
    run: uuid.UUID | None
    checkpoint: str | None
    round: int | None
    created_at: datetime


def start_loop(tx: Transaction, plan: LoopPlan, actor: str, name: str | None = None) -> int:
    """Add a loop, which any worker of the queue "screen" advances.

    Args:
        tx: The transaction.
        plan: The plan.
        actor: The name for the log.
        name: A name by which it is found again.

    Returns:
        The number of the loop.

    Raises:
        Refused: The plan is invalid, or no imported sample has a caption to use as a prompt.
    """
    plan = check_plan(plan)
    # Missing captions must fail here, not after the first training.
    choose_prompts(tx, 1, plan.seed + 1, plan.kind, use_file_names=plan.file_names)
    row = {
        "lease_id": uuid.uuid4(),
        "name": name,
        "state": LoopState.running,
        "step": LoopStep.freeze,
        "plan": plan_to_dict(plan),
    }
    loop_id = int(tx.scalar(sa.insert(loops).values(row).returning(loops.c.id)))
    tx.execute(sa.insert(loop_turns), {"loop_id": loop_id, "turn": 1})
    tx.log(actor, "loop started", f"loop {loop_id}", rounds=plan.rounds, quota=plan.quota)
    tx.enqueue(JobName.advance_loop, loop_id)
    return loop_id


def find_loop(tx: Transaction, loop_id: int, *, lock: bool = False) -> Loop:
    """Return a loop with its current turn.

    Args:
        tx: The transaction.
        loop_id: Number of the loop.
        lock: Whether to lock its row until the end of the transaction.

    Raises:
        NotFound: There is no such loop.
    """
    query = sa.select(loops).where(loops.c.id == loop_id)
    row = tx.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise NotFound(f"there is no loop {loop_id}", "'layerloop loop list' shows all loops")
    own = (loop_turns.c.loop_id == loop_id) & (loop_turns.c.turn == row["turn"])
    turn = tx.execute(sa.select(loop_turns).where(own)).mappings().one()
    return _read(row, turn)


def find_named_loop(tx: Transaction, name: str) -> int | None:
    """Return the number of the loop of a name, or None."""
    found = tx.scalar(sa.select(loops.c.id).where(loops.c.name == name))
    return None if found is None else int(found)


def list_loops(tx: Transaction, limit: int = 0, after: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of loops, newest first.

    Args:
        tx: The transaction.
        limit: The largest number; 0 for no limit.
        after: The last loop of the page before; None for the first page.
    """
    place = None if after is None else [after]
    return read_page(tx, sa.select(loops), [loops.c.id], limit=limit, after=place)


def read_loops(tx: Transaction, listed: Sequence[Mapping[str, Any]]) -> list[Loop]:
    """Return the loops of rows, each with its current turn; one query for all of them."""
    current = [(row["id"], row["turn"]) for row in listed]
    key = sa.tuple_(loop_turns.c.loop_id, loop_turns.c.turn)
    turns = tx.execute(sa.select(loop_turns).where(key.in_(current))).mappings()
    by_loop = {turn["loop_id"]: turn for turn in turns}
    return [_read(row, by_loop[row["id"]]) for row in listed]


def list_turns(tx: Transaction, loop_id: int) -> list[dict[str, Any]]:
    """Return the rows of a loop's turns, in order."""
    query = sa.select(loop_turns).where(loop_turns.c.loop_id == loop_id)
    return [dict(row) for row in tx.execute(query.order_by(loop_turns.c.turn)).mappings()]


def due_loop(tx: Transaction) -> int | None:
    """Return a running loop that a worker should look at now, or None.

    It is not leased, and is at a step that waits for nothing, or was not looked at for
    CHECK_SECONDS.
    """
    found = tx.scalar(_DUE)
    return None if found is None else int(found)


def update_loop(tx: Transaction, loop_id: int, **values: Any) -> None:
    """Set columns of a loop."""
    tx.execute(sa.update(loops).where(loops.c.id == loop_id).values(values))


def update_turn(tx: Transaction, loop: Loop, **values: Any) -> None:
    """Set columns of a loop's current turn."""
    own = (loop_turns.c.loop_id == loop.id) & (loop_turns.c.turn == loop.turn)
    tx.execute(sa.update(loop_turns).where(own).values(values))


def begin_turn(tx: Transaction, loop: Loop) -> None:
    """Add the next turn of a loop, at its first step."""
    tx.execute(sa.insert(loop_turns), {"loop_id": loop.id, "turn": loop.turn + 1})
    update_loop(tx, loop.id, turn=loop.turn + 1, step=LoopStep.freeze)


def end_loop(tx: Transaction, loop_id: int, state: LoopState, reason: str | None = None) -> None:
    """Set a loop to a state in which it does not advance."""
    ended = state in (LoopState.finished, LoopState.cancelled)
    update_loop(
        tx, loop_id, state=state, reason=reason, finished_at=sa.func.now() if ended else None
    )


def _read(row: Mapping[str, Any], turn: Mapping[str, Any]) -> Loop:
    return Loop(
        id=row["id"],
        lease_id=row["lease_id"],
        name=row["name"],
        state=LoopState(row["state"]),
        step=LoopStep(row["step"]),
        turn=row["turn"],
        plan=read_plan(row["plan"]),
        reason=row["reason"],
        training_seconds=row["training_seconds"],
        snapshot=turn["snapshot_id"],
        run=turn["run_id"],
        checkpoint=turn["checkpoint_id"],
        round=turn["round_id"],
        created_at=row["created_at"],
    )


_LEASED = sa.exists().where(held.c.subject == loops.c.lease_id, held.c.expires_at > sa.func.now())

_DUE = (
    sa.select(loops.c.id)
    .where(
        loops.c.state == LoopState.running,
        ~_LEASED,
        loops.c.step.in_(ADVANCEABLE)
        | loops.c.checked_at.is_(None)
        | (loops.c.checked_at < sa.func.now() - seconds(CHECK_SECONDS)),
    )
    .order_by(loops.c.checked_at.asc().nulls_first())
    .limit(1)
)
