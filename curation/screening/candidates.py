"""Measurement of candidates: read their rows, then fetch and measure their layers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import candidate_layers, candidates, layers, prompts, rounds
from curation.domain import CandidateState, Kind, LayerRole, Prompt
from curation.errors import Corrupt, NotFound
from curation.images.codec import decode_layer
from curation.images.perceptual_hash import fingerprint
from curation.ports import Embedder
from curation.screening.embedding import BUILTIN_EMBEDDER, pack_vector
from curation.screening.measurements import measure_pair_candidate, measure_single


@dataclass(frozen=True)
class MeasurableCandidate:
    """A candidate with the data that measuring it needs.

    `layers` maps a role to the sha256 of its stored layer and the hash of its visible pixels.
    """

    id: uuid.UUID
    kind: Kind
    prompt: Prompt
    layers: Mapping[LayerRole, tuple[str, str]]

    @property
    def roles(self) -> list[LayerRole]:
        """The layers that are measured: all of a pair, else the only one."""
        if self.kind is Kind.pair:
            return list(LayerRole)
        return [next(role for role in LayerRole if role in self.layers)]

    @property
    def objects(self) -> list[str]:
        """The sha256 of each object that measuring reads."""
        return [self.layers[role][0] for role in self.roles if role in self.layers]


@dataclass(frozen=True)
class MeasuredCandidate:
    """The measurements of one candidate; `error` is set if its layers cannot be read.

    `sha256`, `visible` and `fingerprint` belong to the layer that identifies duplicates: the only
    layer, or a pair's blended image, since a subject may appear on several backgrounds.
    """

    candidate: uuid.UUID
    kind: Kind
    sha256: str
    visible: str = ""
    signals: Mapping[str, float | None] = field(default_factory=dict)
    fingerprint: bytes = field(default=b"", repr=False)
    embedding: bytes = field(default=b"", repr=False)
    embedder: str = ""
    error: str = ""


def find_measurable(
    tx: Transaction,
    ids: Sequence[uuid.UUID],
    states: Collection[CandidateState] = (CandidateState.generated,),
) -> list[MeasurableCandidate]:
    """Return candidates with the data that measuring them needs, in the order of their ids.

    Args:
        tx: The transaction.
        ids: The candidates.
        states: Only candidates in these states.
    """
    stored = sa.func.jsonb_object_agg(
        candidate_layers.c.role, sa.func.jsonb_build_array(layers.c.sha256, layers.c.visible)
    )
    rows = tx.execute(
        sa.select(
            candidates.c.id,
            rounds.c.kind,
            prompts.c.text,
            prompts.c.foreground,
            prompts.c.background,
            stored.label("layers"),
        )
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .join(prompts, prompts.c.id == candidates.c.prompt_id)
        .join(candidate_layers, candidate_layers.c.candidate_id == candidates.c.id)
        .join(layers, layers.c.sha256 == candidate_layers.c.sha256)
        .where(candidates.c.id.in_(list(ids)), candidates.c.state.in_(states))
        .group_by(candidates.c.id, rounds.c.kind, prompts.c.id)
        .order_by(candidates.c.id)
    )
    return [
        MeasurableCandidate(
            row.id,
            Kind(row.kind),
            Prompt(row.text, row.foreground, row.background),
            {LayerRole(role): (sha, visible) for role, (sha, visible) in row.layers.items()},
        )
        for row in rows
    ]


def measure_candidate(
    item: MeasurableCandidate,
    fetch: Callable[[str], bytes],
    embedder: Embedder = BUILTIN_EMBEDDER,
) -> MeasuredCandidate:
    """Compute signals and embedding of a candidate.

    Layers that are missing or corrupt are returned as an error, not raised.

    Args:
        item: The candidate.
        fetch: Returns the bytes of an object.
        embedder: The embedder.

    Raises:
        Unreachable: The object store does not answer.
    """
    roles = item.roles
    identifying = LayerRole.blended if item.kind is Kind.pair else roles[0]
    # The layer that identifies duplicates.
    sha256, visible = item.layers.get(identifying, ("", ""))
    missing = [role for role in roles if role not in item.layers]
    if missing:
        return MeasuredCandidate(
            item.id, item.kind, sha256, error=f"a pair was generated without its {missing[0]}"
        )
    try:
        pixels = {role: np.asarray(decode_layer(fetch(item.layers[role][0]))) for role in roles}
    except (Corrupt, NotFound) as error:
        return MeasuredCandidate(item.id, item.kind, sha256, error=error.message)
    # Signals, embedding and fingerprint, all from one decoding.
    signals = (
        measure_pair_candidate(pixels, item.prompt)
        if item.kind is Kind.pair
        else measure_single(pixels[roles[0]], item.prompt.text)
    )
    embedding = embedder.embed([pixels], [item.prompt])[0]
    measurements = (
        visible,
        signals | dict(embedding.metrics),
        fingerprint(pixels[identifying]),
        pack_vector(embedding.vector),
        embedder.source,
    )
    return MeasuredCandidate(item.id, item.kind, sha256, *measurements)
