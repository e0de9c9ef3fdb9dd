"""Reviewers: who decides, how a person signs in with a one-time token, and how a session is remembered."""

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

from curation.db import leases
from curation.db.engine import Transaction
from curation.db.tables import reviewers, sign_in_tokens
from curation.domain import Role
from curation.errors import Conflict, NotFound, Refused
from curation.review.sessions import end_sessions, token_hash

PERSON, ORACLE, MACHINE = "person", "oracle", "machine"
"""Kinds of reviewers, whose decisions are never added up."""

ADJUDICATORS = "'engineer', 'trainer', 'admin'"
"""Accesses of those who settle what others disagree on, as SQL lists them."""


class Paused(Conflict):
    """Somebody whom gold has paused: nothing is shown to them and nothing of theirs is taken until they are resumed."""

    def __init__(self, why: str) -> None:
        told = "talk to an engineer: 'layerloop reviewer resume' lifts it, and your earlier decisions stay"
        super().__init__(f"your reviewing is paused: {why}", told)


class WrongToken(Refused):
    """A sign-in token that is wrong, spent, too old, or of a reviewer who was deactivated."""

    def __init__(self) -> None:
        super().__init__(
            "this sign-in token is not valid",
            "each works once and for a short while; ask for a new one",
        )


class TooOften(Refused):
    """Too many wrong tokens from one address; `seconds` says how long to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "too many wrong sign-in tokens", f"wait {seconds:.0f} s, and copy the whole token"
        )
        self.seconds = seconds


@dataclass(frozen=True)
class Reviewer:
    """Somebody who decides: a person, or the oracle; inactive ones are out at once."""

    id: int
    name: str
    kind: str
    access: Role
    active: bool
    paused: str | None = None  # why, while gold has paused them

    @property
    def holder(self) -> str:
        """The name under which leases are theirs."""
        return holder_of(self.id)


def holder_of(reviewer_id: int) -> str:
    """The name under which a reviewer's leases are kept."""
    return f"reviewer {reviewer_id}"


def add_reviewer(
    tx: Transaction, name: str, access: Role = Role.annotator, kind: str = PERSON
) -> Reviewer:
    """Add a reviewer; the same again changes nothing. Raises Conflict where the name has another kind or access."""
    if not name.strip() or len(name) > 100:
        raise Refused(
            "a reviewer's name has 1 to 100 characters",
            "give a name that the others will recognise",
        )
    row = {"name": name.strip(), "kind": kind, "access": access}
    tx.execute(insert(reviewers).on_conflict_do_nothing(), row)
    found = find_reviewer(tx, name.strip())
    if (found.kind, found.access) != (kind, access):
        raise Conflict(
            f"{found.name!r} is there already, as {found.kind} with access {found.access}",
            "choose another name",
        )
    return found


def oracle_reviewer(tx: Transaction) -> int:
    """The id of the reviewer in whose name the oracle decides; made when there is none."""
    return add_reviewer(tx, ORACLE, Role.annotator, ORACLE).id


def names(tx: Transaction) -> set[str]:
    """Return the names of all reviewers."""
    return set(tx.execute(sa.select(reviewers.c.name)).scalars())


def find_reviewer(tx: Transaction, name: str) -> Reviewer:
    """A reviewer by name. Raises NotFound."""
    row = tx.execute(sa.select(reviewers).where(reviewers.c.name == name)).mappings().first()
    if row is None:
        raise NotFound(f"there is no reviewer {name!r}")
    return _read(row)


def reviewer_of(tx: Transaction, reviewer_id: int) -> Reviewer | None:
    """A reviewer by id, or None."""
    row = tx.execute(_BY_ID, {"id": reviewer_id}).mappings().first()
    return None if row is None else _read(row)


def list_reviewers(tx: Transaction) -> list[Reviewer]:
    """Every reviewer, in the order in which they came."""
    return [
        _read(row) for row in tx.execute(sa.select(reviewers).order_by(reviewers.c.id)).mappings()
    ]


def deactivate(tx: Transaction, reviewer: Reviewer) -> None:
    """End a reviewer's sessions and tokens at once; what they held waits again and their decisions stay."""
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(active=False))
    end_sessions(tx, reviewer.id)
    leases.hand_back(tx, reviewer.holder)


