"""The acceptance model: the probability that people accept a candidate.

A logistic regression on signals and embedding. Each signal enters as a piecewise linear function
(hat functions on its quantiles), so that both low and high values may be bad; embeddings enter as
they are. The log odds are calibrated by Platt scaling (Platt, 1999), fitted out of fold. Gradient
boosting was not better by more than 0.01 AUC (docs/benchmarks/selection.md), and this model is a
readable list of numbers, stored as JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curation.domain import canonical_json
from curation.errors import Refused

Numbers = NDArray[np.float64]

MIN_DECISIONS: Final = 100
"""The minimum number of decisions to fit a model.

Each verdict must occur at least MIN_PER_VERDICT times.
"""
MIN_PER_VERDICT: Final = 10
MAX_CLUSTERS: Final = 32

_KNOTS, _FOLDS, _PULL, _EMBEDDING = 7, 5, 1.0, 3.0


@dataclass(frozen=True)
class TrainingRows:
    """N decided candidates: inputs, verdict, prompt and round of each.

    `at_random` marks candidates shown at random: only they are representative of all that are
    scored.
    """

    signals: Sequence[Mapping[str, float | None]]
    embeddings: NDArray[np.float32]  # N x D
    accepted: NDArray[np.bool_]  # N
    prompts: Sequence[object]
    rounds: Sequence[int]
    at_random: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class AcceptanceModel:
    """Fitted parameters; equal parameters are the same model."""

    knots: Mapping[str, Sequence[float]]  # of each signal, ascending
    middle: Sequence[float]  # mean of the embeddings, D numbers
    scale: Sequence[float]  # standard deviation of the embeddings, D numbers
    weights: Sequence[float]
    bias: float
    platt: tuple[float, float]  # slope and offset of the log odds
    centres: Sequence[Sequence[float]]  # cluster centers of standardized embeddings

    @property
    def id(self) -> str:
        """The SHA-256 of its parameters."""
        return hashlib.sha256(canonical_json(self.as_json()).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return plain data, the inverse of `read`."""
        return self.__dict__ | {
            "platt": list(self.platt),
            "knots": {k: list(v) for k, v in self.knots.items()},
        }

    @staticmethod
    def read(row: Mapping[str, Any]) -> AcceptanceModel:
        """Return a model from plain data."""
        return AcceptanceModel(**{**row, "platt": (row["platt"][0], row["platt"][1])})

    def predict(
        self, signals: Sequence[Mapping[str, float | None]], embeddings: NDArray[np.float32]
    ) -> Numbers:
        """Return the acceptance probability of N candidates, 0..1.

        Args:
            signals: The signals of each candidate.
            embeddings: N x D embeddings.
        """
        slope, offset = self.platt
        log_odds = self.describe(signals, embeddings) @ np.asarray(self.weights) + self.bias
        return _sigmoid(slope * log_odds + offset)

    def cluster(self, embeddings: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the cluster of each of N embeddings: the index of the nearest center."""
        # Squared distances up to a term that is equal for all centers.
        standardized, centres = self._standardize(embeddings), np.asarray(self.centres)
        return np.asarray(
            np.argmin((centres**2).sum(1) - 2 * standardized @ centres.T, axis=1), np.intp
        )

    def describe(
        self, signals: Sequence[Mapping[str, float | None]], embeddings: NDArray[np.float32]
    ) -> Numbers:
        """Return the N x F design matrix: every signal's hat functions, and the embedding.

        Args:
            signals: The signals of each candidate.
            embeddings: N x D embeddings.
        """
        # Sorted by name, since jsonb does not keep the order of an object's keys.
        columns = [
            _hats(_column(signals, name), np.asarray(self.knots[name]))
            for name in sorted(self.knots)
        ]
        standardized = self._standardize(embeddings) * (_EMBEDDING / np.sqrt(embeddings.shape[1]))
        return np.hstack([*columns, standardized])

    def _standardize(self, embeddings: NDArray[np.float32]) -> Numbers:
        return np.asarray(
            (embeddings - np.asarray(self.middle)) / np.asarray(self.scale), np.float64
        )


def check_decision_counts(accepted: int, rejected: int) -> None:
    """Raise Refused if there are too few decisions to fit a model.

    Args:
        accepted: The number of accepts.
        rejected: The number of rejects.
    """
    if accepted + rejected < MIN_DECISIONS or min(accepted, rejected) < MIN_PER_VERDICT:
        raise Refused(
            f"{accepted} accepts and {rejected} rejects are too few for an acceptance model",
            f"review more at random: {MIN_DECISIONS} decisions, and {MIN_PER_VERDICT} of each "
            "verdict",
        )


def fit_acceptance_model(rows: TrainingRows) -> tuple[AcceptanceModel, dict[str, Any]]:
    """Fit a model, and measure it out of fold.

    The metrics are auc, brier, ece (expected calibration error over ten equal bins), log_loss, and
    constant_log_loss, that of a constant prediction of the mean. They are computed out of fold
    `by_prompt`, for randomly shown candidates alone (`at_random`), and `by_round` if there are
    several rounds.

    Args:
        rows: The training rows.

    Returns:
        The model and its metrics.

    Raises:
        Refused: There are too few decisions.
    """
    accepted = int(rows.accepted.sum())
    check_decision_counts(accepted, len(rows.accepted) - accepted)
    draft = _begin(rows)
    described = draft.describe(rows.signals, rows.embeddings)
    by_prompt = _odds_out_of_fold(described, rows.accepted, rows.prompts)
    # The final weights use all rows; calibration uses the out-of-fold log odds.
    weights, bias = _learn(described, rows.accepted)
    model = AcceptanceModel(
        **draft.__dict__
        | {"weights": _rounded(weights), "bias": bias, "platt": _platt(*by_prompt[:2])}
    )
    metrics: dict[str, Any] = {"decisions": len(rows.accepted), "accepted": accepted}
    # Out-of-fold metrics: prompts never seen in training, then rounds never seen.
    probabilities = _calibrate_out_of_fold(*by_prompt)
    metrics["by_prompt"] = compute_metrics(probabilities, rows.accepted)
    is_random = np.zeros(0, bool) if rows.at_random is None else rows.at_random
    if MIN_PER_VERDICT <= is_random.sum() < len(is_random):
        metrics["at_random"] = compute_metrics(probabilities[is_random], rows.accepted[is_random])
    if len(set(rows.rounds)) > 1:
        by_round = _odds_out_of_fold(described, rows.accepted, rows.rounds)
        metrics["by_round"] = compute_metrics(_calibrate_out_of_fold(*by_round), rows.accepted)
    return model, metrics


def compute_metrics(probabilities: Numbers, accepted: NDArray[np.bool_]) -> dict[str, float]:
    """Return metrics of N predicted probabilities, and the log loss of a constant prediction.

    Args:
        probabilities: N probabilities.
        accepted: N verdicts.
    """
    from sklearn.metrics import roc_auc_score

    clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
    mean = float(np.clip(accepted.mean(), 1e-6, 1 - 1e-6))
    has_both = 0 < accepted.sum() < len(accepted)
    return {
        "auc": float(roc_auc_score(accepted, probabilities)) if has_both else 0.5,
        "brier": float(np.mean((probabilities - accepted) ** 2)),
        "ece": _calibration_error(probabilities, accepted),
        "log_loss": float(-np.mean(np.where(accepted, np.log(clipped), np.log(1 - clipped)))),
        "constant_log_loss": float(-(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))),
    }


def _begin(rows: TrainingRows) -> AcceptanceModel:
    """Return a model without weights; this part does not look at verdicts."""
    from sklearn.cluster import MiniBatchKMeans

    names = sorted({name for signals in rows.signals for name in signals})
    mean, scale = rows.embeddings.mean(0), rows.embeddings.std(0) + 1e-6
    standardized = ((rows.embeddings - mean) / scale).astype(np.float64)
    count = max(1, min(MAX_CLUSTERS, len(standardized) // 20))
    # Clusters limit how many similar candidates are selected.
    clusters = MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=1024).fit(standardized)
    return AcceptanceModel(
        knots={name: _knots(_column(rows.signals, name)) for name in names},
        middle=_rounded(mean),
        scale=_rounded(scale),
        weights=(),
        bias=0.0,
        platt=(1.0, 0.0),
        centres=[_rounded(centre) for centre in clusters.cluster_centers_],
    )


def _learn(described: Numbers, accepted: NDArray[np.bool_]) -> tuple[Numbers, float]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=_PULL, max_iter=1_000).fit(described, accepted)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _odds_out_of_fold(
    described: Numbers, accepted: NDArray[np.bool_], groups: Sequence[object]
) -> tuple[Numbers, NDArray[np.bool_], NDArray[np.intp]]:
    """Return each candidate's log odds from a model fitted without its group.

    Verdicts and fold indices are returned beside them.
    """
    odds, folds = np.zeros(len(accepted)), np.zeros(len(accepted), np.intp)
    for fold, (train, test) in enumerate(_split(accepted, groups)):
        weights, bias = _learn(described[train], accepted[train])
        odds[test], folds[test] = described[test] @ weights + bias, fold
    return odds, accepted, folds


def _split(
    accepted: NDArray[np.bool_], groups: Sequence[object]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield folds that keep groups together.

    Falls back to single candidates if a fold's training part would contain one verdict only.
    """
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    group_indices = np.unique([str(group) for group in groups], return_inverse=True)[1]
    count = min(_FOLDS, int(group_indices.max()) + 1)
    folds = list(GroupKFold(count).split(accepted, groups=group_indices)) if count > 1 else []
    if folds and all(len(np.unique(accepted[train])) == 2 for train, _ in folds):
        yield from folds
    else:
        yield from StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(accepted, accepted)


def _calibrate_out_of_fold(
    odds: Numbers, accepted: NDArray[np.bool_], folds: NDArray[np.intp]
) -> Numbers:
    """Return probabilities, each calibrated on the other folds."""
    probabilities = np.zeros(len(odds))
    for fold in np.unique(folds):
        in_fold = folds == fold
        slope, offset = _platt(odds[~in_fold], accepted[~in_fold])
        probabilities[in_fold] = _sigmoid(slope * odds[in_fold] + offset)
    return probabilities


def _platt(odds: Numbers, accepted: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and offset of Platt scaling; the slope stays positive."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e3).fit(odds[:, None], accepted)
    return max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])


