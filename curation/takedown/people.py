"""The takedown of a person: the name goes, the verdicts stay under a pseudonym.

Verdicts of several people make one consensus, and samples follow from it. Removing one person's
verdicts would change which samples there are, and the statistics of everybody else. They stay, as
the verdicts of "removed reviewer NUMBER"; the person's texts are emptied, and nobody can sign in as
that reviewer again.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Database, Transaction
from curation.db.tables import (
    api_tokens,
    captions,
    decisions,
    events,
    labeling_annotations,
    labeling_users,
    reviewer_identities,
    reviewers,
    sessions,
    sign_in_tokens,
    snapshot_notes,
    snapshots,
    webhooks,
)
from curation.errors import Refused
from curation.review.reviewers import PERSON, Reviewer, find_reviewer, lease_holder_name
from curation.takedown.marking import add_items, read_items, record_takedown
from curation.takedown.redaction import ALLOW, redact_events
from curation.takedown.selectors import Selector


def pseudonym(reviewer_id: int) -> str:
    """Return the name under which a removed person's verdicts stay."""
    return f"removed reviewer {reviewer_id}"


def count_traces(tx: Transaction, name: str) -> dict[str, int]:
    """Return how many rows name a person: verdicts and comments that stay or are emptied.

    Args:
        tx: The transaction.
        name: Name of the reviewer.

    Raises:
        NotFound: There is no such reviewer.
    """
    reviewer = find_person(tx, name)
    own = decisions.c.reviewer_id == reviewer.id
    return {
        "verdicts kept": _count(tx, own),
        "comments emptied": _count(tx, own & (decisions.c.comment != "")),
        "events redacted": _count(tx, _names_person(name)),
        "captions kept without the name": _count(tx, captions.c.source == f"person:{name}"),
        "notes kept without the name": _count(tx, snapshot_notes.c.author == name),
    }


def begin_person(database: Database, name: str, actor: str, reason: str) -> uuid.UUID:
    """Record the takedown of a person.

    Raises:
        NotFound: There is no such reviewer.
    """
    with database.transaction() as tx:
        reviewer = find_person(tx, name)
        id_ = record_takedown(tx, Selector("reviewer", (name,)), actor, reason)
        add_items(tx, id_, "reviewer", [str(reviewer.id)])
    return id_


def remove_person(database: Database, takedown: uuid.UUID) -> None:
    """Replace a person's name everywhere, and end every way to sign in; idempotent.

    Args:
        database: The database.
        takedown: Id of the takedown.
    """
    for number in map(int, read_items(database, takedown, "reviewer")):
        with database.transaction() as tx:
            query = sa.select(reviewers.c.name).where(reviewers.c.id == number)
            name = str(tx.scalar(query))
        alias = pseudonym(number)
        if name == alias:
            continue
        # The events first: without the name an interrupted takedown could not find them again.
        is_subject = events.c.subject.in_(_subjects(name))
        renamed = sa.func.replace(events.c.subject, name, alias)
        named = {
            "actor": sa.case((events.c.actor == name, alias), else_=events.c.actor),
            "subject": sa.case((is_subject, renamed), else_=events.c.subject),
        }
        redact_events(database, takedown, _names_person(name), named)
        with database.transaction() as tx:
            _forget(tx, number, name, alias)


def find_person(tx: Transaction, name: str) -> Reviewer:
    """Return the reviewer of a name. Raises NotFound, and Refused for a built-in reviewer."""
    reviewer = find_reviewer(tx, name)
    if reviewer.kind != PERSON:
        raise Refused(f"{name} is no person but a part of Layerloop", "name a person")
    return reviewer


def _names_person(name: str) -> sa.ColumnElement[bool]:
    return (events.c.actor == name) | events.c.subject.in_(_subjects(name))


def _subjects(name: str) -> list[str]:
    return [name, f"reviewer {name}"]


def _forget(tx: Transaction, number: int, name: str, alias: str) -> None:
    tx.connection.exec_driver_sql(ALLOW)
    own = decisions.c.reviewer_id == number
    tx.execute(sa.update(decisions).where(own, decisions.c.comment != "").values(comment=""))
    for table in (sessions, sign_in_tokens, reviewer_identities):
        tx.execute(sa.delete(table).where(table.c.reviewer_id == number))
    leases.release_holder(tx, lease_holder_name(number))
    _forget_emails(tx, number, alias)
    for column, value in (
        (captions.c.source, f"person:{name}"),
        (snapshot_notes.c.author, name),
        (api_tokens.c.created_by, name),
        (webhooks.c.created_by, name),
    ):
        new = f"person:{alias}" if column is captions.c.source else alias
        tx.execute(sa.update(column.table).where(column == value).values({column.name: new}))
    _forget_in_queries(tx, name, alias)
    gone = {"name": alias, "active": False, "paused": None}
    tx.execute(sa.update(reviewers).where(reviewers.c.id == number).values(gone))


def _forget_emails(tx: Transaction, number: int, alias: str) -> None:
    """Replace the addresses with which the person annotates in Label Studio."""
    mine = sa.select(labeling_users.c.email).where(labeling_users.c.reviewer_id == number)
    for email in list(tx.execute(mine).scalars()):
        for column in (labeling_annotations.c.email, labeling_annotations.c.author):
            changing = sa.update(labeling_annotations).where(column == email)
            tx.execute(changing.values({column.name: alias}))
    tx.execute(sa.delete(labeling_users).where(labeling_users.c.reviewer_id == number))
    without = labeling_annotations.c.content.concat({"comment": ""})
    of_person = labeling_annotations.c.decision_id.in_(
        sa.select(decisions.c.id).where(decisions.c.reviewer_id == number)
    )
    tx.execute(sa.update(labeling_annotations).where(of_person).values(content=without))


def _forget_in_queries(tx: Transaction, name: str, alias: str) -> None:
    """Replace the name in the queries of snapshots."""
    asked = snapshots.c.query["reviewers"].contains([name])
    for row in tx.execute(sa.select(snapshots.c.id, snapshots.c.query).where(asked)).all():
        names = [alias if one == name else one for one in row.query["reviewers"]]
        values = {"query": row.query | {"reviewers": names}}
        tx.execute(sa.update(snapshots).where(snapshots.c.id == row.id).values(values))


def _count(tx: Transaction, condition: sa.ColumnElement[bool]) -> int:
    return int(tx.scalar(sa.select(sa.func.count()).where(condition)))