def reactivate(tx: Transaction, reviewer: Reviewer) -> None:
    """Let a deactivated reviewer sign in again, with a new token; sessions from before stay ended."""
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(active=True))


def find_session(tx: Transaction, token: str) -> Reviewer | None:
    """Return who has the session with this token, or None where it ended or the reviewer is deactivated."""
    row = tx.execute(_BY_SESSION, {"hash": token_hash(token)}).mappings().first()
    return None if row is None else _read(row)


def resume_reviewer(tx: Transaction, reviewer: Reviewer, actor: str) -> None:
    """Let somebody decide again whom gold has paused; their answers to gold count anew from here. Raises Conflict."""
    if reviewer.paused is None:
        raise Conflict(f"{reviewer.name!r} is not paused", "'layerloop reviewer list' tells who is")
    values = {"paused": None, "resumed_at": sa.func.now()}
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(values))
    tx.log(actor, "reviewer resumed", reviewer.name)


def issue_token(tx: Transaction, reviewer: Reviewer, minutes: int) -> str:
    """A one-time sign-in token (256 random bits, valid for so long); told once, since only its sha256 is kept."""
    if reviewer.kind != PERSON or not reviewer.active:
        raise Refused(f"{reviewer.name!r} cannot sign in", "only active persons can")
    token = secrets.token_urlsafe(32)
    until = sa.func.now() + sa.func.make_interval(0, 0, 0, 0, 0, minutes)
    tx.execute(
        sa.insert(sign_in_tokens).values(
            hash=token_hash(token), reviewer_id=reviewer.id, expires_at=until
        )
    )
    return token


def sign_in(tx: Transaction, token: str) -> Reviewer:
    """Spend a token. Raises WrongToken, alike for one that is wrong, spent, too old or of a deactivated reviewer.

    The look-up is by the token's hash: its timing tells of the hash of a guess and so nothing of any real token. Two
    requests with one token cannot both win, since the row is updated where it is unspent.
    """
    spent = (
        sa.update(sign_in_tokens)
        .where(
            sign_in_tokens.c.hash == token_hash(token),
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
        raise WrongToken
    reviewer = _read(row)
    tx.log(reviewer.name, "signed in", f"reviewer {reviewer.name}")
    return reviewer


class BackOff:
    """Tells an address that sends wrong tokens to wait: after three of them 1, 2, 4 ... 60 s.

    A valid token is never held up, so nobody can lock others out, not even from an address that all share (loopback,
    a proxy). In memory and per process: a token has 256 random bits, so this guards the log and the CPU and not the
    secret, and a table that strangers can make the server write to would itself be worth attacking.
    """

    FREE, LONGEST, REMEMBERED = 3, 60.0, 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = (
            OrderedDict()
        )  # address -> wrong tokens, wait until
        self._lock = threading.Lock()

    def failed(self, address: str) -> None:
        """Note a wrong token, and raise TooOften where the address should have waited."""
        with self._lock:
            wrong, until = self._wrong.pop(address, (0, 0.0))
            left = until - self._clock()
            # A try before the time is up does not lengthen the wait: the server answered it without doing more.
            if left <= 0:
                wrong += 1
                wait = min(2.0 ** (wrong - self.FREE), self.LONGEST) if wrong >= self.FREE else 0.0
                until = self._clock() + wait
            self._wrong[address] = (min(wrong, 32), until)
            while len(self._wrong) > self.REMEMBERED:
                self._wrong.popitem(last=False)
        if left > 0:
            raise TooOften(max(left, 1.0))

    def succeeded(self, address: str) -> None:
        """Forget the wrong tokens of an address."""
        with self._lock:
            self._wrong.pop(address, None)


_BY_ID = sa.text("select id, name, kind, access, active, paused from reviewers where id = :id")
_BY_SESSION = sa.text("""
select r.id, r.name, r.kind, r.access, r.active, r.paused
from sessions s join reviewers r on r.id = s.reviewer_id
where s.hash = :hash and s.ended_at is null and s.expires_at > now() and r.active""")


def _read(row: sa.RowMapping | dict[str, Any]) -> Reviewer:
    return Reviewer(
        row["id"], row["name"], row["kind"], Role(row["access"]), row["active"], row["paused"]
    )
