"""API tokens: scoped, expiring credentials of programs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from curation.access.scopes import Scope
from curation.db import time_spans
from curation.db.engine import Transaction
from curation.db.paging import read_page
from curation.db.tables import api_tokens
from curation.domain import Role
from curation.errors import Conflict, NotFound, Refused
from curation.review.sessions import hash_token

PREFIX = "layerloop_"
"""The prefix of every token, by which secret scanners recognize it."""

MAX_DAYS = 366
"""The longest lifetime of a token in days."""

USE_RECORDED_SECONDS = 60
"""Least number of seconds between two records of a token's last use."""


TRAINER_SCOPES = (Scope.snapshots_read, Scope.checkpoints_read)
"""The scopes of a trainer's program: read snapshots and checkpoints."""


@dataclass(frozen=True)
class Program:
    """A program that was authenticated by a token."""

    token_id: int
    token_name: str
    scopes: frozenset[str]
    use_is_due: bool  # the recorded time of the last use is old

    role = Role.trainer
    """The role whose view of a response a program gets."""

    @property
    def name(self) -> str:
        """The name under which the program acts in the event log."""
        return f"token {self.token_name}"


def create_token(
    tx: Transaction, name: str, scopes: Sequence[Scope], seconds: int, actor: str
) -> str:
    """Create a token and return it; it cannot be shown again, since only its hash is stored.

    Args:
        tx: The transaction.
        name: A name of 1 to 100 characters that no active token has.
        scopes: At least one scope.
        seconds: Lifetime in seconds, at most MAX_DAYS days.
        actor: Who creates it.

    Raises:
        Refused: The name, the scopes or the lifetime are invalid.
        Conflict: A token of this name exists and is not revoked.
    """
    name = name.strip()
    if not 1 <= len(name) <= 100:
        raise Refused("a token's name has 1 to 100 characters", "name the program that uses it")
    if not scopes:
        raise Refused("a token needs a scope", f"scopes: {', '.join(Scope)}")
    if not 0 < seconds <= MAX_DAYS * 86_400:
        raise Refused(
            f"a token is valid for at most {MAX_DAYS} days", "choose a shorter time, such as 30d"
        )
    if tx.scalar(sa.select(api_tokens.c.id).where(_active(name))) is not None:
        raise Conflict(
            f"there is a token {name!r} already",
            f"choose another name, or revoke it: layerloop token revoke {name}",
        )
    token = PREFIX + secrets.token_urlsafe(32)
    granted = sorted({str(scope) for scope in scopes})
    row = {"name": name, "hash": hash_token(token), "scopes": granted, "created_by": actor}
    until = sa.func.now() + time_spans.seconds(seconds)
    created = sa.insert(api_tokens).values(row | {"expires_at": until})
    expires_at = tx.scalar(created.returning(api_tokens.c.expires_at))
    tx.log(
        actor, "token created", f"token {name}", scopes=granted, expires_at=expires_at.isoformat()
    )
    return token


def list_tokens(tx: Transaction, limit: int = 0, after: int | None = None) -> list[dict[str, Any]]:
    """Return tokens without their hashes, newest first, each with its state.

    Args:
        tx: The transaction.
        limit: The largest number; 0 for no limit.
        after: Id of the last token of the page before; None for the first page.
    """
    columns = [column for column in api_tokens.c if column.name != "hash"]
    query = sa.select(*columns, sa.func.now().label("now"))
    place = None if after is None else [after]
    rows = read_page(tx, query, [api_tokens.c.id], limit=limit, after=place)
    return [
        {name: value for name, value in row.items() if name != "now"} | {"state": _state(row)}
        for row in rows
    ]


def revoke_token(tx: Transaction, name: str, actor: str) -> None:
    """Revoke a token at once. Raises NotFound if no token of this name is active."""
    revoked = sa.update(api_tokens).where(_active(name)).values(revoked_at=sa.func.now())
    if not tx.execute(revoked).rowcount:
        raise NotFound(f"there is no active token {name!r}", "'layerloop token list' lists tokens")
    tx.log(actor, "token revoked", f"token {name}")


def find_program(tx: Transaction, token: str) -> Program | None:
    """Return the program of a token; None if it is unknown, expired or revoked.

    Lookup is by the token's hash, so its timing reveals nothing about any real token.
    """
    row = tx.execute(_BY_HASH, {"hash": hash_token(token)}).mappings().first()
    if row is None:
        return None
    return Program(row["id"], row["name"], frozenset(row["scopes"]), row["due"])


def record_use(tx: Transaction, program: Program) -> None:
    """Record that a token is used now."""
    used = sa.update(api_tokens).where(api_tokens.c.id == program.token_id)
    tx.execute(used.values(last_used_at=sa.func.now()))


def _active(name: str) -> sa.ColumnElement[bool]:
    return sa.and_(api_tokens.c.name == name, api_tokens.c.revoked_at.is_(None))


def _state(row: Mapping[str, Any]) -> str:
    expires_at: datetime = row["expires_at"]
    if row["revoked_at"] is not None:
        return "revoked"
    return "active" if expires_at > row["now"] else "expired"


_BY_HASH = sa.text(f"""
select id, name, scopes,
    last_used_at is null or last_used_at < now() - interval '{USE_RECORDED_SECONDS} s' as due
from api_tokens
where hash = :hash and revoked_at is null and expires_at > now()""")
