"""Round routes: list, report, pause, resume and close."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel

from curation.api.auth import Annotator, Engineer
from curation.api.contract import answers, link, linked
from curation.api.fields import QUERY_NUMBER
from curation.domain import CandidateState, Kind, LayerRole, RejectReason, Role, RoundState
from curation.quality import agreement
from curation.reporting import round_report
from curation.review import progress
from curation.rounds import lifecycle

router = APIRouter(prefix="/api/rounds", tags=["rounds"], responses=answers(401))

BEFORE_REVIEW = frozenset({"requested", "drawing", "drawn", "refused", "failed"})
"""States that no decision, no lease and no choice of the policy changes."""

Number = Annotated[int, Path(ge=1, le=2**31 - 1), QUERY_NUMBER]


class OwnProgress(BaseModel):
    """My own figures of a round: what may still be shown to me, my verdicts, and those that accept."""

    waiting: int
    mine: int
    accepted: int


class RoundAnswer(BaseModel):
    """One round and how many of its candidates stand where.

    Annotators get the counts of states before review only, and no checkpoint: the others would
    tell them what others said, and which candidates are gold. `own` is for whoever asks, in
    the list of rounds.
    """

    id: int
    purpose: Literal["drawn", "seeds"]
    kind: Kind
    state: RoundState
    quota: int
    checkpoint: str | None
    opened_at: datetime
    closed_at: datetime | None
    counts: dict[CandidateState, int]
    own: OwnProgress | None = None


class RoundWithPolicy(RoundAnswer):
    """A round with the policy that chooses what people see."""

    policy: dict[str, Any]


class Funnel(BaseModel):
    """From all that was asked for to what was accepted."""

    requested: int
    drawn: int
    refused: int
    shown: int
    decided: int
    accepted: int
    rejected: int
    waiting: int
    unshown: int
    failed: int


class Refusal(BaseModel):
    """How many candidates one signal of screening refused."""

    signal: str | None
    count: int


class Reason(BaseModel):
    """How often one kind of reviewer gave one reason for a reject; of pairs for which layer, null where untold."""

    reason: RejectReason
    layer: LayerRole | None
    count: int
    kind: Literal["person", "oracle", "machine"]


class SignalFigures(BaseModel):
    """How one signal lies over drawn candidates, a tenth below `low`, half below `median`, a tenth above `high`."""

    name: str
    n: int
    low: float
    median: float
    high: float


class Defects(BaseModel):
    """Rejects per 100, with the 95 % Wilson interval, from n decisions weighted by propensity."""

    value: float
    low: float
    high: float
    n: int


class DefectsByKind(BaseModel):
    """People's and the oracle's, never mixed; null where nothing was decided."""

    person: Defects | None
    oracle: Defects | None


class ReviewerFigures(BaseModel):
    """What one reviewer did in a round."""

    name: str
    kind: Literal["person", "oracle", "machine"]
    decisions: int
    accepted: int
    median_dwell_ms: float | None


class Human(BaseModel):
    """What a round cost people; null where nothing was accepted or no look was measured."""

    seconds_per_accept: float | None
    accepts_per_hour: float | None
    decisions: int
    reviewers: list[ReviewerFigures]


class OracleFigures(BaseModel):
    """What the oracle decided."""

    decisions: int
    accepted: int


class MachineFigures(OracleFigures):
    """What was decided without anybody having looked, by a gate or the scale step."""


class SlicePrice(BaseModel):
    """What the accepts of one part of a policy cost people; seconds are null where no look was measured."""

    slice: str
    looks: int
    seconds: float | None
    accepted: int
    seconds_per_accept: float | None


class NextHour(BaseModel):
    """What an hour of review would bring now: looks at the pace so far, and accepts by the scores of what is ahead."""

    looks: float
    left: int
    accepts: float
    certain: bool


class Price(BaseModel):
    """What accepts cost, what more would, and why review may stop; null where it is not known or should go on."""

    slices: list[SlicePrice]
    next_hour: NextHour | None
    stop: str | None


class Errors(BaseModel):
    """k errors of n, and the one-sided exact bounds on their share, at the gate's level."""

    k: int
    n: int
    low: float
    high: float


class Audit(BaseModel):
    """What people said of the share that they see of what a gate decides; `low`: errors that it proves at least."""

    judged: int
    errors: int
    low: float


class Gate(BaseModel):
    """A score beyond which the machine decides; `lost` of the good (bad) ones, `wrong` of its verdicts.

    `contradicted` once its audit has closed it.
    """

    id: int
    verdict: Literal["accept", "reject"]
    look: int
    threshold: float
    budget: float
    level: float
    share: float
    lost: Errors
    wrong: Errors
    audit: Audit
    stands: bool
    contradicted: bool


