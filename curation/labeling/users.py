"""Label Studio users and the reviewers they are, matched by e-mail address."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import desk_people, reviewers
from curation.errors import NotFound, Refused
from curation.review.reviewers import Reviewer, add_reviewer, find_reviewer, reviewer_of

ORACLE = "oracle@layerloop.local"
"""The address under which the oracle says what it has to say."""


def reviewer_named(tx: Transaction, email: str) -> Reviewer:
    """The reviewer behind an address; at first sight the one of that name, or else a new annotator called by it."""
    known = tx.scalar(
        sa.select(desk_people.c.reviewer_id).where(desk_people.c.email == email.lower())
    )
    if known is not None:
        found = reviewer_of(tx, int(known))
        if found is not None:
            return found
    try:
        reviewer = find_reviewer(tx, email.lower())
    except NotFound:
        reviewer = add_reviewer(tx, email.lower())
    match(tx, email, reviewer.id)
    return reviewer


def active_reviewer(tx: Transaction, email: str) -> Reviewer:
    """`reviewer_named`. Raises Refused for one who was sent away."""
    reviewer = reviewer_named(tx, email)
    if not reviewer.active:
        raise Refused(f"{reviewer.name} is a reviewer no longer")
    return reviewer


def match(tx: Transaction, email: str, reviewer_id: int) -> None:
    """Say who somebody is from now on; what they have decided already stays as it is."""
    row = {"email": email.lower(), "reviewer_id": reviewer_id}
    adding = insert(desk_people).values(row)
    tx.execute(
        adding.on_conflict_do_update(index_elements=["email"], set_={"reviewer_id": reviewer_id})
    )


def match_by_name(tx: Transaction, email: str, name: str, actor: str) -> None:
    """`match` for administrators. Raises NotFound for a reviewer who is not there."""
    if "@" not in email:
        raise NotFound(
            f"{email!r} is no e-mail address", "'layerloop desk people' shows those that were seen"
        )
    match(tx, email, find_reviewer(tx, name).id)
    tx.log(actor, "desk person matched", email.lower(), reviewer=name)


def list_people(tx: Transaction) -> list[dict[str, Any]]:
    """Everybody seen so far, with the reviewer they are."""
    both = sa.select(
        desk_people.c.email,
        reviewers.c.name,
        reviewers.c.kind,
        reviewers.c.active,
        desk_people.c.at,
    )
    rows = tx.execute(
        both.join(reviewers, reviewers.c.id == desk_people.c.reviewer_id).order_by(
            desk_people.c.email
        )
    )
    return [dict(row) for row in rows.mappings()]
