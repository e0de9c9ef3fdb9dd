"""The places where this instance packed snapshots, which takedowns rewrite."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import packs
from curation.errors import NotFound


@dataclass(frozen=True)
class PackPlace:
    """Where a pack is.

    Attributes:
        address: Absolute path of a folder, or URL of a bucket with a prefix.
        endpoint: URL of the bucket's server; empty for the provider's own.
        machine: Name of the last machine that wrote there.
    """

    address: str
    endpoint: str
    machine: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of a machine."""
        return "://" not in self.address

    @property
    def described(self) -> str:
        """The address as messages show it."""
        return f"{self.address} on {self.machine}" if self.is_folder else self.address


def pack_place(address: str, endpoint: str | None) -> PackPlace:
    """Return the place of a pack that this machine writes.

    Args:
        address: A folder, or the URL of a bucket.
        endpoint: URL of the bucket's server, if it is not the provider's.
    """
    if "://" not in address:
        return PackPlace(str(Path(address).resolve()), "", platform.node())
    return PackPlace(address.rstrip("/"), endpoint or "", platform.node())


def record_pack(tx: Transaction, place: PackPlace) -> None:
    """Record a place before a snapshot is packed there; the call is idempotent.

    Args:
        tx: The transaction.
        place: The place.
    """
    adding = insert(packs).values(
        address=place.address, endpoint=place.endpoint, machine=place.machine
    )
    tx.execute(
        adding.on_conflict_do_update(
            index_elements=[packs.c.address, packs.c.endpoint], set_={"machine": place.machine}
        )
    )


def list_packs(tx: Transaction) -> list[PackPlace]:
    """Return the recorded places, by address."""
    columns = (packs.c.address, packs.c.endpoint, packs.c.machine)
    rows = tx.execute(sa.select(*columns).order_by(packs.c.address, packs.c.endpoint))
    return [PackPlace(*row) for row in rows]


def forget_pack(tx: Transaction, address: str) -> None:
    """Forget a place, since there is no pack any more.

    Args:
        tx: The transaction.
        address: Its address, as it is listed.

    Raises:
        NotFound: It is not recorded.
    """
    if not tx.execute(sa.delete(packs).where(packs.c.address == address)).rowcount:
        raise NotFound(f"no pack is recorded at {address[:200]!r}", "'layerloop snapshot packs'")
