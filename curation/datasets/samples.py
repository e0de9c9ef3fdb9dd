"""Samples: accepted layers with metadata, added once, and withdrawn when an accept is undone."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, insert

from curation.datasets.blocked import refuse_blocked
from curation.datasets.licences import normalize_licence
from curation.db.engine import Transaction
from curation.db.id_prefixes import has_prefix
from curation.db.tables import layers, sample_layers, samples
from curation.domain import (
    CaptionSource,
    Kind,
    LayerRole,
    Prompt,
    Sample,
    Split,
    assign_split,
    content_id,
)
from curation.errors import NotFound

UNKNOWN_VALUE = "unknown"
"""The value of a caption, a license or a source that is not known."""


@dataclass(frozen=True)
class StoredLayer:
    """A layer in the object store: hash, size, and hash of the visible pixels."""

    sha256: str
    width: int
    height: int
    bytes: int
    visible: str


@dataclass(frozen=True)
class NewSample:
    """A sample to add; without a `split` it is derived from the visible pixels."""

    kind: Kind
    caption: str
    licence: str
    source: str
    round: int
    layers: Mapping[LayerRole, StoredLayer]
    split: Split | None = None
    candidate: uuid.UUID | None = None
    texts: Mapping[LayerRole, str] = field(default_factory=dict)
    caption_source: CaptionSource = CaptionSource.given

    def visible(self) -> str:
        """Return the hash of all visible pixels, which makes equal images one sample.

        For a single image this is the hash of its layer.
        """
        hashes = [self.layers[role].visible for role in LayerRole if role in self.layers]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        )

    def to_sample(self) -> Sample:
        """Return the sample in the form of snapshots, its licence as an SPDX id if there is one."""
        visible = self.visible()
        licence, licence_text = normalize_licence(self.licence)
        return Sample(
            id=content_id("sample", visible).hex,
            kind=self.kind,
            caption=self.caption,
            licence=licence,
            licence_text=licence_text,
            source=self.source,
            split=self.split or assign_split(visible),
            round=self.round,
            visible=visible,
            layers={role: layer.sha256 for role, layer in self.layers.items()},
            texts=self.texts,
            caption_source=self.caption_source
            if self.caption_source is CaptionSource.file_name
            else None,
        )


def record_layers(tx: Transaction, stored: Sequence[StoredLayer]) -> None:
    """Record layers whose bytes are in the object store already; the call is idempotent.

    Raises:
        TakenDownLayer: A layer has pixels that were taken down.
    """
    if stored:
        refuse_blocked(tx, [layer.visible for layer in stored])
        rows = list({layer.sha256: layer.__dict__ for layer in stored}.values())
        tx.execute(insert(layers).on_conflict_do_nothing(), rows)


def add_samples(tx: Transaction, new: Sequence[NewSample]) -> set[uuid.UUID]:
    """Add samples and record their layers.

    A withdrawn sample with the same visible pixels is restored unchanged.

    Args:
        tx: The transaction.
        new: The samples.

    Returns:
        The ids of the samples that did not exist before.
    """
    if not new:
        return set()
    record_layers(tx, [layer for item in new for layer in item.layers.values()])
    # Insert the samples; equal visible pixels are the same sample.
    by_pixels = {item.visible(): (item.to_sample(), item) for item in new}
    rows = [
        {
            "id": uuid.UUID(sample.id),
            "kind": sample.kind,
            "visible": visible,
            "split": sample.split,
            "round": sample.round,
            "candidate_id": item.candidate,
            "line": sample.line(),
            "caption_source": item.caption_source,
        }
        for visible, (sample, item) in by_pixels.items()
    ]
    adding = (
        insert(samples).on_conflict_do_nothing(index_elements=["visible"]).returning(samples.c.id)
    )
    added = {row.id for row in tx.connection.execute(adding, rows)}
    # Insert the layers of those that are new.
    layer_rows = [
        {"sample_id": uuid.UUID(sample.id), "role": role, "sha256": sha}
        for sample, _ in by_pixels.values()
        if uuid.UUID(sample.id) in added
        for role, sha in sample.layers.items()
    ]
    if layer_rows:
        tx.execute(sa.insert(sample_layers), layer_rows)
    # Restore those that were withdrawn.
    tx.execute(
        sa.update(samples)
        .where(samples.c.id.in_([row["id"] for row in rows]), samples.c.withdrawn_at.is_not(None))
        .values(withdrawn_at=None)
    )
    return added


def samples_from_candidates(tx: Transaction, candidates: Sequence[uuid.UUID]) -> list[NewSample]:
    """Return accepted candidates as samples.

    The license of a generated sample names its checkpoint; imported files keep their own license.

    Args:
        tx: The transaction.
        candidates: Ids of accepted candidates.
    """
    rows = tx.execute(_ACCEPTED, {"ids": list(candidates)}).mappings() if candidates else ()
    return [_new_sample(row) for row in rows]


def _new_sample(row: Mapping[str, Any]) -> NewSample:
    origin = row["origin"] or {}
    is_generated = row["purpose"] == "generated"
    # Generated samples are never held out, so that the held-out split stays the same over rounds.
    split = Split.train if is_generated else Split(origin["split"]) if origin.get("split") else None
    generated_licence = f"generated by {str(row['checkpoint_id'])[:12]}"
    return NewSample(
        kind=Kind(row["kind"]),
        caption=row["text"],
        texts=Prompt(row["text"], row["foreground"], row["background"]).texts,
        licence=str(origin.get("licence", UNKNOWN_VALUE)) if origin else generated_licence,
        source=str(origin.get("source", UNKNOWN_VALUE)) if origin else f"candidate {row['id']}",
        round=row["round_id"] if is_generated else 0,
        layers={LayerRole(role): StoredLayer(**layer) for role, layer in row["layers"].items()},
        split=split,
        candidate=row["id"],
        caption_source=CaptionSource(origin.get("caption_source", CaptionSource.given)),
    )


def withdraw_sample_of(tx: Transaction, candidate: uuid.UUID) -> None:
    """Exclude the sample of a candidate from future snapshots, since its accept was undone."""
    tx.execute(
        sa.update(samples)
        .where(samples.c.candidate_id == candidate)
        .values(withdrawn_at=sa.func.now())
    )


def has_no_caption() -> sa.ColumnElement[bool]:
    """Return the condition that a caption is empty, "unknown", or made from a file name."""
    caption = sa.cast(samples.c.line, JSONB)["caption"].astext
    missing: sa.ColumnElement[bool] = caption.in_(["", UNKNOWN_VALUE])
    return missing | (samples.c.caption_source == CaptionSource.file_name)


def find_sample_id(tx: Transaction, name: str) -> uuid.UUID:
    """Return the id of a sample by its id or its first eight or more digits. Raises NotFound."""
    found = tx.execute(sa.select(samples.c.id).where(has_prefix(samples.c.id, name)).limit(2)).all()
    if len(found) != 1:
        raise NotFound(
            f"there is no sample {name!r}",
            "'layerloop sample list' shows ids; eight digits are enough",
        )
    return uuid.UUID(str(found[0].id))


_ACCEPTED = sa.text("""
    select c.id, c.round_id, c.origin, r.kind, r.purpose, r.checkpoint_id,
        p.text, p.foreground, p.background, l.layers
    from candidates c
    join rounds r on r.id = c.round_id
    join prompts p on p.id = c.prompt_id
    cross join lateral (
        select jsonb_object_agg(cl.role, jsonb_build_object(
            'sha256', l.sha256, 'width', l.width, 'height', l.height,
            'bytes', l.bytes, 'visible', l.visible)) as layers
        from candidate_layers cl
        join layers l on l.sha256 = cl.sha256
        where cl.candidate_id = c.id) l
    where c.id = any(:ids)""").bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
