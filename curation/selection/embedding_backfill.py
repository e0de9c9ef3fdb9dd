"""Embedding backfill: measure candidates that the current embedder has not embedded."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import Final

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.domain import CandidateState, Kind
from curation.downloads import Downloads
from curation.ports import Embedder, ObjectStore
from curation.screening.candidates import (
    MeasurableCandidate,
    find_measurable,
    measure_candidate,
)
from curation.screening.rules import store_remeasured

BATCH_SIZE: Final = 64


def backfill_embeddings(
    database: Database, store: ObjectStore, kind: Kind, embedder: Embedder
) -> int:
    """Embed all candidates that are or may be decided and that this embedder has not embedded.

    Each batch is a transaction of its own, so that an interrupted run is continued by the next
    call.

    Args:
        database: The database.
        store: The object store with the layers.
        kind: The kind of candidates.
        embedder: The embedder.

    Returns:
        The number of candidates embedded.
    """
    count, after = 0, uuid.UUID(int=0)
    with closing(Downloads(store)) as downloads:
        batch = _read_ahead(database, kind, embedder, after, downloads)
        while batch:
            # Keyset pagination by id; the next batch is read while this one is measured.
            after = batch[-1].id
            following = _read_ahead(database, kind, embedder, after, downloads)
            measured = []
            for item in batch:
                measured.append(measure_candidate(item, downloads.take, embedder))
                downloads.forget(item.objects)
            with database.transaction() as tx:
                store_remeasured(tx, measured)
            count, batch = count + len(measured), following
    return count


def _read_ahead(
    database: Database, kind: Kind, embedder: Embedder, after: uuid.UUID, downloads: Downloads
) -> list[MeasurableCandidate]:
    """Return the next batch after an id, and start to read its layers."""
    with database.transaction() as tx:
        ids = _unseen(tx, kind, embedder.source, after)
        batch = find_measurable(tx, ids, tuple(CandidateState))
    for item in batch:
        downloads.start(item.objects)
    return batch


def _unseen(tx: Transaction, kind: Kind, embedder: str, after: uuid.UUID) -> list[uuid.UUID]:
    params = {"kind": kind, "embedder": embedder, "after": after, "most": BATCH_SIZE}
    return [row.id for row in tx.execute(_UNSEEN, params)]


_UNSEEN = sa.text("""
    select c.id from candidates c
    join rounds r on r.id = c.round_id
    left join embeddings e on e.candidate_id = c.id
    where r.kind = :kind and c.id > :after and e.source is distinct from :embedder
        and (c.state in ('accepted', 'rejected')
            or r.state <> 'closed' and c.state in ('screened', 'unshown', 'waiting', 'showing'))
    order by c.id limit :most""")
