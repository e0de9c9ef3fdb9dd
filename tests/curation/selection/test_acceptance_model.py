"""The acceptance model: better than a constant, cross-validated, calibrated, plain data, refused for too few decisions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from curation.errors import Refused
from curation.selection.acceptance_model import (
    MIN_DECISIONS,
    AcceptanceModel,
    TrainingRows,
    compute_metrics,
    fit_acceptance_model,
)


def make_rows(count: int, seed: int = 0, prompts: int = 25) -> TrainingRows:
    """Return decisions: accepted where one signal is neither small nor large and the first number of the embedding is not negative."""
    rng = np.random.default_rng(seed)
    middle, other = rng.standard_normal((2, count))
    seen = rng.standard_normal((count, 8)).astype(np.float32)
    odds = 3 - 4 * middle**2 + 2 * seen[:, 0]
    return TrainingRows(
        signals=[
            {"middle": float(m), "other": None if o > 1 else float(o)}
            for m, o in zip(middle, other, strict=True)
        ],
        embeddings=seen,
        accepted=rng.random(count) < 1 / (1 + np.exp(-odds)),
        prompts=[index % prompts for index in range(count)],
        rounds=[index % 3 for index in range(count)],
    )


def test_the_model_fits_signals_with_an_optimum_in_the_middle():
    _, metrics = fit_acceptance_model(make_rows(800))
    for folds in ("by_prompt", "by_round"):
        assert metrics[folds]["auc"] > 0.85
        assert metrics[folds]["log_loss"] < 0.75 * metrics[folds]["constant_log_loss"]
        assert metrics[folds]["ece"] < 0.06


def test_predictions_are_calibrated_and_as_good_as_estimated():
    model, metrics = fit_acceptance_model(make_rows(800))
    others = make_rows(4_000, seed=1)
    found = compute_metrics(model.predict(others.signals, others.embeddings), others.accepted)
    assert found["auc"] == pytest.approx(metrics["by_prompt"]["auc"], abs=0.03)
    assert found["brier"] == pytest.approx(metrics["by_prompt"]["brier"], abs=0.02)
    assert found["ece"] < 0.05


def test_cross_validation_separates_prompts():
    """Each prompt has one verdict and its own cluster of embeddings, which predicts nothing for other prompts."""
    rng = np.random.default_rng(2)
    prompts = np.arange(600) % 60
    centers, verdicts = rng.standard_normal((60, 16)), np.tile([True, False], 30)
    rows = TrainingRows(
        signals=[{}] * 600,
        embeddings=(centers[prompts] + 0.05 * rng.standard_normal((600, 16))).astype(np.float32),
        accepted=rng.permutation(verdicts)[prompts],
        prompts=prompts.tolist(),
        rounds=[1] * 600,
    )
    model, metrics = fit_acceptance_model(rows)
    assert (
        compute_metrics(model.predict(rows.signals, rows.embeddings), rows.accepted)["auc"] > 0.75
    )
    assert metrics["by_prompt"]["auc"] < 0.65
    assert not {"by_round", "at_random"} & set(metrics)


def test_the_random_slice_has_its_own_metrics():
    """Other slices were chosen by the signal and are better than average, so their metrics are not representative."""
    rows = make_rows(2_000)
    at_random = np.arange(2_000) % 4 == 0
    best = np.abs([one["middle"] for one in rows.signals]) < 0.4
    kept = np.flatnonzero(best | at_random)
    some = TrainingRows(
        [rows.signals[i] for i in kept], rows.embeddings[kept], rows.accepted[kept],
        [rows.prompts[i] for i in kept], [1] * len(kept), at_random[kept],
    )  # fmt: skip
    _, metrics = fit_acceptance_model(some)
    share = rows.accepted[at_random].mean()
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert metrics["at_random"]["constant_log_loss"] == pytest.approx(entropy)
    assert metrics["by_prompt"]["constant_log_loss"] < entropy - 0.05
    assert 0.85 < metrics["at_random"]["auc"] < 1


def test_equal_decisions_give_equal_models_as_plain_data():
    (first, _), (second, _), (other, _) = (
        fit_acceptance_model(make_rows(300)),
        fit_acceptance_model(make_rows(300)),
        fit_acceptance_model(make_rows(300, seed=4)),
    )
    assert first.id == second.id != other.id
    read = AcceptanceModel.read(json.loads(json.dumps(first.as_json())))
    assert read.id == first.id
    rows = make_rows(50, seed=9)
    turned = AcceptanceModel(**read.__dict__ | {"knots": dict(reversed(read.knots.items()))})
    np.testing.assert_array_equal(
        turned.predict(rows.signals, rows.embeddings),
        first.predict(rows.signals, rows.embeddings),
    )
    np.testing.assert_array_equal(
        read.predict(rows.signals, rows.embeddings),
        first.predict(rows.signals, rows.embeddings),
    )
    assert set(read.cluster(rows.embeddings)) <= set(range(len(read.centres)))


def test_unknown_signals_are_ignored_and_missing_ones_are_no_error():
    model, _ = fit_acceptance_model(make_rows(300))
    seen = np.zeros((1, 8), np.float32)
    known = model.predict([{"middle": 0.1, "other": 0.2}], seen)
    assert model.predict([{"middle": 0.1, "other": 0.2, "new": 9.0}], seen) == known
    assert 0 < model.predict([{}], seen)[0] < 1
    assert 0 < model.predict([{"middle": 1e9, "other": -1e9}], seen)[0] < 1


@pytest.mark.parametrize(("count", "accepted"), [(MIN_DECISIONS - 1, 50), (400, 5), (400, 395)])
def test_too_few_decisions_are_refused(count, accepted):
    rows = make_rows(count)
    rows.accepted[:] = np.arange(count) < accepted
    with pytest.raises(Refused, match="too few"):
        fit_acceptance_model(rows)
