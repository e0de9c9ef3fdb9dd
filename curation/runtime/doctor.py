"""Checks of every part of an instance, each with a finding and a hint."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

from curation.errors import LayerloopError, Refused
from curation.events import webhooks
from curation.ingest.confinement_check import check_confinement
from curation.logs import mask_secrets
from curation.reporting import missing_workers
from curation.runtime.context import AppContext, open_context, open_labeling_backend
from curation.runtime.doctor_servers import (
    check_clocks,
    check_database,
    check_opening,
    check_queue,
    check_secret,
    check_versions,
    check_workers,
)
from curation.runtime.doctor_storage import check_disks, check_objects, check_store
from curation.runtime.finding import Finding, without_credentials
from curation.runtime.image_delivery import check_image_delivery
from curation.settings import Settings, unknown_settings


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
    findings = [*check_disks(settings), _training_part(), _confinement()]
    if not settings.exists():
        message = f"there is none at {settings.home.resolve()} yet"
        return [
            *findings,
            Finding("instance", True, message, "'layerloop up' or 'layerloop demo' creates one"),
        ]

    # Checks of the running instance; one that cannot be opened is a finding itself.
    findings += [_private_files(settings), check_store(settings)]
    try:
        with open_context(settings) as context:
            findings += [_run_check(name, check, context) for name, check in CHECKS.items()]
    except Refused as error:
        findings.append(check_opening(error))
    except LayerloopError as error:
        findings.append(Finding("instance", ok=False, message=error.message, hint=error.hint))
    return [_without_secrets(finding, settings) for finding in findings]


def _run_check(name: str, check: Callable[[AppContext], Finding], context: AppContext) -> Finding:
    try:
        return check(context)
    except LayerloopError as error:
        return Finding(name, ok=False, message=error.message, hint=error.hint)


def _without_secrets(finding: Finding, settings: Settings) -> Finding:
    """Return a finding without the credentials that the message of a server may repeat."""
    hidden = settings.secret_values()
    return replace(
        finding,
        message=mask_secrets(finding.message, hidden),
        hint=mask_secrets(finding.hint, hidden),
    )


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
    return Finding(
        "webhooks", False, listed, "repair the receiver, then 'layerloop webhook enable'"
    )


def _labeling(context: AppContext) -> Finding:
    # No webhook is created here, so that it needs no secret.
    backend = open_labeling_backend(context.settings, secret="")
    if backend is None:
        return Finding("labeling", ok=True, message="only the review page")
    with closing(backend):
        url = without_credentials(backend.url)
        message = f"{url} answers, with {len(backend.list_users())} users"
    return Finding("labeling", ok=True, message=message)


CHECKS: Mapping[str, Callable[[AppContext], Finding]] = {
    "database": check_database,
    "clocks": check_clocks,
    "versions": check_versions,
    "secret": check_secret,
    "objects": check_objects,
    "images": check_image_delivery,
    "queue": check_queue,
    "work": _work,
    "workers": check_workers,
    "labeling": _labeling,
    "webhooks": _webhooks,
}
"""The checks of an open instance by part."""
