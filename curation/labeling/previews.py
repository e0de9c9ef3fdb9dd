"""Previews: addresses of a task's layers that work as long as the task exists."""

from __future__ import annotations

import hashlib
import hmac
import uuid

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import LayerRole
from curation.errors import NotFound

HOOK_HEADER = "X-Layerloop-Desk"
"""Where the desk shows the secret with which it may wake the collector."""


class Previews:
    """Makes and checks addresses. Each is bound to one posting and layer; what ends it is the posting's own state.

    So nothing has to be revoked: a posting that was taken down is there no longer. One that is answered stays, since
    whoever corrects an answer there has to see what it is about. Whoever puts a candidate up again makes a new posting,
    with another address.
    """

    def __init__(self, secret: str, where: str) -> None:
        """`where` is the address at which browsers reach the API."""
        self._key = hmac.digest(secret.encode(), b"layerloop desk previews", hashlib.sha256)
        self._where = where.rstrip("/")

    def address(self, posting: uuid.UUID, role: LayerRole) -> str:
        """The whole address of one layer of a posting."""
        return f"{self._where}/api/desk/previews/{posting}/{role}.webp?sign={self._sign(posting, role)}"

    def find(self, tx: Transaction, posting: uuid.UUID, role: LayerRole, sign: str) -> str:
        """The sha256 of the layer. Raises NotFound for a forged address and for one that works no longer."""
        if not hmac.compare_digest(self._sign(posting, role).encode(), sign.encode()):
            raise NotFound("there is no such preview")
        sha256 = tx.execute(_OPEN, {"posting": posting, "role": role}).scalar()
        if sha256 is None:
            raise NotFound("this candidate is shown no longer", "go on with the next one")
        return str(sha256)

    def _sign(self, posting: uuid.UUID, role: LayerRole) -> str:
        return hmac.digest(self._key, f"{posting}/{role}".encode(), hashlib.sha256).hex()[:32]


def hook_secret(secret: str) -> str:
    """What the desk must say to wake the collector."""
    return hmac.digest(secret.encode(), b"layerloop desk hook", hashlib.sha256).hex()


_OPEN = sa.text("""
    select l.sha256 from desk_postings p
    join candidates c on c.id = p.candidate_id
    join candidate_layers l on l.candidate_id = c.id and l.role = :role
    where p.id = :posting and p.state in ('sending', 'up', 'answered')""")
