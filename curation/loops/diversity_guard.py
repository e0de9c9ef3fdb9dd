"""The guard of diversity: before a turn trains, look whether the last round lost diversity.

A generator that learns from its own accepted images may come to draw ever fewer kinds of them. More
imported seeds in each batch work against that (Alemohammad et al., ICLR 2024, arXiv 2307.01850).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from curation.checkpoints import registry
from curation.db.engine import Transaction
from curation.db.tables import loop_turns, rounds
from curation.db.time_spans import seconds
from curation.loops import control
from curation.loops.plan import DiversityGuard
from curation.loops.rows import Loop, update_turn
from curation.selection.diversity_report import diversity_report

REAL_SHARE: Final = "real_share"
"""Preset column: the least share of imported seeds among the images of a training."""
DEFAULT_SHARE: Final = 0.25
"""The share of seeds in all presets."""
SHARE_STEP: Final = 0.15
"""By how much the share of seeds is raised when diversity is lost."""
MAX_SHARE: Final = 0.7
"""The largest share of seeds that the guard sets."""
WAIT_SECONDS: Final = 900
"""Time after the end of a round in which a loop waits until the round is measured."""


def check_diversity(tx: Transaction, loop: Loop, actor: str) -> bool:
    """Look at the diversity of the last round, once in a turn, and react as the plan says.

    Args:
        tx: The transaction.
        loop: The loop, before its training.
        actor: The name for the log.

    Returns:
        Whether the turn may train now; otherwise the loop was paused, or the round is not measured
        yet.
    """
    last = _last_round(tx, loop)
    if last is None or loop.plan.diversity_guard is DiversityGuard.off or _answer(tx, loop):
        return True
    report = diversity_report(tx, last)
    if report is None:
        if not _waited_long(tx, loop):
            return False
        _note(tx, loop, {"round": last, "action": None})
        tx.log(actor, "diversity not measured", f"loop {loop.id}", round=last)
        return True
    answer = {"round": last, "first": report["first_round"], "action": None} | _vendi(report)
    if not report["lost"]:
        _note(tx, loop, answer)
        return True
    answer["action"] = str(loop.plan.diversity_guard)
    if loop.plan.diversity_guard is DiversityGuard.mix:
        answer[REAL_SHARE] = _raised_share(tx, loop)
    _note(tx, loop, answer)
    tx.log(actor, "diversity lost", f"loop {loop.id}", **answer)
    if loop.plan.diversity_guard is DiversityGuard.stop:
        # A resumed loop finds the answer of this turn, and trains.
        control.pause_loop(tx, loop.id, actor, describe_answer(answer))
        return False
    return True


def awaits_measurement(tx: Transaction, round_id: int) -> bool:
    """Return whether a round was closed lately and its diversity is not measured yet."""
    lately = rounds.c.closed_at > sa.func.now() - seconds(WAIT_SECONDS)
    is_recent = tx.scalar(sa.select(lately).where(rounds.c.id == round_id))
    return bool(is_recent) and diversity_report(tx, round_id) is None


def changes_of_turn(tx: Transaction, loop: Loop) -> dict[str, str]:
    """Return the changes of the preset that the guard made for the turn's training."""
    share = (_answer(tx, loop) or {}).get(REAL_SHARE)
    return {} if share is None else {REAL_SHARE: str(share)}


def answer_to_round(tx: Transaction, round_id: int) -> str | None:
    """Return what the guard of a loop did after a round, as a sentence; None for nothing."""
    about = loop_turns.c.guard["round"].as_integer() == round_id
    # The next turn of the round's loop.
    own = sa.select(loop_turns.c.loop_id).where(loop_turns.c.round_id == round_id)
    query = sa.select(loop_turns.c.guard).where(loop_turns.c.loop_id.in_(own), about)
    answer: Mapping[str, Any] | None = tx.scalar(query.order_by(loop_turns.c.turn).limit(1))
    return describe_answer(answer or {}) or None


def describe_answer(answer: Mapping[str, Any]) -> str:
    """Return a sentence on what the guard found and did; empty if it did nothing."""
    if not answer.get("action"):
        return ""
    found = (
        f"round {answer['round']} lost diversity: its Vendi score is {answer['ratio']:.2f} times "
        f"that of round {answer['first']} (95 % {answer['low']:.2f} to {answer['high']:.2f})"
    )
    if answer["action"] == DiversityGuard.mix:
        return f"{found}; at least {answer[REAL_SHARE]:.0%} of the next training are seeds"
    return found


def _vendi(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratio of the Vendi score to that of the first round, as fields of an answer."""
    for figure in report["figures"]:
        if figure["name"] == "vendi" and figure["ratio"]:
            ratio = figure["ratio"]
            return {"ratio": ratio["value"], "low": ratio["low"], "high": ratio["high"]}
    return {}


def _raised_share(tx: Transaction, loop: Loop) -> float:
    """Return the next larger share of seeds: a step above that of the last training."""
    parent = registry.find_promoted_checkpoint(tx)
    changes = dict(parent.changes if parent else {}) | dict(loop.plan.changes)
    current = float(changes.get(REAL_SHARE, DEFAULT_SHARE))
    return max(current, round(min(current + SHARE_STEP, MAX_SHARE), 2))


def _last_round(tx: Transaction, loop: Loop) -> int | None:
    before = loop_turns.c.turn < loop.turn
    query = sa.select(loop_turns.c.round_id).where(loop_turns.c.loop_id == loop.id, before)
    query = query.where(loop_turns.c.round_id.is_not(None))
    found = tx.scalar(query.order_by(loop_turns.c.turn.desc()).limit(1))
    return None if found is None else int(found)


def _own_turn(loop: Loop) -> sa.ColumnElement[bool]:
    return (loop_turns.c.loop_id == loop.id) & (loop_turns.c.turn == loop.turn)


def _answer(tx: Transaction, loop: Loop) -> dict[str, Any] | None:
    found: dict[str, Any] | None = tx.scalar(sa.select(loop_turns.c.guard).where(_own_turn(loop)))
    return found


def _note(tx: Transaction, loop: Loop, answer: Mapping[str, Any]) -> None:
    update_turn(tx, loop, guard=dict(answer))


def _waited_long(tx: Transaction, loop: Loop) -> bool:
    long_ago = loop_turns.c.created_at < sa.func.now() - seconds(WAIT_SECONDS)
    return bool(tx.scalar(sa.select(long_ago).where(_own_turn(loop))))
