"""Signals on added defects: each grows with its own defect, and is low on clean layers."""

import time

import cv2
import numpy as np
import pytest

from curation.images.layer_masks import TRIAGE_SIDE, downscale
from curation.screening.color import ciede2000
from curation.screening.signals import SIGNALS, compute_signals

SIZE = 128


def clean(seed: int, size: int = SIZE) -> np.ndarray:
    """Return a soft-edged star or disc with a texture of its own, on nothing."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - size / 2) / size
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    edge = 0.3 + rng.uniform(0, 0.05) * np.cos(int(rng.integers(3, 7)) * angle + rng.uniform(0, 6))
    alpha = np.clip((edge - radius) * size / rng.uniform(2, 4) + 0.5, 0, 1)
    base = rng.uniform(40, 215, 3)
    waves = 20 * np.sin(
        x[..., None] * rng.uniform(10, 40, 3) + y[..., None] * rng.uniform(10, 40, 3)
    )
    return np.rint(np.dstack([np.clip(base + waves, 0, 255), alpha * 255])).astype(np.uint8)


def fringed(rgba: np.ndarray, towards: float, share: float) -> np.ndarray:
    """Mix edge colors with a gray, more at lower alpha."""
    alpha = rgba[..., 3:] / 255
    mix = share * (1 - alpha)
    rgb = rgba[..., :3] * (1 - mix) + 255 * towards * mix
    return np.dstack([np.rint(rgb).astype(np.uint8), rgba[..., 3]])


def with_alpha(rgba: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([rgba[..., :3], np.clip(np.rint(alpha * 255), 0, 255).astype(np.uint8)])


def hazed(rgba: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return with_alpha(
        rgba, np.maximum(rgba[..., 3] / 255, amount * rng.uniform(0.5, 1, rgba.shape[:2]))
    )


def specked(rgba: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    alpha = rgba[..., 3] / 255
    for _ in range(round(amount)):
        y, x = rng.integers(0, 12, 2)
        alpha[y, x + rng.integers(0, 100)] = 0.3
    return with_alpha(rgba, alpha)


def punched(rgba: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: rgba.shape[0], : rgba.shape[1]] - rgba.shape[0] / 2
    shift = rng.uniform(-6, 6, 2)
    return with_alpha(
        rgba, np.where(np.hypot(x - shift[0], y - shift[1]) < amount * 20, 0, rgba[..., 3] / 255)
    )


def cropped(rgba: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(rgba[:, round(amount * rgba.shape[1] * 0.5) + 10 :])


def shattered(rgba: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    alpha = rgba[..., 3] / 255
    size = round(6 + 14 * amount)
    alpha[2 : 2 + size, 2 : 2 + size] = 1
    return with_alpha(rgba, alpha)


def grained(rgba: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    alpha = rgba[..., 3] / 255
    return with_alpha(
        rgba, np.where((rng.random(alpha.shape) < amount * 0.3) & (alpha > 0.5), 0, alpha)
    )


def ghosted(rgba: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    faint = np.arange(rgba.shape[1]) < amount * rgba.shape[1]
    return with_alpha(rgba, rgba[..., 3] / 255 * np.where(faint, 0.5, 1))


DEFECTS = {
    "contam_grey": (lambda r, v, g: fringed(r, 0.5, v), (0.3, 0.6, 1.0), 1),
    "contam_white": (lambda r, v, g: fringed(r, 1.0, v), (0.3, 0.6, 1.0), 1),
    "contam_black": (lambda r, v, g: fringed(r, 0.0, v), (0.3, 0.6, 1.0), 1),
    "fringe_dE": (lambda r, v, g: fringed(r, 1.0, v), (0.3, 0.6, 1.0), 1),
    "haze": (hazed, (0.03, 0.08, 0.2), 1),
    "frame_haze": (hazed, (0.02, 0.08, 0.2), 1),
    "specks": (specked, (4, 12, 30), 1),
    "hole_frac": (punched, (0.3, 0.6, 1.0), 1),
    "border_touch": (cropped, (0.5, 0.7, 0.9), 1),
    "n_comp": (shattered, (0.2, 0.5, 1.0), 1),
    "largest_share": (shattered, (0.2, 0.5, 1.0), -1),
    "alpha_hf_core": (grained, (0.2, 0.5, 1.0), 1),
    "alpha_grain": (grained, (0.2, 0.5, 1.0), 1),
    "f_semi": (ghosted, (0.4, 0.6, 1.0), 1),
}


def area_under_curve(worse: list[float], better: list[float]) -> float:
    """Return the chance that a planted layer scores above a clean one, ties counted half."""
    first, second = np.array(worse)[:, None], np.array(better)[None]
    return float(np.mean((first > second) + 0.5 * (first == second)))


@pytest.mark.parametrize("name", DEFECTS)
def test_a_signal_grows_with_its_defect(name):
    plant, levels, direction = DEFECTS[name]
    rng = np.random.default_rng(7)
    layers = [clean(seed) for seed in range(40)]
    scores = {0.0: [compute_signals(one)[name] for one in layers]}
    scores |= {
        level: [compute_signals(plant(one.copy(), level, rng))[name] for one in layers]
        for level in levels
    }
    scores = {
        level: [direction * v for v in values if v is not None] for level, values in scores.items()
    }
    assert min(map(len, scores.values())) >= 32  # a grey subject tells nothing of a grey fringe
    medians = [float(np.median(values)) for values in scores.values()]
    assert medians == sorted(medians)
    assert area_under_curve(scores[levels[-1]], scores[0.0]) >= 0.95


def test_signals_of_clean_layers_are_low():
    for seed in range(20):
        found = compute_signals(clean(seed))
        assert (
            found["haze"]
            == found["specks"]
            == found["border_touch"]
            == found["frame_haze"]
            == found["hole_frac"]
            == 0
        )
        assert found["n_comp"] == found["largest_share"] == found["alpha_max"] == 1
        assert abs(found["contam_white"] or 0) < 0.15


def test_premultiplied_colors_are_distinguished_from_straight_ones():
    planted, straight = [], []
    for seed in range(30):
        one = clean(seed)
        multiplied = np.dstack(
            [np.rint(one[..., :3] * (one[..., 3:] / 255)).astype(np.uint8), one[..., 3]]
        )
        planted.append(compute_signals(multiplied)["premultiplied_gain"] or 0)
        straight.append(compute_signals(one)["premultiplied_gain"] or 0)
    assert min(planted) > 0.5
    assert max(straight) < 0.4


def test_signals_that_cannot_be_measured_are_none():
    ghost = compute_signals(with_alpha(clean(1), np.full((SIZE, SIZE), 0.3)))
    nothing = ("haze", "largest_share", "hole_frac", "alpha_hf_core", "fringe_dE", "contam_white")
    assert all(ghost[name] is None for name in nothing)
    empty = compute_signals(np.zeros((16, 16, 4), np.uint8))
    assert (empty["alpha_max"], empty["coverage"], empty["n_comp"]) == (0, 0, 0)
    full = compute_signals(np.full((16, 16, 4), 255, np.uint8))
    assert (full["alpha_min"], full["border_touch"], full["haze"]) == (1, 1, None)


def test_signals_ignore_colors_under_alpha_0():
    one = clean(3)
    other = one.copy()
    other[other[..., 3] == 0, :3] = np.random.default_rng(0).integers(
        0, 256, (int((one[..., 3] == 0).sum()), 3)
    )
    assert compute_signals(one) == compute_signals(other)
    assert compute_signals(
        cv2.resize(one, (1024, 1024), interpolation=cv2.INTER_NEAREST)
    ) == compute_signals(cv2.resize(other, (1024, 1024), interpolation=cv2.INTER_NEAREST))


def test_large_layers_are_measured_at_a_reduced_size():
    large = clean(5, 1400)
    assert max(downscale(large, TRIAGE_SIDE).shape) == TRIAGE_SIDE
    assert compute_signals(large)["coverage"] == pytest.approx(
        float(large[..., 3].mean() / 255), abs=0.003
    )
    assert downscale(large[:64, :32], TRIAGE_SIDE).shape == (64, 32, 4)


def test_every_signal_has_a_definition_and_a_number():
    found = compute_signals(clean(0))
    assert list(found) == list(SIGNALS)
    for name, definition in SIGNALS.items():
        assert definition.name == name
        assert len(definition.definition) > 8
        assert definition.unit
        assert definition.cost in {"cheap", "parts", "colour"}
        assert found[name] is None or isinstance(found[name], float)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (17, 512)])
def test_unusual_sizes_are_measured(shape):
    rng = np.random.default_rng(0)
    assert set(compute_signals(rng.integers(0, 256, (*shape, 4), dtype=np.uint8))) == set(SIGNALS)


def test_ciede2000_gives_the_published_differences():
    """Pairs 1, 4, 7, 9, 17, 21, 25 and 31 of Sharma, Wu and Dalal (2005), table 1."""
    table = [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
        ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((50.0, 2.5, 0.0), (50.0, 3.1736, 0.5854), 1.0000),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
    ]
    first = np.array([row[0] for row in table])
    second = np.array([row[1] for row in table])
    assert ciede2000(first, second) == pytest.approx([row[2] for row in table], abs=2e-4)
    assert ciede2000(second, first) == pytest.approx([row[2] for row in table], abs=2e-4)


def test_small_layers_are_measured_quickly():
    layers = [clean(seed, 64) for seed in range(20)]
    began = time.process_time()
    for one in layers * 5:
        compute_signals(one)
    assert 100 / (time.process_time() - began) > 200
