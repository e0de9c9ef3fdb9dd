"""Snapshots: immutable sets of samples, stored as objects that are named by their content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import AfterValidator, WithJsonSchema
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.blocked import hold_takedowns
from curation.datasets.decision_records import DecidedCandidates, write_decisions
from curation.datasets.freeze_query import ALL_SAMPLES, FreezeQuery, condition_of
from curation.datasets.holdout import withheld_samples
from curation.datasets.licences import LicencePolicy
from curation.datasets.manifest import Manifest, Part, prefix_length
from curation.datasets.review_statistics import review_statistics
from curation.db.engine import Transaction
from curation.db.paging import find_place, read_page
from curation.db.tables import samples, snapshot_notes, snapshots, tags
from curation.errors import Conflict, NotFound, Refused
from curation.ports import ObjectStore
from curation.text import is_storable

TAG_RULE = (
    "a tag begins with a letter, continues with letters, digits, '-', '_' and '.', has at most 100 "
    "characters, and does not look like an id (eight or more of the digits 0-9 and letters a-f)"
)
"""The rule for names of tags, for error messages."""

_TAG_PATTERN = r"(?![0-9A-Fa-f]{8,100}$)[A-Za-z][A-Za-z0-9._-]{0,99}"
_TAG = re.compile(_TAG_PATTERN)
_ID_DIGITS = re.compile(r"[0-9a-f]{8,64}")

DEFAULT_POLICY = LicencePolicy()


def freeze_snapshot(
    tx: Transaction,
    store: ObjectStore,
    *,
    tag: str | None,
    actor: str,
    query: FreezeQuery = ALL_SAMPLES,
    policy: LicencePolicy = DEFAULT_POLICY,
    parent: str | None = None,
    decided: DecidedCandidates | None = None,
) -> Manifest:
    """Freeze a snapshot of the samples of a query that are not withdrawn.

    Equal samples always give the same snapshot, whatever the query was. The query, the parent and
    statistics of the decisions are recorded when a snapshot is frozen for the first time.

    Training samples that share a layer with a held-out sample are listed as withheld
    (curation.datasets.holdout; call its `fingerprint_layers` before). The parts are joined in the
    database and streamed, so that only one part at a time is in memory.

    Args:
        tx: A transaction with `one_view`; otherwise samples that are accepted meanwhile could be
            counted and not listed.
        store: Store of the layers and the snapshot.
        tag: Name of a tag to set on the snapshot.
        actor: Name of the person, for the event log.
        query: Which samples it has.
        policy: Which licences may be in it.
        parent: Id of the snapshot that it follows; by default the newest one.
        decided: Decided candidates to add (curation.review.frozen_decisions); a snapshot without
            any has the id that it would have had without this argument.

    Returns:
        The manifest.

    Raises:
        Conflict: There are no samples.
        Refused: The name of the tag or the query is invalid, or the licences are against the
            policy.
    """
    # Check before anything is written.
    if tag:
        check_tag(tag)
    hold_takedowns(tx)
    chosen = condition_of(query)
    counts = _counts(tx, chosen)
    count = sum(counts["kind"].values())
    if not count:
        hint = "import seeds or accept candidates first"
        raise Conflict(
            "there are no samples to freeze",
            hint if query == ALL_SAMPLES else "no sample meets the query: widen it",
        )
    policy.check(_licences(counts, decided))
    # Write the samples, and the list of withheld samples.
    parts = _write_parts(tx, store, prefix_length(count), chosen)
    withheld = _chosen(tx, withheld_samples(tx, store), chosen, query)
    listed = ""
    if withheld:
        counts["split"] |= {
            "train": counts["split"]["train"] - len(withheld),
            "withheld": len(withheld),
        }
        listed = store.put("".join(id_ + "\n" for id_ in withheld).encode())
    index = write_decisions(store, decided) if decided else None
    manifest = Manifest(parts, counts, listed, index)
    # Write the manifest, and record it.
    store.put(manifest.bytes())
    row = {"id": manifest.id, "samples": manifest.samples, "counts": manifest.counts}
    row |= {"query": query.record(), "review": review_statistics(tx, chosen)}
    row["decisions"] = index.counts if index else None
    row["parent_id"] = _parent(tx, parent, manifest.id)
    if tx.execute(insert(snapshots).on_conflict_do_nothing(), row).rowcount:
        tx.log(
            actor, "snapshot frozen", manifest.id, samples=manifest.samples, query=query.record()
        )
    if tag:
        tag_snapshot(tx, tag, manifest.id, actor)
    return manifest


def count_chosen(
    tx: Transaction,
    query: FreezeQuery,
    policy: LicencePolicy,
    decided: DecidedCandidates | None = None,
) -> int:
    """Return how many samples a snapshot would have.

    Args:
        tx: The transaction.
        query: Which samples it has.
        policy: Which licences may be in it.
        decided: Decided candidates to add.

    Raises:
        Refused: The query is invalid, or the licences are against the policy.
    """
    counts = _counts(tx, condition_of(query))
    policy.check(_licences(counts, decided))
    return sum(counts["kind"].values())


def check_tag(name: str) -> None:
    """Raise Refused if a tag may not have this name; see TAG_RULE."""
    if not _TAG.fullmatch(name):
        raise Refused(f"{name[:100]!r} is not a valid name of a tag", TAG_RULE)


def _valid_tag(name: str) -> str:
    try:
        check_tag(name)
    except Refused as error:
        raise ValueError(f"{error.message}: {error.hint}") from error
    return name


TagName = Annotated[
    str,
    AfterValidator(_valid_tag),
    WithJsonSchema({"type": "string", "pattern": f"^{_TAG_PATTERN}$", "title": "Tag"}),
]
"""The type of a tag's name in the API; its schema has the same rule as `check_tag`."""


