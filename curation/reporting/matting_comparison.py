"""Two ways of drawing the same prompts, measured alike: signals, and defects in the oracle's eyes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curation.domain import Verdict
from curation.ports import RGBA
from curation.screening.rule_reviewer import RuleReviewer
from curation.screening.rules import judge
from curation.screening.signals import SIGNALS, measure
from curation.statistics.intervals import wilson


@dataclass(frozen=True)
class Judged:
    """One way's layers.

    `defects` are those that a hard rule refuses or the oracle rejects, per 100 of all that was drawn, with its 95 %
    interval `low` to `high`; `only` counts the prompts at which this way alone has a defect. `signals` are means over
    the layers that a signal has a value for. `reasons` are the oracle's and the names of broken rules.
    """

    defects: float
    low: float
    high: float
    only: int
    layers: int
    reasons: Mapping[str, int]
    signals: Mapping[str, float | None]


def judge_ways(
    ways: Mapping[str, Sequence[RGBA]], prompts: Sequence[str], oracle: RuleReviewer
) -> dict[str, Judged]:
    """Judge each way's layers, one or more for the prompts in their order."""
    found = {name: [_judge(rgba, text, oracle) for rgba, text in zip(layers, prompts, strict=True)]
             for name, layers in ways.items()}  # fmt: skip
    judged = {}
    for name, layers in found.items():
        others = [other for key, other in found.items() if key != name]
        bad = [bool(reasons) for reasons, _ in layers]
        alone = [mine and not any(other[k][0] for other in others) for k, mine in enumerate(bad)]
        low, high = wilson(sum(bad) / len(bad), len(bad))
        judged[name] = Judged(
            100 * sum(bad) / len(bad), 100 * low, 100 * high, sum(alone), len(bad),
            dict(Counter(reason for reasons, _ in layers for reason in reasons).most_common()),
            {signal: _mean([signals[signal] for _, signals in layers]) for signal in SIGNALS},
        )  # fmt: skip
    return judged


def _judge(
    rgba: RGBA, prompt: str, oracle: RuleReviewer
) -> tuple[list[str], Mapping[str, float | None]]:
    """What is wrong with a layer, and its signals."""
    signals = measure(rgba)
    broken = judge(signals)
    if broken:
        return [broken.rule], signals
    said = oracle.decide(rgba, prompt)
    return (
        [] if said.verdict is Verdict.accept else [str(reason) for reason in said.reasons]
    ), signals


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
