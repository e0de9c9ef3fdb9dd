"""Compositing is exact: compared with fractions, and by the identities of a layer stack."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curation.errors import Refused
from curation.images.codec import composite_over
from curation.images.pairs import composite
from curation.scenes.blending import apply_opacity, new_canvas, place_on_canvas

PIXELS = arrays(np.uint8, (2, 3, 4))


def exact(front: list[int], back: list[int]) -> list[int]:
    """Composite one pixel over another in fractions, rounding each value half up once."""
    f, b = Fraction(front[3], 255), Fraction(back[3], 255)
    alpha = f + b * (1 - f)
    if alpha == 0:
        return [0, 0, 0, 0]
    color = [(x * f + y * b * (1 - f)) / alpha for x, y in zip(front[:3], back[:3], strict=True)]
    return [int(value + Fraction(1, 2)) for value in (*color, alpha * 255)]


@settings(max_examples=300, deadline=None)
@given(PIXELS, PIXELS)
def test_every_value_is_the_nearest_to_the_true_one(front, back) -> None:
    blended = composite(front, back)
    for y in range(2):
        for x in range(3):
            assert blended[y, x].tolist() == exact(front[y, x].tolist(), back[y, x].tolist())


@settings(max_examples=100, deadline=None)
@given(PIXELS, PIXELS)
def test_over_an_opaque_image_the_result_is_the_plain_blend(front, back) -> None:
    back[..., 3] = 255
    blended = composite(front, back)
    assert (blended[..., 3] == 255).all()
    assert np.array_equal(blended[..., :3], composite_over(front, back))


@settings(max_examples=100, deadline=None)
@given(PIXELS)
def test_transparent_layers_change_nothing_and_opaque_ones_hide_all(rgba) -> None:
    canvas = new_canvas((3, 2))
    visible = np.where(rgba[..., 3:] > 0, rgba, 0)
    assert np.array_equal(composite(canvas, rgba), visible)
    assert np.array_equal(composite(rgba, canvas), visible)
    rgba[..., 3] = 255
    assert np.array_equal(composite(rgba, new_canvas((3, 2), (1, 2, 3))), rgba)


@settings(max_examples=100, deadline=None)
@given(PIXELS, PIXELS, PIXELS)
def test_blending_is_associative(top, middle, bottom) -> None:
    bottom[..., 3] = 255
    left = composite(top, composite(middle, bottom)).astype(int)
    right = composite(composite(top, middle), bottom).astype(int)
    assert np.abs(left - right).max() <= 2


@settings(max_examples=100, deadline=None)
@given(PIXELS, st.integers(0, 255))
def test_opacity_scales_alpha_only(rgba, opacity: int) -> None:
    faded = apply_opacity(rgba, opacity)
    assert np.array_equal(faded[..., :3], rgba[..., :3])
    assert np.array_equal(faded[..., 3], np.floor(rgba[..., 3] * (opacity / 255) + 0.5 + 1e-9))
    assert np.array_equal(apply_opacity(rgba, 255), rgba)


@settings(max_examples=200, deadline=None)
@given(PIXELS, st.integers(-5, 6), st.integers(-5, 6))
def test_a_layer_is_placed_at_its_offset(rgba, left: int, top: int) -> None:
    placed = place_on_canvas(rgba, (left, top), (5, 4))
    for y in range(4):
        for x in range(5):
            inside = 0 <= y - top < 2 and 0 <= x - left < 3
            assert placed[y, x].tolist() == (
                rgba[y - top, x - left].tolist() if inside else [0, 0, 0, 0]
            )


def test_layers_of_different_sizes_are_an_error() -> None:
    with pytest.raises(Refused):
        composite(new_canvas((3, 2)), new_canvas((2, 3)))
