"""Composed pairs as a snapshot: the procedural domain's figures on its grounds, in one light that no text tells of."""

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
class Composed:
    """One pair with its texts."""

    layers: Mapping[LayerRole, RGBA]
    prompt: Prompt

    @property
    def texts(self) -> dict[LayerRole, str]:
        """Of the layers that have their own."""
        return {
            LayerRole.foreground: str(self.prompt.foreground),
            LayerRole.background: str(self.prompt.background),
        }


def compose(number: int, side: int = 64) -> Composed:
    """Pair `number`: depends on nothing else."""
    rng = np.random.default_rng([77, number])
    scene = sample_scene(rng)
    return Composed(draw_pair(scene, rng, side), scene.prompt)


def freeze_pairs(
    store: FolderStore,
    numbers: Iterable[int],
    singles: int = 0,
    heldout_every: int = 5,
    side: int = 64,
) -> str:
    """Return a snapshot of composed pairs, some held out, and of so many single layers beside them."""
    samples = []
    for number in numbers:
        pair = compose(number, side)
        heldout = heldout_every and number % heldout_every == heldout_every - 1
        stored = {role: store.put(encode_layer(layer)) for role, layer in pair.layers.items()}
        known = ("CC0-1.0", "test", Split.heldout if heldout else Split.train, 0)
        visible = pixel_hash(pair.layers[LayerRole.blended])
        samples.append(
            Sample(
                f"{number:064x}",
                Kind.pair,
                pair.prompt.text,
                *known,
                visible,
                stored,
                texts=pair.texts,
            )
        )
    for number in range(singles):
        rng = np.random.default_rng([78, number])
        subject = sample_subject(rng)
        layer = draw_subject(subject, rng, side)
        stored = {LayerRole.foreground: store.put(encode_layer(layer))}
        known = ("CC0-1.0", "test", Split.train, 0)
        samples.append(
            Sample(
                f"{10**6 + number:064x}",
                Kind.single,
                subject.text,
                *known,
                pixel_hash(layer),
                stored,
            )
        )
    lines = "".join(
        sample.line() + "\n" for sample in sorted(samples, key=lambda sample: sample.id)
    )
    return store.put(Manifest((Part("", store.put(lines.encode()), len(samples)),), {}).bytes())
