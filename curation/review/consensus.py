"""Consensus: blind verdicts of several reviewers on one candidate become one verdict, or go to an adjudicator."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import rounds
from curation.domain import CandidateState, RoundState, Rule, Verdict
from curation.errors import Conflict, Refused
from curation.review.reviewers import ADJUDICATORS
from curation.review.verdicts import STANDS
from curation.rounds.lifecycle import find_round
from curation.statistics.dawid_skene import Skill, Skills

MOST_OVERLAP: Final = 15
MACHINES: Final = frozenset({"oracle", "machine"})
"""Desks at which no person sits: what is said there decides alone, unless a round lets machines vote."""

SURE: Final = 0.9
"""The probability that Dawid and Skene's model must reach, where a round does not say otherwise."""
STALE_SECONDS: Final = 300
"""After so long what was learnt of the reviewers of a round is learnt anew with the next full set of verdicts."""


@dataclass(frozen=True)
class Consensus:
    """A round's own setting: how many reviewers decide each candidate, and how their verdicts become one.

    A verdict stands where its share of the verdicts (majority) or its probability (Dawid and Skene) is above a half and
    at least `certainty`; all else goes to an adjudicator. `machines_vote`: the oracle is one voice among the others.
    """

    rule: Rule = Rule.single
    overlap: int = 1
    certainty: float = 0.5
    machines_vote: bool = False

    def __post_init__(self) -> None:
        """Raises Refused for what cannot be meant."""
        if not 1 <= self.overlap <= MOST_OVERLAP or (self.rule is Rule.single) != (
            self.overlap == 1
        ):
            told = f"the rule single takes an overlap of 1, the others one of 2 to {MOST_OVERLAP}"
            raise Refused(f"an overlap of {self.overlap} cannot be decided by {self.rule}", told)
        if self.machines_vote and self.overlap == 1:
            raise Refused(
                "the oracle is no voice among others where one decides",
                "give an overlap of 2 or more",
            )
        if not 0 <= self.certainty <= 1:
            raise Refused(
                f"a certainty lies in [0, 1], not at {self.certainty:g}", "1 asks that all agree"
            )

    @staticmethod
    def read(row: Mapping[str, Any]) -> Consensus:
        """The inverse of what `set_consensus` keeps; an empty row is a round of single decisions."""
        return Consensus(**{**row, "rule": Rule(row["rule"])}) if row else Consensus()

    def alone(self, desk: str) -> bool:
        """Whether one decision made at this desk is the verdict."""
        return self.overlap == 1 or (desk in MACHINES and not self.machines_vote)

    def resolve(self, probability: float) -> CandidateState | None:
        """What a candidate becomes that is sound with this probability or share; None where an adjudicator decides."""
        surer = max(probability, 1 - probability)
        if surer <= 0.5 or surer < self.certainty:
            return None
        return CandidateState.accepted if probability > 0.5 else CandidateState.rejected


class Outcome(NamedTuple):
    """What a decision makes of its candidate: its state, the verdicts that stand, and whether it is over the others."""

    state: CandidateState
    decided: int
    final: bool


def choose(
    overlap: int, rule: Rule | None, certainty: float | None, *, machines_vote: bool = False
) -> Consensus:
    """A consensus of what was said of it: without a rule the majority, without a certainty the rule's own."""
    named = rule or (Rule.majority if overlap > 1 else Rule.single)
    usual = SURE if named is Rule.dawid_skene else 0.5
    return Consensus(named, overlap, usual if certainty is None else certainty, machines_vote)


def set_consensus(tx: Transaction, number: int, consensus: Consensus, actor: str) -> None:
    """Say how a round's verdicts are reached. Raises NotFound, and Conflict once the first decision is made."""
    row = find_round(tx, number)
    tx.execute(sa.select(rounds.c.id).where(rounds.c.id == number).with_for_update())
    if row["state"] == RoundState.closed or tx.scalar(_BEGUN.bindparams(round=number)):
        raise Conflict(f"round {number} has begun to be decided", "say it when a round is opened")
    kept = asdict(consensus)
    tx.execute(sa.update(rounds).where(rounds.c.id == number).values(consensus=kept))
    tx.log(actor, "consensus set", f"round {number}", **kept)


