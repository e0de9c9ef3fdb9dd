"""The secret that signs cookies and URLs, the same for every process of an instance on a server."""

from __future__ import annotations

import hashlib
import hmac

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import instance_secrets
from curation.errors import Refused

SIGNING = "signing"
RESET_HINT = (
    "set the same LAYERLOOP_SECRET for every API and worker; to change it, stop all of them and "
    "run: layerloop db reset-secret"
)


def shared_secret(tx: Transaction, proposed: str) -> str:
    """Return the secret that the database keeps; the first process stores the one it proposes.

    Args:
        tx: The transaction.
        proposed: The secret to keep if there is none yet.

    Raises:
        Refused: The other processes have a secret of their settings.
    """
    _store(tx, proposed, keep=True)
    row = _find(tx)
    if row.secret is None:
        raise Refused(
            "the other processes of this instance sign with LAYERLOOP_SECRET, which is not set "
            "here",
            RESET_HINT,
        )
    return str(row.secret)


def check_secret(tx: Transaction, secret: str) -> None:
    """Check that a secret of the settings is that of all processes; only its hash is stored.

    Args:
        tx: The transaction.
        secret: The secret.

    Raises:
        Refused: Other processes of the instance sign with another secret.
    """
    _store(tx, secret, keep=False)
    if not hmac.compare_digest(_find(tx).fingerprint, _fingerprint(secret)):
        raise Refused(
            "LAYERLOOP_SECRET is not the secret with which the other processes of this instance "
            "sign: sessions and image URLs of one would be refused by the other",
            RESET_HINT,
        )


def is_shared(tx: Transaction, secret: str | None) -> bool:
    """Return whether a process with this setting signs like the others; nothing is stored.

    Args:
        tx: The transaction.
        secret: LAYERLOOP_SECRET, or None if it is not set.
    """
    row = tx.execute(_ROW).one_or_none()
    if row is None:
        return True
    if secret is None:
        return row.secret is not None
    return hmac.compare_digest(row.fingerprint, _fingerprint(secret))


def reset_secret(tx: Transaction) -> bool:
    """Forget the secret, so that the next process sets it; return whether there was one."""
    return bool(tx.execute(sa.delete(instance_secrets)).rowcount)


def _store(tx: Transaction, secret: str, *, keep: bool) -> None:
    """Insert the secret or only its fingerprint, unless a process was first."""
    row = {
        "name": SIGNING,
        "secret": secret if keep else None,
        "fingerprint": _fingerprint(secret),
    }
    tx.execute(insert(instance_secrets).values(row).on_conflict_do_nothing())


def _find(tx: Transaction) -> sa.Row[tuple[str | None, str]]:
    row: sa.Row[tuple[str | None, str]] = tx.execute(_ROW).one()
    return row


def _fingerprint(secret: str) -> str:
    return hmac.digest(secret.encode(), b"layerloop fingerprint", hashlib.sha256).hex()


_ROW = sa.select(instance_secrets.c.secret, instance_secrets.c.fingerprint)
