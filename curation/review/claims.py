"""Claims: a permanent record of the candidates that each reviewer was given.

A lease says who may look at a candidate now; a claim says who may still decide it. Therefore a
decision made offline is accepted after its lease has expired, and nobody can decide a candidate by
its id that was never given to them.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.errors import NotFound


class CandidateNotClaimedError(NotFound):
    """A candidate that does not exist or was never given to this reviewer."""

    def __init__(self, candidate: uuid.UUID) -> None:
        super().__init__(
            f"candidate {candidate} was never shown to you",
            "POST /api/review/claims gives candidates to decide",
        )


def record_claims(
    tx: Transaction, reviewer_id: int, ids: Collection[uuid.UUID], page: uuid.UUID | None = None
) -> None:
    """Record that candidates were leased to a reviewer, for one of their open pages.

    Args:
        tx: The transaction in which they were leased.
        reviewer_id: The reviewer who holds the leases.
        ids: The candidates.
        page: The page that uses the leases; None for callers without pages.
    """
    if ids:
        tx.execute(_NOTE, {"reviewer": reviewer_id, "ids": sorted(ids), "page": page})


def check_claimed(tx: Transaction, reviewer_id: int, candidate: uuid.UUID) -> None:
    """Raise CandidateNotClaimedError unless the candidate was given to this reviewer.

    Unknown candidates get the same error, so that it does not reveal which candidates exist.
    """
    # One indexed lookup; it also covers ids of candidates that do not exist.
    if not tx.scalar(_CLAIMED.bindparams(reviewer=reviewer_id, candidate=candidate)):
        raise CandidateNotClaimedError(candidate)


# The page is stored with the lease: two pages of one reviewer each renew and release their own.
_NOTE = sa.text("""
    with noted as (
        insert into claims (reviewer_id, candidate_id) select :reviewer, id from unnest(:ids) id
        on conflict (candidate_id, reviewer_id) do update set unfinished = true)
    update leases set page = cast(:page as uuid) where subject = any(:ids)""").bindparams(
    sa.bindparam("ids", type_=ARRAY(UUID))
)

_CLAIMED = sa.text("""
    select exists (
        select from claims where reviewer_id = :reviewer and candidate_id = :candidate)""")
