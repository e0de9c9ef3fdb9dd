"""Comparison of two ways to generate the same prompts, by signals and by the rule reviewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curation.domain import Verdict
from curation.ports import RGBA
from curation.screening.rule_reviewer import RuleReviewer
from curation.screening.rules import apply_rules
from curation.screening.signals import SIGNALS, compute_signals
from curation.statistics.intervals import wilson


@dataclass(frozen=True)
class JudgedMethod:
    """The results of one way.

    Attributes:
        defects: Layers that a screening rule refuses or the rule reviewer rejects, per 100 layers.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        only: Number of prompts where only this way has a defect.
        layers: Number of layers.
        reasons: Number of layers by reason of the rule reviewer or name of the violated rule.
        signals: Mean of each signal over the layers where it is defined.
    """

    defects: float
    low: float
    high: float
    only: int
    layers: int
    reasons: Mapping[str, int]
    signals: Mapping[str, float | None]


def compare_methods(
    methods: Mapping[str, Sequence[RGBA]], prompts: Sequence[str], rule_reviewer: RuleReviewer
) -> dict[str, JudgedMethod]:
    """Judge the layers of each way by the same rules.

    Args:
        methods: By name of the way, one H x W x 4 uint8 layer for each prompt.
        prompts: The prompts, in the order of the layers.
        rule_reviewer: Decides the layers that no screening rule refuses.

    Returns:
        The results by name of the way.
    """
    results = {
        name: [
            _judge(rgba, text, rule_reviewer) for rgba, text in zip(layers, prompts, strict=True)
        ]
        for name, layers in methods.items()
    }
    judged = {}
    for name, layers in results.items():
        others = [other for key, other in results.items() if key != name]
        bad = [bool(reasons) for reasons, _ in layers]
        # A defect that no other way has at the same prompt is not due to the prompt.
        alone = [
            is_bad and not any(other[k][0] for other in others) for k, is_bad in enumerate(bad)
        ]
        low, high = wilson(sum(bad) / len(bad), len(bad))
        counts = Counter(reason for reasons, _ in layers for reason in reasons)
        judged[name] = JudgedMethod(
            defects=100 * sum(bad) / len(bad),
            low=100 * low,
            high=100 * high,
            only=sum(alone),
            layers=len(bad),
            reasons=dict(counts.most_common()),
            signals={
                signal: _mean([signals[signal] for _, signals in layers]) for signal in SIGNALS
            },
        )
    return judged


def _judge(
    rgba: RGBA, prompt: str, rule_reviewer: RuleReviewer
) -> tuple[list[str], Mapping[str, float | None]]:
    """Return the reasons against a layer, empty if it is acceptable, and its signals."""
    signals = compute_signals(rgba)
    broken = apply_rules(signals)
    if broken:
        return [broken.rule], signals
    decision = rule_reviewer.decide(rgba, prompt)
    return (
        [] if decision.verdict is Verdict.accept else [str(reason) for reason in decision.reasons]
    ), signals


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
