"""Snapshots: the samples of today frozen into objects that never change, named by their content."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import AfterValidator, WithJsonSchema
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.holdout import withheld_samples
from curation.datasets.manifest import Manifest, Part, prefix_length
from curation.datasets.samples import count_samples
from curation.db.engine import Transaction
from curation.db.tables import samples, snapshots, tags
from curation.errors import Conflict, NotFound, Refused
from curation.ports import ObjectStore
from curation.text import storable

TAG_RULE = (
    "it begins with a letter, goes on with letters, digits, '-', '_' and '.', has at most 100 characters, "
    "and is not eight or more of the digits 0-9 and letters a-f, as ids are"
)
"""What a tag may be called, in words."""

_TAG_PATTERN = r"(?![0-9A-Fa-f]{8,100}$)[A-Za-z][A-Za-z0-9._-]{0,99}"
_TAG = re.compile(_TAG_PATTERN)
_ID_DIGITS = re.compile(r"[0-9a-f]{8,64}")

_STANDING = samples.c.withdrawn_at.is_(None)


def freeze(tx: Transaction, store: ObjectStore, *, tag: str | None, actor: str) -> Manifest:
    """Freeze every sample that is not withdrawn; equal samples give the same snapshot, whenever and wherever.

    Training samples that share a layer with a held-out one are listed as withheld (curation.datasets.holdout; call its
    `fingerprint_layers` before).

    The parts are joined in the database and streamed one at a time, so that memory stays at one part. The
    transaction is one with `one_view`, or samples accepted meanwhile could be counted and not listed.
    """
    if tag:
        check_tag(tag)  # before anything is written
    count = count_samples(tx)
    if not count:
        raise Conflict("there are no samples to freeze", "import seeds or accept candidates first")
    parts = _write_parts(tx, store, prefix_length(count))
    counts, withheld = _counts(tx), withheld_samples(tx, store)
    if withheld:
        counts["split"] |= {
            "train": counts["split"]["train"] - len(withheld),
            "withheld": len(withheld),
        }
        manifest = Manifest(
            parts, counts, store.put("".join(id_ + "\n" for id_ in withheld).encode())
        )
    else:
        manifest = Manifest(parts, counts)
    store.put(manifest.bytes())
    row = {"id": manifest.id, "samples": manifest.samples, "counts": manifest.counts}
    if tx.execute(insert(snapshots).on_conflict_do_nothing(), row).rowcount:
        tx.log(actor, "snapshot frozen", manifest.id, samples=manifest.samples)
    if tag:
        tag_snapshot(tx, tag, manifest.id, actor)
    return manifest


def check_tag(name: str) -> None:
    """Refuse a name that no tag may have: one that is no plain word, or that could be the beginning of an id."""
    if not _TAG.fullmatch(name):
        raise Refused(f"{name[:100]!r} is no name for a tag", TAG_RULE)


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
"""The type of a tag's name in the API; its schema says what `check_tag` takes."""


def tag_snapshot(tx: Transaction, name: str, snapshot: str, actor: str) -> None:
    """Let a name point at a snapshot, from now on; where it pointed before stands in the event log."""
    check_tag(name)
    values = {"name": name, "snapshot_id": snapshot, "at": sa.func.now()}
    tx.execute(
        insert(tags).values(values).on_conflict_do_update(index_elements=["name"], set_=values)
    )
    tx.log(actor, "tag moved", f"tag {name}", snapshot=snapshot)


def find_snapshot(tx: Transaction, name: str) -> str:
    """Return the id of a snapshot by its id, the first eight or more digits of it, or its tag. Raises NotFound.

    Ids come first, so that no tag can stand in for another snapshot's id.
    """
    if _ID_DIGITS.fullmatch(name):
        found = tx.execute(
            sa.select(snapshots.c.id).where(snapshots.c.id.startswith(name, autoescape=True))
        ).all()
        if len(found) == 1:
            return str(found[0].id)
    tagged = (
        tx.scalar(sa.select(tags.c.snapshot_id).where(tags.c.name == name))
        if storable(name)
        else None
    )
    if tagged is None:
        raise NotFound(
            f"there is no snapshot {name[:100]!r}", "'layerloop snapshot list' shows them"
        )
    return str(tagged)


def known(tx: Transaction, snapshot: str | None) -> str | None:
    """Return a snapshot's id where it is of this home; a checkpoint of another home was trained on one of that."""
    return (
        tx.scalar(sa.select(snapshots.c.id).where(snapshots.c.id == snapshot)) if snapshot else None
    )


def list_snapshots(tx: Transaction) -> list[dict[str, Any]]:
    """Every snapshot with its tags, newest first."""
    named: dict[str, list[str]] = {}
    for row in tx.execute(sa.select(tags).order_by(tags.c.name)):
        named.setdefault(row.snapshot_id, []).append(row.name)
    listed = tx.execute(
        sa.select(snapshots).order_by(snapshots.c.at.desc(), snapshots.c.id)
    ).mappings()
    return [dict(row) | {"tags": named.get(row["id"], [])} for row in listed]


def _write_parts(tx: Transaction, store: ObjectStore, digits: int) -> tuple[Part, ...]:
    prefix = sa.func.substr(sa.cast(samples.c.id, sa.Text), 1, digits).label("prefix")
    # The database joins a part's lines: 100,000 rows cross as 256. "C" order does not depend on the locale.
    lines = sa.func.string_agg(sa.literal_column(r"line || E'\n', '' order by samples.id")).label(
        "lines"
    )
    grouped = sa.select(prefix, lines, sa.func.count().label("n")).where(_STANDING).group_by(prefix)
    ordered = grouped.order_by(sa.collate(prefix, "C")).execution_options(
        stream_results=True, max_row_buffer=16
    )
    return tuple(
        Part(row.prefix, store.put(row.lines.encode()), row.n) for row in tx.execute(ordered)
    )


def _counts(tx: Transaction) -> dict[str, dict[str, int]]:
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
    grouped = sa.select(*named, sa.func.count().label("n")).where(_STANDING).group_by(*keys)
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("kind", "licence", "split", "round")
    }
    for row in tx.execute(grouped).mappings():
        for name, counter in counts.items():
            counter[row[name]] += row["n"]
    return {name: dict(counter) for name, counter in counts.items()}
