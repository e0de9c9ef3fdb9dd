"""The state machine of loops: each call looks at the database and takes at most one step.

A step reads the database, not the content of a message, and writes its result in the transaction
that moves the loop. So every worker may take every step, twice is as good as once, and after a
crash the next look goes on from the last result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Final

import sqlalchemy as sa

from curation.checkpoints import registry, run_queue
from curation.checkpoints.recipes import are_compatible_recipes
from curation.datasets import snapshots
from curation.datasets.snapshot_history import find_current, find_previous
from curation.datasets.snapshots import PreparedSnapshot
from curation.db.engine import Database, Transaction
from curation.db.tables import decisions
from curation.db.time_spans import seconds
from curation.domain import JobName, RoundState, RunState, TrainingRequest
from curation.errors import Refused
from curation.loops import control, diversity_guard, rows, spending
from curation.loops.plan import LoopReviewer, LoopState, LoopStep
from curation.loops.promotion import check_gate
from curation.loops.prompts import choose_prompts, choose_round_prompts
from curation.loops.rows import Loop
from curation.review.frozen_decisions import find_decided
from curation.rounds import lifecycle as rounds
from curation.rounds import work
from curation.store_inventory import InstanceStore

UNDO_SECONDS: Final = 15
"""Age of a round's last decision before the round is closed, which makes decisions final."""

ACTOR: Final = "loop"

LAST_TAG: Final = "latest"
"""Tag of the snapshot that a finished loop leaves."""


def advance(database: Database, store: InstanceStore, loop_id: int) -> bool:
    """Take the next step of a loop if it can be taken; the caller has the loop's lease.

    Args:
        database: The database.
        store: The store of layers and snapshots.
        loop_id: Number of the loop.

    Returns:
        Whether the loop moved, so that another call may take the next step.

    Raises:
        LayerloopError: The step cannot be taken; it is tried again after `control.resume_loop`.
    """
    with database.transaction() as tx:
        loop = rows.find_loop(tx, loop_id, lock=True)
        if loop.state != LoopState.running:
            return False
        spending.add_training_time(tx, loop)
        if _stop_if_spent(tx, loop):
            return False
        if loop.step not in _FREEZING:
            return _STEPS[loop.step](tx, loop)
    # Objects are read and written without an open transaction, so that a pause need not wait. What
    # an overtaken step has written is garbage.
    # Decisions are in it, since every training learns from them what its parent misses.
    prepared = snapshots.prepare_snapshot(database, store, find_decided=find_decided)
    with database.transaction() as tx:
        current = rows.find_loop(tx, loop_id, lock=True)
        if (current.state, current.step, current.turn) != (loop.state, loop.step, loop.turn):
            return False
        return _FREEZING[loop.step](tx, prepared, loop)


def _stop_if_spent(tx: Transaction, loop: Loop) -> bool:
    """Pause a loop whose budget is spent; return whether it was."""
    budget = loop.plan.budget
    if budget.gpu_seconds is None and budget.human_hours is None:
        return False
    reason = spending.exceeded(budget, spending.spent(tx, loop))
    if reason is None:
        return False
    control.pause_loop(tx, loop.id, ACTOR, reason)
    return True


def _freeze(tx: Transaction, prepared: PreparedSnapshot, loop: Loop) -> bool:
    """Freeze the accepted samples for the turn's training."""
    # Missing captions must fail before hours of training.
    choose_prompts(
        tx, 1, loop.plan.seed + loop.turn, loop.plan.kind, use_file_names=loop.plan.file_names
    )
    tag = f"{loop.plan.tag}{loop.turn}"
    snapshots.record_snapshot(tx, prepared, tag=tag, actor=ACTOR)
    rows.update_turn(tx, loop, snapshot_id=prepared.manifest.id)
    return _move(tx, loop, LoopStep.train)


def _finish(tx: Transaction, prepared: PreparedSnapshot, loop: Loop) -> bool:
    """Freeze the last snapshot, with the samples accepted in the last round."""
    snapshots.record_snapshot(tx, prepared, tag=LAST_TAG, actor=ACTOR)
    made = prepared.manifest.id
    rows.update_loop(tx, loop.id, snapshot_id=made)
    rows.end_loop(tx, loop.id, LoopState.finished)
    tx.log(ACTOR, "loop finished", f"loop {loop.id}", snapshot=made)
    return False


def _train(tx: Transaction, loop: Loop) -> bool:
    """Request the turn's training, and take its checkpoint when it has finished."""
    if loop.run is None:
        if not diversity_guard.check_diversity(tx, loop, ACTOR):
            return False
        run = registry.request_training(tx, _training_request(tx, loop), ACTOR)
        rows.update_turn(tx, loop, run_id=run)
        # An equal request may have been trained before.
        if registry.find_run(tx, run)["state"] != RunState.finished and loop.plan.priority:
            run_queue.set_priority(tx, run, loop.plan.priority, ACTOR)
        return True
    row = registry.find_run(tx, loop.run)
    if row["state"] == RunState.finished:
        rows.update_turn(tx, loop, checkpoint_id=row["checkpoint_id"])
        return _move(tx, loop, LoopStep.promote)
    if row["state"] in (RunState.failed, RunState.cancelled):
        reason = (
            f"training failed: {row['error']}"
            if row["state"] == RunState.failed
            else f"training was {row['error']}"
        )
        rows.end_loop(tx, loop.id, LoopState.failed, reason)
        tx.log(ACTOR, "loop failed", f"loop {loop.id}", reason=reason[:500])
    return False


