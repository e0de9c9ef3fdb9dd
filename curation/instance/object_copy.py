"""Parallel copy of objects between stores; resumable, since present objects are skipped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from curation.domain import Progress
from curation.errors import LayerloopError, NotFound
from curation.ports import ProgressCallback
from curation.store_inventory import InstanceStore

THREADS = 8
IN_MEMORY_BYTES = 32 << 20
"""Larger objects are copied through a temporary file."""
BLOCK_SIZE = 256
"""Objects that are submitted to the threads at a time."""


@dataclass(frozen=True)
class CopyPlan:
    """The objects that a copy needs: names with their size in bytes."""

    wanted: dict[str, int]
    # Those that the target lacks.
    missing: dict[str, int]
    # Those of `missing` that the target has with another size.
    damaged: list[str]

    @property
    def missing_bytes(self) -> int:
        """The bytes that have to be copied."""
        return sum(self.missing.values())


def plan_copy(source: InstanceStore, target: InstanceStore | None, names: set[str]) -> CopyPlan:
    """Compare two stores.

    Args:
        source: The store with the objects.
        target: The store to fill; None if it does not exist yet.
        names: Names of the objects that are needed.

    Raises:
        NotFound: The source lacks objects.
    """
    wanted = {item.sha256: item.bytes for item in source.list_objects() if item.sha256 in names}
    if absent := names - wanted.keys():
        listed = ", ".join(sha[:12] for sha in sorted(absent)[:5])
        raise NotFound(
            f"{len(absent)} objects that rows or snapshots name are missing: {listed} ...",
            "run 'layerloop doctor', and restore them from a backup",
        )
    found = target.list_objects() if target is not None else ()
    present = {item.sha256: item.bytes for item in found}
    missing = {name: size for name, size in wanted.items() if present.get(name) != size}
    return CopyPlan(wanted, missing, damaged=sorted(missing.keys() & present.keys()))


def copy_objects(
    source: InstanceStore,
    target: InstanceStore,
    plan: CopyPlan,
    on_progress: ProgressCallback,
    *,
    read_back: bool,
) -> None:
    """Copy the missing objects of a plan; each is checked against its hash when it is read.

    Args:
        source: The store with the objects.
        target: The store to fill.
        plan: The plan.
        on_progress: Receives the progress.
        read_back: Also read each copy from the target, and check its hash.

    Raises:
        NotFound: An object was removed from the source meanwhile.
        Corrupt: The bytes of an object do not match its name.
    """
    # `put` would keep a damaged object.
    target.remove(plan.damaged, datetime.now(UTC) + timedelta(days=1))
    done, done_bytes = len(plan.wanted) - len(plan.missing), 0
    names = iter(sorted(plan.missing))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(THREADS) as pool:

        def copy_one(name: str) -> int:
            size = plan.missing[name]
            _copy_object(source, target, name, size, Path(scratch) / name, read_back=read_back)
            return size

        # Submitted in blocks, so that an error or Ctrl-C ends the copy soon.
        while block := list(islice(names, BLOCK_SIZE)):
            for size in pool.map(copy_one, block):
                done, done_bytes = done + 1, done_bytes + size
                metrics = {"MiB": done_bytes / 2**20}
                on_progress(Progress("copying objects", done, len(plan.wanted), metrics))


def find_damaged(
    store: InstanceStore, names: Iterable[str], on_progress: ProgressCallback, stage: str
) -> list[str]:
    """Read objects, and return those that are missing or whose bytes do not match their name."""
    listed = list(names)
    remaining = iter(listed)
    damaged: list[str] = []
    done = 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(THREADS) as pool:

        def is_sound(name: str) -> bool:
            path = Path(scratch) / name
            try:
                store.read_to(name, path)
            except LayerloopError as error:
                if error.exit_code not in (3, 4):  # neither missing nor damaged
                    raise
                return False
            path.unlink()
            return True

        while block := list(islice(remaining, BLOCK_SIZE)):
            for name, sound in zip(block, pool.map(is_sound, block), strict=True):
                damaged += [] if sound else [name]
                done += 1
                on_progress(Progress(stage, done, len(listed)))
    return damaged


def _copy_object(
    source: InstanceStore,
    target: InstanceStore,
    name: str,
    size: int,
    scratch: Path,
    *,
    read_back: bool,
) -> None:
    if size <= IN_MEMORY_BYTES:
        target.put(source.get(name))
        if read_back:
            target.get(name)
        return
    try:
        source.read_to(name, scratch)
        target.put(scratch)
        if read_back:
            target.read_to(name, scratch)
    finally:
        scratch.unlink(missing_ok=True)
