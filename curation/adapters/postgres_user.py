"""Who an embedded PostgreSQL runs as: ourselves, or for root, whom PostgreSQL refuses, a system user of its own."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from curation.errors import LayerloopError

SERVER_USER = "pgserver"  # the name that the wheel's own tools use

log = logging.getLogger(__name__)


def server_user(data: Path) -> str | None:
    """Who the server runs as: None for ourselves; for root the folder's owner, or a system user made once."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid).pw_name
    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER).pw_name
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise LayerloopError(
            "PostgreSQL does not run as root, and there is no 'useradd' to make another user with",
            "run as an ordinary user, install the package 'passwd', or set LAYERLOOP_DATABASE to a server of yours",
        )
    command = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", SERVER_USER]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode not in (0, 9):  # 9: somebody made it a moment ago
        raise LayerloopError(
            f"the system user {SERVER_USER!r} could not be made: {made.stderr.strip()}",
            "run as an ordinary user, or set LAYERLOOP_DATABASE to a server of yours",
        )
    return SERVER_USER


def user_id(user: str | None) -> int:
    """The number of a user's name; None is ourselves."""
    return os.geteuid() if user is None else pwd.getpwnam(user).pw_uid


def let_through(folder: Path) -> None:
    """Let the server's user pass through the folders above its own: the right to traverse, never the right to list."""
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if not mode & 0o001:
            log.warning("letting the user %s pass through %s", SERVER_USER, parent)
            parent.chmod((mode & 0o7777) | 0o001)
