"""Aggregation of verdicts: reviewer skills by Dawid and Skene, and resulting verdict changes."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import aggregations
from curation.domain import CandidateState, Role, Verdict, content_id
from curation.review.consensus import DEFAULT_CERTAINTY, ConsensusSettings
from curation.review.reviewers import RULE_REVIEWER, add_reviewer
from curation.review.round_skills import VOTES, fit_round_skills
from curation.review.verdicts import CONSENSUS, IS_STANDING, apply_final_state, lock_candidate
from curation.rounds.lifecycle import find_round
from curation.statistics.dawid_skene import DawidSkeneFit, Skills


def store_skills(tx: Transaction, round_id: int, fit: DawidSkeneFit[uuid.UUID]) -> int:
    """Store fitted skills, which later decisions use and refer to, and return their number."""
    skills = {str(reviewer): list(skill) for reviewer, skill in fit.skills.of.items()}
    row = {
        "round_id": round_id,
        "acceptable_share": fit.skills.sound,
        "skills": skills,
        "votes": fit.votes,
    }
    return int(tx.execute(sa.insert(aggregations).returning(aggregations.c.id), row).scalar_one())


def resolve_waiting(tx: Transaction, round_id: int) -> int:
    """Refit the skills of a round, and settle waiting candidates whose verdict is now certain.

    Candidates that an adjudicator is reviewing at this moment are left to them.

    Args:
        tx: The transaction.
        round_id: ID of the round.

    Returns:
        The number of settled candidates.
    """
    fit = fit_round_skills(tx, round_id)
    store_skills(tx, round_id, fit)
    consensus = ConsensusSettings.read(find_round(tx, round_id)["consensus"])
    settled = 0
    for row in tx.execute(_UNDECIDED, {"round": round_id, "overlap": consensus.overlap}).all():
        state = consensus.resolve(fit.probability[row.id])
        if state is not None:
            apply_final_state(tx, row.id, state)
            settled += 1
    return settled


def find_verdict_changes(
    tx: Transaction, round_id: int, certainty: float = DEFAULT_CERTAINTY
) -> dict[str, Any]:
    """Find the decided candidates whose verdict the reviewer skills would change; changes nothing.

    Decisions of adjudicators and automatic decisions are never changed.

    Args:
        tx: The transaction.
        round_id: ID of the round.
        certainty: Minimum probability of the new verdict.

    Returns:
        The skills and the changes ("flips") as JSON-compatible values, the most certain first.

    Raises:
        NotFound: There is no such round.
    """
    fit = fit_round_skills(tx, round_id)
    votes: dict[uuid.UUID, list[tuple[int, bool]]] = defaultdict(list)
    changed = []
    for row in tx.execute(VOTES, {"round": round_id}):
        votes[row.candidate_id].append((row.reviewer_id, row.accept))
    # A verdict changes where the fitted probability is certain of the other state.
    for row in tx.execute(_DECIDED, {"round": round_id, "channel": CONSENSUS}):
        if row.id not in fit.probability:
            continue
        probability = fit.probability[row.id]
        state = ConsensusSettings(certainty=certainty).resolve(probability)
        if state is not None and state != row.state:
            row_votes = [{"reviewer": who, "accept": accept} for who, accept in votes[row.id]]
            changed.append(
                {
                    "candidate": row.id,
                    "prompt": row.text,
                    "is": row.state,
                    "would_be": state,
                    "probability": probability,
                    "votes": row_votes,
                }
            )
    return {
        "round": round_id,
        "certainty": certainty,
        "decided": sum(candidate in fit.probability for candidate in votes),
        "skills": _skills_by_name(tx, fit.skills),
        "flips": sorted(changed, key=lambda flip: -abs(flip["probability"] - 0.5)),
    }


def apply_verdict_changes(
    tx: Transaction, round_id: int, certainty: float = DEFAULT_CERTAINTY
) -> dict[str, Any]:
    """Apply the changes of `find_verdict_changes` by decisions that refer to the stored skills.

    Candidates that changed in the meantime are left as they are.

    Args:
        tx: The transaction.
        round_id: ID of the round.
        certainty: Minimum probability of the new verdict.

    Returns:
        The report of `find_verdict_changes`, with the number of the stored `aggregation` and how
        many verdicts were `turned`.

    Raises:
        NotFound: There is no such round.
    """
    report = find_verdict_changes(tx, round_id, certainty)
    if not report["flips"]:
        return report | {"aggregation": None, "turned": 0}
    aggregation = store_skills(tx, round_id, fit_round_skills(tx, round_id))
    consensus_reviewer = add_reviewer(tx, CONSENSUS, Role.annotator, RULE_REVIEWER).id
    changed = 0
    for flip in report["flips"]:
        if lock_candidate(tx, flip["candidate"]).state != flip["is"]:
            continue
        verdict = Verdict.accept if flip["would_be"] == CandidateState.accepted else Verdict.reject
        comment = (
            f"aggregation {aggregation}: sound with {flip['probability']:.4f} by "
            f"{len(flip['votes'])} verdicts"
        )
        # The key makes the decision unique, so that a repeated call adds no second one.
        key = content_id(CONSENSUS, flip["candidate"], aggregation)
        values = {
            "candidate": flip["candidate"],
            "reviewer": consensus_reviewer,
            "verdict": verdict,
            "comment": comment,
            "channel": CONSENSUS,
            "key": key,
        }
        tx.execute(_INSERT_DECISION, values)
        apply_final_state(tx, flip["candidate"], flip["would_be"])
        changed += 1
    return report | {"aggregation": aggregation, "turned": changed}


def as_text(report: Mapping[str, Any]) -> str:
    """Format a report of `find_verdict_changes` for a terminal."""
    flips = len(report["flips"])
    lines = [
        f"Round {report['round']}: {flips} of {report['decided']} decided candidates would change"
    ]
    lines += [
        f"  {skill['reviewer']}: accepts {skill['accepts_sound']:.0%} of sound candidates, "
        f"rejects {skill['rejects_unsound']:.0%} of unsound ones"
        for skill in report["skills"]
    ]
    lines += [
        f"  {flip['candidate']} {flip['is']} -> {flip['would_be']} "
        f"(P(sound) = {flip['probability']:.3f}): {flip['prompt']}"
        for flip in report["flips"]
    ]
    return "\n".join(lines)


def _skills_by_name(tx: Transaction, skills: Skills) -> list[dict[str, Any]]:
    names = {row.id: row.name for row in tx.execute(sa.text("select id, name from reviewers"))}
    return [
        {"reviewer": names[reviewer]} | skill._asdict()
        for reviewer, skill in sorted(skills.of.items())
    ]


# Candidates with all their verdicts but no certain one; locked rows are under review.
_UNDECIDED = sa.text("""
    select id from candidates
    where round_id = :round and state = 'waiting' and decided = :overlap and decided > 1
    order by id for update skip locked""")

_DECIDED = sa.text(f"""
    select c.id, c.state, p.text from candidates c join prompts p on p.id = c.prompt_id
    where c.round_id = :round and c.state in ('accepted', 'rejected') and not exists (
        select from decisions d
        where d.candidate_id = c.id and d.final and d.channel <> :channel and {IS_STANDING})""")

_INSERT_DECISION = sa.text("""
    insert into decisions (
        candidate_id, reviewer_id, verdict, comment, channel, key, checkpoint_id, propensity, final)
    select c.id, :reviewer, :verdict, :comment, :channel, :key, r.checkpoint_id, c.propensity, true
    from candidates c join rounds r on r.id = c.round_id where c.id = :candidate""")
