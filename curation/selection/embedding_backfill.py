"""Embedding backfill: measure candidates that the current embedder has not seen."""

from __future__ import annotations

import uuid
from typing import Final

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.domain import CandidateState, Kind
from curation.ports import Embedder, ObjectStore
from curation.screening.rules import measure_candidates, store_remeasured

BATCH_SIZE: Final = 64


def backfill_embeddings(
    database: Database, store: ObjectStore, kind: Kind, embedder: Embedder
) -> int:
    """Embed all candidates that are or may be decided and that this embedder has not seen.

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
    while True:
        # Keyset pagination by id; each batch commits on its own.
        with database.transaction() as tx:
            ids = _unseen(tx, kind, embedder.source, after)
            if not ids:
                return count
            measured = measure_candidates(tx, store, ids, embedder, tuple(CandidateState))
            store_remeasured(tx, measured)
        count, after = count + len(measured), ids[-1]


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
