"""Single samples: list, show with history, withdraw from future snapshots, and restore."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from curation.datasets.samples import find_sample_id, has_no_caption
from curation.db.engine import Transaction
from curation.db.paging import find_place, read_page
from curation.db.tables import captions, events, import_files, sample_layers, samples
from curation.domain import Sample
from curation.errors import Refused


def list_samples(
    tx: Transaction,
    *,
    withdrawn: bool = False,
    without_caption: bool = False,
    file_suffix: str | None = None,
    limit: int = 0,
    after: uuid.UUID | None = None,
) -> list[dict[str, Any]]:
    """Return samples, the newest first.

    Args:
        tx: The transaction.
        withdrawn: Return withdrawn samples instead of active samples.
        without_caption: Only samples without a caption, or whose caption was made from a file name.
        file_suffix: Only samples imported from files whose path inside their folder ends with this.
        limit: The largest number; 0 for no limit.
        after: The last sample of the page before; None for the first page.

    Raises:
        NotFound: There is no sample `after`.
    """
    query = sa.select(samples).where(
        samples.c.withdrawn_at.is_not(None) if withdrawn else samples.c.withdrawn_at.is_(None)
    )
    if without_caption:
        query = query.where(has_no_caption())
    if file_suffix:
        imported = sa.select(sample_layers.c.sample_id).join(
            import_files,
            (import_files.c.layer == sample_layers.c.sha256)
            & (import_files.c.outcome != "duplicate"),
        )
        query = query.where(
            samples.c.id.in_(
                imported.where(import_files.c.name.endswith(file_suffix, autoescape=True))
            )
        )
    order = [samples.c.created_at, samples.c.id]
    place = find_place(tx, order, after)
    return [_row(row) for row in read_page(tx, query, order, limit=limit, after=place)]


def show_sample(tx: Transaction, name: str) -> dict[str, Any]:
    """Return a sample with its files, captions and history, oldest first.

    Args:
        tx: The transaction.
        name: Id of the sample, or its first eight or more digits.

    Raises:
        NotFound: There is no such sample.
    """
    id_ = find_sample_id(tx, name)
    row = tx.execute(sa.select(samples).where(samples.c.id == id_)).mappings().one()
    # A duplicate file has the same layer, but is not the origin of the sample.
    layers = sa.select(sample_layers.c.sha256).where(sample_layers.c.sample_id == id_)
    files = sa.select(import_files.c.name).where(
        import_files.c.layer.in_(layers), import_files.c.outcome != "duplicate"
    )
    history = sa.select(events.c.created_at, events.c.actor, events.c.kind, events.c.data)
    history = history.where(events.c.subject == f"sample {id_.hex}").order_by(events.c.id)
    caption_rows = sa.select(captions.c.created_at, captions.c.text, captions.c.source).where(
        captions.c.sample_id == id_
    )
    return _row(row) | {
        "source": Sample.read(row["line"]).source,
        "texts": dict(Sample.read(row["line"]).texts),
        "layers": dict(Sample.read(row["line"]).layers),
        "files": [file.name for file in tx.execute(files.order_by(import_files.c.name))],
        "captions": [
            dict(caption) for caption in tx.execute(caption_rows.order_by(captions.c.id)).mappings()
        ],
        "history": [dict(event) for event in tx.execute(history).mappings()],
    }


def withdraw_samples(
    tx: Transaction, names: Sequence[str], reason: str, actor: str
) -> list[uuid.UUID]:
    """Exclude samples from future snapshots; existing snapshots keep them.

    Args:
        tx: The transaction.
        names: Ids of samples, or their first eight or more digits.
        reason: Reason, for the event log.
        actor: Name of the person, for the event log.

    Returns:
        The ids of the samples that were not withdrawn before.

    Raises:
        NotFound: A name is not the id of a sample.
        Refused: The reason is empty.
    """
    reason = " ".join(reason.split())
    if not reason:
        raise Refused("a withdrawal needs a reason", "give --reason")
    return _set_withdrawn(
        tx,
        names,
        samples.c.withdrawn_at.is_(None),
        sa.func.now(),
        "sample withdrawn",
        actor,
        reason=reason,
    )


def restore_samples(tx: Transaction, names: Sequence[str], actor: str) -> list[uuid.UUID]:
    """Include withdrawn samples in future snapshots again.

    Args:
        tx: The transaction.
        names: Ids of samples, or their first eight or more digits.
        actor: Name of the person, for the event log.

    Returns:
        The ids of the samples that were withdrawn before.

    Raises:
        NotFound: A name is not the id of a sample.
    """
    return _set_withdrawn(
        tx, names, samples.c.withdrawn_at.is_not(None), None, "sample restored", actor
    )


def _set_withdrawn(
    tx: Transaction,
    names: Sequence[str],
    before: Any,
    after: Any,
    kind: str,
    actor: str,
    **data: str,
) -> list[uuid.UUID]:
    changed = []
    for id_ in dict.fromkeys(find_sample_id(tx, name) for name in names):
        if tx.execute(
            sa.update(samples).where(samples.c.id == id_, before).values(withdrawn_at=after)
        ).rowcount:
            tx.log(actor, kind, f"sample {id_.hex}", **data)
            changed.append(id_)
    return changed


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
        "created_at": row["created_at"],
        "withdrawn_at": row["withdrawn_at"],
    }
