"""Samples: accepted layers with what must be known of them, added once and never changed, withdrawn when undone."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.database import Transaction
from curation.domain import Kind, LayerRole, Sample, Split, content_id, split_of
from curation.tables import layers, sample_layers, samples


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

    def visible(self) -> str:
        """The hash of all that can be seen of it; a single image's own hash, so that equal pictures are one sample."""
        hashes = [self.layers[role].visible for role in LayerRole if role in self.layers]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()

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
        }
        for visible, (sample, one) in made.items()
    ]
    adding = insert(samples).on_conflict_do_nothing(index_elements=["visible"]).returning(samples.c.id)
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


def withdraw_sample_of(tx: Transaction, candidate: uuid.UUID) -> None:
    """Take the sample of an un-accepted candidate out of every snapshot to come; those frozen stay as they are."""
    tx.execute(sa.update(samples).where(samples.c.candidate_id == candidate).values(withdrawn_at=sa.func.now()))


def count_samples(tx: Transaction) -> int:
    """How many samples the next snapshot would hold."""
    return int(tx.scalar(sa.select(sa.func.count()).select_from(samples).where(samples.c.withdrawn_at.is_(None))))
