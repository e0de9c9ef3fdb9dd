"""Measure how often the verdict of several simulated reviewers is right: by majority, and by Dawid-Skene.

    python -m tests.benchmarks.consensus [--candidates 2000] [--repetitions 20] [--json]

Each repetition (its number is the seed) draws candidates of which two in ten are sound, and lets K of nine reviewers, at
random for each candidate, decide it. Three crews: all nine alike (right 85 % of the time), mixed (from 95 % to 60 %,
some quick to accept, some quick to reject), and a crew of which three answer without looking. `forced` takes the likelier
verdict of every candidate, as the majority of an odd K does; `sure` only those with a probability of 0.9 or more, and
tells which share that is: the others are what an adjudicator is shown. With `gold`, every reviewer has also answered 30
candidates whose verdict is known.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from curation.review.consensus import DEFAULT_CERTAINTY
from curation.statistics.dawid_skene import DawidSkeneFit, Skill, Vote, fit_skills

SOUND: Final = 0.2
GOLD: Final = 30
CREWS: Final[Mapping[str, Sequence[Skill]]] = {
    "alike": [Skill(0.85, 0.85)] * 9,
    "mixed": [
        Skill(0.95, 0.95), Skill(0.95, 0.9), Skill(0.9, 0.95), Skill(0.95, 0.65), Skill(0.6, 0.97),
        Skill(0.8, 0.8), Skill(0.75, 0.75), Skill(0.9, 0.6), Skill(0.6, 0.65),
    ],
    "careless": [Skill(0.92, 0.94)] * 6 + [Skill(0.5, 0.5), Skill(0.97, 0.03), Skill(0.2, 0.8)],
}  # fmt: skip


def main() -> None:
    """Measure every crew at K = 3 and 5 and print one line each."""
    options = _options()
    if not options.json:
        print(
            f"{'crew':>9} {'K':>2} | {'majority':>8} {'forced':>7} {'+ gold':>7} | sure: right, of all"
        )
    for crew in CREWS:
        for overlap in (3, 5):
            found = measure(crew, overlap, options.candidates, options.repetitions)
            print(json.dumps(found) if options.json else _line(found), flush=True)


def measure(crew: str, overlap: int, candidates: int, repetitions: int) -> dict[str, Any]:
    """Shares of right verdicts of one crew, each the mean over repetitions; `won` counts those where the model beat it."""
    right: dict[str, list[float]] = defaultdict(list)
    for seed in range(repetitions):
        votes, truth, gold, known = _simulate(CREWS[crew], overlap, candidates, seed)
        accepts = np.bincount([vote.item for vote in votes if vote.accept], minlength=candidates)
        right["majority"].append(float(((accepts > overlap / 2) == truth).mean()))
        for name, fit in (("forced", fit_skills(votes)), ("gold", fit_skills(votes + gold, known))):
            probability = _probabilities(fit, candidates)
            right[name].append(float(((probability > 0.5) == truth).mean()))
            if name == "forced":
                sure = np.maximum(probability, 1 - probability) >= DEFAULT_CERTAINTY
                right["sure"].append(float(((probability > 0.5) == truth)[sure].mean()))
                right["sure_of_all"].append(float(sure.mean()))
    won = sum(
        model > majority for model, majority in zip(right["forced"], right["majority"], strict=True)
    )
    means = {name: float(np.mean(values)) for name, values in right.items()}
    return {"crew": crew, "overlap": overlap, "repetitions": repetitions, "won": won} | means


def _simulate(
    crew: Sequence[Skill], overlap: int, candidates: int, seed: int
) -> tuple[list[Vote[int]], np.ndarray[Any, np.dtype[np.bool_]], list[Vote[int]], dict[int, bool]]:
    rng = np.random.default_rng(seed)
    truth = rng.random(candidates) < SOUND

    def say(who: int, sound: bool) -> bool:
        right = rng.random() < (crew[who].accepts_sound if sound else crew[who].rejects_unsound)
        return sound == bool(right)

    votes = [
        Vote(item, int(who), say(int(who), bool(truth[item])))
        for item in range(candidates)
        for who in rng.choice(len(crew), overlap, replace=False)
    ]
    known = {-1 - index: index % 3 == 0 for index in range(GOLD)}
    gold = [
        Vote(item, who, say(who, sound))
        for item, sound in known.items()
        for who in range(len(crew))
    ]
    return votes, truth, gold, known


def _probabilities(
    fit: DawidSkeneFit[int], candidates: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([fit.probability[item] for item in range(candidates)])


def _line(found: Mapping[str, Any]) -> str:
    return (
        f"{found['crew']:>9} {found['overlap']:>2} | {found['majority']:>8.2%} {found['forced']:>7.2%} "
        f"{found['gold']:>7.2%} | {found['sure']:.2%}, {found['sure_of_all']:.1%}   "
        f"(the model was better in {found['won']} of {found['repetitions']})"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Majority against Dawid and Skene.")
    parser.add_argument("--candidates", type=int, default=2_000)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line instead of a table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
