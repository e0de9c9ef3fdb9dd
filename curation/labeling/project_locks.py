"""Locks of Label Studio projects: one process synchronizes a project at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from curation.db.engine import Database
from curation.labeling.port import Project

LOCK_SECONDS = 300
"""Seconds until the lock of a killed process expires; the work between two renewals takes less."""


@contextmanager
def project_lock(database: Database, project: Project, holder: str) -> Iterator[bool]:
    """Lock a project for one synchronization.

    Args:
        database: The database.
        project: The project.
        holder: Name of this process.

    Yields:
        Whether the lock was acquired; False if another process holds it.
    """
    with database.transaction() as tx:
        values = {"board": project.id, "holder": holder, "seconds": LOCK_SECONDS}
        acquired = tx.execute(_HOLD, values).rowcount > 0
    try:
        yield acquired
    finally:
        if acquired:
            with database.transaction() as tx:
                tx.execute(_LET_GO, {"board": project.id, "holder": holder})


def renew_lock(database: Database, project: Project, holder: str) -> None:
    """Renew the lock of a project during a long synchronization.

    Args:
        database: The database.
        project: The project.
        holder: Name of the process that holds the lock.
    """
    with database.transaction() as tx:
        tx.execute(_HOLD_ON, {"board": project.id, "holder": holder, "seconds": LOCK_SECONDS})


# clock_timestamp() advances during a transaction, unlike now().
_HOLD = sa.text("""
    update labeling_projects
    set holder = :holder, held_until = clock_timestamp() + make_interval(secs => :seconds)
    where id = :board and (held_until is null or held_until < clock_timestamp())""")


_HOLD_ON = sa.text("""
    update labeling_projects set held_until = clock_timestamp() + make_interval(secs => :seconds)
    where id = :board and holder = :holder""")


_LET_GO = sa.text(
    "update labeling_projects set holder = null, held_until = null where id = :board and holder = :holder"
)
