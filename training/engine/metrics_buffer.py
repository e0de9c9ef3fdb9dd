"""What the steps of a training came to: read from the device seldom, and never past a number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curation.errors import LayerloopError


class Diverged(LayerloopError):
    """A loss or a gradient is infinite or not a number; the last saved state is from before it."""


@dataclass(frozen=True)
class StepMetrics:
    """One step: the images seen after it, the places of its pictures, and its figures, still on the device."""

    seen: int
    places: Sequence[int]
    figures: Mapping[str, Tensor]


class MetricsBuffer:
    """The steps since the last reading.

    To read a figure is to wait until a GPU has finished all that was asked of it, so steps are read `stride` at a time.
    """

    def __init__(
        self,
        stage: str,
        stride: int,
        add_up: Callable[[Tensor], Tensor],
        name_of: Callable[[int], str],
        *,
        scaled: bool,
    ) -> None:
        """add_up: over processes; name_of: a place's sample; scaled: whether gradients may overflow (fp16)."""
        self.stage, self.stride, self.add_up, self.name_of, self.scaled = (
            stage,
            stride,
            add_up,
            name_of,
            scaled,
        )
        self._steps: list[StepMetrics] = []

    def note(self, step: StepMetrics) -> bool:
        """Remember a step; whether it is time to read."""
        self._steps.append(step)
        return len(self._steps) >= self.stride

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """The figures of every step since the last time, by images seen. Raises Diverged at the first that is broken.

        Where gradients are scaled, one that overflowed was no step and has no figure "gradient".
        """
        steps, self._steps = self._steps, []
        if not steps:
            return []
        flat = torch.stack(
            [figure.detach().float() for step in steps for figure in step.figures.values()]
        )
        numbers = iter(self.add_up(flat).tolist())
        rows = []
        for step in steps:
            figures = {name: next(numbers) for name in step.figures}
            if self.scaled and not math.isfinite(figures.get("gradient", 0.0)):
                del figures["gradient"]
            self._check(step, figures)
            rows.append((step.seen, figures))
        return rows

    def _check(self, step: StepMetrics, figures: Mapping[str, float]) -> None:
        broken = [name for name, figure in figures.items() if not math.isfinite(figure)]
        if not broken:
            return
        names = [self.name_of(place) for place in dict.fromkeys(step.places)]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise Diverged(
            f"{self.stage}: {broken[0]} is {figures[broken[0]]} in the step that ended at image {step.seen}, "
            f"of the samples {shown}",
            f"lower the rate (--set {self.stage}_lr=...), try --set precision=bf16 or fp32, or look at those samples; "
            "the last saved state is from before it",
        )
