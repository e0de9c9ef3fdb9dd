"""Wire format between a process and its confined worker: a JSON head and raw bytes, bounded."""

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


class InvalidMessageError(Exception):
    """The peer sent an invalid message, or one that exceeds the limits."""


class ConnectionClosedError(Exception):
    """The peer closed the connection."""


@dataclass(frozen=True)
class Message:
    """JSON-serializable metadata and raw parts; a request may also pass open files."""

    metadata: dict[str, Any]
    parts: Sequence[bytes | BinaryIO] = field(default=(), repr=False)

    def read_part(self, index: int, max_bytes: int) -> bytes:
        """Return a part as bytes.

        Args:
            index: Index of the part.
            max_bytes: A passed file is read up to one byte more, which shows that it is too large.
        """
        part = self.parts[index]
        return part if isinstance(part, bytes) else part.read(max_bytes + 1)


def encode(message: Message) -> tuple[bytes, list[bytes], list[int]]:
    """Encode a message.

    Returns:
        The framed head, the raw parts that follow it, and the file descriptors to send with it.

    Raises:
        InvalidMessageError: The message exceeds the limits.
    """
    raw = [part for part in message.parts if isinstance(part, bytes)]
    files = [part.fileno() for part in message.parts if not isinstance(part, bytes)]
    sizes = [len(part) if isinstance(part, bytes) else None for part in message.parts]
    head = json.dumps({"facts": message.metadata, "parts": sizes}, allow_nan=False).encode()
    if len(head) > MAX_HEAD or len(sizes) > MAX_PARTS:
        raise InvalidMessageError("the message exceeds the size limit")
    return _SIZE.pack(len(head)) + head, raw, files


def send_request(channel: socket.socket, message: Message, deadline: float) -> None:
    """Send a request with its open files, which may be closed afterwards.

    Args:
        channel: The socket to the worker.
        message: The request.
        deadline: Time limit, by time.monotonic.

    Raises:
        TimeoutError: The worker did not read it before the deadline.
        OSError: The worker closed the connection.
    """
    head, raw, files = encode(message)
    _set_timeout(channel, deadline)
    # The descriptors are sent with the first bytes, which the worker reads by recvmsg.
    sent = channel.sendmsg(
        [head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    )
    for data in (head[sent:], *raw):
        view = memoryview(data)
        while view:
            _set_timeout(channel, deadline)
            view = view[channel.send(view[:_CHUNK]) :]


def receive_response(channel: socket.socket, max_bytes: int, deadline: float) -> Message:
    """Read one response.

    Args:
        channel: The socket to the worker.
        max_bytes: Limit of the total size of its parts.
        deadline: Time limit, by time.monotonic.

    Raises:
        InvalidMessageError: The response is invalid or exceeds the limit.
        ConnectionClosedError: The worker closed the connection.
        TimeoutError: The response was incomplete at the deadline.
    """

    def read(size: int) -> bytes:
        # Grows with the data: a worker that announces much and sends little costs no memory.
        data = bytearray()
        while len(data) < size:
            _set_timeout(channel, deadline)
            more = channel.recv(min(_CHUNK, size - len(data)))
            if not more:
                raise ConnectionClosedError
            data += more
        return bytes(data)

    metadata, sizes = _read_head(read)
    if any(size is None for size in sizes) or sum(size or 0 for size in sizes) > max_bytes:
        raise InvalidMessageError("the response exceeds the size limit")
    return Message(metadata, [read(size or 0) for size in sizes])


def receive_request(channel: socket.socket) -> Message:
    """Read one request in the worker, using only the system calls recvmsg and read.

    Raises:
        ConnectionClosedError: There are no more requests.
    """
    # The file descriptors arrive with the first bytes.
    first, ancillary, _, _ = channel.recvmsg(
        _SIZE.size, socket.CMSG_SPACE(MAX_PARTS * array.array("i").itemsize)
    )
    if not first:
        raise ConnectionClosedError
    handles = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            handles.frombytes(data[: len(data) - len(data) % handles.itemsize])
    received = [first]

    def read(size: int) -> bytes:
        data = received.pop() if received else b""
        while len(data) < size:
            more = os.read(channel.fileno(), min(_CHUNK, size - len(data)))
            if not more:
                raise ConnectionClosedError
            data += more
        return data

    # A part without a size is an open file.
    metadata, sizes = _read_head(read)
    files = iter(handles)
    parts: list[bytes | BinaryIO] = [
        io.BufferedReader(io.FileIO(next(files))) if size is None else read(size) for size in sizes
    ]
    return Message(metadata, parts)


def send_response(channel: socket.socket, message: Message) -> None:
    """Send a response from the worker, using only the system call write."""
    head, raw, _ = encode(message)
    for data in (head, *raw):
        view = memoryview(data)
        while view:
            view = view[os.write(channel.fileno(), view[:_CHUNK]) :]


def _read_head(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[int | None]]:
    """Read and validate a head; return the metadata and the sizes of the parts."""
    (size,) = _SIZE.unpack(read(_SIZE.size))
    if size > MAX_HEAD:
        raise InvalidMessageError("the head exceeds the size limit")
    try:
        head = json.loads(read(size), parse_constant=_no_constant)
        metadata, sizes = head["facts"], head["parts"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidMessageError("the head cannot be read") from error
    # `type(...) is int` excludes booleans.
    valid = isinstance(sizes, list) and all(
        part is None or (type(part) is int and part >= 0) for part in sizes
    )
    if not isinstance(metadata, dict) or not valid or len(sizes) > MAX_PARTS:
        raise InvalidMessageError("the head is invalid")
    return metadata, sizes


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def _set_timeout(channel: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(left)
