"""Reviewers: accounts, one-time sign-in tokens, pauses and sign-in throttling."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db import leases, time_spans
from curation.db.engine import Transaction
from curation.db.paging import read_page
from curation.db.tables import reviewers, sign_in_tokens
from curation.domain import Role
from curation.errors import Conflict, NotFound, Refused
from curation.review.sessions import end_sessions, hash_token

PERSON, RULE_REVIEWER, AUTO_REVIEWER = "person", "rule_reviewer", "auto_reviewer"
"""Kinds of reviewers; their decisions are never aggregated across kinds."""

ADJUDICATORS = "'engineer', 'trainer', 'admin'"
"""The roles that may settle disagreements, as an SQL list."""


class ReviewerPausedError(Conflict):
    """A reviewer paused by gold.

    They get no items and their decisions are rejected until they are resumed.
    """

    def __init__(self, why: str) -> None:
        hint = "ask an engineer to run 'layerloop reviewer resume'; your earlier decisions stay"
        super().__init__(f"your reviewing is paused: {why}", hint)


class InvalidTokenError(Refused):
    """A sign-in token that is wrong, used, expired or of a deactivated reviewer."""

    def __init__(self) -> None:
        super().__init__(
            "this sign-in token is not valid",
            "each token works once and for a short time; ask for a new one",
        )


class TooManyAttemptsError(Refused):
    """Too many wrong tokens from one address; `seconds` is the time to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "too many wrong sign-in tokens", f"wait {seconds:.0f} s, and copy the whole token"
        )
        self.seconds = seconds


@dataclass(frozen=True)
class Reviewer:
    """An account that decides: a person, or a rule reviewer or auto-reviewer."""

    id: int
    name: str
    kind: str
    role: Role
    active: bool
    paused: str | None = None  # the reason, while gold has paused them

    @property
    def holder(self) -> str:
        """The name that holds this reviewer's leases."""
        return lease_holder_name(self.id)


def lease_holder_name(reviewer_id: int) -> str:
    """Return the name that holds a reviewer's leases."""
    return f"reviewer {reviewer_id}"


def add_reviewer(
    tx: Transaction, name: str, role: Role = Role.annotator, kind: str = PERSON
) -> Reviewer:
    """Add a reviewer; repeating the call changes nothing.

    Args:
        tx: The transaction.
        name: A unique name of 1 to 100 characters.
        role: The role.
        kind: PERSON, RULE_REVIEWER or AUTO_REVIEWER.

    Raises:
        Refused: The name is empty or too long.
        Conflict: A reviewer of this name has another kind or role.
    """
    if not name.strip() or len(name) > 100:
        raise Refused(
            "a reviewer's name has 1 to 100 characters",
            "choose a name that the other reviewers recognize",
        )
    row = {"name": name.strip(), "kind": kind, "role": role}
    tx.execute(insert(reviewers).on_conflict_do_nothing(), row)
    found = find_reviewer(tx, name.strip())
    if (found.kind, found.role) != (kind, role):
        raise Conflict(
            f"reviewer {found.name!r} already exists, as {found.kind} with access {found.role}",
            "choose another name",
        )
    return found


def add_rule_reviewer(tx: Transaction) -> int:
    """Return the id of the rule reviewer's account, adding it if there is none."""
    return add_reviewer(tx, RULE_REVIEWER, Role.annotator, RULE_REVIEWER).id


def reviewer_names(tx: Transaction) -> set[str]:
    """Return the names of all reviewers."""
    return set(tx.execute(sa.select(reviewers.c.name)).scalars())


def find_reviewer(tx: Transaction, name: str) -> Reviewer:
    """Return a reviewer by name. Raises NotFound."""
    row = tx.execute(sa.select(reviewers).where(reviewers.c.name == name)).mappings().first()
    if row is None:
        raise NotFound(f"there is no reviewer {name!r}")
    return _read(row)


def get_reviewer(tx: Transaction, reviewer_id: int) -> Reviewer | None:
    """Return a reviewer by id, or None."""
    row = tx.execute(_BY_ID, {"id": reviewer_id}).mappings().first()
    return None if row is None else _read(row)


def list_reviewers(
    tx: Transaction, *, kind: str | None = None, limit: int = 0, after: str | None = None
) -> list[Reviewer]:
    """Return reviewers, oldest first.

    Args:
        tx: The transaction.
        kind: Only accounts of this kind, such as PERSON; None for all.
        limit: The largest number; 0 for no limit.
        after: Name of the last reviewer of the page before; None for the first page.

    Raises:
        NotFound: There is no reviewer `after`.
    """
    query = sa.select(reviewers)
    query = query.where(reviewers.c.kind == kind) if kind else query
    place = None if after is None else [find_reviewer(tx, after).id]
    rows = read_page(tx, query, [reviewers.c.id], limit=limit, after=place, descending=False)
    return [_read(row) for row in rows]


def deactivate(tx: Transaction, reviewer: Reviewer) -> None:
    """End a reviewer's sessions and tokens at once.

    Their leases are released and their decisions stay.
    """
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(active=False))
    end_sessions(tx, reviewer.id)
    leases.release_holder(tx, reviewer.holder)


def reactivate(tx: Transaction, reviewer: Reviewer) -> None:
    """Let a deactivated reviewer sign in again with a new token.

    Their earlier sessions stay ended.
    """
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(active=True))


