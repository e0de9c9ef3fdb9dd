"""Moving an instance to another database and object store, such as from a laptop to servers."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from curation.adapters.s3 import S3Store
from curation.db import secrets
from curation.db.engine import Database
from curation.db.workers import list_live_workers
from curation.errors import Conflict, Refused
from curation.instance.backup import complete_names
from curation.instance.object_copy import CopyPlan, copy_objects, plan_copy
from curation.instance.restore import verify_copy
from curation.instance.rows import (
    ChunkFolder,
    InstanceView,
    dump_rows,
    find_differences,
    find_obstacle,
    load_rows,
)
from curation.instance.setup import prepare_servers
from curation.ports import ProgressCallback
from curation.runtime import moved
from curation.runtime.context import (
    AppContext,
    database_address,
    open_store,
)
from curation.runtime.finding import without_credentials
from curation.runtime.supervisor import exclusive_home
from curation.settings import Settings, read_settings
from curation.storage_settings import EMBEDDED
from curation.store_inventory import InstanceStore

LIVELY = frozenset({"leases", "sessions"})
"""Tables that change without work that could be lost: expired leases, ended sessions."""


@dataclass(frozen=True)
class Target:
    """The database and the object store that an instance is moved to."""

    settings: Settings
    database: Database
    store: InstanceStore
    # Why rows cannot be loaded, or None.
    obstacle: str | None
    # Whether the store can be listed; a move creates a missing bucket.
    has_bucket: bool


@dataclass(frozen=True)
class MoveResult:
    """The rows and objects that were moved, or would be."""

    tables: dict[str, int]
    objects: int
    object_bytes: int
    copied_objects: int
    copied_bytes: int
    snapshot: str
    obstacle: str | None = None


def target_settings(
    settings: Settings, database: str, storage: str, queue: str | None, endpoint: str | None
) -> Settings:
    """Return the settings of the moved instance.

    Raises:
        Refused: An address is invalid, or names the same database or store.
    """
    moved_settings = read_settings(
        home=settings.home,
        database=database,
        storage=storage,
        queue=queue or EMBEDDED,
        storage_endpoint=endpoint,
    )
    if moved_settings.embedded or moved_settings.storage == EMBEDDED:
        raise Refused(
            "an instance is moved to a PostgreSQL server and a store of its own",
            "name them by --to-database postgresql://... and --to-storage s3://bucket/prefix",
        )
    same = (settings.database, settings.storage, settings.storage_endpoint)
    if database == same[0] or (storage, endpoint) == same[1:]:
        raise Refused("the target is the database or the store of this instance", "name empty ones")
    return moved_settings


@contextmanager
def quiet_instance(ctx: AppContext) -> Iterator[None]:
    """Hold an instance that nobody works in: no local stack, no workers, not moved before.

    Raises:
        Conflict: Somebody works in it, or it was moved.
        LayerloopError: Its local stack runs.
    """
    moved.check_not_moved(ctx.database)
    with ctx.database.transaction() as tx:
        live = list_live_workers(tx)
    if live:
        listed = ", ".join(f"{worker.host} (process {worker.pid})" for worker in live[:5])
        raise Conflict(
            f"{len(live)} workers run: {listed}",
            "stop the API and all workers by SIGTERM; a killed worker is forgotten in 30 seconds",
        )
    if ctx.settings.embedded:
        with exclusive_home(ctx.settings.path(".")):
            yield
    else:
        yield


@contextmanager
def open_target(settings: Settings, *, prepare: bool) -> Iterator[Target]:
    """Open the target of a move.

    Args:
        settings: The settings of the moved instance.
        prepare: Create missing tables, the queue in the database, and the bucket.
    """
    store = open_store(settings)
    if prepare:
        prepare_servers(settings)
    database = Database(database_address(settings))
    try:
        with database.transaction() as tx:
            has_tables = tx.scalar(sa.text("select to_regclass('alembic_version') is not null"))
            obstacle = find_obstacle(tx) if has_tables else None
        has_bucket = not isinstance(store, S3Store) or store.has_bucket()
        yield Target(settings, database, store, obstacle, has_bucket=has_bucket)
    finally:
        database.close()


def plan_move(ctx: AppContext, target: Target, on_progress: ProgressCallback) -> MoveResult:
    """Return what a move would copy; the target stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        view = dump_rows(ctx.database, ChunkFolder(Path(folder)), on_progress)
    target_store = target.store if target.has_bucket else None
    plan = plan_copy(ctx.store, target_store, complete_names(ctx.store, view))
    return _result(view, plan, target.obstacle)


