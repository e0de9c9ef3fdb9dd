"""Errors of the PostgreSQL server as errors for people: the server's own reason, and what to do."""

from __future__ import annotations

import re

import sqlalchemy as sa

from curation.errors import LayerloopError, Refused, Unreachable

MAX_REASON_CHARACTERS = 300

START_HINT = "start it, or run 'layerloop up' for the embedded database"
RETRY_HINT = "try again; the transaction was rolled back"

# While connecting there is no code, only the server's or the client's text, in English by default.
# A reason in another language is shown too, with a general hint.
_CONNECT_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"database .* does not exist",
        "create it with createdb, or correct the name in LAYERLOOP_DATABASE",
    ),
    (
        r"password authentication failed|no password supplied",
        "correct LAYERLOOP_DATABASE; in passwords write @ as %40, : as %3A, / as %2F, % as %25",
    ),
    (r"role .* does not exist", "create the user, or correct it in LAYERLOOP_DATABASE"),
    (r"no pg_hba\.conf entry", "allow this machine and user in the server's pg_hba.conf"),
    (r"permission denied for database", "grant connect on the database to the user"),
    (
        r"too many clients|remaining connection slots|too many connections",
        "raise max_connections of the server, or run fewer processes",
    ),
    (
        r"starting up|in recovery mode|shutting down",
        "try again when the server has started",
    ),
    (r"could not translate host name", "correct the host in LAYERLOOP_DATABASE"),
    (r"SSL|certificate", "check sslmode and the certificates in LAYERLOOP_DATABASE"),
)

# By SQLSTATE, or its first two characters: what is wrong, and what to do.
_STATES: dict[str, tuple[str, str]] = {
    "53100": ("has no space left on its disk", "free space on the database server's disk"),
    "53200": ("has no memory left", "raise the memory of the database server, then try again"),
    "53300": (
        "accepts no more connections",
        "raise max_connections of the server, or run fewer processes",
    ),
    "25006": (
        "is read-only, such as a replica",
        "name the primary server in LAYERLOOP_DATABASE",
    ),
    "08": ("ended the connection", RETRY_HINT),
    "57P": ("ended the connection", RETRY_HINT),
    "58": ("cannot read or write its files", "see the log of the database server"),
}
_NOT_ALLOWED = "42501"


def connection_error(error: sa.exc.DBAPIError, address: sa.URL) -> Unreachable:
    """Return the error for a connection that could not be opened.

    Args:
        error: The driver's error.
        address: URL of the database; its password is not shown.
    """
    reason = server_reason(error)
    hint = next(
        (hint for pattern, hint in _CONNECT_HINTS if re.search(pattern, reason, re.IGNORECASE)),
        START_HINT,
    )
    shown = address.set(drivername="postgresql", query={})
    url = shown.render_as_string(hide_password=True)
    return Unreachable(f"the database at {url} does not answer: {reason}", hint)


def statement_error(error: sa.exc.DBAPIError) -> LayerloopError | None:
    """Return the error for a statement that failed because of the server, not of the statement.

    Args:
        error: The driver's error.

    Returns:
        Unreachable for a lost connection, a full disk or a read-only server; Refused for a missing
        permission; None for every other error, such as a violated constraint.
    """
    state = str(getattr(error.orig, "pgcode", None) or "")
    reason = server_reason(error)
    if state == _NOT_ALLOWED:
        return Refused(
            f"the database refuses: {reason}",
            "grant the user of LAYERLOOP_DATABASE that permission, or let it own the database",
        )
    for length in (5, 3, 2):
        if state[:length] in _STATES:
            problem, hint = _STATES[state[:length]]
            return Unreachable(f"the database {problem}: {reason}", hint)
    if error.connection_invalidated:
        problem, hint = _STATES["08"]
        return Unreachable(f"the database {problem}: {reason}", hint)
    return None


def server_reason(error: sa.exc.DBAPIError) -> str:
    """Return the server's own words in one line, without the statement and its parameters."""
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    # libpq puts the address first: connection to server at "db" ..., port 5432 failed: FATAL:  ...
    fatal = next((line for line in lines if re.search(r"(FATAL|ERROR):", line)), None)
    text = fatal or (lines[0] if lines else type(error.orig).__name__)
    text = re.sub(r"^.*?(?:FATAL|ERROR|PANIC):\s*", "", text)
    text = re.sub(r"^connection to server (?:at|on socket) .*? failed:\s*", "", text)
    return text[:MAX_REASON_CHARACTERS].rstrip(".")