def change_role(tx: Transaction, reviewer: Reviewer, role: Role, actor: str) -> None:
    """Give a reviewer another role, from their next request on.

    Args:
        tx: The transaction.
        reviewer: A person.
        role: The new role; the present one changes nothing.
        actor: Who changes it.

    Raises:
        Refused: The reviewer is not a person.
    """
    if reviewer.kind != PERSON:
        raise Refused(f"{reviewer.name!r} is not a person", "only people have other roles")
    if reviewer.role is role:
        return
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(role=role))
    tx.log(actor, "reviewer role changed", reviewer.name, before=reviewer.role, after=role)


def find_session(tx: Transaction, token: str) -> Reviewer | None:
    """Return the reviewer signed in with this session token.

    Returns None if the session has ended or the reviewer is deactivated.
    """
    row = tx.execute(_BY_SESSION, {"hash": hash_token(token)}).mappings().first()
    return None if row is None else _read(row)


def resume_reviewer(tx: Transaction, reviewer: Reviewer, actor: str) -> None:
    """Resume a paused reviewer and restart their gold statistics. Raises Conflict."""
    if reviewer.paused is None:
        raise Conflict(
            f"{reviewer.name!r} is not paused", "'layerloop reviewer list' shows paused reviewers"
        )
    values = {"paused": None, "resumed_at": sa.func.now()}
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(values))
    tx.log(actor, "reviewer resumed", reviewer.name)


def issue_token(tx: Transaction, reviewer: Reviewer, minutes: int) -> str:
    """Return a new one-time sign-in token (256 random bits).

    The token cannot be shown again, since only its SHA-256 is stored.

    Args:
        tx: The transaction.
        reviewer: An active person.
        minutes: How long the token is valid.

    Raises:
        Refused: The reviewer is not a person, or is deactivated.
    """
    if reviewer.kind != PERSON or not reviewer.active:
        raise Refused(f"{reviewer.name!r} cannot sign in", "only active persons can sign in")
    token = secrets.token_urlsafe(32)
    until = sa.func.now() + time_spans.seconds(60 * minutes)
    tx.execute(
        sa.insert(sign_in_tokens).values(
            hash=hash_token(token), reviewer_id=reviewer.id, expires_at=until
        )
    )
    return token


def sign_in(tx: Transaction, token: str) -> Reviewer:
    """Consume a sign-in token and return its reviewer.

    Lookup is by the token's hash, so its timing reveals nothing about any real token. Two requests
    with one token cannot both succeed, since the row is updated only while unused.

    Raises:
        InvalidTokenError: The token is wrong, used, expired or of a deactivated reviewer; always
            with the same message.
    """
    spent = (
        sa.update(sign_in_tokens)
        .where(
            sign_in_tokens.c.hash == hash_token(token),
            sign_in_tokens.c.used_at.is_(None),
            sign_in_tokens.c.expires_at > sa.func.now(),
            sign_in_tokens.c.reviewer_id == reviewers.c.id,
            reviewers.c.active,
            reviewers.c.kind == PERSON,
        )
        .values(used_at=sa.func.now())
        .returning(*reviewers.c)
    )
    row = tx.execute(spent).mappings().first()
    if row is None:
        raise InvalidTokenError
    reviewer = _read(row)
    tx.log(reviewer.name, "signed in", f"reviewer {reviewer.name}")
    return reviewer


class SignInThrottle:
    """Throttle for addresses that send wrong tokens: after three, waits of 1, 2, 4 ... 60 s.

    A valid token is never delayed, so nobody can lock others out, not even from a shared address
    (loopback, a proxy). State is in memory and per process: with 256 random bits in a token this
    protects log and CPU, not the secret, and a table that strangers can make the server write to
    would itself be a target.
    """

    FREE, LONGEST, REMEMBERED = 3, 60.0, 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Address -> number of wrong tokens, end of the wait.
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def failed(self, address: str) -> None:
        """Record a wrong token; raise TooManyAttemptsError if the address should have waited."""
        with self._lock:
            count, until = self._wrong.pop(address, (0, 0.0))
            remaining = until - self._clock()
            # An attempt during the wait does not lengthen it.
            if remaining <= 0:
                count += 1
                wait = min(2.0 ** (count - self.FREE), self.LONGEST) if count >= self.FREE else 0.0
                until = self._clock() + wait
            self._wrong[address] = (min(count, 32), until)
            # Bound the memory: forget the addresses that failed longest ago.
            while len(self._wrong) > self.REMEMBERED:
                self._wrong.popitem(last=False)
        if remaining > 0:
            raise TooManyAttemptsError(max(remaining, 1.0))

    def succeeded(self, address: str) -> None:
        """Forget the wrong tokens of an address."""
        with self._lock:
            self._wrong.pop(address, None)


_BY_ID = sa.text("select id, name, kind, role, active, paused from reviewers where id = :id")
_BY_SESSION = sa.text("""
select r.id, r.name, r.kind, r.role, r.active, r.paused
from sessions s join reviewers r on r.id = s.reviewer_id
where s.hash = :hash and s.ended_at is null and s.expires_at > now() and r.active""")


def _read(row: sa.RowMapping | dict[str, Any]) -> Reviewer:
    return Reviewer(
        row["id"], row["name"], row["kind"], Role(row["role"]), row["active"], row["paused"]
    )
