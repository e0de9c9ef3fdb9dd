"""The port for maintenance of an object store: listing, copying to files, garbage collection."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from curation.ports import ObjectStore


@dataclass(frozen=True)
class StoredObject:
    """An object as its store lists it; a repeated put of the same content renews `modified_at`."""

    sha256: str
    bytes: int
    modified_at: datetime


class ObjectInventory(Protocol):
    """The maintenance of an object store: listing, copying to files, and garbage collection."""

    def list_objects(self, after: str = "") -> Iterator[StoredObject]:
        """Yield the objects with a name greater than `after`, in the order of their names."""

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Return the sizes in bytes of those objects that are stored."""

    def read_to(self, sha256: str, target: Path) -> None:
        """Write an object to a file, after checking it. Raises NotFound, Corrupt."""

    def remove(self, names: Collection[str], before: datetime) -> list[str]:
        """Remove objects that nobody has put since `before`, and return the removed names.

        A concurrent put of the same content either keeps the object or stores it again. Raises
        Conflict if another process removes objects.
        """

    def remove_incomplete(self, before: datetime) -> int:
        """Remove what interrupted writes left before that time, and return how many there were."""


class TakedownNotices(Protocol):
    """Notices in a store about what a takedown removed, for readers without an instance."""

    def write_notice(self, sha256: str, notice: bytes) -> None:
        """Keep a notice about an object; `get` raises TakenDown with it once the object is gone."""


class InstanceStore(ObjectStore, ObjectInventory, TakedownNotices, Protocol):
    """The object store of an instance, with its maintenance."""
