"""The sandbox: a process that dies takes one item with it, and nothing else."""

import os
import signal

import pytest

from curation.intake.sandbox import Killed, Sandbox


def work(item: int) -> int:
    """Runs in a worker: some items die in the ways that decoders do."""
    if item == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == 17:
        while True:
            pass
    if item == 19:
        return len(bytearray(3 << 30))
    return item * item


def test_results_come_in_order():
    with Sandbox(work, workers=2) as sandbox:
        assert list(sandbox.run(range(12))) == [(item, item * item) for item in range(12)]


def test_a_crash_and_an_endless_loop_lose_one_item_each():
    with Sandbox(work, workers=2, seconds=1) as sandbox:
        told = dict(sandbox.run([10, 11, 13, 14, 15, 16, 17, 18, 20]))
    assert told == {i: Killed() if i in {13, 17} else i * i for i in (10, 11, 13, 14, 15, 16, 17, 18, 20)}


def test_memory_has_a_ceiling():
    with Sandbox(work, workers=1, memory=1 << 30) as sandbox, pytest.raises(MemoryError):
        list(sandbox.run([19]))


def test_items_are_taken_only_a_little_ahead():
    taken = []

    def items():
        for item in range(100, 300):
            taken.append(item)
            yield item

    with Sandbox(work, workers=1) as sandbox:
        results = sandbox.run(items())
        next(results)
        assert len(taken) <= 10
        results.close()
