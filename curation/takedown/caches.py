"""Caches on a machine that hold what was made from removed layers: latents, texts, runs' files.

Entries of the caches are named by hashes that cannot be followed back to a layer. A takedown clears
the caches as a whole, and they are computed again. The machine of the command is cleared at once,
unless a training there reads them; every worker clears its own before its next training.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import takedown_items, takedowns, training_runs
from curation.domain import RunState
from curation.object_store import write_file_atomically

CACHES, CLEARED = "cache", "cleared-by-takedown"
"""The folder of caches below the folder of runs, and the file that names the last takedown."""


def clear_caches(database: Database, runs: Path, *, own_run: uuid.UUID | None = None) -> bool:
    """Clear this machine's caches if there was a takedown since they were cleared last.

    Args:
        database: The database.
        runs: The folder of this machine's runs.
        own_run: The run that this process is about to train; other running ones keep the caches.

    Returns:
        Whether the caches are clear; otherwise a training here reads them.
    """
    with database.transaction() as tx:
        newest = sa.select(takedowns.c.id).where(takedowns.c.selector != "reviewer")
        ordered = newest.order_by(takedowns.c.created_at.desc(), takedowns.c.id)
        last = tx.scalar(ordered.limit(1))
        if last is None or _read(runs / CLEARED) == str(last):
            return True
        of_runs = takedown_items.c.kind == "run"
        touched = set(tx.execute(sa.select(takedown_items.c.name).where(of_runs)).scalars())
        running = sa.select(training_runs.c.id).where(training_runs.c.state == RunState.running)
        active = [one for one in tx.execute(running).scalars() if one != own_run]
    if any((runs / str(one)).is_dir() for one in active):
        return False
    for folder in (runs / CACHES, *(runs / name for name in touched)):
        shutil.rmtree(folder, ignore_errors=True)
    if runs.is_dir():
        write_file_atomically(runs / CLEARED, str(last).encode())
    return True


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError:
        return ""