def weigh(
    tx: Transaction,
    consensus: Consensus,
    round_id: int,
    candidate: uuid.UUID,
    reviewer_id: int,
    verdict: Verdict,
) -> Outcome:
    """What one more verdict makes of a candidate that several decide; its row is locked by the caller.

    Raises Conflict where this reviewer has decided it, or where it has all its verdicts and they are no adjudicator.
    """
    votes = read_votes(tx, candidate)
    if any(reviewer == reviewer_id for reviewer, _ in votes):
        raise Conflict("you have decided this candidate already", "go on with the next one")
    adjudicating = len(votes) >= consensus.overlap
    if adjudicating and not tx.scalar(_ADJUDICATES.bindparams(reviewer=reviewer_id)):
        raise Conflict("this candidate is decided already", "go on with the next one")
    if verdict is Verdict.skip:
        return Outcome(CandidateState.waiting, len(votes), final=False)
    accept = verdict is Verdict.accept
    if adjudicating:
        state = CandidateState.accepted if accept else CandidateState.rejected
        return Outcome(state, len(votes), final=True)
    votes.append((reviewer_id, accept))
    if len(votes) < consensus.overlap:
        return Outcome(CandidateState.waiting, len(votes), final=False)
    state = (
        consensus.resolve(_probability(tx, consensus, round_id, votes)) or CandidateState.waiting
    )
    return Outcome(state, len(votes), final=False)


def tell(consensus: Consensus) -> str:
    """How verdicts are reached, in a few words."""
    if consensus.overlap == 1:
        return "one verdict each"
    rule = "Dawid and Skene" if consensus.rule is Rule.dawid_skene else "majority"
    voice = ", the oracle one voice of them" if consensus.machines_vote else ""
    return f"{consensus.overlap} verdicts each{voice}, by {rule} with a certainty of {consensus.certainty:g}"


def read_votes(tx: Transaction, candidate: uuid.UUID) -> list[tuple[int, bool]]:
    """Reviewers and whether they accepted it, of verdicts that stand and are not over the others, oldest first."""
    return [(row.reviewer_id, row.accept) for row in tx.execute(_VOTES, {"candidate": candidate})]


def has_final(tx: Transaction, candidate: uuid.UUID) -> bool:
    """Whether a decision over all others stands: an adjudicator's, a machine's or a re-aggregation's."""
    return bool(tx.scalar(_FINAL.bindparams(candidate=candidate)))


def read_skills(tx: Transaction, number: int) -> Skills | None:
    """What was learnt last of a round's reviewers, or None where nothing was."""
    row = tx.execute(_LEARNT, {"round": number}).one_or_none()
    return (
        None
        if row is None
        else Skills(row.sound, {int(one): Skill(*skill) for one, skill in row.skills.items()})
    )


def rounds_to_learn(tx: Transaction) -> list[int]:
    """Open rounds where something has come to wait for an adjudicator since the skills were learnt last."""
    return [
        row.id for row in tx.execute(_TO_LEARN, {"rule": Rule.dawid_skene, "stale": STALE_SECONDS})
    ]


def _probability(
    tx: Transaction, consensus: Consensus, round_id: int, votes: list[tuple[int, bool]]
) -> float:
    if consensus.rule is Rule.majority:
        return sum(accept for _, accept in votes) / len(votes)
    row = tx.execute(_LEARNT, {"round": round_id}).one_or_none()
    if row is None or row.age > STALE_SECONDS:
        tx.ask("aggregate", round_id)
    return (read_skills(tx, round_id) or Skills()).probability(votes)


_BEGUN = sa.text("""
    select exists (select from decisions d join candidates c on c.id = d.candidate_id
        where c.round_id = :round)""")

_ADJUDICATES = sa.text(f"select access in ({ADJUDICATORS}) from reviewers where id = :reviewer")

_VOTES = sa.text(f"""
    select d.reviewer_id, d.verdict = 'accept' as accept from decisions d
    where d.candidate_id = :candidate and not d.final and {STANDS}
    order by d.id""")

_FINAL = sa.text(f"""
    select exists (select from decisions d where d.candidate_id = :candidate and d.final
        and {STANDS})""")

_LEARNT = sa.text("""
    select sound, skills, extract(epoch from now() - at) as age from aggregations
    where round_id = :round order by id desc limit 1""")

_TO_LEARN = sa.text("""
    select r.id from rounds r
    left join lateral (select at from aggregations where round_id = r.id order by id desc
        limit 1) learnt on true
    where r.state = 'open' and r.consensus ->> 'rule' = :rule
        and (learnt.at is null or learnt.at < now() - make_interval(secs => :stale))
        and exists (
            select from candidates c where c.round_id = r.id and c.state = 'waiting'
                and c.decided = (r.consensus ->> 'overlap')::int
                and (learnt.at is null or c.changed_at > learnt.at))
    order by r.id""")
