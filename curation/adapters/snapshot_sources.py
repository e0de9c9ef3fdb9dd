"""Snapshots by address: in a folder, in a bucket, or behind the API of an instance."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from curation.adapters.remote_folder import SCHEMES, RemoteFolder
from curation.adapters.remote_pack import RemotePackFolder
from curation.errors import NotFound, Refused
from curation.exports.packs.folder import LocalPackFolder, PackFolder
from curation.exports.packs.opening import is_pack, open_pack
from curation.object_store import FolderStore, ObjectReader

_DIGITS = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class SnapshotSource:
    """A snapshot in a store.

    Attributes:
        store: The store, to read.
        snapshot: Full id of the snapshot.
        info: Its metadata in the instance: tags, query, parent, notes; empty for other stores.
    """

    store: ObjectReader
    snapshot: str
    info: Mapping[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Close the connections of the store, if it has any."""
        close = getattr(self.store, "close", None)
        if close is not None:
            close()


def open_source(
    address: str, snapshot: str, *, token: str = "", endpoint: str | None = None
) -> SnapshotSource:
    """Open a snapshot by the address of its store.

    Args:
        address: A folder or file:// (an object store, the home of an instance, a pull, or a pack),
            s3://, gs:// or az:// with bucket and prefix (an object store or a pack), or http(s)://
            of an instance.
        snapshot: Id or the first eight or more digits; of an instance also a tag; of a pack also
            "latest".
        token: API token for an instance.
        endpoint: URL of an S3 server other than Amazon's.

    Raises:
        NotFound: There is no such folder or snapshot.
        Refused: The address or the name is invalid, or the token is.
        Unreachable: The server does not answer.
    """
    parsed = urlparse(address)
    if parsed.scheme in ("http", "https"):
        from curation.adapters.api_reader import ApiReader

        instance = ApiReader(address, token, snapshot)
        return SnapshotSource(instance, str(instance.info["id"]), instance.info)
    pack = find_pack(address, endpoint)
    if pack is not None:
        reader = open_pack(pack, snapshot)
        return SnapshotSource(reader, reader.version.snapshot)
    if parsed.scheme in SCHEMES:
        remote = RemoteFolder(address, endpoint)
        return SnapshotSource(remote, _full_id(snapshot, remote.list_names))
    if parsed.scheme not in ("", "file"):
        raise Refused(
            f"{address!r} cannot be opened",
            "give a folder, s3://, gs:// or az:// with a bucket, or http(s):// of an instance",
        )
    store = open_folder(Path(unquote(parsed.path) if parsed.scheme else address))
    return SnapshotSource(store, _full_id(snapshot, lambda digits: _list_folder(store, digits)))


def find_pack(address: str, endpoint: str | None = None) -> PackFolder | None:
    """Return the folder of a pack, or None if there is none at an address.

    Args:
        address: A folder, file://, s3://, gs:// or az://.
        endpoint: URL of an S3 server other than Amazon's.

    Raises:
        Unreachable: The server does not answer.
    """
    if urlparse(address).scheme not in ("", "file", *SCHEMES):
        return None
    folder = pack_folder(address, endpoint)
    return folder if is_pack(folder) else None


def pack_folder(address: str, endpoint: str | None = None) -> PackFolder:
    """Return the folder for a pack, which need not exist.

    Args:
        address: A folder, file://, s3://, gs:// or az:// with bucket and prefix.
        endpoint: URL of an S3 server other than Amazon's; None or empty for Amazon's.

    Raises:
        Refused: A pack cannot be kept at such an address.
    """
    parsed = urlparse(address)
    if parsed.scheme in SCHEMES:
        return RemotePackFolder(address, endpoint or None)
    if parsed.scheme not in ("", "file"):
        raise Refused(
            f"{address!r} cannot hold a pack",
            "give a folder, or s3://, gs:// or az:// with a bucket",
        )
    return LocalPackFolder(Path(unquote(parsed.path) if parsed.scheme else address))


def open_folder(folder: Path) -> FolderStore:
    """Open an object store in a folder, or in the home of an instance, or of a pull.

    Args:
        folder: The folder.

    Raises:
        NotFound: The folder does not exist, or holds no objects.
    """
    for root in (folder / "objects", folder / ".layerloop" / "objects", folder):
        if root.is_dir() and any(root.glob("[0-9a-f][0-9a-f]")):
            return FolderStore(root)
    raise NotFound(
        f"there is no object store in {folder}", "name the home of an instance, or its 'objects'"
    )


def _full_id(name: str, list_names: Callable[[str], list[str]]) -> str:
    if len(name) == 64 and _DIGITS.fullmatch(name):
        return name
    if not _DIGITS.fullmatch(name):
        raise Refused(
            f"{name[:100]!r} is not the id of a snapshot",
            "a store alone knows no tags: give eight or more digits of the id, or --from the "
            "address of the instance",
        )
    found = list_names(name)
    if len(found) != 1:
        raise NotFound(f"there is no snapshot {name!r}", "give more digits of the id")
    return found[0]


def _list_folder(store: FolderStore, digits: str) -> list[str]:
    files = (store.folder / digits[:2]).glob(f"{digits[2:]}*")
    return [file.parent.name + file.name for file in files if not file.name.startswith(".")]
