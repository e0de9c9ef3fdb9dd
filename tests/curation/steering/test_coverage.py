"""Coverage: floors hold, draws are exact in the mean, and files of targets are checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import Refused
from curation.steering.coverage import draw_counts, raise_to_floors, read_targets
from curation.steering.settings import SteeringSettings, parse_steering, steering_to_dict


def distribution(rng: np.random.Generator, count: int) -> np.ndarray:
    values = rng.random(count) ** 4
    return values / values.sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 12), st.floats(0, 0.9))
def test_shares_of_the_natural_distribution_always_hold(seed, count, groups, floor):
    rng = np.random.default_rng(seed)
    natural, wanted = distribution(rng, count), distribution(rng, count)
    members = [np.flatnonzero(rng.random(count) < 0.3) for _ in range(groups)]
    floors = [floor * natural[own].sum() for own in members]
    found = raise_to_floors(wanted, natural, members, floors)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    for own, least in zip(members, floors, strict=True):
        assert found[own].sum() >= least * (1 - 1e-3) - 1e-9


def test_wanted_shares_stay_where_no_group_is_below():
    natural, wanted = np.full(4, 0.25), np.array([0.4, 0.3, 0.2, 0.1])
    found = raise_to_floors(wanted, natural, [np.array([3])], [0.05])
    assert found == pytest.approx(wanted, abs=0.005)
    # Proportions within the others stay when one is raised.
    found = raise_to_floors(wanted, natural, [np.array([3])], [0.5])
    assert found[3] == pytest.approx(0.5)
    assert found[0] / found[1] == pytest.approx(4 / 3, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(0, 300))
def test_drawn_counts_are_the_integers_beside_their_mean(seed, size, count):
    rng = np.random.default_rng(seed)
    shares = distribution(rng, size)
    found = draw_counts(shares, rng.permutation(size), count, float(rng.random()))
    assert found.sum() == count
    assert (np.abs(found - shares * count) < 1 + 1e-6).all()


def test_drawn_counts_have_their_mean():
    rng = np.random.default_rng(3)
    shares = distribution(rng, 12)
    drawn = [draw_counts(shares, range(12), 7, float(rng.random())) for _ in range(4_000)]
    assert np.mean(drawn, axis=0) == pytest.approx(shares * 7, abs=0.03)


def test_targets_are_read_from_json_and_from_lines(tmp_path):
    json_file, csv_file = tmp_path / "a.json", tmp_path / "a.csv"
    json_file.write_text('{"red": 0.2, "shape=star": 12}')
    csv_file.write_text("red, 0.2\n\nshape=star,12\n")
    assert read_targets(json_file) == read_targets(csv_file) == {"red": 0.2, "shape=star": 12}


@pytest.mark.parametrize("text", ['{"red": []}', '{"red"', "red", "red,many", "[1]", '{"a": null}'])
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "targets"
    file.write_text(text)
    with pytest.raises(Refused):
        read_targets(file)


@pytest.mark.parametrize(
    "row",
    [
        {"goal": "best"},
        {"random_share": 0},
        {"random_share": True},
        {"half_life": float("nan")},
        {"concentration": 0.5},
        {"floor": 2},
        {"targets": {"red": -1}},
        {"targets": {"red": float("inf")}},
        {"speed": 1},
    ],
)
def test_settings_out_of_range_are_refused(row):
    with pytest.raises(Refused):
        parse_steering(row)


def test_settings_survive_as_json():
    settings = parse_steering({"goal": "learn", "targets": {"red": 0.1}})
    assert parse_steering(steering_to_dict(settings)) == settings
    assert parse_steering({}) == SteeringSettings()
