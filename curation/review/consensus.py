"""Consensus: combine blind verdicts of several reviewers into one, or defer to an adjudicator."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import rounds
from curation.domain import CandidateState, ConsensusRule, JobName, RoundState, Verdict
from curation.errors import Conflict, Refused
from curation.review.reviewers import ADJUDICATORS
from curation.review.verdicts import IS_STANDING
from curation.rounds.lifecycle import find_round
from curation.statistics.dawid_skene import Skill, Skills

MAX_OVERLAP: Final = 15
AUTOMATIC: Final = frozenset({"rule_reviewer", "auto_reviewer"})
"""Interfaces without a person: decisions there are final, unless the round lets them vote."""

DEFAULT_CERTAINTY: Final = 0.9
"""The default certainty for the Dawid-Skene rule: the probability that its model must reach."""
SKILLS_MAX_AGE_SECONDS: Final = 300
"""Estimates of reviewer skill older than this are recomputed with the next full set of verdicts."""


@dataclass(frozen=True)
class ConsensusSettings:
    """A round's consensus setting: verdicts per candidate, and the rule that combines them.

    A verdict stands if its share of the votes (majority) or its probability (Dawid and Skene) is
    above one half and at least `certainty`; everything else goes to an adjudicator. With
    `rule_reviewer_votes` the rule reviewer casts one vote among the others.
    """

    rule: ConsensusRule = ConsensusRule.single
    overlap: int = 1
    certainty: float = 0.5
    rule_reviewer_votes: bool = False

    def __post_init__(self) -> None:
        """Raise Refused for an invalid combination of settings."""
        if not 1 <= self.overlap <= MAX_OVERLAP or (self.rule is ConsensusRule.single) != (
            self.overlap == 1
        ):
            hint = f"the rule single needs an overlap of 1, the other rules 2 to {MAX_OVERLAP}"
            raise Refused(f"an overlap of {self.overlap} cannot be decided by {self.rule}", hint)
        if self.rule_reviewer_votes and self.overlap == 1:
            raise Refused(
                "the rule reviewer cannot vote where one verdict decides",
                "set an overlap of 2 or more",
            )
        if not 0 <= self.certainty <= 1:
            raise Refused(
                f"certainty {self.certainty:g} is outside [0, 1]", "1 requires that all agree"
            )

    @staticmethod
    def read(row: Mapping[str, Any]) -> ConsensusSettings:
        """Parse the row written by `set_consensus`; an empty row means single decisions."""
        return (
            ConsensusSettings(**{**row, "rule": ConsensusRule(row["rule"])})
            if row
            else ConsensusSettings()
        )

    def alone(self, channel: str) -> bool:
        """Return whether one decision made at this interface is the verdict."""
        return self.overlap == 1 or (channel in AUTOMATIC and not self.rule_reviewer_votes)

    def resolve(self, probability: float) -> CandidateState | None:
        """Return the state of a candidate, or None if an adjudicator must decide.

        Args:
            probability: The probability, or share of votes, that the candidate is acceptable.
        """
        confidence = max(probability, 1 - probability)
        # A tie, or too little certainty in either direction, is left to an adjudicator.
        if confidence <= 0.5 or confidence < self.certainty:
            return None
        return CandidateState.accepted if probability > 0.5 else CandidateState.rejected


class ConsensusOutcome(NamedTuple):
    """The effect of a decision on its candidate.

    `decided` is the number of verdicts that stand, `final` whether this decision overrides the
    others.
    """

    state: CandidateState
    decided: int
    final: bool


def make_consensus(
    overlap: int,
    rule: ConsensusRule | None,
    certainty: float | None,
    *,
    rule_reviewer_votes: bool = False,
) -> ConsensusSettings:
    """Return a consensus setting with defaults filled in.

    Args:
        overlap: Verdicts per candidate.
        rule: How they are combined; None selects majority, or single for an overlap of 1.
        certainty: The required certainty in [0, 1]; None selects the default of the rule.
        rule_reviewer_votes: Whether the rule reviewer casts one vote among the others.
    """
    chosen = rule or (ConsensusRule.majority if overlap > 1 else ConsensusRule.single)
    default = DEFAULT_CERTAINTY if chosen is ConsensusRule.dawid_skene else 0.5
    return ConsensusSettings(
        chosen, overlap, default if certainty is None else certainty, rule_reviewer_votes
    )


def set_consensus(tx: Transaction, round_id: int, consensus: ConsensusSettings, actor: str) -> None:
    """Set how a round's verdicts are combined.

    Raises:
        NotFound: There is no such round.
        Conflict: The round is closed, or the first decision has been made.
    """
    row = find_round(tx, round_id)
    # Lock the round, so that no first decision is made between the check and the update.
    tx.execute(sa.select(rounds.c.id).where(rounds.c.id == round_id).with_for_update())
    if row["state"] == RoundState.closed or tx.scalar(_BEGUN.bindparams(round=round_id)):
        raise Conflict(
            f"round {round_id} already has decisions", "set the consensus when a round is opened"
        )
    kept = asdict(consensus)
    tx.execute(sa.update(rounds).where(rounds.c.id == round_id).values(consensus=kept))
    tx.log(actor, "consensus set", f"round {round_id}", **kept)


def apply_vote(
    tx: Transaction,
    consensus: ConsensusSettings,
    round_id: int,
    candidate: uuid.UUID,
    reviewer_id: int,
    verdict: Verdict,
) -> ConsensusOutcome:
    """Return the effect of one more verdict on a candidate that several reviewers decide.

    The caller holds the lock on the candidate's row.

    Args:
        tx: The transaction of the decision.
        consensus: The round's setting.
        round_id: The round.
        candidate: The candidate.
        reviewer_id: The reviewer who decides.
        verdict: Their verdict.

    Raises:
        Conflict: This reviewer has already decided it, or it has all its verdicts and the reviewer
            is not an adjudicator.
    """
    votes = read_votes(tx, candidate)
    # Each reviewer votes once; once all votes are in, only an adjudicator may decide.
    if any(reviewer == reviewer_id for reviewer, _ in votes):
        raise Conflict("you have already decided this candidate", "continue with the next one")
    adjudicating = len(votes) >= consensus.overlap
    if adjudicating and not tx.scalar(_ADJUDICATES.bindparams(reviewer=reviewer_id)):
        raise Conflict("this candidate is already decided", "continue with the next one")
    if verdict is Verdict.skip:
        return ConsensusOutcome(CandidateState.waiting, len(votes), final=False)
    accept = verdict is Verdict.accept
    # An adjudicator's verdict overrides the votes.
    if adjudicating:
        state = CandidateState.accepted if accept else CandidateState.rejected
        return ConsensusOutcome(state, len(votes), final=True)
    # Count this vote; the last one resolves the candidate, or leaves it to an adjudicator.
    votes.append((reviewer_id, accept))
    if len(votes) < consensus.overlap:
        return ConsensusOutcome(CandidateState.waiting, len(votes), final=False)
    state = (
        consensus.resolve(_probability(tx, consensus, round_id, votes)) or CandidateState.waiting
    )
    return ConsensusOutcome(state, len(votes), final=False)


def describe_consensus(consensus: ConsensusSettings) -> str:
    """Return a short description of how verdicts are combined."""
    if consensus.overlap == 1:
        return "one verdict each"
    rule = "Dawid and Skene" if consensus.rule is ConsensusRule.dawid_skene else "majority"
    vote = ", including the rule reviewer's" if consensus.rule_reviewer_votes else ""
    certainty = f"with a certainty of {consensus.certainty:g}"
    return f"{consensus.overlap} verdicts each{vote}, by {rule} {certainty}"


def read_votes(tx: Transaction, candidate: uuid.UUID) -> list[tuple[int, bool]]:
    """Return (reviewer id, accepted) of the standing non-final verdicts, oldest first."""
    return [(row.reviewer_id, row.accept) for row in tx.execute(_VOTES, {"candidate": candidate})]


def has_final_decision(tx: Transaction, candidate: uuid.UUID) -> bool:
    """Return whether a standing decision overrides all others.

    Such decisions come from an adjudicator, an auto-reviewer or a re-aggregation.
    """
    return bool(tx.scalar(_FINAL.bindparams(candidate=candidate)))


def read_skills(tx: Transaction, round_id: int) -> Skills | None:
    """Return the latest estimate of the skills of a round's reviewers, or None."""
    row = tx.execute(_LATEST_SKILLS, {"round": round_id}).one_or_none()
    return (
        None
        if row is None
        else Skills(
            row.acceptable_share, {int(id_): Skill(*skill) for id_, skill in row.skills.items()}
        )
    )


