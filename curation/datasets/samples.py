"""Samples: accepted layers with what must be known of them, added once and never changed, withdrawn when undone."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, insert

from curation.db.engine import Transaction
from curation.db.tables import layers, sample_layers, samples
from curation.domain import (
    CaptionSource,
    Kind,
    LayerRole,
    Prompt,
    Sample,
    Split,
    content_id,
    split_of,
)
from curation.errors import NotFound

UNKNOWN = "unknown"
"""What stands for a caption, a licence or a source that nobody told."""


@dataclass(frozen=True)
class StoredLayer:
    """What the records know of one stored layer; `sha256` names its bytes, `visible` the pixels that can be seen."""

    sha256: str
    width: int
    height: int
    bytes: int
    visible: str


@dataclass(frozen=True)
class NewSample:
    """A sample to be added; `split` None lets its visible pixels decide."""

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
        """The hash of all that can be seen of it; a single image's own hash, so that equal pictures are one sample."""
        hashes = [self.layers[role].visible for role in LayerRole if role in self.layers]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        )

    def as_sample(self) -> Sample:
        """The line that every snapshot will hold."""
        visible = self.visible()
        return Sample(
            id=content_id("sample", visible).hex,
            kind=self.kind,
            caption=self.caption,
            licence=self.licence,
            source=self.source,
            split=self.split or split_of(visible),
            round=self.round,
            visible=visible,
            layers={role: layer.sha256 for role, layer in self.layers.items()},
            texts=self.texts,
            caption_source=self.caption_source
            if self.caption_source is CaptionSource.file_name
            else None,
        )


def record_layers(tx: Transaction, stored: Sequence[StoredLayer]) -> None:
    """Note layers whose bytes are in the object store already; recording one twice is recording it once."""
    if stored:
        rows = list({layer.sha256: layer.__dict__ for layer in stored}.values())
        tx.execute(insert(layers).on_conflict_do_nothing(), rows)


def add_samples(tx: Transaction, new: Sequence[NewSample]) -> set[uuid.UUID]:
    """Add samples and record their layers; returns the ids that were not there before.

    A sample that was withdrawn comes back with the line it had: what a person accepted twice is one sample.
    """
    if not new:
        return set()
    record_layers(tx, [layer for one in new for layer in one.layers.values()])
    made = {one.visible(): (one.as_sample(), one) for one in new}
    rows = [
        {
            "id": uuid.UUID(sample.id),
            "kind": sample.kind,
            "visible": visible,
            "split": sample.split,
            "round": sample.round,
            "candidate_id": one.candidate,
            "line": sample.line(),
            "caption_source": one.caption_source,
        }
        for visible, (sample, one) in made.items()
    ]
    adding = (
        insert(samples).on_conflict_do_nothing(index_elements=["visible"]).returning(samples.c.id)
    )
    added = {row.id for row in tx.connection.execute(adding, rows)}
    parts = [
        {"sample_id": uuid.UUID(sample.id), "role": role, "sha256": sha}
        for sample, _ in made.values()
        if uuid.UUID(sample.id) in added
        for role, sha in sample.layers.items()
    ]
    if parts:
        tx.execute(sa.insert(sample_layers), parts)
    tx.execute(
        sa.update(samples)
        .where(samples.c.id.in_([row["id"] for row in rows]), samples.c.withdrawn_at.is_not(None))
        .values(withdrawn_at=None)
    )
    return added


def samples_of(tx: Transaction, candidates: Sequence[uuid.UUID]) -> list[NewSample]:
    """Accepted candidates as samples: drawn ones say who drew them, imported files keep their own licence."""
    rows = tx.execute(_ACCEPTED, {"ids": list(candidates)}).mappings() if candidates else ()
    return [_sample_of(row) for row in rows]


def _sample_of(row: Mapping[str, Any]) -> NewSample:
    origin = row["origin"] or {}
    drawn = row["purpose"] == "drawn"
    # What a model drew is never what models are measured on: the held-out split stays the same from round to round.
    split = Split.train if drawn else Split(origin["split"]) if origin.get("split") else None
    generated = f"generated by {str(row['checkpoint_id'])[:12]}"
    return NewSample(
        kind=Kind(row["kind"]),
        caption=row["text"],
        texts=Prompt(row["text"], row["foreground"], row["background"]).texts,
        licence=str(origin.get("licence", UNKNOWN)) if origin else generated,
        source=str(origin.get("source", UNKNOWN)) if origin else f"candidate {row['id']}",
        round=row["round_id"] if drawn else 0,
        layers={LayerRole(role): StoredLayer(**layer) for role, layer in row["layers"].items()},
        split=split,
        candidate=row["id"],
        caption_source=CaptionSource(origin.get("caption_source", CaptionSource.given)),
    )


def withdraw_sample_of(tx: Transaction, candidate: uuid.UUID) -> None:
    """Take the sample of an un-accepted candidate out of every snapshot to come; those frozen stay as they are."""
    tx.execute(
        sa.update(samples)
        .where(samples.c.candidate_id == candidate)
        .values(withdrawn_at=sa.func.now())
    )


def without_caption() -> sa.ColumnElement[bool]:
    """Return the condition that a sample has no caption: an empty one, "unknown", or one made from a file name."""
    caption = sa.cast(samples.c.line, JSONB)["caption"].astext
    told_none: sa.ColumnElement[bool] = caption.in_(["", UNKNOWN])
    return told_none | (samples.c.caption_source == CaptionSource.file_name)


def find_sample_id(tx: Transaction, name: str) -> uuid.UUID:
    """Return the id of a sample by its id or the first eight or more digits of it. Raises NotFound."""
    digits = name.replace("-", "").lower()
    plain = sa.func.replace(sa.cast(samples.c.id, sa.Text), "-", "")
    found = tx.execute(
        sa.select(samples.c.id).where(plain.startswith(digits, autoescape=True)).limit(2)
    ).all()
    if len(digits) < 8 or len(found) != 1:
        raise NotFound(
            f"there is no sample {name!r}",
            "'layerloop sample list' shows ids; eight digits are enough",
        )
    return uuid.UUID(str(found[0].id))


def count_samples(tx: Transaction) -> int:
    """How many samples the next snapshot would hold."""
    return int(
        tx.scalar(
            sa.select(sa.func.count()).select_from(samples).where(samples.c.withdrawn_at.is_(None))
        )
    )


_ACCEPTED = sa.text("""
    select c.id, c.round_id, c.origin, r.kind, r.purpose, r.checkpoint_id, p.text, p.foreground, p.background, l.layers
    from candidates c
    join rounds r on r.id = c.round_id
    join prompts p on p.id = c.prompt_id
    cross join lateral (
        select jsonb_object_agg(cl.role, jsonb_build_object('sha256', l.sha256, 'width', l.width, 'height', l.height,
            'bytes', l.bytes, 'visible', l.visible)) as layers
        from candidate_layers cl join layers l on l.sha256 = cl.sha256 where cl.candidate_id = c.id) l
    where c.id = any(:ids)""").bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
