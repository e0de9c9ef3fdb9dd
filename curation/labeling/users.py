"""Label Studio users and the corresponding reviewers, matched by e-mail address."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import labeling_users, reviewers
from curation.errors import NotFound, Refused
from curation.review.reviewers import Reviewer, add_reviewer, find_reviewer, get_reviewer

RULE_REVIEWER_EMAIL = "oracle@layerloop.local"
"""E-mail address of the rule reviewer as a Label Studio user, as former versions created it."""


def get_or_create_reviewer(tx: Transaction, email: str) -> Reviewer:
    """Return the reviewer of a user, and create or match one for a new user.

    A new user becomes the reviewer whose name is the address, or else a new reviewer of that name.
    """
    known = tx.scalar(
        sa.select(labeling_users.c.reviewer_id).where(labeling_users.c.email == email.lower())
    )
    if known is not None:
        found = get_reviewer(tx, int(known))
        if found is not None:
            return found
    # A reviewer's name can be an e-mail address.
    try:
        reviewer = find_reviewer(tx, email.lower())
    except NotFound:
        reviewer = add_reviewer(tx, email.lower())
    assign_reviewer(tx, email, reviewer.id)
    return reviewer


def active_reviewer(tx: Transaction, email: str) -> Reviewer:
    """Return the reviewer of a user, as get_or_create_reviewer does.

    Raises:
        Refused: The reviewer is deactivated.
    """
    reviewer = get_or_create_reviewer(tx, email)
    if not reviewer.active:
        raise Refused(f"the reviewer {reviewer.name} is deactivated")
    return reviewer


def assign_reviewer(tx: Transaction, email: str, reviewer_id: int) -> None:
    """Assign a user to a reviewer from now on; past decisions stay unchanged.

    Args:
        tx: The transaction.
        email: Address of the user.
        reviewer_id: The reviewer.
    """
    row = {"email": email.lower(), "reviewer_id": reviewer_id}
    adding = insert(labeling_users).values(row)
    tx.execute(
        adding.on_conflict_do_update(index_elements=["email"], set_={"reviewer_id": reviewer_id})
    )


def assign_reviewer_by_name(tx: Transaction, email: str, name: str, actor: str) -> None:
    """Assign a user to a reviewer by name, for administrators.

    Args:
        tx: The transaction.
        email: Address of the user.
        name: Name of the reviewer.
        actor: Name for the event log.

    Raises:
        NotFound: The address is invalid or the reviewer does not exist.
    """
    if "@" not in email:
        raise NotFound(
            f"{email!r} is not an e-mail address",
            "'layerloop labeling users' lists the known users",
        )
    assign_reviewer(tx, email, find_reviewer(tx, name).id)
    tx.log(actor, "labeling user assigned", email.lower(), reviewer=name)


def list_users(tx: Transaction) -> list[dict[str, Any]]:
    """Return all known users with their reviewers."""
    both = sa.select(
        labeling_users.c.email,
        reviewers.c.name,
        reviewers.c.kind,
        reviewers.c.active,
        labeling_users.c.created_at,
    )
    rows = tx.execute(
        both.join(reviewers, reviewers.c.id == labeling_users.c.reviewer_id).order_by(
            labeling_users.c.email
        )
    )
    return [dict(row) for row in rows.mappings()]
