"""Packs by their folder: is it one, and which snapshot of it is meant."""

from __future__ import annotations

from curation.errors import NotFound
from curation.exports.packs.folder import PackFolder
from curation.exports.packs.reader import PackReader
from curation.exports.packs.version import (
    current_snapshot,
    packed_snapshots,
    removed_snapshots,
)
from curation.object_store import is_sha256

LATEST = "latest"


def is_pack(folder: PackFolder) -> bool:
    """Return whether a folder holds a version of a pack."""
    return bool(packed_snapshots(folder))


def open_pack(folder: PackFolder, name: str = LATEST) -> PackReader:
    """Open a snapshot in a pack.

    Args:
        folder: The folder of the pack.
        name: Id of the snapshot, eight or more digits of it, or "latest" for the one packed last.

    Raises:
        NotFound: The pack does not hold the snapshot.
        TakenDown: The snapshot was removed from the pack by a takedown.
        Corrupt: The pack is damaged.
    """
    return PackReader(folder, packed_id(folder, name))


def packed_id(folder: PackFolder, name: str = LATEST) -> str:
    """Return the full id of a snapshot in a pack. Raises NotFound, Corrupt."""
    if name == LATEST:
        return current_snapshot(folder)
    if is_sha256(name):
        return name
    ids = {*packed_snapshots(folder), *removed_snapshots(folder)}
    found = [one for one in ids if len(name) >= 8 and one.startswith(name)]
    if len(found) != 1:
        raise NotFound(
            f"there is no snapshot {name[:100]!r} in {folder.address}",
            "give eight or more digits of its id, or 'latest'",
        )
    return found[0]
