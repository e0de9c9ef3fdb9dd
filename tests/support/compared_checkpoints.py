"""Two checkpoints without weights for comparisons: one draws clean shapes, the other with a haze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.checkpoints.registry import register_checkpoint
from curation.comparisons import drawing, sessions
from curation.comparisons.sessions import ComparedSide
from curation.db.engine import Database, Transaction
from curation.db.tables import snapshots
from curation.domain import Checkpoint, GenerationRequest, Kind, LayerRole, Prompt, content_id
from curation.images.pairs import composite
from curation.ports import (
    DEFAULT_OPTIONS,
    RGBA,
    GenerationOptions,
    Layers,
    MattingComparison,
    ObjectStore,
    ProgressCallback,
)
from curation.rounds.generation import generate_layers, store_layers
from curation.synthetic.backgrounds import PAIR_SUBJECTS, draw_pair, sample_scene
from curation.synthetic.shapes import SUBJECTS, draw_subject

SIDE = 64
CLEAN, HAZY = 0, 1
"""The training seeds of the two checkpoints, by which the generator tells them apart."""
PROMPTS = [Prompt(text) for text in list(SUBJECTS)[:12]]


class ComparedGenerator:
    """Draws the shape of each prompt, with a haze over the image where it is asked for.

    Args:
        hazy: Whether there is a haze.
    """

    batch_size = 4

    def __init__(self, hazy: bool) -> None:
        self.hazy = hazy

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        return [self._draw(request) for request in requests]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        return {"model": "compared"}

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        return {"device": "cpu", "precision": "uint8"}

    def _draw(self, request: GenerationRequest) -> Layers:
        rng = np.random.default_rng(request.seed)
        if request.prompt.background:
            pair = dict(draw_pair(sample_scene(rng), rng, 2 * SIDE))
            foreground = self._blur(pair[LayerRole.foreground])
            blended = composite(foreground, pair[LayerRole.background])
            return pair | {LayerRole.foreground: foreground, LayerRole.blended: blended}
        subject = SUBJECTS[request.prompt.text]
        return {LayerRole.foreground: self._blur(draw_subject(subject, rng, SIDE))}

    def _blur(self, rgba: RGBA) -> RGBA:
        hazy = rgba.copy()
        if self.hazy:
            hazy[..., 3] = np.maximum(hazy[..., 3], 70)
        return hazy


def load(checkpoint: Checkpoint, store: ObjectStore) -> ComparedGenerator:
    """Load the generator of a checkpoint of `make_compared`."""
    return ComparedGenerator(checkpoint.seed == HAZY)


def compare(
    checkpoint: Checkpoint,
    store: ObjectStore,
    requests: Sequence[GenerationRequest],
    segmenter: str | None,
    report: ProgressCallback,
) -> MattingComparison:
    """Return the layers of a checkpoint, and the same with hard edges as if they were matted."""
    drawn = [layers[LayerRole.foreground] for layers in load(checkpoint, store).generate(requests)]
    matted = []
    for rgba in drawn:
        hard = rgba.copy()
        hard[..., 3] = np.where(hard[..., 3] > 127, 255, 0)
        matted.append(hard)
    return MattingComparison(drawn, matted, {}, b"")


def make_compared(tx: Transaction) -> tuple[str, str]:
    """Register the clean and the hazy checkpoint, and return their ids."""
    snapshot = content_id("snapshot of comparisons").hex * 2
    row = {"id": snapshot, "samples": 0, "counts": {}}
    tx.execute(insert(snapshots).on_conflict_do_nothing(), row)
    clean, hazy = (
        register_checkpoint(
            tx, Checkpoint({}, "whole", "tiny", snapshot, None, seed, "test", {}), "test"
        )
        for seed in (CLEAN, HAZY)
    )
    return clean, hazy


def draw_all(database: Database, store: ObjectStore, number: int) -> None:
    """Draw what a comparison still needs, as workers do."""
    while True:
        with database.transaction() as tx:
            claimed = drawing.claim_drawings(tx, number, "worker", 16, 60)
            if claimed is None:
                return
            seed = tx.scalar(
                sa.text("select seed from checkpoints where id = :id").bindparams(
                    id=claimed.side.checkpoint
                )
            )
        drawn = generate_layers(ComparedGenerator(seed == HAZY), claimed.drawings)
        stored = {id_: store_layers(store, layers) for id_, layers in drawn.items()}
        with database.transaction() as tx:
            drawing.save_drawings(tx, stored, "worker")


def pair_prompts(count: int) -> list[Prompt]:
    """Return prompts of pairs."""
    subjects = list(PAIR_SUBJECTS)
    return [
        Prompt(f"{subjects[i % len(subjects)]} {i}", subjects[i % len(subjects)], "a wall")
        for i in range(count)
    ]


def open_drawn(
    database: Database,
    store: ObjectStore,
    count: int = 6,
    *,
    votes: int = 1,
    kind: Kind = Kind.single,
    reverse: bool = False,
) -> int:
    """Return an open comparison of the hazy (A) with the clean checkpoint (B), all drawn."""
    with database.transaction() as tx:
        clean, hazy = make_compared(tx)
        sides = (ComparedSide(hazy), ComparedSide(clean))
        number = sessions.open_comparison(
            tx,
            *(reversed(sides) if reverse else sides),
            PROMPTS if kind is Kind.single else pair_prompts(count),
            count=count,
            votes=votes,
            kind=kind,
            actor="test",
        )
    draw_all(database, store, number)
    return number
