"""Composite pairs as a snapshot: procedural shapes over backgrounds, lit alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from curation.datasets.manifest import Manifest, Part
from curation.domain import Kind, LayerRole, Prompt, Sample, Split
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.ports import RGBA
from curation.synthetic.backgrounds import draw_pair, sample_scene
from curation.synthetic.shapes import draw_subject, sample_subject


@dataclass(frozen=True)
class CompositePair:
    """The layers of one pair, with its prompt."""

    layers: Mapping[LayerRole, RGBA]
    prompt: Prompt

    @property
    def texts(self) -> dict[LayerRole, str]:
        """The prompts of the layers that have one of their own."""
        return {
            LayerRole.foreground: str(self.prompt.foreground),
            LayerRole.background: str(self.prompt.background),
        }


def compose(index: int, side: int = 64) -> CompositePair:
    """Return the pair of an index, which alone determines it."""
    rng = np.random.default_rng([77, index])
    scene = sample_scene(rng)
    return CompositePair(draw_pair(scene, rng, side), scene.prompt)


def freeze_pairs(
    store: FolderStore,
    indices: Iterable[int],
    singles: int = 0,
    heldout_every: int = 5,
    side: int = 64,
) -> str:
    """Store a snapshot of composite pairs, some held out, and `singles` layers; return its ID."""
    samples = []
    for index in indices:
        pair = compose(index, side)
        heldout = heldout_every and index % heldout_every == heldout_every - 1
        stored = {role: store.put(encode_layer(layer)) for role, layer in pair.layers.items()}
        provenance = ("CC0-1.0", "test", Split.heldout if heldout else Split.train, 0)
        blended_hash = pixel_hash(pair.layers[LayerRole.blended])
        samples.append(
            Sample(
                f"{index:064x}",
                Kind.pair,
                pair.prompt.text,
                *provenance,
                blended_hash,
                stored,
                texts=pair.texts,
            )
        )
    for index in range(singles):
        rng = np.random.default_rng([78, index])
        subject = sample_subject(rng)
        layer = draw_subject(subject, rng, side)
        stored = {LayerRole.foreground: store.put(encode_layer(layer))}
        provenance = ("CC0-1.0", "test", Split.train, 0)
        samples.append(
            Sample(
                f"{10**6 + index:064x}",
                Kind.single,
                subject.text,
                *provenance,
                pixel_hash(layer),
                stored,
            )
        )
    lines = "".join(
        sample.line() + "\n" for sample in sorted(samples, key=lambda sample: sample.id)
    )
    return store.put(Manifest((Part("", store.put(lines.encode()), len(samples)),), {}).bytes())
