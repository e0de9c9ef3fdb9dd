"""Reviewer statistics: one's own, and those of all reviewers for data engineers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from curation.api.auth import Annotator, Engineer
from curation.api.contract import answers
from curation.domain import Role
from curation.reporting import reviewer_stats
from curation.statistics.psychometric import Curve

router = APIRouter(prefix="/api", tags=["reviewers"], responses=answers(401))


# Numbers with their uncertainty


class Share(BaseModel):
    """A share of n with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


class Change(BaseModel):
    """A relative change (0.1 is 10 % more) with its 95 % interval, from n reviews."""

    value: float
    low: float
    high: float
    n: int


class Dwell(BaseModel):
    """The review time in milliseconds: median and 90th percentile of n reviews."""

    n: int
    median: float | None
    p90: float | None


class Chance(BaseModel):
    """Gwet's AC1, at most 1, and 0 for chance, with a 95 % interval; null where undefined."""

    value: float | None
    low: float | None
    high: float | None


# The parts of a reviewer's statistics: see curation.reporting.reviewer_stats


class WithOthers(BaseModel):
    """The agreement with other reviewers on the same candidates."""

    alike: Share | None
    ac1: Chance


@dataclass(frozen=True)
class NoticedDefect(Curve):
    """The severity (0..1) at which half of the defects of a kind are noticed, with its interval."""

    defect: str
    kind: Literal["single", "pair"]


class GoldAnswers(BaseModel):
    """Verdicts on gold: rejected obvious defects, accepted clean copies, and a curve per defect."""

    noticed: Share | None
    clean_accepted: Share | None
    curves: list[NoticedDefect]


class Run(BaseModel):
    """The longest run of equal verdicts.

    `expected` is the expected longest run of independent verdicts with the same share, `chance` the
    probability that it is as long as this run.
    """

    verdict: Literal["accept", "reject"]
    longest: int
    expected: float
    chance: float


class Facts(BaseModel):
    """Signs of careless review or fatigue; null where there is not enough data."""

    run: Run | None
    quick: Share | None
    dwell_change_per_hour: Change | None
    missed_early: Share | None
    missed_late: Share | None


class ReviewerStanding(BaseModel):
    """The statistics of one reviewer, over the latest 20,000 decisions.

    `not_counted` is the number of Label Studio annotations that were too late or unreadable.
    """

    name: str
    kind: Literal["person", "rule_reviewer"]
    role: Role
    paused: str | None
    decisions: int
    accepted: Share | None
    hours: float
    decisions_per_hour: float | None
    dwell_ms: Dwell
    undone: Share | None
    not_counted: int
    agreement: WithOthers
    gold: GoldAnswers
    facts: Facts


# Routes


@router.get("/me/stats", summary="Get my statistics")
def get_mine(visit: Annotator) -> ReviewerStanding:
    """Return my statistics; gold and agreement are rounded, so that no single item is revealed."""
    with visit.enter() as (tx, reviewer):
        stats = reviewer_stats.reviewer_statistics(tx, reviewer, to_themselves=True)
    return ReviewerStanding(**stats)


@router.get("/reviewers", summary="List the statistics of all reviewers")
def get_all(visit: Engineer) -> list[ReviewerStanding]:
    """Return the statistics of all people who review."""
    with visit.enter(one_view=True) as (tx, _):
        stats = reviewer_stats.all_statistics(tx)
    return [ReviewerStanding(**reviewer) for reviewer in stats]
