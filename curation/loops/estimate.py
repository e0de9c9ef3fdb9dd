"""Estimate of a loop's cost from rates that this instance has measured, with what each rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation.db import counts
from curation.db.engine import Transaction
from curation.loops.plan import LoopPlan, LoopReviewer


@dataclass(frozen=True)
class Estimate:
    """An estimated quantity of a whole loop.

    Attributes:
        name: One of training_seconds, generation_seconds, human_hours and accepted.
        value: The estimate; None where nothing like it was measured here.
        basis: Its basis, in words.
    """

    name: str
    value: float | None
    basis: str


def estimate_loop(tx: Transaction, plan: LoopPlan) -> list[Estimate]:
    """Estimate what a loop would cost and yield.

    Args:
        tx: The transaction.
        plan: The plan.
    """
    params = {"preset": plan.preset, "recipe": plan.recipe, "images": plan.images}
    candidates = plan.rounds * plan.quota
    shown = candidates * float(plan.policy.get("share", 1.0))

    # Time of GPU workers: trainings of the same preset, and rounds of its checkpoints.
    row = tx.execute(_TRAINING, params).one()
    training = Estimate(
        "training_seconds",
        row.seconds * plan.rounds if row.n else None,
        f"the median of {row.n} finished runs of recipe {plan.recipe} with preset {plan.preset}"
        if row.n
        else f"no run of recipe {plan.recipe} with preset {plan.preset} and this number of images "
        "has finished here",
    )
    row = tx.execute(_GENERATING, params).one()
    generation = Estimate(
        "generation_seconds",
        row.seconds * candidates if row.n else None,
        f"{row.n:,} candidates of checkpoints with preset {plan.preset}"
        if row.n
        else f"no candidate was generated here with preset {plan.preset}",
    )
    return [training, generation, _review(tx, plan, shown), _accepted(tx, shown)]


def estimate_dict(estimates: list[Estimate]) -> dict[str, Any]:
    """Return estimates as JSON data by their names."""
    return {item.name: {"value": item.value, "basis": item.basis} for item in estimates}


def format_estimate(estimates: list[Estimate]) -> list[str]:
    """Return estimates as lines for the terminal."""
    lines = []
    for item in estimates:
        value = "unknown" if item.value is None else f"{item.value:,.1f}"
        lines.append(f"  {item.name.replace('_', ' '):<20} {value:>12}   {item.basis}")
    return lines


def _review(tx: Transaction, plan: LoopPlan, shown: float) -> Estimate:
    """Return the review time of people."""
    if plan.reviewer == LoopReviewer.rules:
        return Estimate("human_hours", 0.0, "the rule reviewer decides")
    row = tx.execute(_REVIEWING).one()
    return Estimate(
        "human_hours",
        float(row.seconds) * shown / 3_600 if row.n else None,
        f"the mean time of the last {row.n:,} decisions of people"
        if row.n
        else "no person has decided here yet",
    )


def _accepted(tx: Transaction, shown: float) -> Estimate:
    """Return the number of accepted samples."""
    latest = [row.id for row in tx.execute(_LATEST)]
    states = counts.count_states(tx, latest).values()
    decided = sum(found.get(state, 0) for found in states for state in _DECIDED)
    accepted = sum(found.get("accepted", 0) for found in states)
    return Estimate(
        "accepted",
        shown * accepted / decided if decided else None,
        f"the accepted share of {decided:,} refused or decided candidates in the last rounds"
        if decided
        else "no round was decided here yet",
    )


_DECIDED = ("accepted", "rejected", "refused")

_TRAINING = sa.text("""
    select count(*) as n, percentile_cont(0.5) within group (order by seconds) as seconds from (
        select extract(epoch from finished_at - started_at)::float * machines as seconds
        from training_runs
        where state = 'finished' and started_at is not null and preset = :preset
            and recipe = :recipe and images = :images
        order by finished_at desc limit 10) latest""")

_GENERATING = sa.text("""
    select coalesce(sum(quota), 0) as n, sum(gpu_seconds) / nullif(sum(quota), 0) as seconds from (
        select r.quota, r.gpu_seconds from rounds r join checkpoints k on k.id = r.checkpoint_id
        where r.state = 'closed' and r.gpu_seconds > 0 and k.preset = :preset
        order by r.id desc limit 10) latest""")

_REVIEWING = sa.text("""
    select count(*) as n, avg(dwell_ms)::float / 1000 as seconds from (
        select d.dwell_ms from decisions d join reviewers v on v.id = d.reviewer_id
        where v.kind = 'person' and d.dwell_ms is not null order by d.id desc limit 1000) latest""")

_LATEST = sa.text("""
    select id from rounds where purpose = 'generated' and state = 'closed'
    order by id desc limit 10""")
