"""Metadata of snapshots in an instance: query, parent, tags, notes, review."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from curation.datasets.snapshots import find_snapshot, read_snapshots
from curation.db.engine import Transaction
from curation.db.tables import events, snapshot_notes, snapshots, tags
from curation.errors import NotFound, Refused, TakenDown

MAX_NOTE = 2_000
"""Longest note, in characters."""


def describe_snapshot(tx: Transaction, name: str) -> dict[str, Any]:
    """Return what the instance knows of a snapshot.

    Args:
        tx: The transaction.
        name: Tag, id, or beginning of an id.

    Returns:
        The fields id, samples, counts, decisions (counts), tags, frozen_at (ISO 8601), query,
        parent, taken_down, successor, review, notes.

    Raises:
        NotFound: There is no such snapshot.
    """
    found = find_snapshot(tx, name)
    row = tx.execute(sa.select(snapshots).where(snapshots.c.id == found)).mappings().one()
    named = sa.select(tags.c.name).where(tags.c.snapshot_id == found).order_by(tags.c.name)
    return {
        "id": found,
        "samples": row["samples"],
        "counts": row["counts"],
        "decisions": row["decisions"],
        "tags": list(tx.execute(named).scalars()),
        "frozen_at": row["created_at"].isoformat(),
        "query": row["query"] or {},
        "parent": row["parent_id"],
        "taken_down": row["taken_down_by"] is not None,
        "successor": row["successor_id"],
        "review": row["review"] or {},
        "notes": [note["text"] for note in list_notes(tx, found)],
    }


def find_current(tx: Transaction, snapshot: str) -> str:
    """Return a snapshot, or the newest successor of one that was touched.

    Args:
        tx: The transaction.
        snapshot: Id of a snapshot.

    Raises:
        TakenDown: It was touched, and no sample of it is left.
    """
    found = snapshot
    while True:
        columns = sa.select(snapshots.c.taken_down_by, snapshots.c.successor_id)
        row = tx.execute(columns.where(snapshots.c.id == found)).one_or_none()
        if row is None or row.taken_down_by is None:
            return found
        if row.successor_id is None:
            raise TakenDown(
                f"snapshot {snapshot[:12]} was taken down, and none of its samples is left",
                "freeze a new one",
            )
        found = row.successor_id


def find_previous(tx: Transaction, snapshot: str | None) -> str | None:
    """Return the snapshot to compare a training's samples with, if there still is one."""
    if snapshot is None:
        return None
    try:
        return find_current(tx, snapshot)
    except TakenDown:
        return None


def list_notes(tx: Transaction, snapshot: str) -> list[dict[str, Any]]:
    """Return the notes of a snapshot, oldest first: text, author, created_at."""
    query = sa.select(
        snapshot_notes.c.text, snapshot_notes.c.author, snapshot_notes.c.created_at
    ).where(snapshot_notes.c.snapshot_id == snapshot)
    return [dict(row) for row in tx.execute(query.order_by(snapshot_notes.c.id)).mappings()]


def add_note(tx: Transaction, name: str, text: str, actor: str) -> str:
    """Add a note to a snapshot; notes are never changed.

    Args:
        tx: The transaction.
        name: Tag, id, or beginning of an id.
        text: The note, at most MAX_NOTE characters.
        actor: Name of the person.

    Returns:
        The id of the snapshot.

    Raises:
        NotFound: There is no such snapshot.
        Refused: The note is empty or too long.
    """
    text = " ".join(text.replace("\0", " ").split())
    if not text or len(text) > MAX_NOTE:
        raise Refused("a note has 1 to 2,000 characters", "shorten it, or write something")
    found = find_snapshot(tx, name)
    tx.execute(sa.insert(snapshot_notes), {"snapshot_id": found, "text": text, "author": actor})
    tx.log(actor, "snapshot noted", found, text=text)
    return found


def delete_tag(tx: Transaction, name: str, actor: str) -> None:
    """Delete a tag; its snapshot stays, and the event log keeps the history.

    Args:
        tx: The transaction.
        name: Name of the tag.
        actor: Name of the person.

    Raises:
        NotFound: There is no such tag.
    """
    deleting = sa.delete(tags).where(tags.c.name == name).returning(tags.c.snapshot_id)
    row = tx.execute(deleting).one_or_none()
    if row is None:
        raise NotFound(f"there is no tag {name[:100]!r}", "'layerloop snapshot list' shows them")
    tx.log(actor, "tag deleted", f"tag {name}", snapshot=row.snapshot_id)


def list_lineage(tx: Transaction, name: str) -> list[dict[str, Any]]:
    """Return a snapshot and its ancestors, the newest first, each with its query, tags and notes.

    Args:
        tx: The transaction.
        name: Tag, id, or beginning of an id.

    Raises:
        NotFound: There is no such snapshot.
    """
    ids = list(tx.execute(_ANCESTORS, {"snapshot": find_snapshot(tx, name)}).scalars())
    rows = read_snapshots(tx, ids)
    return [rows[id_] for id_ in ids]


def list_tag_moves(tx: Transaction, tag: str) -> list[dict[str, Any]]:
    """Return when a tag was set and deleted, the newest first: created_at, actor, kind, snapshot.

    Args:
        tx: The transaction.
        tag: Name of the tag.
    """
    query = sa.select(events).where(events.c.subject == f"tag {tag}").order_by(events.c.id.desc())
    return [
        {
            "created_at": row["created_at"],
            "actor": row["actor"],
            "kind": row["kind"],
            "snapshot": row["data"].get("snapshot"),
        }
        for row in tx.execute(query).mappings()
    ]


# The parent of an imported snapshot may have no row. `path` ends the recursion at a cycle.
# The cast is needed, since `||` drops the length of the ids' type.
_ANCESTORS = sa.text("""
    with recursive lineage as (
        select id, parent_id, array[id]::varchar[] as path from snapshots where id = :snapshot
        union all
        select s.id, s.parent_id, l.path || s.id
        from lineage l join snapshots s on s.id = l.parent_id and s.id <> all(l.path))
    select id from lineage order by cardinality(path)""")
