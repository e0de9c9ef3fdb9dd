"""Short hashes of the blocks of a file, which show where it is damaged."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path


def block_hashes(source: bytes | Path) -> str:
    """Return short hashes of blocks, 8 digits each, which show where long bytes are damaged.

    Args:
        source: The bytes, or a file, of which one block at a time is read.
    """
    length = len(source) if isinstance(source, bytes) else source.stat().st_size
    size = block_size(length)
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        return "".join(
            hashlib.sha256(block).hexdigest()[:8] for block in iter(lambda: file.read(size), b"")
        )


def block_size(length: int) -> int:
    """Return the size of the blocks of a file of some length, both in bytes."""
    return 4_096 if length < 1 << 20 else 32_768