def move_instance(
    ctx: AppContext,
    target: Target,
    actor: str,
    on_progress: ProgressCallback,
    *,
    read_back: bool = True,
) -> MoveResult:
    """Copy rows and objects, check the copy, and mark this instance as moved.

    Objects are copied first, and rows in one transaction: after an interruption the target is still
    empty, and the same call resumes. This instance stays as it is, but for the mark.

    Args:
        ctx: The instance; call within `quiet_instance`.
        target: The target; call within `open_target`.
        actor: Name of the person, for the event log.
        on_progress: Receives the progress.
        read_back: Read each copied object from the target, and check its hash.

    Raises:
        Conflict: The target is not empty, or somebody worked in this instance meanwhile.
        Corrupt: The copy differs.
    """
    secret = ctx.signing_secret()
    with tempfile.TemporaryDirectory() as folder:
        rows = ChunkFolder(Path(folder))
        view = dump_rows(ctx.database, rows, on_progress)
        # A call that was killed after its rows were committed only lacks the mark.
        complete = target.obstacle is not None and _has_rows(target, view)
        plan = plan_copy(ctx.store, target.store, complete_names(ctx.store, view))
        copy_objects(ctx.store, target.store, plan, on_progress, read_back=read_back)
        if not complete:
            with target.database.transaction() as tx:
                load_rows(tx, view.dump, rows, on_progress)
                secrets.reset_secret(tx)
                secrets.shared_secret(tx, secret)
                _check_unchanged(ctx.database, view)
    verify_copy(target.database, target.store, view.dump)
    with ctx.database.transaction() as tx:
        moved.mark_moved(tx, actor, without_credentials(target.settings.database))
    return _result(view, plan, None)


def write_environment(settings: Settings, secret: str, path: Path) -> None:
    """Write the settings of the moved instance, with its secret, as a file for its owner alone.

    Args:
        settings: The settings of the moved instance.
        secret: The secret that signs its sessions.
        path: A file that does not exist yet.
    """
    values = {
        "LAYERLOOP_DATABASE": settings.database,
        "LAYERLOOP_STORAGE": settings.storage,
        "LAYERLOOP_STORAGE_ENDPOINT": settings.storage_endpoint,
        "LAYERLOOP_QUEUE": settings.queue,
        "LAYERLOOP_SECRET": secret,
    }
    # Quoted where a shell that reads the file needs it; Compose reads such values too.
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items() if value)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)


def _has_rows(target: Target, view: InstanceView) -> bool:
    with target.database.transaction(repeatable_read=True) as tx:
        return not find_differences(tx, view.dump)


def _check_unchanged(database: Database, view: InstanceView) -> None:
    with database.transaction(repeatable_read=True) as tx:
        changed = find_differences(tx, view.dump, LIVELY)
    if changed:
        raise Conflict(
            f"this instance changed while it was moved: {', '.join(changed)}",
            "stop everything that works in it, then run the same command again",
        )


def _result(view: InstanceView, plan: CopyPlan, obstacle: str | None) -> MoveResult:
    return MoveResult(
        tables={table.name: table.rows for table in view.dump.tables if table.rows},
        objects=len(plan.wanted),
        object_bytes=sum(plan.wanted.values()),
        copied_objects=len(plan.missing),
        copied_bytes=plan.missing_bytes,
        snapshot=view.dump.next_snapshot,
        obstacle=obstacle,
    )
