"""A buffer of step metrics: read from the device at intervals, and checked for NaN and infinity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curation.errors import LayerloopError
from training.presets.preset import stage_column


class Diverged(LayerloopError):
    """A loss or gradient is NaN or infinite; the last saved state is from before it."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one step, still on the device, and its sample indices."""

    images_seen: int
    indices: Sequence[int]
    metrics: Mapping[str, Tensor]


class MetricsBuffer:
    """The metrics of the steps since the last flush.

    Reading a value waits for the GPU to finish its queue, so metrics are read every `stride` steps.
    """

    def __init__(
        self,
        stage: str,
        stride: int,
        all_reduce: Callable[[Tensor], Tensor],
        sample_id_of: Callable[[int], str],
        *,
        grad_scaling: bool,
    ) -> None:
        """Create an empty buffer.

        Args:
            stage: Name of the stage, for error messages.
            stride: Number of steps between flushes.
            all_reduce: Sums metrics over all processes.
            sample_id_of: Returns the sample id of an index.
            grad_scaling: Whether gradients are scaled (fp16), so that they may overflow.
        """
        self.stage, self.stride, self.grad_scaling = stage, stride, grad_scaling
        self.all_reduce, self.sample_id_of = all_reduce, sample_id_of
        self._steps: list[StepMetrics] = []

    def append(self, step: StepMetrics) -> bool:
        """Append a step, and return whether it is time to flush."""
        self._steps.append(step)
        return len(self._steps) >= self.stride

    def flush(self) -> list[tuple[int, dict[str, float]]]:
        """Return the metrics of each step since the last flush, with the images seen after it.

        With scaled gradients a step whose gradient overflowed was skipped by the scaler; it has no
        metric "gradient".

        Raises:
            Diverged: A metric is NaN or infinite.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return []
        # One tensor, and so one reduction and one transfer, for all steps.
        flat = torch.stack(
            [metric.detach().float() for step in steps for metric in step.metrics.values()]
        )
        numbers = iter(self.all_reduce(flat).tolist())
        rows = []
        for step in steps:
            metrics = {name: next(numbers) for name in step.metrics}
            if self.grad_scaling and not math.isfinite(metrics.get("gradient", 0.0)):
                del metrics["gradient"]
            self._check(step, metrics)
            rows.append((step.images_seen, metrics))
        return rows

    def _check(self, step: StepMetrics, metrics: Mapping[str, float]) -> None:
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if not broken:
            return
        # Name the samples of the step, since corrupt images are a frequent cause.
        names = [self.sample_id_of(index) for index in dict.fromkeys(step.indices)]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise Diverged(
            f"{self.stage}: {broken[0]} is {metrics[broken[0]]} in the step that ended at image "
            f"{step.images_seen}; samples: {shown}",
            f"lower the learning rate (--set {stage_column(self.stage, 'lr')}=...), try --set "
            "precision=bf16 or fp32, or check those samples; the last saved state is from before "
            "this step",
        )