class Report(BaseModel):
    """The report of one round."""

    round: RoundWithPolicy
    funnel: Funnel
    refusals: list[Refusal]
    reasons: list[Reason]
    signals: list[SignalFigures]
    defects_per_100: DefectsByKind
    human: Human
    oracle: OracleFigures
    machine: MachineFigures
    price: Price
    gates: list[Gate]
    seconds_left: float | None
    untaken: dict[str, int]
    evaluation: dict[str, float]


class Coefficient(BaseModel):
    """A coefficient of agreement, 1 at its best and 0 for chance, with a 95 % interval; null where undefined."""

    value: float | None
    low: float | None
    high: float | None


class AgreementAnswer(BaseModel):
    """How far people say the same of the same candidates, beyond chance: Krippendorff's alpha and Gwet's AC1."""

    decided_twice: int
    agreed: float | None
    alpha: Coefficient
    ac1: Coefficient


class PairAgreement(AgreementAnswer):
    """The agreement of two people."""

    reviewers: list[str]


class ConsensusAnswer(BaseModel):
    """How a round's verdicts are reached: by how many, by which rule, and how sure a verdict must be."""

    rule: Literal["single", "majority", "dawid_skene"]
    overlap: int
    certainty: float
    machines_vote: bool


class RoundAgreement(AgreementAnswer):
    """The agreement of all people who decided in a round, and of each two; how many candidates need an adjudicator."""

    round: int
    consensus: ConsensusAnswer
    adjudicating: int
    pairs: list[PairAgreement]


@router.get(
    "",
    summary="List rounds",
    responses=linked(
        200,
        report=link("get_round", number="$response.body#/0/id"),
        agreement=link("get_agreement", number="$response.body#/0/id"),
        pause=link("pause", number="$response.body#/0/id"),
    ),
)
def get_rounds(visit: Annotator) -> list[RoundAnswer]:
    """Every round, oldest first."""
    with visit.enter() as (tx, reviewer):
        rows = lifecycle.list_rounds(tx)
        own = progress.progress_by_round(tx, reviewer.id)
    told = [round_report.describe_round(row) for row in rows]
    if reviewer.access is Role.annotator:
        told = [_without_verdicts(row) for row in told]
    none = progress.Progress()
    return [
        RoundAnswer(**row, own=OwnProgress(**own.get(row["id"], none)._asdict())) for row in told
    ]


@router.get("/{number}", summary="Get the report of a round", responses=answers(404))
def get_round(visit: Engineer, number: Number) -> Report:
    """The report of one round, all its figures of one moment."""
    with visit.enter(one_view=True) as (tx, _):
        told = round_report.round_report(tx, number)
    return Report(**told)


@router.get(
    "/{number}/agreement",
    summary="Get the agreement of reviewers in a round",
    responses=answers(404),
)
def get_agreement(visit: Engineer, number: Number) -> RoundAgreement:
    """How far people agreed in a round where several decided the same candidates."""
    with visit.enter(one_view=True) as (tx, _):
        told = agreement.round_agreement(tx, number)
    return RoundAgreement(**told)


@router.post(
    "/{number}/pause",
    summary="Pause a round",
    responses=answers(404, 409) | linked(200, resume=link("resume", number="$response.body#/id")),
)
def pause(visit: Engineer, number: Number) -> RoundAnswer:
    """Draw nothing and show nothing more of a round.

    What reviewers have been given already may still be decided, and decisions undone.
    """
    with visit.enter() as (tx, reviewer):
        lifecycle.pause_round(tx, number, reviewer.name)
        row = lifecycle.find_round(tx, number) | {"counts": lifecycle.count_states(tx, number)}
    return RoundAnswer(**round_report.describe_round(row))


@router.post("/{number}/resume", summary="Resume a round", responses=answers(404, 409))
def resume(visit: Engineer, number: Number) -> RoundAnswer:
    """Go on with a paused round."""
    with visit.enter() as (tx, reviewer):
        lifecycle.resume_round(tx, number, reviewer.name)
        row = lifecycle.find_round(tx, number) | {"counts": lifecycle.count_states(tx, number)}
    return RoundAnswer(**round_report.describe_round(row))


@router.post("/{number}/close", summary="Close a round", responses=answers(404, 409))
def close(visit: Engineer, number: Number) -> RoundAnswer:
    """End a round: what has no verdict is withdrawn. Closing twice is closing once."""
    with visit.enter() as (tx, reviewer):
        lifecycle.close_round(tx, number, reviewer.name)
        row = lifecycle.find_round(tx, number) | {"counts": lifecycle.count_states(tx, number)}
    return RoundAnswer(**round_report.describe_round(row))


def _without_verdicts(row: dict[str, Any]) -> dict[str, Any]:
    """Return what an annotator may know of a round.

    Ids of candidates are hashes that a checkpoint's whole id is part of: it would tell which
    candidates the round has, and so which are gold.
    """
    counts = {state: n for state, n in sorted(row["counts"].items()) if state in BEFORE_REVIEW}
    return row | {"checkpoint": None, "counts": counts}
