"""Named tensors by key in files that never change: written whole by any number of processes, read where they lie."""

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
from curation.object_store import sync

KEYS, SUMS = "keys", "sums"
ENDING = ".safetensors"
KEY_BYTES = 32
HALF_WRITTEN_SECONDS = 3_600
RUN = 256
"""Entries that one process claims at a time, and that one shard holds at most: what a kill can cost."""


class ShardedTensorCache:
    """Entries by key (32 bytes); an entry is some named tensors, of the same names and types throughout.

    A shard is a safetensors file of N entries: `keys` (N x 32 bytes), `sums` (N: CRC-32 of each entry), and every
    named tensor with N as its first axis, so that all entries of one shard have the same sizes. It is written beside
    its place, synced and renamed: whoever is killed leaves whole shards and a draft that is swept later. Its name is
    the hash of its keys; two writers of the same entries write the same file. Shards are memory-mapped: a read costs
    the pages of its entry. Without a folder the same entries are kept in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._places: dict[bytes, tuple[int, int]] = {}  # key to shard and row
        self._names: list[str] = []
        self._opened: dict[int, dict[str, Tensor]] = {}
        self._checked: set[bytes] = set()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._sweep(folder)
            self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Learn what other processes have written since. A file that is no whole shard is removed, and made again."""
        if self.folder is None:
            return
        known = set(self._names)
        for name in sorted(
            entry.name for entry in os.scandir(self.folder) if entry.name.endswith(ENDING)
        ):
            if name not in known:
                self._index(self.folder / name)

    def put(self, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        """Keep entries: row n of every tensor under key n, on the CPU. Durable when it returns."""
        rows = {
            name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())
        }
        if self.folder is None:
            self._opened[len(self._names)] = rows
            self._enter(f"memory-{len(self._names)}", keys)
            return
        sums = torch.tensor([_sum(rows, row) for row in range(len(keys))], dtype=torch.int64)
        target = self.folder / (hashlib.sha256(b"".join(keys)).hexdigest()[:32] + ENDING)
        handle, draft = tempfile.mkstemp(dir=self.folder, prefix=".draft-")
        os.close(handle)
        try:
            held = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(
                len(keys), KEY_BYTES
            )
            save_file(rows | {KEYS: held, SUMS: sums}, draft)
            sync(Path(draft))
            Path(draft).replace(target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        sync(self.folder)
        if target.name not in self._names:
            self._enter(target.name, keys)

    def get(self, keys: Sequence[bytes]) -> dict[str, Tensor]:
        """Entries stacked in the order of the keys; all have the same sizes. Raises KeyError, Corrupt.

        An entry's sum is checked when it is first read: a bit that rotted is an error, not a latent.
        """
        found = [(self._open(shard), row) for shard, row in (self._places[key] for key in keys)]
        if self.folder is not None:
            for key, (rows, row) in zip(keys, found, strict=True):
                self._check(key, rows, row)
        names = [name for name in found[0][0] if name not in {KEYS, SUMS}]
        return {name: torch.stack([rows[name][row] for rows, row in found]) for name in names}

    @contextmanager
    def claim(self, key: bytes, *, wait: bool) -> Iterator[bool]:
        """The sole right to make what begins with this key, among all processes; False where another has it.

        A lock on one byte of the file `claims`, far beyond its end: the kernel lets it go when its holder dies. Where
        a file system has no locks everyone is let in, and work is done twice rather than never.
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
                mine = False
            except OSError:
                mine = True
            else:
                mine = True
            yield mine

    def _index(self, file: Path) -> None:
        try:
            with safe_open(file, "pt") as opened:
                keys_N32 = opened.get_tensor(KEYS)
        except FileNotFoundError:  # another process removed it
            return
        except SafetensorError:
            file.unlink(missing_ok=True)
            return
        data = keys_N32.numpy().tobytes()
        self._enter(
            file.name, [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]
        )

    def _enter(self, name: str, keys: Sequence[bytes]) -> None:
        shard = len(self._names)
        self._names.append(name)
        self._places |= {key: (shard, row) for row, key in enumerate(keys)}

    def _open(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._opened:
            assert self.folder is not None  # noqa: S101 - narrows the type; what is in memory is always open
            with safe_open(self.folder / self._names[shard], "pt") as file:
                self._opened[shard] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return self._opened[shard]

    def _check(self, key: bytes, rows: Mapping[str, Tensor], row: int) -> None:
        if key in self._checked:
            return
        kept = {name: tensor for name, tensor in rows.items() if name not in {KEYS, SUMS}}
        if _sum(kept, row) != int(rows[SUMS][row]):
            file = f"{self.folder}/{self._names[self._places[key][0]]}"
            raise Corrupt(
                f"cached entries have rotted in {file}",
                "remove that file and run again; it is made anew",
            )
        self._checked.add(key)

    @staticmethod
    def _sweep(folder: Path) -> None:
        """Remove the drafts of writers that were killed."""
        for draft in folder.glob(".draft-*"):
            try:
                if time.time() - draft.stat().st_mtime > HALF_WRITTEN_SECONDS:
                    draft.unlink()
            except FileNotFoundError:  # its writer was alive, or another process sweeps too
                continue


def key_of(*parts: object) -> bytes:
    """The key of what these parts determine: sha256 of their texts, each with its length."""
    digest = hashlib.sha256()
    for text in (str(part).encode() for part in parts):
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()


def make_missing(
    shards: ShardedTensorCache,
    keys: Sequence[bytes],
    kinds: Sequence[object],
    make: Callable[[list[int]], None],
) -> Iterator[int]:
    """Have `make` put the entries of missing keys, given their places, in runs of one kind; yields after each run.

    It yields how many keys have their entries: counted at first and at last, and in between by how the shards grow,
    since a million keys are not counted after each run.

    A run that another process has claimed is left for last; by then it is done, or its maker has died. Where runs
    begin depends on the keys alone, and a run is published whole: whoever goes on computes the same batches, and so
    the same bits, as if nobody had been killed. It yields once before the first run.
    """
    there, entries = sum(key in shards for key in keys), len(shards)
    yield there
    groups: dict[object, dict[bytes, int]] = {}
    for place, (key, kind) in enumerate(zip(keys, kinds, strict=True)):
        groups.setdefault(kind, {}).setdefault(key, place)
    places = [list(group.values()) for group in groups.values()]
    runs = [group[start : start + RUN] for group in places for start in range(0, len(group), RUN)]
    runs = [run for run in runs if any(keys[place] not in shards for place in run)]
    for wait in (False, True):
        left = []
        for run in runs:
            with shards.claim(keys[run[0]], wait=wait) as mine:
                if not mine:
                    left.append(run)
                    continue
                shards.refresh()
                if missing := [place for place in run if keys[place] not in shards]:
                    make(missing)
            yield min(len(keys), there + len(shards) - entries)
        runs = left
    yield sum(key in shards for key in keys)


def _sum(rows: Mapping[str, Tensor], row: int) -> int:
    total = 0
    for name in sorted(rows):
        total = zlib.crc32(rows[name][row].contiguous().view(torch.uint8).numpy().data, total)
    return total
