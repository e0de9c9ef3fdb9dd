"""A cache of named tensors by key, in immutable shards that many processes can write and read."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curation.errors import Corrupt
from curation.object_store import fsync_path

KEYS, CHECKSUMS = "keys", "sums"
SUFFIX = ".safetensors"
KEY_BYTES = 32
STALE_DRAFT_SECONDS = 3_600
ENTRIES_PER_SHARD = 256
"""Entries that a process claims at a time, and the most that a shard holds: the loss by a kill."""


class ShardedTensorCache:
    """A cache of entries by key (32 bytes); an entry is a set of named tensors.

    All entries have the same names and dtypes. A shard is a safetensors file of N entries: `keys`
    (N x 32 bytes), `sums` (N: CRC-32 of each entry) and every named tensor with N as its first
    axis, so that all entries of a shard have the same shapes. It is written to a temporary file,
    synced and renamed: a killed writer leaves only a temporary file, which is removed later. A
    shard is named by the hash of its keys, so two writers of the same entries write the same file.
    Shards are memory-mapped: reading an entry loads only its pages. Without a folder the entries
    are kept in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        """Open a cache in a folder, which is created if it is missing; None is in memory."""
        self.folder = folder
        self._rows: dict[bytes, tuple[int, int]] = {}  # key to shard and row
        self._names: list[str] = []
        self._opened: dict[int, dict[str, Tensor]] = {}
        self._checked: set[bytes] = set()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_drafts(folder)
            self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Index shards that other processes have written; invalid files are removed and remade."""
        if self.folder is None:
            return
        known = set(self._names)
        for name in sorted(
            entry.name for entry in os.scandir(self.folder) if entry.name.endswith(SUFFIX)
        ):
            if name not in known:
                self._index(self.folder / name)

    def put(self, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        """Store entries durably: row n of every tensor under key n, copied to the CPU."""
        rows = {
            name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())
        }
        if self.folder is None:
            self._opened[len(self._names)] = rows
            self._add_entries(f"memory-{len(self._names)}", keys)
            return
        # Write a temporary file in the same folder, so that the rename is atomic.
        sums = torch.tensor([_checksum(rows, row) for row in range(len(keys))], dtype=torch.int64)
        target = self.folder / (hashlib.sha256(b"".join(keys)).hexdigest()[:32] + SUFFIX)
        handle, draft = tempfile.mkstemp(dir=self.folder, prefix=".draft-")
        os.close(handle)
        try:
            key_bytes = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8)
            save_file(rows | {KEYS: key_bytes.view(len(keys), KEY_BYTES), CHECKSUMS: sums}, draft)
            fsync_path(Path(draft))
            Path(draft).replace(target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        # The rename itself is durable only after the folder is synced.
        fsync_path(self.folder)
        if target.name not in self._names:
            self._add_entries(target.name, keys)

    def get(self, keys: Sequence[bytes]) -> dict[str, Tensor]:
        """Return entries stacked in the order of the keys; all must have the same shapes.

        An entry's checksum is verified at its first read.

        Raises:
            KeyError: A key has no entry.
            Corrupt: A checksum does not match.
        """
        found = [(self._open(shard), row) for shard, row in (self._rows[key] for key in keys)]
        if self.folder is not None:
            for key, (rows, row) in zip(keys, found, strict=True):
                self._check(key, rows, row)
        names = [name for name in found[0][0] if name not in {KEYS, CHECKSUMS}]
        return {name: torch.stack([rows[name][row] for rows, row in found]) for name in names}

    @contextmanager
    def claim(self, key: bytes, *, wait: bool) -> Iterator[bool]:
        """Claim the right to compute the entries that begin with this key, among all processes.

        The claim is a lock on one byte of the file `claims`, far beyond its end: the kernel
        releases it when its holder dies. On file systems without locks every claim succeeds, and
        work may be done twice.

        Args:
            key: The first key of a run.
            wait: Whether to wait for a process that has the claim.

        Yields:
            Whether the claim was granted.
        """
        if self.folder is None:
            yield True
            return
        with (self.folder / "claims").open("ab") as file:
            try:
                fcntl.lockf(
                    file,
                    fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB),
                    1,
                    int.from_bytes(key[:7], "big"),
                )
            except BlockingIOError:
                claimed = False
            except OSError:  # no locks on this file system
                claimed = True
            else:
                claimed = True
            yield claimed

    def _index(self, file: Path) -> None:
        """Add the entries of a shard to the index, without reading their tensors."""
        try:
            with safe_open(file, "pt") as opened:
                keys_N32 = opened.get_tensor(KEYS)
        except FileNotFoundError:  # another process removed it
            return
        except SafetensorError:  # truncated or not a shard
            file.unlink(missing_ok=True)
            return
        data = keys_N32.numpy().tobytes()
        self._add_entries(
            file.name, [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]
        )

    def _add_entries(self, name: str, keys: Sequence[bytes]) -> None:
        shard = len(self._names)
        self._names.append(name)
        self._rows |= {key: (shard, row) for row, key in enumerate(keys)}

    def _open(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._opened:
            assert self.folder is not None  # noqa: S101 - narrows the type; in memory all are open
            with safe_open(self.folder / self._names[shard], "pt") as file:
                names = file.keys()
                self._opened[shard] = {name: file.get_tensor(name) for name in names}
        return self._opened[shard]

    def _check(self, key: bytes, rows: Mapping[str, Tensor], row: int) -> None:
        if key in self._checked:
            return
        entries = {name: tensor for name, tensor in rows.items() if name not in {KEYS, CHECKSUMS}}
        if _checksum(entries, row) != int(rows[CHECKSUMS][row]):
            file = f"{self.folder}/{self._names[self._rows[key][0]]}"
            raise Corrupt(
                f"checksum mismatch in cache file {file}",
                "remove that file and run again; its entries are computed again",
            )
        self._checked.add(key)

    @staticmethod
    def _remove_drafts(folder: Path) -> None:
        """Remove the temporary files of writers that were killed."""
        for draft in folder.glob(".draft-*"):
            try:
                if time.time() - draft.stat().st_mtime > STALE_DRAFT_SECONDS:
                    draft.unlink()
            except FileNotFoundError:  # its writer renamed it, or another process removed it
                continue


def cache_key(*parts: object) -> bytes:
    """Return the cache key of these values: the sha256 of their texts, each with its length."""
    digest = hashlib.sha256()
    for text in (str(part).encode() for part in parts):
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()


def compute_missing(
    cache: ShardedTensorCache,
    keys: Sequence[bytes],
    kinds: Sequence[object],
    compute: Callable[[list[int]], None],
) -> Iterator[int]:
    """Compute the missing entries of a cache in runs, shared among processes.

    A run that another process has claimed is tried last; by then it is done, or that process has
    died. The bounds of runs depend only on the keys, and a run is published as a whole: after a
    kill the same batches are computed, and so the same bits, as in an uninterrupted run.

    Args:
        cache: The cache.
        keys: Keys of all entries; duplicates are computed once.
        kinds: A value per key; a run has entries of one kind only.
        compute: Computes and stores the entries at some indices of `keys`.

    Yields:
        The number of keys that have entries: before the first run, after each run, and at the end.
    """
    # Keys are counted at the start and end only, and in between by the growth of the cache: there
    # may be a million.
    present, entries = sum(key in cache for key in keys), len(cache)
    yield present
    # Group distinct keys by kind, and divide each group into runs.
    groups: dict[object, dict[bytes, int]] = {}
    for index, (key, kind) in enumerate(zip(keys, kinds, strict=True)):
        groups.setdefault(kind, {}).setdefault(key, index)
    indices = [list(group.values()) for group in groups.values()]
    runs = [
        group[start : start + ENTRIES_PER_SHARD]
        for group in indices
        for start in range(0, len(group), ENTRIES_PER_SHARD)
    ]
    runs = [run for run in runs if any(keys[index] not in cache for index in run)]
    # First pass: runs that nobody else has claimed. Second pass: wait for the others.
    for wait in (False, True):
        remaining = []
        for run in runs:
            with cache.claim(keys[run[0]], wait=wait) as claimed:
                if not claimed:
                    remaining.append(run)
                    continue
                # Another process may have finished part of the run since the last refresh.
                cache.refresh()
                if missing := [index for index in run if keys[index] not in cache]:
                    compute(missing)
            yield min(len(keys), present + len(cache) - entries)
        runs = remaining
    yield sum(key in cache for key in keys)


def _checksum(rows: Mapping[str, Tensor], row: int) -> int:
    total = 0
    for name in sorted(rows):
        total = zlib.crc32(rows[name][row].contiguous().view(torch.uint8).numpy().data, total)
    return total
