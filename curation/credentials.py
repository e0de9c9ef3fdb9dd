"""Passwords in URLs, and the file of the secret that signs sessions."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path
from urllib.parse import quote, urlsplit

from curation.errors import LayerloopError

MIN_SECRET_LENGTH = 32
"""Shortest secret to sign sessions and URLs with, in characters."""
GROUP_AND_OTHERS_MODE = 0o077
"""The permission bits of a file for its group and for others."""


def with_password(address: str, password: str) -> str:
    """Return a URL with a password, unless it has one already or names no user.

    Args:
        address: The URL.
        password: The password in plain text.
    """
    user, at, host = urlsplit(address).netloc.rpartition("@")
    if not at or ":" in user:
        return address
    return address.replace(f"{user}@{host}", f"{user}:{quote(password, safe='')}@{host}", 1)


def read_or_create_secret(file: Path) -> str:
    """Return the secret in a file, after generating it if the file does not exist.

    Args:
        file: The file.

    Raises:
        LayerloopError: The secret is too short, or its file is readable for other users.
    """
    if not file.exists():
        handle, draft = tempfile.mkstemp(dir=file.parent)  # readable only for its owner
        with os.fdopen(handle, "w") as out:
            out.write(secrets.token_urlsafe(32))
        # A hard link is created atomically and only once: if two processes generate a secret
        # at the same time, both read the secret of the first.
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)
        Path(draft).unlink()
    if file.stat().st_mode & GROUP_AND_OTHERS_MODE:
        raise LayerloopError(
            f"other users can read {file}, the secret that signs sessions",
            f"remove it, and everybody signs in again; or, if nobody read it: chmod 600 {file}",
        )
    return check_length(file.read_text(), str(file))


def check_length(secret: str, name: str) -> str:
    """Return a secret that is long enough.

    Args:
        secret: The secret.
        name: The file or setting that it comes from, for the error message.

    Raises:
        LayerloopError: It is too short.
    """
    if len(secret) < MIN_SECRET_LENGTH:
        raise LayerloopError(
            f"the secret in {name} has only {len(secret)} characters and could be guessed",
            f"use a secret of {MIN_SECRET_LENGTH} or more, such as from: openssl rand -hex 32",
        )
    return secret
