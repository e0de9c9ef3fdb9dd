"""Short hashes of the blocks of a file, which show where it is damaged."""

from __future__ import annotations

import hashlib


def block_hashes(data: bytes) -> str:
    """Return short hashes of blocks, 8 digits each, which show where long bytes are damaged."""
    size = block_size(len(data))
    return "".join(
        hashlib.sha256(data[start : start + size]).hexdigest()[:8]
        for start in range(0, len(data), size)
    )


def block_size(length: int) -> int:
    """Return the size of the blocks of a file of some length, both in bytes."""
    return 4_096 if length < 1 << 20 else 32_768