def _training_request(tx: Transaction, loop: Loop) -> TrainingRequest:
    """Return the training of a turn: it begins with the promoted checkpoint of the same preset."""
    plan = loop.plan
    parent = registry.find_promoted_checkpoint(tx)
    if parent is not None and not (
        parent.preset == plan.preset and are_compatible_recipes(parent.recipe, plan.recipe)
    ):
        parent = None
    previous = snapshots.find_local_snapshot(tx, parent.snapshot) if parent else None
    if loop.snapshot is None:
        raise Refused(f"turn {loop.turn} has no snapshot", "cancel the loop and start another")
    # A takedown may have removed samples since it was frozen.
    current = find_current(tx, loop.snapshot)
    previous = find_previous(tx, previous)
    # The rule reviewer stands for people, so that its verdicts teach as theirs would.
    by_rules = {"automatic_decisions": "true"} if plan.reviewer == LoopReviewer.rules else {}
    return TrainingRequest(
        plan.recipe,
        plan.preset,
        current,
        previous,
        parent,
        plan.seed + loop.turn,
        plan.images,
        dict(parent.changes if parent else {})
        | by_rules
        | dict(plan.changes)
        | diversity_guard.changes_of_turn(tx, loop),
    )


def _promote(tx: Transaction, loop: Loop) -> bool:
    """Promote the turn's checkpoint, unless the gate refuses it."""
    made = registry.find_checkpoint(tx, str(loop.checkpoint))
    last = registry.find_promoted_checkpoint(tx)
    # A promotion by hand of this very checkpoint settles the question.
    settled = last is not None and last.id == made.id
    results = check_gate(loop.plan.gate, made.evaluation, last.evaluation if last else None)
    passed = settled or all(result.passed for result in results)
    rows.update_turn(tx, loop, gate=[asdict(result) for result in results], promoted=passed)
    if passed and not settled:
        registry.promote_checkpoint(tx, made.id, ACTOR)
    if not passed:
        refused = ", ".join(result.condition for result in results if not result.passed)
        tx.log(ACTOR, "checkpoint refused", made.id, loop=loop.id, conditions=refused)
        if last is None:
            reason = (
                f"checkpoint {made.id[:12]} does not satisfy {refused}, and no other is promoted"
            )
            control.pause_loop(tx, loop.id, ACTOR, reason)
            return False
    return _move(tx, loop, LoopStep.open)


def _open(tx: Transaction, loop: Loop) -> bool:
    """Open the turn's round, generated by the promoted checkpoint."""
    plan = loop.plan
    checkpoint = registry.find_promoted_checkpoint(tx)
    if checkpoint is None:
        raise Refused("no checkpoint is promoted", "'layerloop checkpoint promote'")
    seed = plan.seed + loop.turn
    chosen = choose_round_prompts(
        tx, plan.quota, seed, plan.kind, plan.steering, use_file_names=plan.file_names
    )
    round_id = rounds.open_round(
        tx,
        checkpoint=checkpoint.id,
        prompt_list=chosen.prompts,
        choices=chosen.choices,
        steering=chosen.report,
        quota=plan.quota,
        seed=seed,
        policy=plan.policy,
        kind=plan.kind,
        actor=ACTOR,
    )
    work.set_rule_reviewer(tx, round_id, plan.reviewer == LoopReviewer.rules, ACTOR)
    if plan.priority:
        work.set_priority(tx, round_id, plan.priority, ACTOR)
    rows.update_turn(tx, loop, round_id=round_id)
    return _move(tx, loop, LoopStep.review)


def _review(tx: Transaction, loop: Loop) -> bool:
    """Close the turn's round when nothing in it is unfinished, or enough is accepted."""
    round_id = int(loop.round or 0)
    round_ = rounds.find_round(tx, round_id)
    if round_["state"] != RoundState.closed:
        counts = rounds.count_states(tx, round_id)
        enough = _has_enough(tx, loop)
        unfinished = any(counts.get(state) for state in rounds.UNFINISHED_STATES)
        if unfinished and not enough:
            # The chain of review jobs may have ended before the last candidates came.
            if round_["rule_reviewer"] and counts.get("waiting") and not counts.get("showing"):
                tx.enqueue(JobName.review, round_id)
            return False
        if not enough and not round_["rule_reviewer"] and not _undo_is_past(tx, round_id):
            return False
        rounds.close_round(tx, round_id, ACTOR)
        tx.enqueue(JobName.measure_diversity, round_id)
    # The report of a round that has ended is complete.
    if diversity_guard.awaits_measurement(tx, round_id):
        return False
    if loop.turn >= loop.plan.rounds or _has_enough(tx, loop):
        return _move(tx, loop, LoopStep.finish)
    rows.begin_turn(tx, loop)
    return True


def _has_enough(tx: Transaction, loop: Loop) -> bool:
    """Return whether the loop has the accepted samples that its budget requires."""
    wanted = loop.plan.budget.accepted
    return wanted is not None and (spending.spent(tx, loop).accepted or 0) >= wanted


def _undo_is_past(tx: Transaction, round_id: int) -> bool:
    """Return whether the last decision of a round is too old to be undone."""
    recent = decisions.c.created_at > sa.func.now() - seconds(UNDO_SECONDS)
    own = decisions.c.round_id == round_id
    return tx.scalar(sa.select(decisions.c.id).where(own, recent).limit(1)) is None


def _move(tx: Transaction, loop: Loop, step: LoopStep) -> bool:
    rows.update_loop(tx, loop.id, step=step)
    return True


_STEPS: Mapping[LoopStep, Callable[[Transaction, Loop], bool]] = {
    LoopStep.train: _train,
    LoopStep.promote: _promote,
    LoopStep.open: _open,
    LoopStep.review: _review,
}

_FREEZING: Mapping[LoopStep, Callable[[Transaction, PreparedSnapshot, Loop], bool]] = {
    LoopStep.freeze: _freeze,
    LoopStep.finish: _finish,
}
