"""The sandbox: a worker that dies, hangs, returns invalid data or runs out of memory fails one item only."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curation.errors import LayerloopError
from curation.ingest.sandbox import Sandbox, run_confined
from curation.ingest.sandbox_process import FailureCause, ItemFailure, SandboxLimits
from curation.ingest.sandbox_wire import Message

HERE = "test_sandbox"
QUICK = SandboxLimits(cpu_seconds=1, wall_seconds=20)


def work(request: Message) -> Message:
    """Process an item in a worker; some items fail in the ways of decoders."""
    item = request.metadata["item"]
    if item == 13:
        ctypes.string_at(0)
    if item == 17:
        while True:
            pass
    if item == 18:
        time.sleep(1000)
    if item == 19:
        return Message({"length": len(bytearray(3 << 30))})
    if item == 21:
        raise KeyError("an error of a decoder")
    if item == 22:
        return Message({"value": float("nan")})
    return Message({"square": item * item})


def load(item: int) -> Message:
    if item == 20:
        raise FileNotFoundError("gone")
    return Message({"item": item})


def parse(item: int, answer: Message) -> int:
    if item == 23:
        raise ValueError("unexpected answer")
    square = answer.metadata["square"]
    assert isinstance(square, int)
    return square


def read_part(request: Message) -> Message:
    return Message({}, [request.read_part(index, 1 << 20) for index in range(len(request.parts))])


def lazy(request: Message) -> Message:
    return Message({"pid": os.getpid()})


def causes(results):
    return {
        item: result.cause if isinstance(result, ItemFailure) else result
        for item, result in results
    }


def test_results_come_in_order():
    with Sandbox(work, load, parse, workers=2) as sandbox:
        assert list(sandbox.run(range(12))) == [(item, item * item) for item in range(12)]


def test_each_kind_of_failure_fails_one_item():
    with Sandbox(work, load, parse, workers=2, limits=QUICK) as sandbox:
        found = causes(sandbox.run([10, 11, 13, 14, 17, 19, 20, 21, 22, 23, 24]))
    assert found == {
        10: 100, 11: 121, 13: FailureCause.crashed, 14: 196, 17: FailureCause.timed_out, 19: FailureCause.memory, 20: FailureCause.not_loaded,
        21: FailureCause.raised, 22: FailureCause.raised, 23: FailureCause.bad_answer, 24: 576,
    }  # fmt: skip


def test_a_worker_that_hangs_is_killed():
    with Sandbox(work, load, parse, workers=1, limits=SandboxLimits(wall_seconds=0.3)) as sandbox:
        assert causes(sandbox.run([1, 18, 2])) == {1: 1, 18: FailureCause.timed_out, 2: 4}


def test_items_are_taken_only_a_little_ahead():
    taken = []

    def items():
        for item in range(100, 300):
            taken.append(item)
            yield item

    with Sandbox(work, load, parse, workers=1) as sandbox:
        results = sandbox.run(items())
        next(results)
        assert len(taken) <= 10
        results.close()


def test_bytes_and_open_files_go_in_and_bytes_come_back(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"from a file" * 1000)
    payload = os.urandom(3 << 20)
    with (tmp_path / "a").open("rb") as file:
        answer = run_confined(read_part, Message({}, [payload, file, b""]))
    assert isinstance(answer, Message)
    assert list(answer.parts) == [payload, b"from a file" * 1000, b""]


def test_an_answer_larger_than_allowed_is_refused():
    small = SandboxLimits(answer_bytes=1000)
    assert isinstance(run_confined(read_part, Message({}, [bytes(1000)]), limits=small), Message)
    found = run_confined(read_part, Message({}, [bytes(1001)]), limits=small)
    assert isinstance(found, ItemFailure)
    assert found.cause is FailureCause.bad_answer


def broken_warm_up() -> None:
    raise RuntimeError("no such library")


def test_a_worker_that_cannot_start_is_an_error_with_its_reason():
    with pytest.raises(LayerloopError, match="no such library"):
        run_confined(lazy, Message({}), warm_up=broken_warm_up)


def test_leaving_early_ends_the_workers():
    earlier = psutil.Process().children()  # servers of other tests in this process
    with Sandbox(work, load, parse, workers=2) as sandbox:
        results = sandbox.run([1, 18, 18, 18])
        next(results)
        children = [process for process in psutil.Process().children() if process not in earlier]
        assert children
    assert not [
        process
        for process in children
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


PARENT = """
import sys, test_sandbox
from curation.ingest.sandbox import Sandbox
from curation.ingest.sandbox_wire import Message
with Sandbox(test_sandbox.lazy, lambda item: Message({}), lambda item, answer: answer.metadata["pid"], workers=1) as sandbox:
    for _, pid in sandbox.run([0]):
        print(pid, flush=True)
    if sys.argv[1] == "busy":
        stuck = Sandbox(test_sandbox.work, lambda item: Message({"item": 18}), lambda item, answer: 0, workers=1)
        stuck.run([0]).__next__()
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("busy", ["idle", "busy"])
def test_a_parent_that_is_killed_leaves_no_worker(busy: str):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])
    }
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )  # fmt: skip
    assert parent.stdin and parent.stdout
    with parent.stdin, parent.stdout:
        pid = int(parent.stdout.readline())
        workers = psutil.Process(parent.pid).children()
        assert pid in {process.pid for process in workers}
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    psutil.wait_procs(workers, timeout=20)
    assert not [
        process
        for process in workers
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
