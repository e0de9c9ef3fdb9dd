"""Statistics of the signed-in reviewer, and of all reviewers for data engineers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from curation.api.auth import Annotator, ReadStatistics
from curation.api.contract import error_responses, list_page
from curation.api.fields import STORABLE
from curation.api.paging import Limit, cut_page
from curation.domain import Role
from curation.reporting import kept
from curation.review.reviewers import PERSON, list_reviewers
from curation.statistics.psychometric import Curve

router = APIRouter(prefix="/api", tags=["reviewers"], responses=error_responses(401))


PersonName = Annotated[str, Query(min_length=1, max_length=200), STORABLE]

# Numbers with their uncertainty


class Share(BaseModel):
    """A share of n with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


class RelativeChange(BaseModel):
    """A relative change (0.1 is 10 % more) with its 95 % interval, from n reviews."""

    value: float
    low: float
    high: float
    n: int


class ReviewTime(BaseModel):
    """The review time in milliseconds: median and 90th percentile of n reviews."""

    n: int
    median: float | None
    p90: float | None


class Ac1(BaseModel):
    """Gwet's AC1, at most 1, and 0 for chance, with a 95 % interval; null where undefined."""

    value: float | None
    low: float | None
    high: float | None


# The parts of a reviewer's statistics: see curation.reporting.reviewer_stats


class WithOthers(BaseModel):
    """The agreement with other reviewers on the same candidates."""

    alike: Share | None
    ac1: Ac1


@dataclass(frozen=True)
class NoticedDefect(Curve):
    """The severity (0..1) at which half of the defects of a kind are noticed, with its interval."""

    defect: str
    kind: Literal["single", "pair"]


class GoldResults(BaseModel):
    """Verdicts on gold: rejected obvious defects, accepted clean copies, and a curve per defect."""

    noticed: Share | None
    clean_accepted: Share | None
    curves: list[NoticedDefect]


class LongestRun(BaseModel):
    """The longest run of equal verdicts.

    `expected` is the expected longest run of independent verdicts with the same share, `chance` the
    probability that it is as long as this run.
    """

    verdict: Literal["accept", "reject"]
    longest: int
    expected: float
    chance: float


class CarelessnessSigns(BaseModel):
    """Signs of careless review or fatigue; null where there is not enough data."""

    run: LongestRun | None
    quick: Share | None
    dwell_change_per_hour: RelativeChange | None
    missed_early: Share | None
    missed_late: Share | None


class ReviewerStatsResponse(BaseModel):
    """The statistics of one reviewer, over the latest 20,000 decisions.

    `not_counted` is the number of Label Studio annotations that were too late or unreadable, and
    `as_of` the time at which the statistics were computed; null if that is now.
    """

    name: str
    kind: Literal["person", "rule_reviewer"]
    role: Role
    paused: str | None
    decisions: int
    accepted: Share | None
    hours: float
    decisions_per_hour: float | None
    dwell_ms: ReviewTime
    undone: Share | None
    not_counted: int
    as_of: datetime | None
    agreement: WithOthers
    gold: GoldResults
    signs: CarelessnessSigns


# Routes


@router.get("/me/stats", summary="Get my statistics")
def get_my_stats(visit: Annotator) -> ReviewerStatsResponse:
    """Return my statistics; gold and agreement are rounded, so that no single item is revealed."""
    with visit.transaction() as (tx, reviewer):
        stats = kept.own_report(tx, reviewer)
    return ReviewerStatsResponse(**stats)


@router.get("/reviewers", summary="List the statistics of all reviewers", responses=list_page())
def get_all_reviewer_stats(
    request: Request,
    response: Response,
    visit: ReadStatistics,
    limit: Limit = 100,
    after: PersonName | None = None,
) -> list[ReviewerStatsResponse]:
    """Return the statistics of people who review, in the order in which they were added.

    They follow the person `after`.
    """
    with visit.transaction(one_view=True) as (tx, _):
        found = list_reviewers(tx, kind=PERSON, limit=limit + 1, after=after)
        people = cut_page(request, response, found, limit, attrgetter("name"))
        stats = kept.reviewer_reports(tx, people)
    return [ReviewerStatsResponse(**reviewer) for reviewer in stats]