def tag_snapshot(tx: Transaction, name: str, snapshot: str, actor: str) -> None:
    """Create a tag for a snapshot, or move an existing tag; the event log has the history.

    Args:
        tx: The transaction.
        name: Name of the tag.
        snapshot: Id of the snapshot.
        actor: Name of the person, for the event log.

    Raises:
        Refused: The name is invalid.
    """
    check_tag(name)
    values = {"name": name, "snapshot_id": snapshot, "created_at": sa.func.now()}
    tx.execute(
        insert(tags).values(values).on_conflict_do_update(index_elements=["name"], set_=values)
    )
    tx.log(actor, "tag moved", f"tag {name}", snapshot=snapshot)


def find_snapshot(tx: Transaction, name: str) -> str:
    """Return the id of a snapshot.

    Args:
        tx: The transaction.
        name: Its id, the first eight or more digits of the id, or its tag.

    Raises:
        NotFound: There is no such snapshot.
    """
    # Ids are tried first, so that no tag can hide a snapshot's id.
    if _ID_DIGITS.fullmatch(name):
        found = tx.execute(
            sa.select(snapshots.c.id).where(snapshots.c.id.startswith(name, autoescape=True))
        ).all()
        if len(found) == 1:
            return str(found[0].id)
    tagged = (
        tx.scalar(sa.select(tags.c.snapshot_id).where(tags.c.name == name))
        if is_storable(name)
        else None
    )
    if tagged is None:
        raise NotFound(
            f"there is no snapshot {name[:100]!r}", "'layerloop snapshot list' shows them"
        )
    return str(tagged)


def find_local_snapshot(tx: Transaction, snapshot: str | None) -> str | None:
    """Return a snapshot's id if it exists here, else None.

    The snapshot of a checkpoint from another installation does not exist here.
    """
    return (
        tx.scalar(sa.select(snapshots.c.id).where(snapshots.c.id == snapshot)) if snapshot else None
    )


def list_snapshots(
    tx: Transaction, limit: int = 0, after: str | None = None
) -> list[dict[str, Any]]:
    """Return snapshots with their tags and the texts of their notes, newest first.

    Args:
        tx: The transaction.
        limit: The largest number; 0 for no limit.
        after: Id of the last snapshot of the page before; None for the first page.

    Raises:
        NotFound: There is no snapshot `after`.
    """
    order = [snapshots.c.created_at, snapshots.c.id]
    place = find_place(tx, order, after)
    return _with_tags(tx, read_page(tx, sa.select(snapshots), order, limit=limit, after=place))


