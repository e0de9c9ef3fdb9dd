"""Who an embedded PostgreSQL runs as: ourselves, or for root, whom PostgreSQL refuses, a system user of its own."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from curation.errors import LayerloopError

SERVER_USER = "pgserver"  # the name that the wheel's own tools use


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


def let_through(folder: Path, user: str) -> None:
    """Let the server's user pass through the folders above its own: it alone, and never the right to list them.

    A private folder stays private to all others: its entry in an access control list names that one user.

    Raises:
        LayerloopError: The file system keeps no such lists.
    """
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 0o001:
            try:
                allow_traversal(parent, user_id(user))
            except (OSError, AttributeError) as error:
                raise LayerloopError(
                    f"PostgreSQL, which does not run as root, may not pass through {parent}",
                    f"name a home elsewhere with LAYERLOOP_HOME, run as an ordinary user, or say: chmod o+x {parent}",
                ) from error


def allow_traversal(folder: Path, user: int) -> None:
    """Add the right to traverse a folder for one user to its access control list; nothing happens where it stands.

    Raises:
        OSError: The file system keeps no such lists.
    """
    mode = folder.stat().st_mode
    entries = _acl(folder) or {
        (_USER_OBJ, _NOBODY): mode >> 6 & 7, (_GROUP_OBJ, _NOBODY): mode >> 3 & 7, (_OTHER, _NOBODY): mode & 7,
    }  # fmt: skip
    if entries.get((_USER, user), 0) & entries.get((_MASK, _NOBODY), 7) & 1:
        return
    entries[_USER, user] = entries.get((_USER, user), 0) | 1
    # The mask bounds the group too, so that it becomes what the group had and this one bit.
    entries[_MASK, _NOBODY] = entries.get((_MASK, _NOBODY), entries[_GROUP_OBJ, _NOBODY]) | 1
    packed = b"".join(
        _ENTRY.pack(tag, rights, id_) for (tag, id_), rights in sorted(entries.items())
    )
    os.setxattr(folder, _ACL, _VERSION + packed)


# POSIX access control lists as Linux keeps them (linux/posix_acl_xattr.h): a version, then (tag, rights, id) in order.
_ACL: Final = "system.posix_acl_access"
_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY: Final = 0xFFFFFFFF


def _acl(folder: Path) -> dict[tuple[int, int], int]:
    """Return a folder's list, (tag, id) -> rights; empty where it has only a mode."""
    try:
        data = os.getxattr(folder, _ACL)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return {}
        raise
    return {(tag, id_): rights for tag, rights, id_ in _ENTRY.iter_unpack(data[len(_VERSION) :])}
