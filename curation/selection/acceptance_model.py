"""The acceptance head: the probability that people accept a candidate, from its signals and its embedding.

A logistic regression. Each signal enters as a broken line (hat functions on its quantiles), so that "too little" and
"too much" may both be bad; embeddings enter as they are. Its log odds are calibrated by Platt's two numbers (Platt,
1999), fitted out of fold. Gradient boosting was no better by more than 0.01 AUC (ARCHITECTURE.md), and this one is
plain numbers that anybody can read, stored as JSON.
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

FEWEST: Final = 100
"""Decisions below which no head is fitted; of each verdict there must be FEWEST_OF_EACH."""
FEWEST_OF_EACH: Final = 10
MOST_CLUSTERS: Final = 32

_KNOTS, _FOLDS, _PULL, _EMBEDDING = 7, 5, 1.0, 3.0


@dataclass(frozen=True)
class TrainingRows:
    """N decided candidates: what is known of each, whether it was accepted, its prompt and its round.

    `at_random` marks those that were shown at random: only they stand for all that will be scored.
    """

    signals: Sequence[Mapping[str, float | None]]
    embeddings: NDArray[np.float32]  # N x D
    accepted: NDArray[np.bool_]  # N
    prompts: Sequence[object]
    rounds: Sequence[int]
    at_random: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class AcceptanceModel:
    """Fitted numbers; equal numbers are one head."""

    knots: Mapping[str, Sequence[float]]  # of each signal, ascending
    middle: Sequence[float]  # of the embeddings, D numbers
    scale: Sequence[float]
    weights: Sequence[float]
    bias: float
    platt: tuple[float, float]  # the log odds are multiplied by the first, then the second is added
    centres: Sequence[Sequence[float]]  # of clusters, in standardised embeddings

    @property
    def id(self) -> str:
        """The sha256 of its numbers."""
        return hashlib.sha256(canonical_json(self.as_json()).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `read`."""
        return self.__dict__ | {
            "platt": list(self.platt),
            "knots": {k: list(v) for k, v in self.knots.items()},
        }

    @staticmethod
    def read(row: Mapping[str, Any]) -> AcceptanceModel:
        """A head from plain data."""
        return AcceptanceModel(**{**row, "platt": (row["platt"][0], row["platt"][1])})

    def predict(
        self, signals: Sequence[Mapping[str, float | None]], embeddings: NDArray[np.float32]
    ) -> Numbers:
        """The probability of N candidates to be accepted, 0..1."""
        slope, shift = self.platt
        odds = self.describe(signals, embeddings) @ np.asarray(self.weights) + self.bias
        return _chance(slope * odds + shift)

    def cluster(self, embeddings: NDArray[np.float32]) -> NDArray[np.intp]:
        """The cluster of each of N candidates: the nearest centre."""
        seen, centres = self._standard(embeddings), np.asarray(self.centres)
        return np.asarray(np.argmin((centres**2).sum(1) - 2 * seen @ centres.T, axis=1), np.intp)

    def describe(
        self, signals: Sequence[Mapping[str, float | None]], embeddings: NDArray[np.float32]
    ) -> Numbers:
        """What the weights are for: N rows of every signal's broken line, and of the embedding."""
        # By name, not as they come: jsonb keeps the keys of an object in an order of its own.
        lines = [
            _hats(_column(signals, name), np.asarray(self.knots[name]))
            for name in sorted(self.knots)
        ]
        seen = self._standard(embeddings) * (_EMBEDDING / np.sqrt(embeddings.shape[1]))
        return np.hstack([*lines, seen])

    def _standard(self, embeddings: NDArray[np.float32]) -> Numbers:
        return np.asarray(
            (embeddings - np.asarray(self.middle)) / np.asarray(self.scale), np.float64
        )


def check_lesson(accepted: int, rejected: int) -> None:
    """Raise Refused where there are too few decisions to fit a head."""
    if accepted + rejected < FEWEST or min(accepted, rejected) < FEWEST_OF_EACH:
        told = f"{accepted} accepts and {rejected} rejects are too few for an acceptance head"
        raise Refused(
            told,
            f"it takes {FEWEST} decisions, and {FEWEST_OF_EACH} of either kind; review more at random",
        )


def fit(lesson: TrainingRows) -> tuple[AcceptanceModel, dict[str, Any]]:
    """A head for a lesson, and its figures out of fold: `by_prompt`, `at_random` of those alone, `by_round` if several.

    Figures: auc, brier, ece (expected calibration error over ten equal shares), log_loss, and constant_log_loss, which
    whoever says the mean of all would have. Raises Refused for too few decisions.
    """
    accepted = int(lesson.accepted.sum())
    check_lesson(accepted, len(lesson.accepted) - accepted)
    draft = _begin(lesson)
    described = draft.describe(lesson.signals, lesson.embeddings)
    by_prompt = _odds_out_of_fold(described, lesson.accepted, lesson.prompts)
    weights, bias = _learn(described, lesson.accepted)
    made = AcceptanceModel(
        **draft.__dict__
        | {"weights": _short(weights), "bias": bias, "platt": _platt(*by_prompt[:2])}
    )
    figures: dict[str, Any] = {"decisions": len(lesson.accepted), "accepted": accepted}
    chances = _calibrate_out_of_fold(*by_prompt)
    figures["by_prompt"] = measure(chances, lesson.accepted)
    chosen = np.zeros(0, bool) if lesson.at_random is None else lesson.at_random
    if FEWEST_OF_EACH <= chosen.sum() < len(chosen):
        figures["at_random"] = measure(chances[chosen], lesson.accepted[chosen])
    if len(set(lesson.rounds)) > 1:
        by_round = _odds_out_of_fold(described, lesson.accepted, lesson.rounds)
        figures["by_round"] = measure(_calibrate_out_of_fold(*by_round), lesson.accepted)
    return made, figures


