"""Seeing: candidates that were screened before this embedder, or never were, are measured by it afterwards."""

from __future__ import annotations

import uuid
from typing import Final

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.domain import CandidateState, Kind
from curation.ports import Embedder, ObjectStore
from curation.screening.rules import keep_again, measure_candidates

SEE_AT_ONCE: Final = 64


def see_unseen(database: Database, store: ObjectStore, kind: Kind, embedder: Embedder) -> int:
    """Let an embedder see all that is decided, or may be, and that it has not seen; returns how many it were.

    A transaction for each batch: whatever stops it, the next call goes on.
    """
    seen, after = 0, uuid.UUID(int=0)
    while True:
        with database.transaction() as tx:
            ids = _unseen(tx, kind, embedder.source, after)
            if not ids:
                return seen
            measured = measure_candidates(tx, store, ids, embedder, tuple(CandidateState))
            keep_again(tx, measured)
        seen, after = seen + len(measured), ids[-1]


def _unseen(tx: Transaction, kind: Kind, embedder: str, after: uuid.UUID) -> list[uuid.UUID]:
    asked = {"kind": kind, "embedder": embedder, "after": after, "most": SEE_AT_ONCE}
    return [row.id for row in tx.execute(_UNSEEN, asked)]


_UNSEEN = sa.text("""
    select c.id from candidates c
    join rounds r on r.id = c.round_id
    left join embeddings e on e.candidate_id = c.id
    where r.kind = :kind and c.id > :after and e.source is distinct from :embedder
        and (c.state in ('accepted', 'rejected')
            or r.state <> 'closed' and c.state in ('screened', 'unshown', 'waiting', 'showing'))
    order by c.id limit :most""")
