"""Defects of pairs: they grow with their severity, show in their layer, and the pair signals detect them."""

from __future__ import annotations

import numpy as np
import pytest

from curation.domain import RejectReason
from curation.errors import Refused
from curation.images import pairs
from curation.screening.pairs.defects import (
    BACKGROUND,
    BLENDED,
    FOREGROUND,
    PAIR_DEFECT_REASONS,
    PAIR_DEFECTS,
    add_pair_defect,
)
from curation.screening.pairs.signals import compute_agreement_signals
from tests.support.factories import scenes

TOUCHED = {
    "fringe": FOREGROUND,
    "haze": FOREGROUND,
    "holes": FOREGROUND,
    "light": FOREGROUND,
    "leak": BACKGROUND,
    "seam": BACKGROUND,
}
MEASURED = {
    "leak": lambda p, _: pairs.leakage(p[FOREGROUND], p[BACKGROUND]),
    "seam": lambda p, _: pairs.seam_energy(p[FOREGROUND], p[BACKGROUND], p[BLENDED]),
    "light": lambda p, prompt: compute_agreement_signals(p, prompt)["light_gap"],
}


def planted(pair, defect: str, severity: float, seed: int = 3):
    return add_pair_defect(pair, defect, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("defect", PAIR_DEFECTS)
def test_a_defect_grows_in_its_own_layer_and_the_pair_still_blends(defect):
    for _, pair in scenes(5):
        same = planted(pair, defect, 0)
        assert all((same[role] == pair[role]).all() for role in pair)
        changed = []
        for severity in (0.1, 0.4, 1.0):
            spoilt = planted(pair, defect, severity)
            role = TOUCHED[defect]
            other = BACKGROUND if role == FOREGROUND else FOREGROUND
            assert (spoilt[other] == pair[other]).all()
            assert pairs.blended_error(spoilt[FOREGROUND], spoilt[BACKGROUND], spoilt[BLENDED]) == 0
            before, after = (
                over[role]
                if role == BACKGROUND
                else pairs.composite(over[FOREGROUND], pair[BACKGROUND])
                for over in (pair, spoilt)
            )
            changed.append(np.abs(after.astype(float) - before).mean())
        assert 0 < changed[0] < changed[1] < changed[2]
    reason, layer = PAIR_DEFECT_REASONS[defect]
    assert reason in set(RejectReason) and layer in {FOREGROUND, BACKGROUND, BLENDED}


@pytest.mark.parametrize("defect", MEASURED)
def test_pair_signals_detect_added_defects(defect):
    """The more there is, the more they say, in the median of 15 pairs."""
    output = list(enumerate(scenes(15)))
    found = {
        severity: np.median(
            [
                MEASURED[defect](planted(pair, defect, severity, seed), prompt)
                for seed, (prompt, pair) in output
            ]
        )
        for severity in (0.0, 0.5, 1.0)
    }
    assert found[0.0] < found[0.5] < found[1.0]
    if defect == "leak":
        assert found[0.5] == pytest.approx(0.5, abs=0.1)
        assert found[1.0] > 0.7
    if defect == "seam":
        assert found[1.0] > 1, "where people see it"
    if defect == "light":
        assert found[0.5] > 23.8, "more than another light on a drawn background"


@pytest.mark.parametrize("alpha", [0, 255])
@pytest.mark.parametrize("defect", PAIR_DEFECTS)
def test_a_defect_can_be_planted_in_any_pair(defect, alpha):
    front, back = np.full((17, 31, 4), alpha, np.uint8), np.full((17, 31, 4), 255, np.uint8)
    spoilt = planted({FOREGROUND: front, BACKGROUND: back, BLENDED: back}, defect, 0.7)
    assert {layer.shape for layer in spoilt.values()} == {(17, 31, 4)}
    assert {layer.dtype for layer in spoilt.values()} == {np.dtype(np.uint8)}


def test_unknown_defects_of_pairs_and_severities_are_refused():
    [(_, pair)] = scenes(1)
    for defect, severity in (("cut", 0.5), ("leak", 1.5), ("leak", -0.1)):
        with pytest.raises(Refused):
            planted(pair, defect, severity)
