"""Records of takedowns: hashes and packs' addresses, stored as objects, signed, and in the log."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.db.tables import blocked_layers, reviewers, takedown_items, takedowns
from curation.domain import canonical_json
from curation.errors import Corrupt, NotFound
from curation.ports import ObjectStore
from curation.takedown.marking import FINISHED, read_items
from curation.takedown.packs import REACHED, UNREACHED
from curation.takedown.selectors import Selector

FORMAT = "layerloop takedown 1"
KINDS = ("sample", "candidate", "snapshot", "checkpoint", "reviewer", REACHED, UNREACHED)


def write_record(
    database: Database, store: ObjectStore, takedown: uuid.UUID, secret: str, actor: str
) -> dict[str, Any]:
    """Store and sign the record of a takedown whose work is done, and finish it.

    Args:
        database: The database.
        store: The store.
        takedown: Id of the takedown.
        secret: The instance's secret; the signature is an HMAC of the record's hash.
        actor: Name of the person.

    Returns:
        The row of the takedown.
    """
    items = {kind: read_items(database, takedown, kind) for kind in KINDS}
    with database.transaction() as tx:
        row = _row(tx, takedown)
        layers = _layers(tx, takedown)
    counts = {kind: len(names) for kind, names in items.items()} | {"layer": len(layers)}
    record = {"format": FORMAT, "id": str(takedown), "items": items, "layers": layers}
    record |= {name: row[name] for name in ("selector", "selector_hash", "actor", "reason")}
    record["started_at"] = row["created_at"].astimezone(UTC).isoformat()
    name = store.put((canonical_json(record) + "\n").encode())
    signature = _sign(name, secret)
    with database.transaction() as tx:
        values = {"state": FINISHED, "record": name, "signature": signature, "counts": counts}
        ending = sa.update(takedowns).where(
            takedowns.c.id == takedown, takedowns.c.state != FINISHED
        )
        if tx.execute(ending.values(values | {"finished_at": sa.func.now()})).rowcount:
            tx.log(actor, "takedown finished", f"takedown {takedown}", record=name, **counts)
        return _row(tx, takedown)


def is_signed(row: Mapping[str, Any], secret: str) -> bool:
    """Return whether the signature of a finished takedown is by this instance's secret."""
    return hmac.compare_digest(_sign(row["record"], secret), str(row["signature"]))


def list_takedowns(tx: Transaction) -> list[dict[str, Any]]:
    """Return the rows of all takedowns, newest first, with the packs that are not reached yet."""
    query = sa.select(takedowns).order_by(takedowns.c.created_at.desc(), takedowns.c.id)
    left: dict[uuid.UUID, list[str]] = {}
    items = sa.select(takedown_items.c.takedown_id, takedown_items.c.name)
    of_packs = items.where(takedown_items.c.kind == UNREACHED).order_by(takedown_items.c.name)
    for takedown, name in tx.execute(of_packs):
        left.setdefault(takedown, []).append(name)
    rows = tx.execute(query).mappings()
    return [dict(row) | {"unreached_packs": left.get(row["id"], [])} for row in rows]


def read_record(store: ObjectStore, name: str) -> dict[str, Any]:
    """Return the record of a takedown. Raises NotFound, Corrupt."""
    try:
        record: dict[str, Any] = json.loads(store.get(name))
    except ValueError:
        record = {}
    if record.get("format") != FORMAT:
        raise Corrupt(f"{name[:12]} is no record of a takedown", "upgrade Layerloop")
    return record


def selector_of(tx: Transaction, record: Mapping[str, Any]) -> Selector | None:
    """Return the selector that repeats a recorded takedown here; None if there is nothing.

    Args:
        tx: The transaction.
        record: A record, maybe of another state of this instance.
    """
    if record["selector"] != "reviewer":
        visible = tuple(sorted({str(one["visible"]) for one in record["layers"]}))
        return Selector("record", visible) if visible else None
    for name in tx.execute(sa.select(reviewers.c.name)).scalars():
        if Selector("reviewer", (name,)).hash == record["selector_hash"]:
            return Selector("reviewer", (name,))
    return None


def layers_of(record: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return the layers of a record as rows for `begin`."""
    return [
        {
            "sha256": one["sha256"],
            "visible": one["visible"],
            "fingerprint": bytes.fromhex(one["fingerprint"]) if one["fingerprint"] else None,
        }
        for one in record["layers"]
    ]


def _sign(record: str, secret: str) -> str:
    """Return the signature of a record by its name."""
    return hmac.digest(secret.encode(), f"takedown {record}".encode(), hashlib.sha256).hex()


def _row(tx: Transaction, takedown: uuid.UUID) -> dict[str, Any]:
    row = tx.execute(sa.select(takedowns).where(takedowns.c.id == takedown)).mappings().first()
    if row is None:
        raise NotFound(f"there is no takedown {takedown}")
    return dict(row)


def _layers(tx: Transaction, takedown: uuid.UUID) -> list[dict[str, str]]:
    query = sa.select(blocked_layers).where(blocked_layers.c.takedown_id == takedown)
    return [
        {
            "sha256": row["sha256"],
            "visible": row["visible"],
            "fingerprint": bytes(row["fingerprint"]).hex() if row["fingerprint"] else "",
        }
        for row in tx.execute(query.order_by(blocked_layers.c.sha256)).mappings()
    ]
