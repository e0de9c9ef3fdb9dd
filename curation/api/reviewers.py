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


class Share(BaseModel):
    """A share of n with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


class Change(BaseModel):
    """A relative change (0.1: a tenth more) with its 95 % interval, from n looks."""

    value: float
    low: float
    high: float
    n: int


class Dwell(BaseModel):
    """How long n looks took, in milliseconds: half of them less than `median`, nine of ten less than `p90`."""

    n: int
    median: float | None
    p90: float | None


class Chance(BaseModel):
    """Gwet's AC1, 1 at its best and 0 for chance, with a 95 % interval; null where undefined."""

    value: float | None
    low: float | None
    high: float | None


class WithOthers(BaseModel):
    """How often others said the same of the same candidates."""

    alike: Share | None
    ac1: Chance


@dataclass(frozen=True)
class NoticedDefect(Curve):
    """From which severity (0..1) a defect is noticed half of the time, by kind of candidate, with its 95 % interval."""

    defect: str
    kind: Literal["single", "pair"]


class GoldAnswers(BaseModel):
    """Answers to gold: plain defects that were rejected, clean copies that were accepted, a curve for each defect."""

    noticed: Share | None
    clean_accepted: Share | None
    curves: list[NoticedDefect]


class Run(BaseModel):
    """The longest run of equal verdicts, what coins of the same share bring, and how often they bring one as long."""

    verdict: Literal["accept", "reject"]
    longest: int
    expected: float
    chance: float


class Facts(BaseModel):
    """What may speak of stamping or of fatigue, with its numbers; null where it cannot be told yet."""

    run: Run | None
    quick: Share | None
    dwell_change_per_hour: Change | None
    missed_early: Share | None
    missed_late: Share | None


class ReviewerStanding(BaseModel):
    """The figures of one reviewer, of their latest 20,000 decisions.

    `not_counted` are answers at Label Studio that came too late or could not be read.
    """

    name: str
    kind: Literal["person", "oracle"]
    access: Role
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


@router.get("/me/figures", summary="Get my statistics")
def get_mine(visit: Annotator) -> ReviewerStanding:
    """My own figures; gold and agreement in whole tens, so that no single answer can be recognised."""
    with visit.enter() as (tx, reviewer):
        told = reviewer_stats.reviewer_figures(tx, reviewer, to_themselves=True)
    return ReviewerStanding(**told)


@router.get("/reviewers", summary="List the statistics of all reviewers")
def get_all(visit: Engineer) -> list[ReviewerStanding]:
    """The figures of every person."""
    with visit.enter(one_view=True) as (tx, _):
        told = reviewer_stats.all_figures(tx)
    return [ReviewerStanding(**one) for one in told]
