"""Reading a shard from its beginning to its end: its bytes, and its members without an index."""

from __future__ import annotations

import hashlib
import tarfile

from curation.exports.packs.folder import PackFolder
from curation.exports.packs.index import MAX_MEMBER_BYTES, is_id, is_member_name
from curation.exports.packs.tar import BLOCK, RECORD, ShardMember, padded
from curation.exports.packs.version import Shard

CHUNK = 8 << 20
"""Bytes that are read at once."""


class SequentialFile:
    """A file of a pack, read forward in large ranges.

    Args:
        folder: The folder of the pack.
        path: Path of the file.
        size: Its size in bytes.
    """

    def __init__(self, folder: PackFolder, path: str, size: int) -> None:
        self._folder, self._path, self._size = folder, path, size
        self._place = 0
        self._ahead = b""

    def read(self, length: int) -> bytes:
        """Return the next bytes, fewer at the end of the file."""
        while len(self._ahead) < length and self._place < self._size:
            wanted = min(max(CHUNK, length), self._size - self._place)
            chunk = self._folder.read_range(self._path, self._place, wanted)
            if not chunk:
                break
            self._ahead += chunk
            self._place += len(chunk)
        data, self._ahead = self._ahead[:length], self._ahead[length:]
        return data


def scan_tar(folder: PackFolder, shard: Shard) -> list[ShardMember]:
    """Return the members of a shard as its headers describe them, up to one that is damaged.

    Args:
        folder: The folder of the pack.
        shard: The shard.
    """
    file = SequentialFile(folder, shard.tar, shard.size)
    members: list[ShardMember] = []
    place = 0
    while True:
        block = file.read(BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError):
            return members
        sample, _, name = info.name.partition(".")
        is_own = is_id(sample) and is_member_name(name) and 0 <= info.size <= MAX_MEMBER_BYTES
        if not is_own or place + BLOCK + info.size > shard.size:
            return members
        data = file.read(padded(info.size))[: info.size]
        record = data.decode(errors="replace") if name == RECORD else ""
        digest = hashlib.sha256(data).hexdigest()
        members.append(ShardMember(sample, name, place + BLOCK, info.size, digest, record))
        place = members[-1].end
