"""Tars of packs: plain USTAR whose bytes follow from the names and contents of their members."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
"""The end of a tar."""
RECORD, CAPTION = "json", "txt"
"""Names of the members with the sample's line and with its caption, after the id and a dot."""


@dataclass(frozen=True)
class ShardMember:
    """A member of a shard.

    Attributes:
        sample: Id of the sample.
        name: Name after the id and a dot: "foreground.webp", "txt" or "json".
        offset: Where its content begins in the tar, in bytes.
        length: Length of its content in bytes.
        sha256: Hash of its content; of a layer the name of the object.
        record: Of the member "json", its content: the sample's line. Else empty.
    """

    sample: str
    name: str
    offset: int
    length: int
    sha256: str
    record: str = ""

    @property
    def is_layer(self) -> bool:
        """Whether the content is a layer, as it was stored."""
        return self.name not in (RECORD, CAPTION)

    @property
    def end(self) -> int:
        """Where the next member's header begins."""
        return self.offset + padded(self.length)


def padded(length: int) -> int:
    """Return a length in bytes, rounded up to blocks."""
    return -(-length // BLOCK) * BLOCK


def header(sample: str, name: str, length: int) -> bytes:
    """Return the header of a member, which is one block."""
    member = tarfile.TarInfo(f"{sample}.{name}")
    member.size, member.mode = length, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


class ShardFile:
    """A tar that is being written, with its members and its hash."""

    def __init__(self, out: BinaryIO) -> None:
        """Begin a tar.

        Args:
            out: The empty file.
        """
        self._out = out
        self._hash = hashlib.sha256()
        self.size = 0
        self.members: list[ShardMember] = []
        self.samples = 0

    def add(self, sample: str, contents: Mapping[str, bytes]) -> None:
        """Add the members of a sample, in the order of the mapping.

        Args:
            sample: Id of the sample.
            contents: Contents by name.
        """
        self.samples += 1
        for name, data in contents.items():
            self._write(header(sample, name, len(data)))
            record = data.decode() if name == RECORD else ""
            digest = hashlib.sha256(data).hexdigest()
            self.members.append(ShardMember(sample, name, self.size, len(data), digest, record))
            self._write(data)
            self._write(bytes(padded(len(data)) - len(data)))

    def finish(self) -> str:
        """Write the end, and return the sha256 of the tar in hex."""
        self._write(END)
        self._out.flush()
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._hash.update(data)
        self.size += len(data)
