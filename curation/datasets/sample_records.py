"""Samples one by one: listed, shown with all that happened to them, withdrawn from snapshots to come and restored."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from curation.datasets.samples import find_sample_id, without_caption
from curation.db.engine import Transaction
from curation.db.tables import captions, events, import_files, sample_layers, samples
from curation.domain import Sample
from curation.errors import Refused


def list_samples(
    tx: Transaction,
    *,
    withdrawn: bool = False,
    bare: bool = False,
    file: str | None = None,
    limit: int = 0,
) -> list[dict[str, Any]]:
    """Return samples, the newest first.

    Args:
        tx: The transaction to read in.
        withdrawn: The withdrawn ones instead of those that stand.
        bare: Only those without a caption, or with one that was made from a file name.
        file: Only those imported from files whose name inside their folder ends so.
        limit: At most so many; 0 for all.
    """
    query = sa.select(samples).where(
        samples.c.withdrawn_at.is_not(None) if withdrawn else samples.c.withdrawn_at.is_(None)
    )
    if bare:
        query = query.where(without_caption())
    if file:
        named = sa.select(sample_layers.c.sample_id).join(
            import_files,
            (import_files.c.layer == sample_layers.c.sha256)
            & (import_files.c.outcome != "duplicate"),
        )
        query = query.where(
            samples.c.id.in_(named.where(import_files.c.name.endswith(file, autoescape=True)))
        )
    query = query.order_by(samples.c.at.desc(), samples.c.id)
    return [_row(row) for row in tx.execute(query.limit(limit) if limit else query).mappings()]


def show_sample(tx: Transaction, name: str) -> dict[str, Any]:
    """Return one sample with the files it came from, its captions and its history, oldest first. Raises NotFound."""
    id_ = find_sample_id(tx, name)
    row = tx.execute(sa.select(samples).where(samples.c.id == id_)).mappings().one()
    layers = sa.select(sample_layers.c.sha256).where(sample_layers.c.sample_id == id_)
    files = sa.select(import_files.c.name).where(
        import_files.c.layer.in_(layers), import_files.c.outcome != "duplicate"
    )
    told = sa.select(events.c.at, events.c.actor, events.c.kind, events.c.data)
    told = told.where(events.c.subject == f"sample {id_.hex}").order_by(events.c.id)
    said = sa.select(captions.c.at, captions.c.text, captions.c.source).where(
        captions.c.sample_id == id_
    )
    return _row(row) | {
        "source": Sample.read(row["line"]).source,
        "texts": dict(Sample.read(row["line"]).texts),
        "layers": dict(Sample.read(row["line"]).layers),
        "files": [one.name for one in tx.execute(files.order_by(import_files.c.name))],
        "captions": [dict(one) for one in tx.execute(said.order_by(captions.c.id)).mappings()],
        "history": [dict(one) for one in tx.execute(told).mappings()],
    }


def withdraw_samples(
    tx: Transaction, names: Sequence[str], reason: str, actor: str
) -> list[uuid.UUID]:
    """Leave samples out of every snapshot to come; frozen ones keep them. Returns those that stood until now.

    Raises NotFound for a name that is none; Refused without a reason.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise Refused("a withdrawal says why", "give --reason")
    return _move(
        tx,
        names,
        samples.c.withdrawn_at.is_(None),
        sa.func.now(),
        "sample withdrawn",
        actor,
        reason=reason,
    )


def restore_samples(tx: Transaction, names: Sequence[str], actor: str) -> list[uuid.UUID]:
    """Take withdrawn samples into snapshots again; returns those that were withdrawn. Raises NotFound."""
    return _move(tx, names, samples.c.withdrawn_at.is_not(None), None, "sample restored", actor)


def _move(
    tx: Transaction,
    names: Sequence[str],
    before: Any,
    after: Any,
    kind: str,
    actor: str,
    **data: str,
) -> list[uuid.UUID]:
    moved = []
    for id_ in dict.fromkeys(find_sample_id(tx, name) for name in names):
        if tx.execute(
            sa.update(samples).where(samples.c.id == id_, before).values(withdrawn_at=after)
        ).rowcount:
            tx.log(actor, kind, f"sample {id_.hex}", **data)
            moved.append(id_)
    return moved


def _row(row: Any) -> dict[str, Any]:
    sample = Sample.read(row["line"])
    return {
        "id": sample.id,
        "kind": sample.kind,
        "caption": sample.caption,
        "caption_source": row["caption_source"],
        "captioner": sample.captioner or None,
        "licence": sample.licence,
        "split": row["split"],
        "round": row["round"],
        "at": row["at"],
        "withdrawn_at": row["withdrawn_at"],
    }
