"""Messages between a process and its confined worker: a JSON head and raw bytes, each bounded before it is read."""

from __future__ import annotations

import array
import io
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

MAX_HEAD: Final = 1 << 20
"""Bytes of the JSON head of one message."""
MAX_PARTS: Final = 16
_SIZE: Final = struct.Struct("!I")
_CHUNK: Final = 1 << 20


class BadMessage(Exception):
    """The other side sent something that is no message, or more than it may."""


class Closed(Exception):
    """The other side has gone."""


@dataclass(frozen=True)
class Message:
    """JSON-able facts and raw parts; a request may also pass open files, which arrive as open files."""

    facts: dict[str, Any]
    parts: Sequence[bytes | BinaryIO] = field(default=(), repr=False)

    def blob(self, index: int, most_bytes: int) -> bytes:
        """Return a part as bytes, reading a passed file up to one byte beyond `most_bytes`."""
        part = self.parts[index]
        return part if isinstance(part, bytes) else part.read(most_bytes + 1)


def encode(message: Message) -> tuple[bytes, list[bytes], list[int]]:
    """Return the framed head, the raw parts behind it, and the descriptors that travel with the head."""
    raw = [part for part in message.parts if isinstance(part, bytes)]
    files = [part.fileno() for part in message.parts if not isinstance(part, bytes)]
    sizes = [len(part) if isinstance(part, bytes) else None for part in message.parts]
    head = json.dumps({"facts": message.facts, "parts": sizes}, allow_nan=False).encode()
    if len(head) > MAX_HEAD or len(sizes) > MAX_PARTS:
        raise BadMessage("the message is larger than one may be")
    return _SIZE.pack(len(head)) + head, raw, files


def send_request(channel: socket.socket, message: Message, deadline: float) -> None:
    """Send a request with its open files; the files may be closed as soon as this returns.

    Raises:
        TimeoutError: The worker did not take it before the deadline (time.monotonic).
        OSError: The worker has gone.
    """
    head, raw, files = encode(message)
    _allow(channel, deadline)
    # The descriptors must travel with the first bytes, so that whoever reads these has them.
    sent = channel.sendmsg(
        [head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    )
    for data in (head[sent:], *raw):
        view = memoryview(data)
        while view:
            _allow(channel, deadline)
            view = view[channel.send(view[:_CHUNK]) :]


def receive_answer(channel: socket.socket, most_bytes: int, deadline: float) -> Message:
    """Read one answer of at most `most_bytes`, never more than was announced.

    Raises:
        BadMessage: It is no answer, or would be larger.
        Closed: The worker has gone.
        TimeoutError: It was not whole before the deadline.
    """

    def read(size: int) -> bytes:
        # Filled in place: a worker that announces much and sends little takes no memory for long.
        data = bytearray()
        while len(data) < size:
            _allow(channel, deadline)
            more = channel.recv(min(_CHUNK, size - len(data)))
            if not more:
                raise Closed
            data += more
        return bytes(data)

    facts, sizes = _read_head(read)
    if any(size is None for size in sizes) or sum(size or 0 for size in sizes) > most_bytes:
        raise BadMessage("the answer is larger than it may be")
    return Message(facts, [read(size or 0) for size in sizes])


def receive_request(channel: socket.socket) -> Message:
    """Read one request in the worker, by recvmsg and read alone. Raises Closed when there are no more."""
    first, ancillary, _, _ = channel.recvmsg(
        _SIZE.size, socket.CMSG_SPACE(MAX_PARTS * array.array("i").itemsize)
    )
    if not first:
        raise Closed
    handles = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            handles.frombytes(data[: len(data) - len(data) % handles.itemsize])
    early = [first]

    def read(size: int) -> bytes:
        data = early.pop() if early else b""
        while len(data) < size:
            more = os.read(channel.fileno(), min(_CHUNK, size - len(data)))
            if not more:
                raise Closed
            data += more
        return data

    facts, sizes = _read_head(read)
    files = iter(handles)
    return Message(
        facts, [io.BufferedReader(io.FileIO(next(files))) if size is None else read(size) for size in sizes]
    )  # fmt: skip


def send_answer(channel: socket.socket, message: Message) -> None:
    """Send an answer from the worker, by write alone."""
    head, raw, _ = encode(message)
    for data in (head, *raw):
        view = memoryview(data)
        while view:
            view = view[os.write(channel.fileno(), view[:_CHUNK]) :]


def _read_head(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[int | None]]:
    (size,) = _SIZE.unpack(read(_SIZE.size))
    if size > MAX_HEAD:
        raise BadMessage("the head is larger than one may be")
    try:
        head = json.loads(read(size), parse_constant=_no_constant)
        facts, sizes = head["facts"], head["parts"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadMessage("the head cannot be read") from error
    whole = isinstance(sizes, list) and all(
        one is None or (type(one) is int and one >= 0) for one in sizes
    )
    if not isinstance(facts, dict) or not whole or len(sizes) > MAX_PARTS:
        raise BadMessage("the head is no message's")
    return facts, sizes


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _allow(channel: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(left)
