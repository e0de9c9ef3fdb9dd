"""Withheld samples: training samples that share a layer with a held-out sample.

The split belongs to the sample, but an image may be a layer of several samples: a held-out single
image may be the foreground of a pair, and one photograph the background of many. A training sample
is withheld, which means that it is neither trained on nor measured, if one of its layers is equal
or nearly equal to a layer of a held-out sample (curation.images.perceptual_hash). Images without
detail, such as a white background, are often equal by chance and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.datasets.duplicates import DuplicateIndex
from curation.db.engine import Database, Transaction
from curation.errors import Corrupt, NotFound
from curation.images.codec import decode_layer
from curation.images.perceptual_hash import FINGERPRINT_BYTES, HASH_BYTES, fingerprint
from curation.ports import ObjectStore

BATCH_SIZE = 200
"""Number of layers whose fingerprints are computed and stored in one transaction."""

MAX_PLAIN_TONE_RANGE = 3.0
"""Largest range of the tones (L*, a*, b*, alpha, each 0 to 100) of an image without detail."""


def fingerprint_layers(database: Database, store: ObjectStore) -> int:
    """Compute and store the missing fingerprints of imported samples' layers.

    The call is idempotent. Call it before `withheld_samples`, outside of its transaction, since
    every layer is read and decoded once. Missing or corrupt objects are skipped; `layerloop doctor`
    lists them.

    Args:
        database: The database.
        store: Store of the layers.

    Returns:
        The number of fingerprints that were added.
    """
    added = 0
    after = ""
    while True:
        # Read the names of the next batch.
        with database.transaction() as tx:
            names = [
                row.sha256
                for row in tx.execute(_WITHOUT_FINGERPRINT, {"after": after, "limit": BATCH_SIZE})
            ]
        if not names:
            return added
        # Compute without an open transaction, then store.
        marks = _compute(store, names)
        if marks:
            with database.transaction() as tx:
                tx.execute(
                    _STORE, [{"b_sha256": name, "mark": mark} for name, mark in marks.items()]
                )
        added += len(marks)
        after = names[-1]


def withheld_samples(tx: Transaction) -> list[str]:
    """Return the ids of the training samples that share a layer with a held-out sample, sorted.

    A layer without a fingerprint is compared only by its visible pixels.

    Args:
        tx: A transaction with `repeatable_read`, so that all statements see the same samples.
    """
    # Index the held-out layers.
    exact: set[str] = set()
    near = DuplicateIndex()
    for row in _detailed(tx, "heldout"):
        exact.add(row["visible"])
        if row["mark"]:
            near.add(row["visible"], row["mark"], row["sha256"])
    if not exact:
        return []
    # Find the training layers that are in the index.
    return sorted(
        {
            row["sample"]
            for row in _detailed(tx, "train")
            if row["visible"] in exact or (row["mark"] and near.find(row["visible"], row["mark"]))
        }
    )


def is_plain(fingerprint: bytes) -> bool:
    """Return whether a fingerprint is that of an image without detail, such as a single color."""
    tones = np.frombuffer(fingerprint[HASH_BYTES:], np.uint8).reshape(-1, 4).astype(np.int16)
    return bool((tones.max(axis=0) - tones.min(axis=0)).max() <= MAX_PLAIN_TONE_RANGE)


def _detailed(tx: Transaction, split: str) -> Iterator[Mapping[str, Any]]:
    """Yield the layers with detail of a split's imported samples: sample, sha256, visible, mark."""
    streamed = tx.execute(
        _LAYERS.execution_options(stream_results=True, max_row_buffer=1_000), {"split": split}
    )
    for row in streamed.mappings():
        mark = row["fingerprint"]
        if mark is None or not is_plain(bytes(mark)):
            yield {**row, "mark": bytes(mark) if mark else None}


def _compute(store: ObjectStore, names: list[str]) -> dict[str, bytes]:
    """Return the fingerprints of stored layers, without those that cannot be read."""

    def mark_of(name: str) -> bytes | None:
        try:
            return fingerprint(decode_layer(store.get(name)))
        except (NotFound, Corrupt):
            return None

    with ThreadPoolExecutor(2, "fingerprint") as pool:
        marks = zip(names, pool.map(mark_of, names), strict=True)
        return {name: mark for name, mark in marks if mark is not None}


# Generated samples are not copies of held-out images, so only imported samples are compared.
_LAYERS = sa.text(f"""
    select replace(s.id::text, '-', '') as sample, l.sha256, l.visible,
        case when octet_length(l.fingerprint) = {FINGERPRINT_BYTES} then l.fingerprint end
            as fingerprint
    from samples s
    join sample_layers sl on sl.sample_id = s.id
    join layers l on l.sha256 = sl.sha256
    where s.withdrawn_at is null and s.round = 0 and s.split = :split""")

_WITHOUT_FINGERPRINT = sa.text(f"""
    select l.sha256 from layers l
    where (l.fingerprint is null or octet_length(l.fingerprint) <> {FINGERPRINT_BYTES})
      and l.sha256 > :after
      and exists (
        select from sample_layers sl join samples s on s.id = sl.sample_id
        where sl.sha256 = l.sha256 and s.withdrawn_at is null and s.round = 0)
    order by l.sha256 limit :limit""")

_STORE = sa.text("update layers set fingerprint = :mark where sha256 = :b_sha256")
