"""The server stays up under thousands of connections that never send a whole request, at the default open files."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from fastapi import FastAPI

from curation.api import server

PROGRAM = """
import resource, sys
from fastapi import FastAPI
from curation.api import server
soft, hard = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
server.HEAD_SECONDS = float(sys.argv[4])
app = FastAPI()
@app.get("/api/health")
async def health():
    return {"files": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}
@app.post("/api/echo")
async def echo(body: dict):
    return body
server.serve(app, server.open_socket("127.0.0.1", int(sys.argv[1])))
"""
HALF_OPEN = 2_000


@contextlib.contextmanager
def serving(tmp_path, soft: int, hard: int, head_seconds: float = 60.0):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port), str(soft), str(hard), str(head_seconds)],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                ask(port)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
        yield port
    finally:
        process.kill()
        process.wait()


def ask(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < HALF_OPEN + 500:
        pytest.skip("this process may not open enough connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HALF_OPEN + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "hard", [4096, 1024], ids=["limit that can be raised", "limit that cannot be raised"]
)
@pytest.mark.parametrize(
    "sent", [b"", b"GET /api/health HTTP/1.1\r\nhost: x\r\n"], ids=["silent", "half a head"]
)
def test_real_requests_are_answered_beside_half_open_connections(tmp_path, many_files, hard, sent):
    with serving(tmp_path, 1024, hard) as port, contextlib.ExitStack() as held:
        for count in range(HALF_OPEN):
            connection = held.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=30)
            )
            with contextlib.suppress(OSError):  # the oldest ones are closed
                connection.sendall(sent)
            if count % 500 == 499:
                assert ask(port) == {"files": hard}
        for _ in range(20):
            assert ask(port) == {"files": hard}
    assert (tmp_path / "server.log").stat().st_size < 10_000


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "a byte at a time"])
def test_the_timeout_of_a_request_head_starts_at_its_first_byte(tmp_path, drip):
    with (
        serving(tmp_path, 1024, 4096, head_seconds=1.0) as port,
        socket.create_connection(("127.0.0.1", port), timeout=0.1) as slow,
    ):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                slow.sendall(b"G" if drip else b"")
                if slow.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("the connection is still open")
        assert ask(port)


def test_a_kept_connection_sends_several_requests(tmp_path):
    with (
        serving(tmp_path, 1024, 4096, head_seconds=2.0) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as kept,
    ):
        body = json.dumps({"a": "b" * 10_000}).encode()
        for _ in range(3):
            head = f"POST /api/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            kept.sendall(head.encode() + b"\r\n\r\n" + body[:100])
            kept.sendall(body[100:])
            answer = b""
            while not answer.endswith(b'"}'):
                answer += kept.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")


def test_bounds_follow_the_limit_of_open_files():
    assert server.max_connections(1024) == 614
    assert server.max_connections(65_536) == server.MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        config = server.server_config(FastAPI(), "127.0.0.1", 0)
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raised >= soft
        assert config.backlog < server.max_connections(raised)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
