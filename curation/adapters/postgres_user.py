"""The system user of an embedded PostgreSQL: the current user, or a separate user for root."""

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
    """Return the name of the user that the server runs as.

    Args:
        data: The folder of the database cluster.

    Returns:
        None for the current user. For root, whom PostgreSQL refuses, the owner of the folder, or a
        system user, which is created the first time.

    Raises:
        LayerloopError: The system user cannot be created.
    """
    if os.geteuid() != 0:
        return None
    # An existing cluster keeps its owner.
    if data.exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid).pw_name
    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER).pw_name
    # Create the system user.
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise LayerloopError(
            "PostgreSQL does not run as root, and 'useradd' to create another user is missing",
            "run as an ordinary user, install the package 'passwd', or set LAYERLOOP_DATABASE to "
            "a PostgreSQL server",
        )
    command = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", SERVER_USER]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 9):  # 9: another process created it meanwhile
        raise LayerloopError(
            f"the system user {SERVER_USER!r} could not be created: {result.stderr.strip()}",
            "run as an ordinary user, or set LAYERLOOP_DATABASE to a PostgreSQL server",
        )
    return SERVER_USER


def resolve_user_id(user: str | None) -> int:
    """Return the numeric id of a user; None is the current user."""
    return os.geteuid() if user is None else pwd.getpwnam(user).pw_uid


def allow_access(folder: Path, user: str) -> None:
    """Allow the server's user to traverse a folder and its parents, without the right to list them.

    A private folder stays private to all other users: only an access control list entry for this
    user is added.

    Args:
        folder: The folder that the server must reach.
        user: Name of the server's user.

    Raises:
        LayerloopError: The file system does not support access control lists.
    """
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 0o001:
            try:
                allow_traversal(parent, resolve_user_id(user))
            except (OSError, AttributeError) as error:
                raise LayerloopError(
                    f"PostgreSQL, which does not run as root, may not access {parent}",
                    "set LAYERLOOP_HOME to another folder, run as an ordinary user, or run: "
                    f"chmod o+x {parent}",
                ) from error


def allow_traversal(folder: Path, user: int) -> None:
    """Add the right to traverse a folder to its access control list, if it is missing.

    Args:
        folder: The folder.
        user: Numeric id of the user who gets the right.

    Raises:
        OSError: The file system does not support access control lists.
    """
    # Without a list, start from the permissions in the file mode.
    mode = folder.stat().st_mode
    entries = _acl(folder) or {
        (_USER_OBJ, _NOBODY): mode >> 6 & 7,
        (_GROUP_OBJ, _NOBODY): mode >> 3 & 7,
        (_OTHER, _NOBODY): mode & 7,
    }
    if entries.get((_USER, user), 0) & entries.get((_MASK, _NOBODY), 7) & 1:
        return
    entries[_USER, user] = entries.get((_USER, user), 0) | 1
    # The mask limits the group too: set it to the group's rights and the right to traverse.
    entries[_MASK, _NOBODY] = entries.get((_MASK, _NOBODY), entries[_GROUP_OBJ, _NOBODY]) | 1
    packed = b"".join(
        _ENTRY.pack(tag, rights, id_) for (tag, id_), rights in sorted(entries.items())
    )
    os.setxattr(folder, _ACL, _VERSION + packed)


# The format of POSIX access control lists in Linux (linux/posix_acl_xattr.h): a version, then
# sorted entries of tag, rights and id.
_ACL: Final = "system.posix_acl_access"
_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY: Final = 0xFFFFFFFF


def _acl(folder: Path) -> dict[tuple[int, int], int]:
    """Return a folder's access control list, (tag, id) -> rights; empty if it has only a mode."""
    try:
        data = os.getxattr(folder, _ACL)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return {}
        raise
    return {(tag, id_): rights for tag, rights, id_ in _ENTRY.iter_unpack(data[len(_VERSION) :])}
