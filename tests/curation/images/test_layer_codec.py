"""The layer codec: pixels are stored exactly, equal images are equal bytes, and composites follow the formula."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from curation.errors import Corrupt
from curation.images.codec import (
    BACKGROUNDS,
    clear_hidden_colors,
    composite_over,
    decode_layer,
    encode_layer,
    pixel_hash,
    to_png,
)
from tests.support.factories import image

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
IMAGES = SIZES.flatmap(
    lambda size: arrays(np.uint8, (*size, 4), elements=st.sampled_from([0, 1, 127, 128, 254, 255]))
)


@hypothesis_settings(deadline=None)
@given(rgba=IMAGES)
def test_every_pixel_is_restored_including_the_colors_under_alpha_0(rgba):
    assert np.array_equal(decode_layer(encode_layer(rgba)), rgba)


@hypothesis_settings(deadline=None, max_examples=30)
@given(rgba=IMAGES)
def test_a_png_of_a_layer_has_the_same_pixels(rgba):
    with Image.open(io.BytesIO(to_png(encode_layer(rgba)))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), rgba)


def test_equal_pixels_are_equal_bytes():
    assert encode_layer(image(1)) == encode_layer(image(1).copy())
    assert encode_layer(image(1)) != encode_layer(image(2))


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"not an image", encode_layer(image(3))[:60], b"GIF89a" + bytes(40)]
)
def test_bytes_that_are_no_layer_are_corrupt(data):
    with pytest.raises(Corrupt) as error:
        decode_layer(data)
    assert error.value.hint


@given(rgba=IMAGES)
def test_only_hidden_colors_are_cleared(rgba):
    cleared = clear_hidden_colors(rgba)
    seen = rgba[..., 3] > 0
    assert np.array_equal(cleared[seen], rgba[seen])
    assert not cleared[~seen].any()


@given(rgba=IMAGES, hidden=st.integers(0, 255))
def test_the_hash_ignores_hidden_colors(rgba, hidden):
    other = rgba.copy()
    other[..., :3][rgba[..., 3] == 0] = hidden
    assert pixel_hash(other) == pixel_hash(rgba)


def test_the_hash_depends_on_every_visible_pixel_and_the_size():
    rgba = image(4)
    other = rgba.copy()
    other[-1, -1, 0] ^= 1
    assert pixel_hash(other) != pixel_hash(rgba)
    assert pixel_hash(np.zeros((2, 8, 4), np.uint8)) != pixel_hash(np.zeros((4, 4, 4), np.uint8))


@given(rgba=IMAGES)
def test_a_composite_is_the_formula_to_half_a_step(rgba):
    alpha = rgba[..., 3:].astype(np.float64) / 255
    for color in BACKGROUNDS.values():
        expected = rgba[..., :3] * alpha + np.asarray(color) * (1 - alpha)
        assert np.abs(composite_over(rgba, color) - expected).max() <= 0.5 + 1e-4


def test_an_opaque_layer_hides_what_is_behind_it_and_a_clear_one_hides_nothing():
    rgba, background = image(5), image(6)
    rgba[..., 3] = 255
    assert np.array_equal(composite_over(rgba, background), rgba[..., :3])
    rgba[..., 3] = 0
    assert np.array_equal(composite_over(rgba, background), background[..., :3])
