"""Responses of the round routes: rounds, their reports, and the agreement of reviewers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from curation.api.steering_responses import Steering
from curation.domain import CandidateState, Kind, LayerRole, RejectReason, RoundState

# Rounds


class OwnProgress(BaseModel):
    """My progress in a round: candidates that I may still get, my verdicts, and my accepts."""

    waiting: int
    mine: int
    accepted: int


class RoundResponse(BaseModel):
    """A round with the number of its candidates by state.

    Annotators get only the counts of states before review, and no checkpoint: the others would
    reveal verdicts of other reviewers, and which candidates are gold. `own` is the caller's
    progress, in the list of rounds.
    """

    id: int
    purpose: Literal["generated", "seeds"]
    kind: Kind
    state: RoundState
    quota: int
    priority: int
    checkpoint: str | None
    opened_at: datetime
    closed_at: datetime | None
    counts: dict[CandidateState, int]
    own: OwnProgress | None = None


class RoundWithPolicy(RoundResponse):
    """A round with the policy that selects candidates for review."""

    policy: dict[str, Any]


# The report of a round: see curation.reporting.round_report


class Funnel(BaseModel):
    """The numbers of candidates from request to verdict."""

    requested: int
    generated: int
    refused: int
    shown: int
    decided: int
    accepted: int
    rejected: int
    waiting: int
    unshown: int
    failed: int


class RefusalCount(BaseModel):
    """The number of candidates that screening refused by one signal."""

    signal: str | None
    count: int


class ReasonCount(BaseModel):
    """How often one kind of reviewer gave a reason, for pairs by layer (null if not given)."""

    reason: RejectReason
    layer: LayerRole | None
    count: int
    kind: Literal["person", "rule_reviewer", "auto_reviewer"]


class SignalSummary(BaseModel):
    """The distribution of a signal over n candidates: 10th percentile, median, 90th percentile."""

    name: str
    n: int
    low: float
    median: float
    high: float


class Defects(BaseModel):
    """Rejects per 100, with the 95 % Wilson interval, from n decisions weighted by propensity.

    In a steered round only prompts that were chosen at random count, so that rounds compare.
    """

    value: float
    low: float
    high: float
    n: int


class DefectsByKind(BaseModel):
    """Defects found by people and by the rule reviewer; null without decisions."""

    person: Defects | None
    rule_reviewer: Defects | None


class ReviewerCounts(BaseModel):
    """The decisions of one reviewer in a round."""

    name: str
    kind: Literal["person", "rule_reviewer", "auto_reviewer"]
    decisions: int
    accepted: int
    median_dwell_ms: float | None


class ReviewCost(BaseModel):
    """The review time of a round; null without accepts or without measured times."""

    seconds_per_accept: float | None
    accepts_per_hour: float | None
    decisions: int
    reviewers: list[ReviewerCounts]


class RuleReviewerStatistics(BaseModel):
    """The decisions of the rule reviewer."""

    decisions: int
    accepted: int


class AutoReviewerStatistics(RuleReviewerStatistics):
    """The automatic decisions, by a gate or by top-N acceptance."""


class SliceCost(BaseModel):
    """The review time per accept for one part of a policy; null without measured times."""

    slice: str
    reviews: int
    seconds: float | None
    accepted: int
    seconds_per_accept: float | None


class NextHour(BaseModel):
    """The forecast for an hour of review: reviews at the present rate, and accepts by score."""

    reviews: float
    left: int
    accepts: float
    certain: bool


class CostReport(BaseModel):
    """Cost per accepted sample, the forecast, and the reason to stop review, if there is one."""

    slices: list[SliceCost]
    next_hour: NextHour | None
    stop: str | None


class ErrorBounds(BaseModel):
    """k errors in n decisions, with one-sided exact bounds on their share at the gate's level."""

    k: int
    n: int
    low: float
    high: float


class AuditAnswer(BaseModel):
    """People's verdicts on a sample of a gate's decisions; `low` bounds the error rate below."""

    judged: int
    errors: int
    low: float


class Gate(BaseModel):
    """A score beyond which the auto-reviewer decides, with its error rates.

    `lost` bounds the share of good candidates that a reject gate rejects, or of bad candidates that
    an accept gate accepts; `wrong` bounds the share of wrong verdicts. `contradicted` means that
    its audit has closed it.
    """

    id: int
    verdict: Literal["accept", "reject"]
    interim_look: int
    threshold: float
    budget: float
    level: float
    share: float
    lost: ErrorBounds
    wrong: ErrorBounds
    audit: AuditAnswer
    stands: bool
    contradicted: bool


