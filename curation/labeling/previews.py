"""Previews: signed URLs of a task's layers that are valid as long as the task exists."""

from __future__ import annotations

import hashlib
import hmac
import uuid

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import LayerRole
from curation.errors import NotFound

WEBHOOK_HEADER = "X-Layerloop-Desk"
"""HTTP header with the secret that authenticates the webhook.

Webhooks in Label Studio are recognized by this header, so it keeps its name of former versions.
"""


class PreviewUrls:
    """Signer and verifier of preview URLs, each for one layer of one task.

    A URL is valid as long as its task exists, so nothing has to be revoked. An annotated task keeps
    its URLs, since users who correct an annotation need to see the layers. A candidate that is
    pushed again becomes a new task with new URLs.
    """

    def __init__(self, secret: str, base_url: str) -> None:
        """Derive the signing key.

        Args:
            secret: Secret of this instance.
            base_url: Base URL at which browsers reach the API.
        """
        self._key = hmac.digest(secret.encode(), b"layerloop labeling previews", hashlib.sha256)
        self._base_url = base_url.rstrip("/")

    def sign_url(self, task_id: uuid.UUID, role: LayerRole) -> str:
        """Return the URL of one layer of a task."""
        sign = self._sign(task_id, role)
        return f"{self._base_url}/api/labeling/previews/{task_id}/{role}.webp?sign={sign}"

    def resolve(self, tx: Transaction, task_id: uuid.UUID, role: LayerRole, sign: str) -> str:
        """Verify a preview URL and return the hash of its layer.

        Args:
            tx: The transaction.
            task_id: ID of the task.
            role: Role of the layer.
            sign: Signature in the URL.

        Raises:
            NotFound: The signature is invalid, or the task does not exist any more.
        """
        if not hmac.compare_digest(self._sign(task_id, role).encode(), sign.encode()):
            raise NotFound("there is no such preview")
        sha256 = tx.execute(_OPEN, {"task": task_id, "role": role}).scalar()
        if sha256 is None:
            raise NotFound(
                "the task of this preview does not exist any more", "continue with the next task"
            )
        return str(sha256)

    def _sign(self, task_id: uuid.UUID, role: LayerRole) -> str:
        return hmac.digest(self._key, f"{task_id}/{role}".encode(), hashlib.sha256).hex()[:32]


def webhook_secret(secret: str) -> str:
    """Return the secret that authenticates Label Studio's webhook."""
    return hmac.digest(secret.encode(), b"layerloop labeling hook", hashlib.sha256).hex()


_OPEN = sa.text("""
    select l.sha256 from labeling_tasks t
    join candidates c on c.id = t.candidate_id
    join candidate_layers l on l.candidate_id = c.id and l.role = :role
    where t.id = :task and t.state in ('sending', 'open', 'annotated')""")
