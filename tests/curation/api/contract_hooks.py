"""Hooks of schemathesis, loaded by its own process: valid requests name things that exist and carry valid secrets."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import schemathesis
import sqlalchemy as sa

from curation.comparison_values import ComparisonChoice
from curation.comparisons import votes
from curation.db.engine import Database
from curation.db.tables import sessions
from curation.review import queue
from curation.review.reviewers import find_reviewer, issue_token

KNOWN: dict[str, dict[str, dict[str, Any]]] = json.loads(os.environ["CONTRACT_KNOWN"])
"""For an operation's label the path words, queries and headers that name things of the test's instance."""

DATABASE = Database(os.environ["CONTRACT_DATABASE"])


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Let valid cases name existing objects; invalid ones stay as generated."""
    del context, kwargs
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    label = case.operation.label
    known = KNOWN.get(label, {})
    case.path_parameters = {**(case.path_parameters or {}), **known.get("path", {})}
    case.query = {**(case.query or {}), **known.get("query", {})}
    for name, value in known.get("headers", {}).items():
        case.headers[name] = value
    if label in {"POST /api/review/decisions", "POST /api/review/undo"} and isinstance(
        case.body, dict
    ):
        case.body = {"key": str(uuid.uuid4())} if label.endswith("undo") else _decidable(case.body)
    if label == "POST /api/comparison/undo" and isinstance(case.body, dict):
        case.body = _with_a_vote()
    if label == "POST /api/comparison/votes" and isinstance(case.body, dict):
        case.body = _votable(case.body)
    if label == "POST /api/session" and isinstance(case.body, dict):
        with DATABASE.transaction() as tx:
            case.body = {**case.body, "token": issue_token(tx, find_reviewer(tx, "visitor"), 5)}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Continue the session of the test after calls that end it: the other calls need it."""
    del context, response
    if case.operation.path == "/api/session":
        with DATABASE.transaction() as tx:
            admin = find_reviewer(tx, "the admin").id
            mine = sa.update(sessions).where(sessions.c.reviewer_id == admin)
            tx.execute(mine.values(ended_at=None))


def _decidable(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a decision about a single candidate that is leased to the session's reviewer."""
    with DATABASE.transaction() as tx:
        reviewer = find_reviewer(tx, "the admin")
        [item] = queue.claim_batch(tx, reviewer.id, None, 1, [], 300).items
    reasons = body.get("reasons", []) if body["verdict"] == "reject" else []
    return {
        **body,
        "candidate": str(item.id),
        "key": str(uuid.uuid4()),
        "reasons": reasons,
        "layers": [],
    }


def _votable(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a vote on an item that waits for the session's reviewer."""
    with DATABASE.transaction() as tx:
        reviewer = find_reviewer(tx, "the admin")
        items = votes.claim_next(tx, reviewer.id, None, 1, (), 300)
    item = {"item": str(items[0].id)} if items else {}
    return {**body, **item, "key": str(uuid.uuid4())}


def _with_a_vote() -> dict[str, Any]:
    """Let the session's reviewer vote, and return the body of an undo of their last vote."""
    with DATABASE.transaction() as tx:
        reviewer = find_reviewer(tx, "the admin")
        for item in votes.claim_next(tx, reviewer.id, None, 1, (), 300):
            votes.vote(tx, reviewer.id, item.id, ComparisonChoice.equal, key=uuid.uuid4())
    return {"key": str(uuid.uuid4())}
