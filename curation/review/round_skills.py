"""Skills of the reviewers of a round, fitted to its verdicts and to their verdicts on gold."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.review.gold import OBVIOUS_SEVERITY
from curation.review.reviewers import PERSON
from curation.review.verdicts import IS_STANDING
from curation.rounds.lifecycle import find_round
from curation.statistics.dawid_skene import DawidSkeneFit, Vote, fit_skills


def fit_round_skills(tx: Transaction, round_id: int) -> DawidSkeneFit[uuid.UUID]:
    """Fit the skills of a round's people to its verdicts and to their verdicts on obvious gold.

    Args:
        tx: The transaction.
        round_id: ID of the round.

    Returns:
        The skills, and the probability of each candidate to be sound.

    Raises:
        NotFound: There is no such round.
    """
    find_round(tx, round_id)
    return fit_skills(*_read(tx, round_id))


def _read(tx: Transaction, round_id: int) -> tuple[list[Vote[uuid.UUID]], dict[uuid.UUID, bool]]:
    """Return the votes of a round and of its people on obvious gold, and the truth of that gold."""
    votes = [
        Vote(row.candidate_id, row.reviewer_id, row.accept)
        for row in tx.execute(VOTES, {"round": round_id})
    ]
    people = sorted({vote.reviewer for vote in votes})
    answers = (
        tx.execute(_GOLD, {"people": people, "obvious": OBVIOUS_SEVERITY}).all() if people else []
    )
    known = {row.candidate_id: row.sound for row in answers}
    return votes + [Vote(row.candidate_id, row.reviewer_id, row.accept) for row in answers], known


# Votes of people, and of the rule reviewer where the round counts it; not those of adjudicators.
VOTES = sa.text(f"""
    select d.candidate_id, d.reviewer_id, d.verdict = 'accept' as accept
    from decisions d join candidates c on c.id = d.candidate_id
    join reviewers v on v.id = d.reviewer_id
    join rounds r on r.id = c.round_id
    where c.round_id = :round
        and (v.kind = '{PERSON}' or r.consensus @> '{{"rule_reviewer_votes": true}}')
        and not d.final and {IS_STANDING} order by d.id""")

_GOLD = sa.text(f"""
    select d.candidate_id, d.reviewer_id, d.verdict = 'accept' as accept, g.defect is null as sound
    from gold g join decisions d on d.candidate_id = g.candidate_id
    where d.reviewer_id = any(:people) and (g.defect is null or g.severity >= :obvious)
        and {IS_STANDING}
    order by d.id""")
