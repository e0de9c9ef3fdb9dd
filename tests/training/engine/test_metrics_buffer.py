"""Metrics are read in groups; the first that is not finite is reported with its samples."""

import pytest
import torch

from training.engine.metrics_buffer import Diverged, MetricsBuffer, StepMetrics


def _watch(stride=2, scaled=False):
    return MetricsBuffer(
        "base",
        stride,
        lambda metrics: metrics,
        lambda place: f"sample-{place}",
        grad_scaling=scaled,
    )


def _step(seen, loss, gradient=1.0, places=(4, 5)):
    return StepMetrics(
        seen, places, {"loss": torch.tensor(loss), "gradient": torch.tensor(gradient)}
    )


def test_steps_are_read_together_and_once():
    watch = _watch()
    assert not watch.append(_step(8, 0.5))
    assert watch.append(_step(16, 0.25))
    assert watch.flush() == [
        (8, {"loss": 0.5, "gradient": 1.0}),
        (16, {"loss": 0.25, "gradient": 1.0}),
    ]
    assert watch.flush() == []


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_the_first_of_several_broken_steps_is_named(broken):
    watch = _watch()
    for step in (_step(8, 0.5), _step(16, broken, places=(7, 9, 7)), _step(24, broken)):
        watch.append(step)
    with pytest.raises(
        Diverged, match=r"base: loss is .* ended at image 16; samples: sample-7, sample-9$"
    ):
        watch.flush()


def test_many_samples_are_counted_rather_than_listed():
    watch = _watch()
    watch.append(_step(40, 0.5, float("nan"), places=range(40)))
    with pytest.raises(Diverged, match=r"gradient is nan .* sample-7 and 32 more"):
        watch.flush()


def test_a_scaled_gradient_may_overflow_but_a_loss_may_not():
    watch = _watch(scaled=True)
    watch.append(_step(8, 0.5, float("inf")))
    assert watch.flush() == [(8, {"loss": 0.5})]
    watch.append(_step(16, float("inf"), float("inf")))
    with pytest.raises(Diverged, match="loss is inf"):
        watch.flush()