def measure(chances: Numbers, accepted: NDArray[np.bool_]) -> dict[str, float]:
    """How good N probabilities were, and how good the mean alone would have been."""
    from sklearn.metrics import roc_auc_score

    sure = np.clip(chances, 1e-6, 1 - 1e-6)
    mean = float(np.clip(accepted.mean(), 1e-6, 1 - 1e-6))
    both = 0 < accepted.sum() < len(accepted)
    return {
        "auc": float(roc_auc_score(accepted, chances)) if both else 0.5,
        "brier": float(np.mean((chances - accepted) ** 2)),
        "ece": _calibration_error(chances, accepted),
        "log_loss": float(-np.mean(np.where(accepted, np.log(sure), np.log(1 - sure)))),
        "constant_log_loss": float(-(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))),
    }


def _begin(lesson: TrainingRows) -> AcceptanceModel:
    """All but the weights: what does not look at verdicts may be made of all that is known."""
    from sklearn.cluster import MiniBatchKMeans

    names = sorted({name for one in lesson.signals for name in one})
    middle, scale = lesson.embeddings.mean(0), lesson.embeddings.std(0) + 1e-6
    standard = ((lesson.embeddings - middle) / scale).astype(np.float64)
    count = max(1, min(MOST_CLUSTERS, len(standard) // 20))
    clusters = MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=1024).fit(standard)
    return AcceptanceModel(
        knots={name: _knots(_column(lesson.signals, name)) for name in names},
        middle=_short(middle),
        scale=_short(scale),
        weights=(),
        bias=0.0,
        platt=(1.0, 0.0),
        centres=[_short(centre) for centre in clusters.cluster_centers_],
    )


def _learn(described: Numbers, accepted: NDArray[np.bool_]) -> tuple[Numbers, float]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=_PULL, max_iter=1_000).fit(described, accepted)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _odds_out_of_fold(
    described: Numbers, accepted: NDArray[np.bool_], groups: Sequence[object]
) -> tuple[Numbers, NDArray[np.bool_], NDArray[np.intp]]:
    """Each candidate's log odds by a head that saw nothing of its group, with verdicts and folds beside them."""
    odds, folds = np.zeros(len(accepted)), np.zeros(len(accepted), np.intp)
    for fold, (known, asked) in enumerate(_part(accepted, groups)):
        weights, bias = _learn(described[known], accepted[known])
        odds[asked], folds[asked] = described[asked] @ weights + bias, fold
    return odds, accepted, folds


def _part(
    accepted: NDArray[np.bool_], groups: Sequence[object]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Folds that keep groups together; of single candidates where a fold would else be taught one verdict only."""
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    numbers = np.unique([str(one) for one in groups], return_inverse=True)[1]
    count = min(_FOLDS, int(numbers.max()) + 1)
    parted = list(GroupKFold(count).split(accepted, groups=numbers)) if count > 1 else []
    if parted and all(len(np.unique(accepted[known])) == 2 for known, _ in parted):
        yield from parted
    else:
        yield from StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(accepted, accepted)


def _calibrate_out_of_fold(
    odds: Numbers, accepted: NDArray[np.bool_], folds: NDArray[np.intp]
) -> Numbers:
    """Chances by the calibration of the other folds, so that nothing is measured on what it was fitted to."""
    chances = np.zeros(len(odds))
    for fold in np.unique(folds):
        mine = folds == fold
        slope, shift = _platt(odds[~mine], accepted[~mine])
        chances[mine] = _chance(slope * odds[mine] + shift)
    return chances


def _platt(odds: Numbers, accepted: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift of the log odds; a slope is never turned round."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e3).fit(odds[:, None], accepted)
    return max(float(fitted.coef_[0, 0]), 1e-3), float(fitted.intercept_[0])


def _calibration_error(chances: Numbers, accepted: NDArray[np.bool_]) -> float:
    order = np.array_split(np.argsort(chances, kind="stable"), min(10, len(chances)))
    gaps = [len(part) * abs(float(chances[part].mean() - accepted[part].mean())) for part in order]
    return sum(gaps) / len(chances)


def _hats(values: Numbers, knots: Numbers) -> Numbers:
    """N x K hat functions, flat beyond the outermost knots, and one column for what was not measured."""
    missing = np.isnan(values)
    filled = np.where(missing, knots[0], values)
    lines = [np.interp(filled, knots, one) for one in np.eye(len(knots))] if len(knots) > 1 else []
    return np.stack(
        [*(np.where(missing, 0, line) for line in lines), missing.astype(np.float64)], axis=1
    )


def _knots(values: Numbers) -> list[float]:
    known = values[~np.isnan(values)]
    return _short(np.unique(np.quantile(known, np.linspace(0, 1, _KNOTS)))) if len(known) else [0.0]


def _column(signals: Sequence[Mapping[str, float | None]], name: str) -> Numbers:
    found = [one.get(name) for one in signals]
    return np.array([np.nan if value is None else value for value in found], np.float64)


def _chance(odds: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))), np.float64)


def _short(values: Any) -> list[float]:
    """Seven digits: what is stored is what is used, and equal on machines that round differently."""
    return [float(f"{value:.7g}") for value in values]