def _calibration_error(probabilities: Numbers, accepted: NDArray[np.bool_]) -> float:
    # Ten bins of equal size, ordered by predicted probability.
    order = np.array_split(np.argsort(probabilities, kind="stable"), min(10, len(probabilities)))
    weighted_gaps = [
        len(bin_) * abs(float(probabilities[bin_].mean() - accepted[bin_].mean())) for bin_ in order
    ]
    return sum(weighted_gaps) / len(probabilities)


def _hats(values: Numbers, knots: Numbers) -> Numbers:
    """Return N x K hat functions, flat beyond the outer knots, and a column for missing values."""
    missing = np.isnan(values)
    filled = np.where(missing, knots[0], values)
    columns = (
        [np.interp(filled, knots, unit) for unit in np.eye(len(knots))] if len(knots) > 1 else []
    )
    return np.stack(
        [*(np.where(missing, 0, column) for column in columns), missing.astype(np.float64)], axis=1
    )


def _knots(values: Numbers) -> list[float]:
    # Quantiles adapt the knots to the distribution of the signal.
    known = values[~np.isnan(values)]
    return (
        _rounded(np.unique(np.quantile(known, np.linspace(0, 1, _KNOTS)))) if len(known) else [0.0]
    )


def _column(signals: Sequence[Mapping[str, float | None]], name: str) -> Numbers:
    found = [row.get(name) for row in signals]
    return np.array([np.nan if value is None else value for value in found], np.float64)


def _sigmoid(odds: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))), np.float64)


def _rounded(values: Any) -> list[float]:
    """Round to seven digits.

    The stored numbers are the ones used, and equal on machines that round differently.
    """
    return [float(f"{value:.7g}") for value in values]