def rounds_needing_skill_estimates(tx: Transaction) -> list[int]:
    """Return open rounds whose reviewer skills should be estimated again.

    These are rounds where a candidate has come to wait for an adjudicator since the last estimate.
    """
    return [
        row.id
        for row in tx.execute(
            _TO_ESTIMATE, {"rule": ConsensusRule.dawid_skene, "stale": SKILLS_MAX_AGE_SECONDS}
        )
    ]


def _probability(
    tx: Transaction, consensus: ConsensusSettings, round_id: int, votes: list[tuple[int, bool]]
) -> float:
    if consensus.rule is ConsensusRule.majority:
        return sum(accept for _, accept in votes) / len(votes)
    # The skills are estimated by a job; a stale estimate is used until that job has run.
    row = tx.execute(_LATEST_SKILLS, {"round": round_id}).one_or_none()
    if row is None or row.age > SKILLS_MAX_AGE_SECONDS:
        tx.enqueue(JobName.aggregate, round_id)
    return (read_skills(tx, round_id) or Skills()).probability(votes)


_BEGUN = sa.text("""
    select exists (select from decisions d join candidates c on c.id = d.candidate_id
        where c.round_id = :round)""")

_ADJUDICATES = sa.text(f"select role in ({ADJUDICATORS}) from reviewers where id = :reviewer")

_VOTES = sa.text(f"""
    select d.reviewer_id, d.verdict = 'accept' as accept from decisions d
    where d.candidate_id = :candidate and not d.final and {IS_STANDING}
    order by d.id""")

_FINAL = sa.text(f"""
    select exists (select from decisions d where d.candidate_id = :candidate and d.final
        and {IS_STANDING})""")

_LATEST_SKILLS = sa.text("""
    select acceptable_share, skills, extract(epoch from now() - created_at) as age from aggregations
    where round_id = :round order by id desc limit 1""")

_TO_ESTIMATE = sa.text("""
    select r.id from rounds r
    left join lateral (select created_at from aggregations where round_id = r.id order by id desc
        limit 1) fitted on true
    where r.state = 'open' and r.consensus ->> 'rule' = :rule
        and (fitted.created_at is null or fitted.created_at < now() - make_interval(secs => :stale))
        and exists (
            select from candidates c where c.round_id = r.id and c.state = 'waiting'
                and c.decided = (r.consensus ->> 'overlap')::int
                and (fitted.created_at is null or c.changed_at > fitted.created_at))
    order by r.id""")
