"""A server of language models on loopback, which sends a given list of replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One reply of the server; `cut` closes the connection in the middle of it."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


def text_reply(text: str | None, reason: str = "stop") -> Reply:
    """Return a complete reply: a chat completion with one choice."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    return Reply(
        body=json.dumps(
            completion | {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        ).encode()
    )


def error_reply(status: int, message: str, **headers: str) -> Reply:
    """Return an error in the format of OpenAI's API."""
    body = {"error": {"message": message, "type": "some_error", "param": None, "code": None}}
    return Reply(
        status,
        json.dumps(body).encode(),
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


class Server:
    """The address of the server, and the requests that it received."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []


@contextmanager
def serving(replies: Sequence[Reply]) -> Iterator[Server]:
    """Run the server for the block; it repeats the last reply."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append(json.loads(body))
            server.paths.append(self.path)
            server.keys.append(self.headers.get("Authorization"))
            reply = replies[min(len(server.asked), len(replies)) - 1]
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply.body) + (100 if reply.cut else 0)))
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = reply.cut

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1")
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
