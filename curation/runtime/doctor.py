"""Checks of every part of an instance, each with a finding and a hint."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

import sqlalchemy as sa

from curation.db import schema
from curation.db.tables import candidate_layers, checkpoints, sample_layers, snapshots
from curation.errors import LayerloopError
from curation.events import webhooks
from curation.ingest.confinement_check import check_confinement
from curation.reporting import missing_workers
from curation.runtime.context import AppContext, open_context, open_labeling_backend
from curation.settings import Settings, unknown_settings

MIN_FREE_GIB = 2.0
MAX_CHECKED_LAYERS = 5_000


@dataclass(frozen=True)
class Finding:
    """The result of one check: the part, whether it is well, a message, and a hint if it is not."""

    part: str
    ok: bool
    message: str
    hint: str = ""


def check_environment() -> list[Finding]:
    """Return a finding for every environment variable that looks like a misspelled setting."""
    return [
        Finding(
            "settings",
            False,
            f"{name} is not a setting",
            f"did you mean {nearest}?" if nearest else "unset it",
        )
        for name, nearest in unknown_settings()
    ]


def run_checks(settings: Settings) -> list[Finding]:
    """Check every part of an instance; a broken part does not stop the other checks.

    Nothing is created: a missing instance is a finding.

    Args:
        settings: The settings of the instance.

    Returns:
        One finding per part.
    """
    # Checks that need no instance.
    findings = [_disk(settings), _training_part(), _confinement()]
    if not settings.exists():
        message = f"there is none at {settings.home.resolve()} yet"
        return [
            *findings,
            Finding("instance", True, message, "'layerloop up' or 'layerloop demo' creates one"),
        ]

    # Checks of the running instance; one that cannot be opened is a finding itself.
    findings.append(_private_files(settings))
    try:
        with open_context(settings) as context:
            checks: tuple[Callable[[AppContext], Finding], ...] = (
                _database,
                _objects,
                _queue,
                _work,
                _labeling,
                _webhooks,
            )
            findings += [_run_check(check, context) for check in checks]
    except LayerloopError as error:
        findings.append(Finding("instance", ok=False, message=error.message, hint=error.hint))
    return findings


def _run_check(check: Callable[[AppContext], Finding], context: AppContext) -> Finding:
    try:
        return check(context)
    except LayerloopError as error:
        return Finding(check.__name__.strip("_"), ok=False, message=error.message, hint=error.hint)


def _disk(settings: Settings) -> Finding:
    home = settings.home.resolve()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "disk",
            False,
            f"{existing} is not a writable folder",
            "set another home with LAYERLOOP_HOME",
        )
    free = shutil.disk_usage(existing).free / 2**30
    hint = "" if free > MIN_FREE_GIB else "free space, or set another home with LAYERLOOP_HOME"
    return Finding("disk", free > MIN_FREE_GIB, f"{free:.1f} GiB free for {home}", hint)


def _training_part() -> Finding:
    missing = [
        name
        for name in ("torch", "diffusers", "safetensors")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        return Finding(
            "training",
            False,
            f"{', '.join(missing)} not installed",
            "pip install 'layerloop[train]'",
        )
    return Finding("training", ok=True, message="torch, diffusers and safetensors are installed")


def _private_files(settings: Settings) -> Finding:
    """Check that only the owner can read the home, its secrets and its logs."""
    home = settings.path(".")
    # A folder's group bits may be the mask of an access control list that admits one user.
    exposed = [home] if home.stat().st_mode & 0o007 else []
    files = [home / "secret", *(home / "label-studio" / name for name in ("token", "password"))]
    exposed += [
        file
        for file in (*files, *(home / "logs").glob("*.log*"))
        if file.exists() and file.stat().st_mode & 0o077
    ]
    if exposed:
        listed = " ".join(shlex.quote(str(path)) for path in exposed)
        return Finding(
            "privacy",
            False,
            "other users of this machine can read parts of the home",
            f"chmod go-rwx {listed}",
        )
    # Read the signing secret without creating one.
    try:
        if settings.secret is not None or (home / "secret").exists():
            settings.signing_secret()
    except LayerloopError as error:
        return Finding("privacy", False, error.message, error.hint)
    return Finding(
        "privacy", ok=True, message="only the owner can read the home, its secret and its logs"
    )


def without_credentials(address: str) -> str:
    """Return an address without user, password and parameters, any of which may be secret."""
    if "://" not in address:
        return address.rpartition("@")[2]
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:  # for example a slash in a password
        return "an address that cannot be read"
    if "@" in parts.path:
        return "an address that cannot be read"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"


def _confinement() -> Finding:
    """Check by trying what a compromised image decoder could do on this system."""
    try:
        result = check_confinement()
    except LayerloopError as error:
        return Finding(
            "confinement", ok=False, message=error.message, hint="is the environment complete?"
        )
    if result.escapes:
        escapes = ", ".join(result.escapes)
        message = f"a compromised decoder could {escapes}; available: {result.parts}"
        hint = (
            "import only files that you trust, or use Linux 5.13 or newer with seccomp and Landlock"
        )
        return Finding("confinement", False, message, hint)
    return Finding("confinement", ok=True, message=f"decoders are confined by {result.parts}")


def _database(context: AppContext) -> Finding:
    """Check that the schema has the newest revision and matches the code."""
    have, newest = schema.get_revisions(context.database)
    drift = schema.find_schema_drift(context.database)
    address = without_credentials(context.database.engine.url.render_as_string())
    message = f"schema {have} at {address}"
    if have != newest or drift:
        return Finding(
            "database",
            False,
            f"{message}, but the code needs {newest}: {drift}",
            "run 'layerloop up' once",
        )
    return Finding("database", ok=True, message=message)


def _objects(context: AppContext) -> Finding:
    """Check that referenced objects exist: all of snapshots and checkpoints, some of the layers."""
    # A row without its object is a bug or a lost disk.
    with context.database.transaction() as tx:
        referenced = [
            *tx.execute(sa.select(snapshots.c.id)).scalars(),
            *(
                sha
                for files in tx.execute(sa.select(checkpoints.c.files)).scalars()
                for sha in files.values()
            ),
            *tx.execute(sa.select(sample_layers.c.sha256).limit(MAX_CHECKED_LAYERS)).scalars(),
            *tx.execute(sa.select(candidate_layers.c.sha256).limit(MAX_CHECKED_LAYERS)).scalars(),
        ]
    lost = [sha for sha in dict.fromkeys(referenced) if not context.store.has(sha)]
    if lost:
        listed = ", ".join(sha[:12] for sha in lost[:5])
        return Finding(
            "objects",
            False,
            f"{len(lost)} objects are missing: {listed} ...",
            "restore them from a backup",
        )
    checked = len(set(referenced))
    return Finding("objects", ok=True, message=f"{checked} objects checked, none missing")


def _queue(context: AppContext) -> Finding:
    context.queue.check()
    return Finding(
        "queue", ok=True, message=f"{without_credentials(context.settings.queue)} answers"
    )


def _work(context: AppContext) -> Finding:
    """Check that no work has been waiting for a worker for too long."""
    with context.database.transaction() as tx:
        waiting = missing_workers.count_waiting_work(tx)
    if not waiting:
        return Finding("work", ok=True, message="no work waits for a missing worker")
    return Finding(
        "work", False, missing_workers.describe_waiting_work(waiting), missing_workers.START_WORKERS
    )


def _webhooks(context: AppContext) -> Finding:
    """Check that no webhook was disabled after long failure."""
    with context.database.transaction() as tx:
        rows = webhooks.list_webhooks(tx)
    disabled = [row for row in rows if not row["active"]]
    if not disabled:
        return Finding("webhooks", ok=True, message=f"{len(rows)} webhooks, none disabled")
    listed = "; ".join(
        f"webhook {row['id']} to {without_credentials(row['url'])} is disabled, since "
        f"{row['disabled_reason']}"
        for row in disabled
    )
    return Finding("webhooks", False, listed, "mend the receiver, then 'layerloop webhook enable'")


def _labeling(context: AppContext) -> Finding:
    backend = open_labeling_backend(context.settings, context.signing_secret())
    if backend is None:
        return Finding("labeling", ok=True, message="only the review page")
    with closing(backend):
        url = without_credentials(backend.url)
        message = f"{url} answers, with {len(backend.list_users())} users"
    return Finding("labeling", ok=True, message=message)
