"""Reviewers: who decides, how a person signs in with a one-time token, and how a session is remembered."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy.dialects.postgresql import insert

from curation import leases
from curation.database import Transaction
from curation.domain import Access
from curation.errors import Conflict, NotFound, Refused
from curation.tables import reviewers, sign_in_tokens

PERSON, ORACLE, MACHINE = "person", "oracle", "machine"
"""Kinds of reviewers, whose decisions are never added up."""

ADJUDICATORS = "'engineer', 'trainer', 'admin'"
"""Accesses of those who settle what others disagree on, as SQL lists them."""


class Paused(Conflict):
    """Somebody whom gold has paused: nothing is shown to them and nothing of theirs is taken until they are resumed."""

    def __init__(self, why: str) -> None:
        told = "talk to an engineer: 'layerloop reviewer resume' lifts it, and your earlier decisions stay"
        super().__init__(f"your reviewing is paused: {why}", told)


class TooOften(Refused):
    """Too many wrong tokens from one address; `seconds` says how long to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__("too many wrong sign-in tokens", f"wait {seconds:.0f} s, and copy the whole token")
        self.seconds = seconds


@dataclass(frozen=True)
class Reviewer:
    """Somebody who decides: a person, or the oracle; inactive ones are out at once."""

    id: int
    name: str
    kind: str
    access: Access
    active: bool
    paused: str | None = None  # why, while gold has paused them

    @property
    def holder(self) -> str:
        """The name under which leases are theirs."""
        return holder_of(self.id)


def holder_of(reviewer_id: int) -> str:
    """The name under which a reviewer's leases are kept."""
    return f"reviewer {reviewer_id}"


def add_reviewer(tx: Transaction, name: str, access: Access = Access.annotator, kind: str = PERSON) -> Reviewer:
    """Add a reviewer; the same again changes nothing. Raises Conflict where the name has another kind or access."""
    if not name.strip() or len(name) > 100:
        raise Refused("a reviewer's name has 1 to 100 characters", "give a name that the others will recognise")
    row = {"name": name.strip(), "kind": kind, "access": access}
    tx.execute(insert(reviewers).on_conflict_do_nothing(), row)
    found = find_reviewer(tx, name.strip())
    if (found.kind, found.access) != (kind, access):
        raise Conflict(
            f"{found.name!r} is there already, as {found.kind} with access {found.access}", "choose another name"
        )
    return found


def oracle_reviewer(tx: Transaction) -> int:
    """The id of the reviewer in whose name the oracle decides; made when there is none."""
    return add_reviewer(tx, ORACLE, Access.annotator, ORACLE).id


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
    return [_read(row) for row in tx.execute(sa.select(reviewers).order_by(reviewers.c.id)).mappings()]


def deactivate(tx: Transaction, reviewer: Reviewer) -> None:
    """Send somebody away: sessions end with their next request, tokens no longer work, what they held waits again."""
    tx.execute(sa.update(reviewers).where(reviewers.c.id == reviewer.id).values(active=False))
    leases.hand_back(tx, reviewer.holder)


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
    tx.execute(sa.insert(sign_in_tokens).values(hash=_hash(token), reviewer_id=reviewer.id, expires_at=until))
    return token


def sign_in(tx: Transaction, token: str) -> Reviewer:
    """Spend a token. Raises Refused, in the same words whether it is wrong, spent, too old or its owner was sent away.

    The look-up is by the token's hash: its timing tells of the hash of a guess and so nothing of any real token. Two
    requests with one token cannot both win, since the row is updated where it is unspent.
    """
    spent = (
        sa.update(sign_in_tokens)
        .where(
            sign_in_tokens.c.hash == _hash(token),
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
        raise Refused("this sign-in token is not valid", "each works once and for a short while; ask for a new one")
    reviewer = _read(row)
    tx.log(reviewer.name, "signed in", f"reviewer {reviewer.name}")
    return reviewer


class Sessions:
    """Sessions as signed cookies: who signed in and when, readable by anybody and forgeable by nobody."""

    def __init__(self, secret: str, hours: int) -> None:
        self.seconds = hours * 3_600
        options = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        self._signer = URLSafeTimedSerializer(secret, salt="layerloop session", signer_kwargs=options)

    def seal(self, reviewer: Reviewer) -> str:
        """A cookie for somebody who has just signed in."""
        return str(self._signer.dumps(reviewer.id))

    def open(self, cookie: str) -> int | None:
        """The reviewer's id in a cookie, or None where it is forged, broken or too old."""
        try:
            found = self._signer.loads(cookie, max_age=self.seconds)
        except BadSignature:
            return None
        return found if isinstance(found, int) else None


class BackOff:
    """Makes trying tokens slow: after three wrong ones an address waits 1, 2, 4 ... 60 s.

    In memory and per process: a token has 256 random bits, so this guards the log and the CPU and not the secret,
    and a table that strangers can make us write to would itself be worth attacking.
    """

    FREE, LONGEST, REMEMBERED = 3, 60.0, 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> wrong tokens, closed until
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raise TooOften while an address has to wait."""
        with self._lock:
            wait = self._wrong.get(address, (0, 0.0))[1] - self._clock()
        if wait > 0:
            raise TooOften(max(wait, 1.0))

    def failed(self, address: str) -> None:
        """Note a wrong token."""
        with self._lock:
            wrong = self._wrong.pop(address, (0, 0.0))[0] + 1
            wait = min(2.0 ** (wrong - self.FREE), self.LONGEST) if wrong >= self.FREE else 0.0
            self._wrong[address] = (min(wrong, 32), self._clock() + wait)
            while len(self._wrong) > self.REMEMBERED:
                self._wrong.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget what an address did wrong."""
        with self._lock:
            self._wrong.pop(address, None)


_BY_ID = sa.text("select id, name, kind, access, active, paused from reviewers where id = :id")


def _read(row: sa.RowMapping | dict[str, Any]) -> Reviewer:
    return Reviewer(row["id"], row["name"], row["kind"], Access(row["access"]), row["active"], row["paused"])


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
