"""The built-in embedder: stable, near for similar images at any size; and how vectors are stored."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.domain import LayerRole, Prompt
from curation.errors import Refused
from curation.screening.embedding import (
    BUILTIN_EMBEDDER,
    EMBEDDING_DIM,
    open_embedder,
    pack_vector,
    unpack_vectors,
)
from curation.synthetic.shapes import draw_subject, sample_subject
from tests.support.factories import scenes

FRONT = LayerRole.foreground


def embed(*drawn):
    return np.stack(
        [rgba.vector for rgba in BUILTIN_EMBEDDER.embed(list(drawn), [Prompt("")] * len(drawn))]
    )


def draw_shapes(count, size=128):
    rng = np.random.default_rng(3)
    return [draw_subject(sample_subject(rng), rng, size) for _ in range(count)]


def test_the_embedding_of_an_image_never_changes():
    """A change of the embedding requires a change of EMBEDDER_ID, since stored vectors are compared."""
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    rgba = np.dstack(
        [
            *np.meshgrid(ramp, ramp),
            np.full((32, 32), 128, np.uint8),
            np.tri(32, dtype=np.uint8) * 255,
        ]
    )
    (vector,) = embed({FRONT: rgba})
    assert vector.shape == (EMBEDDING_DIM,)
    assert vector[:6] == pytest.approx(GOLDEN, abs=2e-3)


GOLDEN = [-0.0622, 0.7764, -0.0702, -0.0282, 0.6552, 0.0409]


def test_an_image_is_nearer_to_its_copies_than_to_others():
    shapes = draw_shapes(40)
    half = [cv2.resize(rgba, (64, 64), interpolation=cv2.INTER_AREA) for rgba in shapes]
    noisy = [
        np.clip(rgba + np.random.default_rng(0).normal(0, 3, rgba.shape), 0, 255).astype(np.uint8)
        for rgba in shapes
    ]
    known = embed(*({FRONT: rgba} for rgba in shapes))
    for copies in (half, noisy):
        distances = np.linalg.norm(
            known[:, None] - embed(*({FRONT: rgba} for rgba in copies)), axis=2
        )
        assert np.mean(np.argmin(distances, axis=0) == np.arange(40)) > 0.9


def test_a_pair_is_embedded_by_its_blended_image():
    pairs = [layers for _, layers in scenes(3)]
    moved = dict(pairs[0]) | {LayerRole.background: pairs[1][LayerRole.background]}
    vectors = embed(*pairs, moved)
    assert vectors.shape == (4, EMBEDDING_DIM)
    assert np.linalg.norm(vectors[3] - vectors[0]) < np.linalg.norm(vectors[1] - vectors[0])
    assert np.linalg.norm(vectors[3] - vectors[0]) > 0.01


def test_stored_numbers_come_back_to_three_digits():
    vectors = embed(*({FRONT: rgba} for rgba in draw_shapes(5)))
    stored = [pack_vector(rgba) for rgba in vectors]
    assert {len(rgba) for rgba in stored} == {2 * EMBEDDING_DIM}
    assert unpack_vectors(stored) == pytest.approx(vectors, abs=1e-3)


def test_the_built_in_embedder_needs_no_weights():
    assert open_embedder(None, None).source == BUILTIN_EMBEDDER.source
    with pytest.raises(Refused, match="no weights"):
        open_embedder("/models/clip", None)
    with pytest.raises(Refused):
        open_embedder(None, Path("aesthetic.safetensors"))
