"""Batches are sliced and moved by name; steps are prefetched in order, once each."""

import threading
from contextlib import closing

import pytest
import torch

from training.denoiser.denoiser import Conditions
from training.engine.batch import Prefetcher, StepBatches, slice_batch, to_device


def test_batches_of_any_content_are_sliced():
    rows = {
        "a": torch.arange(4),
        "texts": list("wxyz"),
        "conditions": Conditions(torch.arange(8.0).view(4, 2, 1)),
    }
    part = slice_batch(rows, slice(1, 3))
    assert part["a"].tolist() == [1, 2]
    assert part["texts"] == ["x", "y"]
    assert part["conditions"].states_BLD.flatten().tolist() == [2, 3, 4, 5]
    assert part["conditions"].mask_BL is None
    assert to_device(part, torch.device("cpu")) is part
    there = to_device(part, torch.device("meta"))
    assert there["conditions"].states_BLD.device.type == there["a"].device.type == "meta"
    assert there["texts"] == ["x", "y"]


@pytest.mark.parametrize("threaded", [False, True])
def test_steps_come_in_order_and_are_made_once(threaded):
    requested = []

    def make_step(seen):
        requested.append((seen, threading.current_thread() is threading.main_thread()))
        return StepBatches([seen, seen + 1], [])

    with closing(Prefetcher(make_step, 6, threaded=threaded)) as ahead:
        assert [ahead.get(seen).indices for seen in (0, 2, 4)] == [[0, 1], [2, 3], [4, 5]]
    assert requested == [(0, not threaded), (2, not threaded), (4, not threaded)]


def test_an_exception_is_raised_where_its_step_is_taken():
    def make_step(seen):
        if seen:
            raise ValueError(seen)
        return StepBatches([0], [])

    with closing(Prefetcher(make_step, 2, threaded=True)) as ahead:
        ahead.get(0)
        with pytest.raises(ValueError, match="1"):
            ahead.get(1)
