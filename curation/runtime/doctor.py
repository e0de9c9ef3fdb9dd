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
from curation.ingest.confinement_check import check_confinement
from curation.reporting import missing_workers
from curation.runtime.context import AppContext, open_context, open_desk
from curation.settings import Settings, unknown_settings

LEAST_FREE_GIB = 2.0
LOOKED_AT = 5_000


@dataclass(frozen=True)
class Finding:
    """One part, whether it is well, and what to do if it is not."""

    part: str
    well: bool
    told: str
    hint: str = ""


def examine_environment() -> list[Finding]:
    """Name every variable that looks like a setting and is none."""
    return [
        Finding(
            "settings",
            False,
            f"{name} is no setting",
            f"did you mean {nearest}?" if nearest else "unset it",
        )
        for name, nearest in unknown_settings()
    ]


def examine(settings: Settings) -> list[Finding]:
    """Look at every part; one that is broken does not stop the others from being looked at, and nothing is made."""
    findings = [_disk(settings), _training_part(), _confinement()]
    if not settings.exists():
        told = f"there is none at {settings.home.resolve()} yet"
        return [
            *findings,
            Finding("instance", True, told, "'layerloop up' or 'layerloop demo' makes one"),
        ]
    findings.append(_private_files(settings))
    try:
        with open_context(settings) as context:
            looks: tuple[Callable[[AppContext], Finding], ...] = (
                _database,
                _objects,
                _queue,
                _work,
                _desk,
            )
            findings += [_safely(look, context) for look in looks]
    except LayerloopError as error:
        findings.append(Finding("instance", well=False, told=error.message, hint=error.hint))
    return findings


def _safely(look: Callable[[AppContext], Finding], context: AppContext) -> Finding:
    try:
        return look(context)
    except LayerloopError as error:
        return Finding(look.__name__.strip("_"), well=False, told=error.message, hint=error.hint)


def _disk(settings: Settings) -> Finding:
    home = settings.home.resolve()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            "disk",
            False,
            f"{there} is no folder to write to",
            "name another home with LAYERLOOP_HOME",
        )
    free = shutil.disk_usage(there).free / 2**30
    hint = "" if free > LEAST_FREE_GIB else "make room, or name another home with LAYERLOOP_HOME"
    return Finding("disk", free > LEAST_FREE_GIB, f"{free:.1f} GiB free for {home}", hint)


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
    return Finding("training", well=True, told="torch, diffusers and safetensors are installed")


def _private_files(settings: Settings) -> Finding:
    """The home, its secrets and its logs are for their owner alone."""
    home = settings.path(".")
    # Of a folder the mode's group bits may be the mask of an access control list, which lets one user pass through.
    others = [home] if home.stat().st_mode & 0o007 else []
    files = [home / "secret", *(home / "label-studio" / name for name in ("token", "password"))]
    others += [
        file
        for file in (*files, *(home / "logs").glob("*.log*"))
        if file.exists() and file.stat().st_mode & 0o077
    ]
    if others:
        listed = " ".join(shlex.quote(str(one)) for one in others)
        return Finding(
            "privacy",
            False,
            "others on this machine may read parts of the home",
            f"chmod go-rwx {listed}",
        )
    try:
        if settings.secret is not None or (home / "secret").exists():  # it is not made here
            settings.signing_secret()
    except LayerloopError as error:
        return Finding("privacy", False, error.message, error.hint)
    return Finding(
        "privacy", well=True, told="the home, its secret and its logs are for their owner alone"
    )


def without_credentials(address: str) -> str:
    """Return an address with neither user nor password nor parameters, any of which may be secret."""
    if "://" not in address:
        return address.rpartition("@")[2]
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:  # a slash in a password, for one
        return "an address that cannot be read"
    if "@" in parts.path:
        return "an address that cannot be read"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"


def _confinement() -> Finding:
    """What a decoder of hostile images could do on this system, by trying it."""
    try:
        found = check_confinement()
    except LayerloopError as error:
        return Finding(
            "confinement", well=False, told=error.message, hint="is the environment complete?"
        )
    if found.escapes:
        told = f"a decoder that is taken over could {', '.join(found.escapes)}; granted are {found.parts}"
        hint = (
            "import only files that you trust, or use Linux 5.13 or newer with seccomp and Landlock"
        )
        return Finding("confinement", False, told, hint)
    return Finding("confinement", well=True, told=f"decoders have {found.parts}")


def _database(context: AppContext) -> Finding:
    have, newest = schema.current(context.database)
    drift = schema.drift(context.database)
    told = f"schema {have} at {without_credentials(context.database.engine.url.render_as_string())}"
    if have != newest or drift:
        return Finding(
            "database",
            False,
            f"{told}, but the code wants {newest}: {drift}",
            "run 'layerloop up' once",
        )
    return Finding("database", well=True, told=told)


def _objects(context: AppContext) -> Finding:
    """A row without its object is a bug or a lost disk; the newest rows are looked at, and all roots of snapshots."""
    with context.database.transaction() as tx:
        named = [
            *tx.execute(sa.select(snapshots.c.id)).scalars(),
            *(
                sha
                for files in tx.execute(sa.select(checkpoints.c.files)).scalars()
                for sha in files.values()
            ),
            *tx.execute(sa.select(sample_layers.c.sha256).limit(LOOKED_AT)).scalars(),
            *tx.execute(sa.select(candidate_layers.c.sha256).limit(LOOKED_AT)).scalars(),
        ]
    lost = [sha for sha in dict.fromkeys(named) if not context.store.has(sha)]
    if lost:
        listed = ", ".join(sha[:12] for sha in lost[:5])
        return Finding(
            "objects",
            False,
            f"{len(lost)} objects are missing: {listed} ...",
            "restore them from a backup",
        )
    return Finding("objects", well=True, told=f"{len(set(named))} objects looked up, none missing")


def _queue(context: AppContext) -> Finding:
    context.queue.check()
    return Finding(
        "queue", well=True, told=f"{without_credentials(context.settings.queue)} answers"
    )


def _work(context: AppContext) -> Finding:
    """Work that waits while nobody has taken any of its kind tells of a missing worker."""
    with context.database.transaction() as tx:
        untaken = missing_workers.count_untaken(tx)
    if not untaken:
        return Finding("work", well=True, told="nothing waits that no worker takes")
    return Finding(
        "work", False, missing_workers.tell_untaken(untaken), missing_workers.START_WORKERS
    )


def _desk(context: AppContext) -> Finding:
    desk = open_desk(context.settings)
    if desk is None:
        return Finding("desk", well=True, told="the pages")
    with closing(desk):
        told = f"{without_credentials(desk.address)} answers, with {len(desk.people())} people"
    return Finding("desk", well=True, told=told)
