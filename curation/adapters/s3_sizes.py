"""Sizes of many objects of a bucket: a shard is listed where that takes fewer requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from curation.store_inventory import StoredObject

LISTED_FROM = 64
"""Number of wanted objects from which a shard is listed, 1,000 objects with each request."""
THREADS = 16


def find_sizes(
    names: Iterable[str],
    list_shard: Callable[[str], Iterable[StoredObject]],
    find_size: Callable[[str], int | None],
) -> dict[str, int]:
    """Return the sizes in bytes of those objects that are stored.

    Args:
        names: Names of the objects.
        list_shard: Lists the objects whose names begin with two digits.
        find_size: Returns the size of one object, None if it is not stored.
    """
    shards = {
        shard: set(group) for shard, group in groupby(sorted(names), key=lambda name: name[:2])
    }

    def listed(shard: str) -> dict[str, int]:
        wanted = shards[shard]
        return {found.sha256: found.bytes for found in list_shard(shard) if found.sha256 in wanted}

    single = [name for wanted in shards.values() if len(wanted) < LISTED_FROM for name in wanted]
    found: dict[str, int] = {}
    with ThreadPoolExecutor(THREADS, "sizes") as pool:
        sizes = pool.map(find_size, single)
        large = [shard for shard, wanted in shards.items() if len(wanted) >= LISTED_FROM]
        for part in pool.map(listed, large):
            found |= part
        found |= {name: size for name, size in zip(single, sizes, strict=True) if size is not None}
    return found