def read_snapshots(tx: Transaction, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of snapshots by id, as `list_snapshots` does; unknown ids are left out."""
    rows = tx.execute(sa.select(snapshots).where(snapshots.c.id.in_(ids))).mappings()
    return {row["id"]: row for row in _with_tags(tx, [dict(row) for row in rows])}


def _with_tags(tx: Transaction, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the tags and the texts of the notes to rows of snapshots."""
    ids = [row["id"] for row in rows]
    named: dict[str, list[str]] = {id_: [] for id_ in ids}
    noted: dict[str, list[str]] = {id_: [] for id_ in ids}
    wanted = sa.select(tags).where(tags.c.snapshot_id.in_(ids)).order_by(tags.c.name)
    for row in tx.execute(wanted):
        named[row.snapshot_id].append(row.name)
    wanted = sa.select(snapshot_notes).where(snapshot_notes.c.snapshot_id.in_(ids))
    for row in tx.execute(wanted.order_by(snapshot_notes.c.id)):
        noted[row.snapshot_id].append(row.text)
    return [row | {"tags": named[row["id"]], "notes": noted[row["id"]]} for row in rows]


def _parent(tx: Transaction, parent: str | None, snapshot: str) -> str | None:
    """Return the parent of a new snapshot: the given one, or the newest other one."""
    if parent is not None:
        return parent if parent != snapshot else None
    newest = sa.select(snapshots.c.id).where(snapshots.c.id != snapshot)
    ordered = newest.order_by(snapshots.c.created_at.desc(), snapshots.c.id)
    found: str | None = tx.scalar(ordered.limit(1))
    return found


def _chosen(
    tx: Transaction, ids: list[str], chosen: sa.ColumnElement[bool], query: FreezeQuery
) -> list[str]:
    """Return those of the ids that are samples of the query."""
    if query == ALL_SAMPLES or not ids:
        return ids
    found = tx.execute(sa.select(samples.c.id).where(chosen)).scalars()
    wanted = {one.hex for one in found}
    return [one for one in ids if one in wanted]


def _licences(counts: dict[str, dict[str, int]], decided: DecidedCandidates | None) -> Counter[str]:
    """Return the numbers of samples and decided candidates by licence."""
    return Counter(counts["licence"]) + (decided.licences() if decided else Counter())


def _write_parts(
    tx: Transaction, store: ObjectStore, digits: int, chosen: sa.ColumnElement[bool]
) -> tuple[Part, ...]:
    prefix = sa.func.substr(sa.cast(samples.c.id, sa.Text), 1, digits).label("prefix")
    # The database joins the lines of a part, so that 100,000 rows are sent as 256.
    lines = sa.func.string_agg(sa.literal_column(r"line || E'\n', '' order by samples.id")).label(
        "lines"
    )
    grouped = sa.select(prefix, lines, sa.func.count().label("n")).where(chosen).group_by(prefix)
    # The order of the collation "C" does not depend on the locale.
    ordered = grouped.order_by(sa.collate(prefix, "C")).execution_options(
        stream_results=True, max_row_buffer=16
    )
    return tuple(
        Part(row.prefix, store.put(row.lines.encode()), row.n) for row in tx.execute(ordered)
    )


def _counts(tx: Transaction, chosen: sa.ColumnElement[bool]) -> dict[str, dict[str, int]]:
    line = sa.cast(samples.c.line, sa.dialects.postgresql.JSONB)
    keys = [
        samples.c.kind,
        line["licence"].astext,
        samples.c.split,
        sa.cast(samples.c.round, sa.Text),
    ]
    named = [
        key.label(name)
        for key, name in zip(keys, ("kind", "licence", "split", "round"), strict=True)
    ]
    grouped = sa.select(*named, sa.func.count().label("n")).where(chosen).group_by(*keys)
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("kind", "licence", "split", "round")
    }
    for row in tx.execute(grouped).mappings():
        for name, counter in counts.items():
            counter[row[name]] += row["n"]
    return {name: dict(counter) for name, counter in counts.items()}
