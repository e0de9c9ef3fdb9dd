"""Checks of the doctor on the database, clocks, versions, the shared secret and the broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from curation import __version__
from curation.adapters.s3 import S3Store
from curation.db import schema, secrets, workers
from curation.errors import Refused
from curation.runtime.context import AppContext
from curation.runtime.finding import Finding, without_credentials

MIN_SERVER_VERSION: Final = 14
MAX_CONNECTION_SHARE: Final = 0.9
MAX_CLOCK_SECONDS: Final = 10.0
"""Largest difference of two clocks; S3 refuses requests whose time is 15 minutes off."""


def check_database(context: AppContext) -> Finding:
    """Check that the database is a writable server of a supported version with our schema."""
    with context.database.transaction() as tx:
        row = tx.execute(_SERVER).one()
    address = without_credentials(context.database.engine.url.render_as_string())
    if row.replica:
        return Finding(
            "database",
            False,
            f"{address} is a replica, which accepts no writes",
            "name the primary server in LAYERLOOP_DATABASE",
        )
    major = row.version // 10_000
    if major < MIN_SERVER_VERSION:
        message = f"{address} has PostgreSQL {major}, and {MIN_SERVER_VERSION} is the oldest tested"
        return Finding("database", False, message, "upgrade the server")
    if row.used > row.allowed * MAX_CONNECTION_SHARE:
        message = f"{row.used} of {row.allowed} connections of {address} are used"
        return Finding("database", False, message, "raise max_connections, or run fewer processes")
    current, newest = schema.get_revisions(context.database)
    drift = schema.find_schema_drift(context.database)
    if current != newest or drift:
        message = f"schema {current} at {address}, but the code needs {newest}: {drift}"
        return Finding("database", False, message, "run 'layerloop db check'")
    message = (
        f"schema {current} at {address}, PostgreSQL {major}, "
        f"{row.used} of {row.allowed} connections"
    )
    return Finding("database", ok=True, message=message)


def check_clocks(context: AppContext) -> Finding:
    """Compare the clocks of the database and of an S3 server with that of this machine."""
    with context.database.transaction() as tx:
        tx.scalar(sa.text("select 1"))  # connects, so that the next statement is quick
        before = datetime.now(UTC)
        database = tx.scalar(sa.text("select clock_timestamp()"))
        local = before + (datetime.now(UTC) - before) / 2
    ahead = {"the database": (database - local).total_seconds()}
    if isinstance(context.store, S3Store):
        server = context.store.read_clock()
        # A Date header has whole seconds.
        ahead["the object store"] = (server - datetime.now(UTC)).total_seconds() + 0.5
    differences = ", ".join(f"{name} {seconds:+.1f} s" for name, seconds in ahead.items())
    if any(abs(seconds) > MAX_CLOCK_SECONDS for seconds in ahead.values()):
        return Finding(
            "clocks",
            False,
            f"differ from this machine's: {differences}",
            "synchronize all of them by NTP; leases and signatures depend on them",
        )
    return Finding("clocks", ok=True, message=f"agree with this machine's: {differences}")


def check_versions(context: AppContext) -> Finding:
    """Check that live workers have the version of this command."""
    with context.database.transaction() as tx:
        live = workers.list_live_workers(tx)
    others = sorted({worker.version for worker in live} - {__version__})
    if others:
        return Finding(
            "versions",
            False,
            f"this is {__version__}, and workers have {', '.join(others)}",
            "upgrade all machines to one version",
        )
    return Finding("versions", ok=True, message=f"{__version__}, like {len(live)} live workers")


def check_workers(context: AppContext) -> Finding:
    """Check that no live worker pauses some kind of work, since all of it failed there."""
    with context.database.transaction() as tx:
        live = workers.list_live_workers(tx)
        pauses = workers.list_pauses(tx)
    if pauses:
        return Finding(
            "workers",
            False,
            f"{len(live)} live, of which some pause: {'; '.join(pauses)}",
            "mend the error; the workers try again by themselves ('layerloop worker list')",
        )
    return Finding("workers", ok=True, message=f"{len(live)} live, none pauses")


def check_secret(context: AppContext) -> Finding:
    """Check that the secret in this machine's settings equals that of the other processes."""
    if context.settings.embedded:
        return Finding("secret", ok=True, message="it is kept in the home")
    configured = context.settings.secret
    with context.database.transaction() as tx:
        if not secrets.is_shared(tx, configured.get_secret_value() if configured else None):
            message = "LAYERLOOP_SECRET on this machine differs from that of the other processes"
            return Finding("secret", False, message, secrets.RESET_HINT)
    return Finding("secret", ok=True, message="all processes sign with one secret")


def check_queue(context: AppContext) -> Finding:
    """Send a message through the broker and receive it."""
    seconds = context.queue.probe()
    address = without_credentials(context.settings.queue)
    message = f"{address} returns a message within {seconds:.1f} s"
    return Finding("queue", ok=True, message=message)


def check_opening(error: Refused) -> Finding:
    """Return the finding for an instance that refuses to open, such as one of another version."""
    part = "database" if isinstance(error, schema.SchemaMismatch) else "instance"
    return Finding(part, ok=False, message=error.message, hint=error.hint)


_SERVER = sa.text("""
    select pg_is_in_recovery() as replica, current_setting('server_version_num')::int as version,
        (select count(*) from pg_stat_activity where backend_type = 'client backend') as used,
        current_setting('max_connections')::int as allowed""")
