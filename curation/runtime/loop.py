"""The loop itself: snapshot, train, promote, draw, review, close, and again; it always goes on from what stands."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation.checkpoints import registry
from curation.datasets import holdout, snapshots
from curation.datasets.samples import without_caption
from curation.db.engine import Transaction
from curation.db.tables import decisions, samples
from curation.db.tables import rounds as rounds_table
from curation.domain import (
    CaptionSource,
    Checkpoint,
    Kind,
    Progress,
    Prompt,
    RoundState,
    RunState,
    TrainingRequest,
)
from curation.errors import LayerloopError, Refused
from curation.rounds import lifecycle as rounds
from curation.runtime.context import AppContext

POLL_SECONDS = 0.5
ASK_AGAIN_SECONDS = 5.0
UNDO_SECONDS = 15
ACTOR = "loop"

_DRAWING = ("requested", "drawing", "drawn", "screened")
_DECIDING = ("waiting", "showing")


@dataclass(frozen=True)
class Plan:
    """What a whole run of the loop should do; the same plan on the same home goes on where it stopped."""

    rounds: int
    quota: int
    preset: str
    reviewer: str  # "oracle" decides by itself; any other waits for people at the pages
    seed: int = 0
    recipe: str = "whole"
    images: int = 0
    kind: Kind = Kind.single  # what its rounds draw
    file_names: bool = False  # whether captions made from file names are prompts too


Tell = Callable[[Progress], None]


def run_loop(context: AppContext, plan: Plan, tell: Tell) -> list[int]:
    """Run the planned rounds to their end and return their numbers; `tell` hears how far each step is.

    A turn begins with training, so that every round is drawn by a checkpoint trained on all that was accepted before.
    """
    numbers: list[int] = []
    for turn in range(1, plan.rounds + 1):
        number = _round_of(context, turn)
        if number is None:
            with context.database.transaction() as tx:  # before minutes of training, not after them
                choose_prompts(tx, 1, plan.seed + turn, plan.kind, file_names=plan.file_names)
            checkpoint = _train(context, plan, turn, tell)
            number = _open(context, plan, turn, checkpoint)
        _wait_for_verdicts(context, plan, number, turn, tell)
        numbers.append(number)
    _freeze(context, "latest")
    return numbers


def _freeze(context: AppContext, tag: str) -> str:
    holdout.fingerprint_layers(context.database, context.store)
    with context.database.transaction(one_view=True) as tx:
        return snapshots.freeze(tx, context.store, tag=tag, actor=ACTOR).id


def _round_of(context: AppContext, turn: int) -> int | None:
    """The number of the round that this turn has opened already, if it has."""
    with context.database.transaction() as tx:
        drawn = (
            sa.select(rounds_table.c.id)
            .where(rounds_table.c.purpose == "drawn")
            .order_by(rounds_table.c.id)
        )
        numbers = [row.id for row in tx.execute(drawn)]
    return numbers[turn - 1] if len(numbers) >= turn else None


def _train(context: AppContext, plan: Plan, turn: int, tell: Tell) -> Checkpoint:
    """Freeze what is accepted, train on it from the last checkpoint, and let the new one draw."""
    snapshot = _freeze(context, f"round-{turn}")
    with context.database.transaction() as tx:
        order = _order(tx, plan, turn, snapshot)
        run = registry.order_training(tx, order, ACTOR)
    checkpoint = _wait_for_run(context, run, turn, tell)
    with context.database.transaction() as tx:
        registry.promote(tx, checkpoint, ACTOR)
        return registry.find_checkpoint(tx, checkpoint)


def _order(tx: Transaction, plan: Plan, turn: int, snapshot: str) -> TrainingRequest:
    """The order of a turn; its parent is what drew the turn before, so that a repeated turn orders the same run."""
    before = sa.select(rounds_table.c.checkpoint_id).where(rounds_table.c.purpose == "drawn")
    name = tx.scalar(before.order_by(rounds_table.c.id.desc()).limit(1))
    parent = registry.find_checkpoint(tx, name) if name else None
    previous = snapshots.known(tx, parent.snapshot) if parent else None
    return TrainingRequest(
        plan.recipe, plan.preset, snapshot, previous, parent, plan.seed + turn, plan.images
    )


def _wait_for_run(context: AppContext, run: uuid.UUID, turn: int, tell: Tell) -> str:
    while True:
        with context.database.transaction() as tx:
            row = registry.find_run(tx, run)
        if row["state"] == RunState.finished:
            return str(row["checkpoint_id"])
        if row["state"] == RunState.cancelled:
            raise LayerloopError(
                f"the training was {row['error']}", "the same command goes on where it stopped"
            )
        if row["state"] == RunState.failed:
            raise LayerloopError(
                f"training failed: {row['error']}",
                "the worker's log in the home has the whole story",
            )
        seen = row["progress"]
        if seen:
            tell(
                Progress(
                    f"turn {turn}: {seen['stage']}", seen["done"], seen["total"], seen["figures"]
                )
            )
        time.sleep(POLL_SECONDS)


def _open(context: AppContext, plan: Plan, turn: int, checkpoint: Checkpoint) -> int:
    with context.database.transaction() as tx:
        texts = choose_prompts(
            tx, plan.quota, plan.seed + turn, plan.kind, file_names=plan.file_names
        )
        return rounds.open_round(
            tx,
            checkpoint=checkpoint.id,
            prompts_=texts,
            quota=plan.quota,
            seed=plan.seed + turn,
            kind=plan.kind,
            actor=ACTOR,
        )


def choose_prompts(
    tx: Transaction, count: int, seed: int, kind: Kind = Kind.single, *, file_names: bool = False
) -> Sequence[Prompt]:
    """Up to `count` prompts for a round: captions as often as seeds bear them, shuffled by a hash, anew each turn.

    Of pairs all three texts of a seed pair; of single layers the text of a layer alone, where a seed has one.
    `file_names` takes captions that were made from file names too. Raises Refused where all seeds lack a caption.
    """
    line = sa.cast(samples.c.line, sa.dialects.postgresql.JSONB)
    shuffled = sa.func.md5(sa.func.concat(seed, ":", samples.c.id))
    texts = [line["texts"][role].astext.label(role) for role in ("foreground", "background")]
    seeds = sa.select(line["caption"].astext.label("text"), *texts).where(
        samples.c.withdrawn_at.is_(None)
    )
    seeds = seeds.where(samples.c.round == 0).order_by(shuffled).limit(count)
    bare = without_caption() & ~sa.func.coalesce(line["texts"].has_key("foreground"), sa.false())
    if file_names:
        bare &= samples.c.caption_source != CaptionSource.file_name
    seeds = seeds.where(~bare)
    if kind is Kind.pair:
        found = tx.execute(
            seeds.where(samples.c.kind == Kind.pair, line["texts"].has_key("background"))
        )
        return [Prompt(row.text, row.foreground, row.background) for row in found]
    prompts = [Prompt(row.foreground or row.text) for row in tx.execute(seeds)]
    if not prompts and count_seeds(tx):
        raise Refused(
            "no seed has a caption to draw from: captions made from file names are no prompts",
            "'layerloop caption run' writes captions; --prompts-from-names takes the names as prompts",
        )
    return prompts


def count_seeds(tx: Transaction) -> int:
    """How many imported samples stand."""
    standing = samples.c.withdrawn_at.is_(None) & (samples.c.round == 0)
    return int(tx.scalar(sa.select(sa.func.count()).select_from(samples).where(standing)))


def _wait_for_verdicts(context: AppContext, plan: Plan, number: int, turn: int, tell: Tell) -> None:
    """Wait until the round is drawn and decided, then close it; a closed round is passed by."""
    asked = 0.0
    while True:
        with context.database.transaction() as tx:
            row = rounds.find_round(tx, number)
            counts = rounds.count_states(tx, number)
            if row["state"] == RoundState.closed:
                return
            standing = any(counts.get(state) for state in (*_DRAWING, *_DECIDING))
            if not standing and (plan.reviewer == "oracle" or _undo_is_past(tx)):
                rounds.close_round(tx, number, ACTOR)
                return
            idle = counts.get("waiting") and not counts.get("showing")
            if plan.reviewer == "oracle" and idle and time.monotonic() - asked > ASK_AGAIN_SECONDS:
                tx.ask("decide", number)
                asked = time.monotonic()
        tell(_standing(counts, turn))
        time.sleep(POLL_SECONDS)


def _undo_is_past(tx: Transaction) -> bool:
    """Whether the last decision is old enough that its reviewer will hardly undo it: closing makes it history."""
    recent = decisions.c.at > sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, UNDO_SECONDS)
    return tx.scalar(sa.select(decisions.c.id).where(recent).limit(1)) is None


def _standing(counts: dict[str, int], turn: int) -> Progress:
    """How far a round is, as progress: first what is drawn, then what is decided."""
    total = sum(counts.values())
    drawing = sum(counts.get(state, 0) for state in _DRAWING)
    if drawing:
        return Progress(f"turn {turn}: drawing", total - drawing, total)
    deciding = sum(counts.get(state, 0) for state in _DECIDING)
    figures: dict[str, Any] = {"accepted": counts.get("accepted", 0)}
    return Progress(f"turn {turn}: review", total - deciding, total, figures)
