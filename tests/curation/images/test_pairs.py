"""Pairs: blending is exact, and every signal detects its own defect and is low on sound pairs."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import Refused
from curation.images.codec import composite_over as over_colour
from curation.images.codec import decode_layer
from curation.images.pairs import blended_error, composite, harmony, leakage, seam_energy

SIZE = 128
MEASURES = {
    "leakage": lambda f, b, _: leakage(f, b),
    "seam_energy": seam_energy,
    "harmony": lambda f, b, _: harmony(f, b),
}


def subject(seed: int, size: int = SIZE) -> np.ndarray:
    """Return a textured blob with a soft edge on nothing."""
    rng = np.random.default_rng([seed, 1])
    y, x = np.mgrid[:size, :size] / size - 0.5 - rng.uniform(-0.1, 0.1, 2)[:, None, None]
    edge = rng.uniform(0.18, 0.28) + 0.04 * np.cos(5 * np.arctan2(y, x))
    alpha = np.clip((edge - np.hypot(x, y)) * size / 3 + 0.5, 0, 1)
    waves = 25 * np.sin(
        x[..., None] * rng.uniform(10, 60, 3) + y[..., None] * rng.uniform(10, 60, 3)
    )
    color = np.clip(rng.uniform(60, 195, 3) + waves, 0, 255) * (alpha[..., None] > 0)
    return np.rint(np.dstack([color, alpha * 255])).astype(np.uint8)


def scene(seed: int, size: int = SIZE) -> np.ndarray:
    """Return an opaque background: a gradient, a horizon and a texture."""
    rng = np.random.default_rng([seed, 2])
    y, _ = np.mgrid[:size, :size] / size
    sky, ground = rng.uniform(60, 200, (2, 3))
    color = np.where((y < 0.6)[..., None], sky + 40 * (y - 0.3)[..., None], ground)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (size, size, 3)), (0, 0), rng.uniform(0.6, 4))
    color = color + grain / grain.std() * rng.uniform(2, 10)
    return np.dstack([np.clip(color, 0, 255), np.full((size, size), 255)]).astype(np.uint8)


def ghost(foreground: np.ndarray, background: np.ndarray, share: float) -> np.ndarray:
    """Return the background with the subject left in it at a given strength."""
    faint = foreground.copy()
    faint[..., 3] = np.rint(foreground[..., 3] * share)
    return composite(faint, background)


def seamed(foreground: np.ndarray, background: np.ndarray, levels: float) -> np.ndarray:
    """Return the background, brighter under and around the subject, as after inpainting."""
    hole = cv2.dilate((foreground[..., 3] > 5).view(np.uint8), np.ones((5, 5))) > 0
    spoilt = background.copy()
    spoilt[hole, :3] = np.clip(spoilt[hole, :3] + levels, 0, 255)
    return spoilt


def lit(layer: np.ndarray, *gains: float) -> np.ndarray:
    return np.dstack([np.rint(layer[..., :3] * np.array(gains)).astype(np.uint8), layer[..., 3]])


@settings(max_examples=300)
@given(st.tuples(*[st.integers(0, 255)] * 4), st.tuples(*[st.integers(0, 255)] * 4))
def test_a_composite_is_the_exact_value_rounded(front, back):
    """Compare with fractions, for every pair of colors and alphas, including translucent backgrounds."""
    found = composite(np.full((1, 1, 4), front, np.uint8), np.full((1, 1, 4), back, np.uint8))[0, 0]
    a, b = Fraction(front[3], 255), Fraction(back[3], 255)
    alpha = a + b * (1 - a)
    assert found[3] == int(alpha * 255 + Fraction(1, 2))
    if alpha == 0:
        assert found.tolist() == [0, 0, 0, 0]
    for channel in range(3) if alpha else ():
        exact = (front[channel] * a + back[channel] * b * (1 - a)) / alpha
        assert found[channel] == int(exact + Fraction(1, 2))


def test_a_composite_over_an_opaque_background_equals_that_of_the_pages():
    for seed in range(5):
        f, b = subject(seed), scene(seed)
        made = composite(f, b)
        assert (made[..., 3] == 255).all()
        assert np.abs(made[..., :3].astype(int) - over_colour(f, b)).max() == 0
        assert blended_error(f, b, made) == 0


def test_layers_of_two_sizes_are_refused():
    f, b = subject(0), scene(0, 64)
    for measure in (composite, leakage, harmony):
        with pytest.raises(Refused, match="128 x 128"):
            measure(f, b)
    for measure in (blended_error, seam_energy):
        with pytest.raises(Refused):
            measure(f, f, b)


def test_a_shifted_background_does_not_blend():
    for seed in range(20):
        f, b = subject(seed), scene(seed)
        blended = composite(f, b)
        errors = [blended_error(f, np.roll(b, shift, axis=0), blended) for shift in (0, 1, 4)]
        assert errors[0] == 0 < errors[1] < errors[2]
    plain = np.full((8, 8, 4), 255, np.uint8)
    darker = plain - np.array([10, 10, 10, 0], np.uint8)
    assert blended_error(np.zeros((8, 8, 4), np.uint8), plain, darker) == pytest.approx(10)


def test_a_subject_that_was_left_in_the_background_leaks():
    for seed in range(30):
        f, b = subject(seed), scene(seed)
        found = [leakage(f, ghost(f, b, share)) for share in (0, 0.5, 1)]
        assert found[0] < 0.15
        assert found[1] == pytest.approx(0.5, abs=0.12)
        assert found[2] > 0.85


def test_another_subject_or_one_elsewhere_is_no_leak():
    for seed in range(20):
        f, b = subject(seed), scene(seed)
        assert leakage(f, composite(subject(seed + 100), b)) < 0.45
        assert leakage(f, composite(np.roll(f, 60, axis=1), b)) < 0.45


@pytest.mark.parametrize(("levels", "chance"), [(10, 0.9), (25, 0.97)])
def test_a_seam_stands_out_of_the_background(levels, chance):
    sound, spoilt = [], []
    for seed in range(30):
        f, b = subject(seed), scene(seed)
        bad = seamed(f, b, levels)
        sound.append(seam_energy(f, b, composite(f, b)))
        spoilt.append(seam_energy(f, bad, composite(f, bad)))
    better = np.mean(np.array(spoilt)[:, None] > np.array(sound)[None])
    assert better >= chance
    assert np.median(spoilt) > 2 * np.median(sound)


def test_a_seam_only_in_the_blended_image_is_seen():
    for seed in range(10):
        f, b = subject(seed), scene(seed)
        blended = composite(f, b)
        ring = cv2.dilate((f[..., 3] > 5).view(np.uint8), np.ones((11, 11))) > 0
        halo = np.where((ring & (f[..., 3] == 0))[..., None], np.uint8(255), blended)
        assert seam_energy(f, b, halo) > seam_energy(f, b, blended) + 1


def test_a_horizon_behind_the_subject_is_no_seam():
    for seed in range(10):
        f, b = subject(seed), np.full((SIZE, SIZE, 4), 255, np.uint8)
        b[SIZE // 2 + seed :, :, :3] = (60, 120, 40)
        assert seam_energy(f, b, composite(f, b)) < 0.3


def test_wrong_light_is_less_harmonious():
    """The same subject under the light of its background, and under others: warm, dark, pale."""
    for gains in ((1, 0.75, 0.45), (0.35, 0.35, 0.35), (0.5, 0.75, 1)):
        apart = []
        for seed in range(40):
            b = scene(seed)
            f = np.dstack([np.roll(b, 17, axis=1)[..., :3], subject(seed)[..., 3]])
            apart.append(harmony(lit(f, *gains), b) - harmony(f, b))
        assert np.mean(np.array(apart) > 0) > 0.9, gains


def test_a_layer_without_subject_measures_nothing():
    nothing, b = np.zeros((SIZE, SIZE, 4), np.uint8), scene(0)
    everything = scene(1)
    for name, measure in MEASURES.items():
        assert measure(nothing, b, b) == 0, name
        assert np.isfinite(measure(everything, b, everything)), name


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_any_size_and_any_pixels_have_finite_measures_in_range(width, height, seed):
    rng = np.random.default_rng(seed)
    f, b, c = rng.integers(0, 256, (3, height, width, 4), dtype=np.uint8)
    b[..., 3] = 255
    assert 0 <= leakage(f, b) <= 1
    assert 0 <= blended_error(f, b, c) <= 255
    assert 0 <= seam_energy(f, b, c) < 1_000
    assert 0 <= harmony(f, b) < 1_000


def test_pair_signals_do_not_depend_on_the_size():
    """Large layers are measured at a reduced size, so half the size gives nearly the same."""
    f, b = subject(5, 512), scene(5, 512)
    bad = ghost(f, b, 0.7)
    small = [cv2.resize(layer, (256, 256), interpolation=cv2.INTER_AREA) for layer in (f, bad)]
    assert leakage(f, bad) == pytest.approx(leakage(*small), abs=0.05)
    assert harmony(f, bad) == pytest.approx(harmony(*small), abs=0.2)


@pytest.mark.slow
def test_real_pairs_are_sound_and_spoilt_ones_are_not(shared: Path):
    """Forty-one real pairs: exact composites blend to the bit, and no defect that is planted goes unseen."""
    folder = shared / "layer_pairs"
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    whole = [row for row in rows if "background" in row]
    clean, seams = [], []
    for row in whole:
        f, b, c = (
            decode_layer((folder / row[role]).read_bytes())
            for role in ("foreground", "background", "composite")
        )
        assert (blended_error(f, b, c) == 0) == row["exact"]
        assert blended_error(f, b, c) < 4
        assert blended_error(f, np.roll(b, 8, axis=1), c) > blended_error(f, b, c) + 1
        assert leakage(f, b) < 0.2
        assert leakage(f, c) > 0.65
        bad = seamed(f, b, 30)
        clean.append(seam_energy(f, b, c))
        seams.append(seam_energy(f, bad, composite(f, bad)))
    assert len(whole) == 41
    assert np.mean(np.array(seams)[:, None] > np.array(clean)[None]) > 0.9
