"""Keep held-out images out of training: samples that share a layer with a held-out sample are withheld.

The split belongs to the sample, but an image may be a layer of several samples: a held-out single image may be the
foreground of a pair, and one photograph the background of many. A training sample is withheld, which means neither
trained on nor measured, where one of its layers has the visible pixels of a held-out layer or is nearly the same image
(curation.images.perceptual_hash). Images without detail, such as a white background, are equal by accident and
withhold nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.datasets.duplicates import Batch
from curation.db.engine import Database, Transaction
from curation.errors import Corrupt, NotFound
from curation.images.codec import decode_layer
from curation.images.perceptual_hash import FINGERPRINT_BYTES, HASH_BYTES, fingerprint
from curation.ports import ObjectStore

BATCH = 200
"""Layers whose fingerprints are computed and stored in one transaction."""

PLAIN = 3.0
"""Largest spread of the tones (L*, a*, b*, alpha on scales of 0 to 100) of an image without detail."""


def fingerprint_layers(database: Database, store: ObjectStore) -> int:
    """Compute and store the fingerprints that layers of imported samples lack; return how many were added.

    Idempotent. Call it before `withheld_samples`, outside of its transaction: every layer is read and decoded once.
    Layers whose object is missing or broken are left out; `doctor` names them.
    """
    added, after = 0, ""
    while True:
        with database.transaction() as tx:
            names = [
                row.sha256
                for row in tx.execute(_WITHOUT_FINGERPRINT, {"after": after, "limit": BATCH})
            ]
        if not names:
            return added
        marks = _compute(store, names)
        if marks:
            with database.transaction() as tx:
                tx.execute(
                    _STORE, [{"b_sha256": name, "mark": mark} for name, mark in marks.items()]
                )
        added, after = added + len(marks), names[-1]


def withheld_samples(tx: Transaction, store: ObjectStore) -> list[str]:
    """Return the ids of the training samples that share a layer with a held-out sample, sorted.

    Args:
        tx: A transaction that sees the samples of one moment.
        store: Where layers without a stored fingerprint are read.
    """
    exact: set[str] = set()
    near = Batch()
    for row in _detailed(tx, store, "heldout"):
        exact.add(row["visible"])
        if row["mark"]:
            near.add(row["visible"], row["mark"], row["sha256"])
    if not exact:
        return []
    return sorted(
        {
            row["sample"]
            for row in _detailed(tx, store, "train")
            if row["visible"] in exact or (row["mark"] and near.find(row["visible"], row["mark"]))
        }
    )


def is_plain(mark: bytes) -> bool:
    """Whether the fingerprint is that of an image without detail: one tone, opaque or not."""
    tones = np.frombuffer(mark[HASH_BYTES:], np.uint8).reshape(-1, 4).astype(np.int16)
    return bool((tones.max(axis=0) - tones.min(axis=0)).max() <= PLAIN)


def _detailed(tx: Transaction, store: ObjectStore, split: str) -> Iterator[Mapping[str, Any]]:
    """Yield the layers of the imported samples of a split that have detail: sample, sha256, visible, mark or None."""
    streamed = tx.execute(
        _LAYERS.execution_options(stream_results=True, max_row_buffer=1_000), {"split": split}
    )
    for rows in streamed.mappings().partitions(1_000):
        computed = _compute(store, [row["sha256"] for row in rows if row["fingerprint"] is None])
        for row in rows:
            mark = row["fingerprint"] or computed.get(row["sha256"])
            if mark is None or not is_plain(bytes(mark)):
                yield {**row, "mark": bytes(mark) if mark else None}


def _compute(store: ObjectStore, names: list[str]) -> dict[str, bytes]:
    """Fingerprint stored layers, those left out that cannot be read."""

    def mark_of(name: str) -> bytes | None:
        try:
            return fingerprint(decode_layer(store.get(name)))
        except (NotFound, Corrupt):
            return None

    with ThreadPoolExecutor(2, "fingerprint") as pool:
        marks = zip(names, pool.map(mark_of, names), strict=True)
        return {name: mark for name, mark in marks if mark is not None}


# Drawn samples are no copies of held-out images, so only imported ones are compared.
_LAYERS = sa.text(f"""
    select replace(s.id::text, '-', '') as sample, l.sha256, l.visible,
           case when octet_length(l.fingerprint) = {FINGERPRINT_BYTES} then l.fingerprint end as fingerprint
    from samples s join sample_layers sl on sl.sample_id = s.id join layers l on l.sha256 = sl.sha256
    where s.withdrawn_at is null and s.round = 0 and s.split = :split""")

_WITHOUT_FINGERPRINT = sa.text(f"""
    select distinct l.sha256
    from samples s join sample_layers sl on sl.sample_id = s.id join layers l on l.sha256 = sl.sha256
    where s.withdrawn_at is null and s.round = 0
      and (l.fingerprint is null or octet_length(l.fingerprint) <> {FINGERPRINT_BYTES})
      and l.sha256 > :after
    order by l.sha256 limit :limit""")

_STORE = sa.text("update layers set fingerprint = :mark where sha256 = :b_sha256")
