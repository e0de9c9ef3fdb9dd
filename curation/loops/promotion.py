"""The gate of a loop: conditions on a checkpoint's metrics, without which it is not promoted."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from curation.errors import Refused

_CONDITION: Final = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9_]*)\s*(?P<sign><=|>=)\s*"
    r"(?:(?P<last>last)(?:\s*\*\s*(?P<factor>\d+(?:\.\d+)?))?|(?P<value>-?\d+(?:\.\d+)?))\s*"
)
_SIGNS: Final[dict[str, Callable[[float, float], bool]]] = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class GateCondition:
    """A bound of a metric: a number, or a multiple of the last promoted checkpoint's value."""

    metric: str
    sign: str
    value: float
    of_last: bool


@dataclass(frozen=True)
class GateResult:
    """The result of one condition for a checkpoint.

    Attributes:
        condition: The condition, as it was written.
        value: The checkpoint's metric; None if it has none.
        bound: The bound; None if no checkpoint was promoted before, so that it holds.
        passed: Whether the condition holds.
    """

    condition: str
    value: float | None
    bound: float | None
    passed: bool


def parse_condition(text: str) -> GateCondition:
    """Parse a condition such as "psnr>=30", "alpha_mse<=last" or "alpha_mse<=last*1.05".

    Raises:
        Refused: The text is not a condition.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise Refused(
            f"{text[:100]!r} is not a condition of a gate",
            "for example 'psnr>=30' or 'alpha_mse<=last*1.05'; docs/reference/metrics.md has names",
        )
    of_last = match["last"] is not None
    value = float((match["factor"] or 1) if of_last else match["value"])
    return GateCondition(match["metric"], match["sign"], value, of_last)


def check_gate(
    gate: Sequence[str], metrics: Mapping[str, float], last: Mapping[str, float] | None
) -> list[GateResult]:
    """Compare the metrics of a checkpoint with the conditions of a gate.

    A checkpoint without a metric does not satisfy its condition. A condition on `last` holds where
    no checkpoint was promoted before, or where that one lacks the metric.

    Args:
        gate: The conditions.
        metrics: The metrics of the checkpoint.
        last: The metrics of the checkpoint that was promoted last, if there is one.
    """
    results = []
    for text in gate:
        condition = parse_condition(text)
        value = metrics.get(condition.metric)
        bound: float | None = condition.value
        if condition.of_last:
            before = (last or {}).get(condition.metric)
            bound = None if before is None else before * condition.value
        passed = value is not None and (bound is None or _SIGNS[condition.sign](value, bound))
        results.append(GateResult(text, value, bound, passed))
    return results