class EstimateWithInterval(BaseModel):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class DiversityFigure(BaseModel):
    """A figure of diversity with its 95 % interval.

    `seeds` is that of the seeds themselves; `ratio` is to the figure of the first round.
    """

    name: Literal["vendi", "distance", "recall"]
    value: float
    low: float
    high: float
    seeds: float | None
    ratio: EstimateWithInterval | None


class Diversity(BaseModel):
    """The diversity of what was drawn, as that of `size` candidates, beside the first round's.

    `figures` is empty where fewer than `needed` candidates were drawn. `lost`: the Vendi score fell
    by more than a tenth, and by more than chance.
    """

    embedder: str
    candidates: int
    needed: int
    size: int | None
    first_round: int | None
    figures: list[DiversityFigure]
    lost: bool


class RoundComparison(BaseModel):
    """A figure of a round beside that of an earlier one.

    `p` is the probability of such a difference, or a larger one, between equal rounds; below 0.05
    the verdict is not "within chance".
    """

    round: int
    earlier: int
    figure: Literal["acceptance", "defects_per_100", "shape_and_color", "vendi"]
    before: float
    after: float
    p: float
    verdict: Literal["better", "worse", "within chance"]


class TrendFigures(BaseModel):
    """The figures of a round with 95 % intervals; null where nothing was decided or measured."""

    acceptance: EstimateWithInterval | None
    defects_per_100: EstimateWithInterval | None
    shape_and_color: EstimateWithInterval | None
    vendi: EstimateWithInterval | None


class TrendRoundResponse(BaseModel):
    """A round in the trend; `reviewer` is the kind of reviewer whose verdicts count."""

    round: int
    kind: Kind
    state: RoundState
    checkpoint: str | None
    reviewer: Literal["person", "rule_reviewer"] | None
    figures: TrendFigures


class RoundTrend(BaseModel):
    """The figures of all rounds, oldest first, and the last one of each kind beside others."""

    rounds: list[TrendRoundResponse]
    comparisons: list[RoundComparison]


class RoundReport(BaseModel):
    """The report of one round.

    `failures` counts failed candidates by reason; `pauses` is what workers pause, and why;
    `diversity` is null until the round is measured; `diversity_guard` is what a loop did about it;
    `comparisons` are with the first round of its kind, and with the one before.
    """

    round: RoundWithPolicy
    funnel: Funnel
    refusals: list[RefusalCount]
    reasons: list[ReasonCount]
    signals: list[SignalSummary]
    defects_per_100: DefectsByKind
    human: ReviewCost
    rule_reviewer: RuleReviewerStatistics
    auto_reviewer: AutoReviewerStatistics
    review_cost: CostReport
    gates: list[Gate]
    steering: Steering | None
    diversity: Diversity | None
    comparisons: list[RoundComparison]
    diversity_guard: str | None
    seconds_left: float | None
    failures: dict[str, int]
    pauses: list[str]
    waiting_work: dict[str, int]
    evaluation: dict[str, float]


# The agreement of reviewers: see curation.quality.agreement


class Coefficient(BaseModel):
    """A coefficient of agreement, at most 1, and 0 for chance, with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


class AgreementResponse(BaseModel):
    """The agreement of people beyond chance: Krippendorff's alpha and Gwet's AC1."""

    decided_twice: int
    agreed: float | None
    alpha: Coefficient
    ac1: Coefficient


class PairAgreementAnswer(AgreementResponse):
    """The agreement of two people."""

    reviewers: list[str]


class ConsensusResponse(BaseModel):
    """The consensus rule of a round: reviewers per candidate, rule, and required certainty."""

    rule: Literal["single", "majority", "dawid_skene"]
    overlap: int
    certainty: float
    rule_reviewer_votes: bool


class RoundAgreement(AgreementResponse):
    """The agreement in a round, also of each two people, and candidates for an adjudicator.

    `as_of` is the time of an agreement that is computed from time to time; null if it is of now.
    """

    round: int
    as_of: datetime | None
    consensus: ConsensusResponse
    adjudicating: int
    pairs: list[PairAgreementAnswer]
