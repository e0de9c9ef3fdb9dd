"""Limits that the Hub documents for a repository, checked before anything is sent.

See "Storage limits" in the Hub's documentation (https://huggingface.co/docs/hub/storage-limits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.errors import Refused

MAX_FILES = 100_000
"""Files of a repository."""
MAX_ENTRIES = 10_000
"""Files and folders in one folder."""
MAX_FILE_BYTES = 50_000_000_000
"""Size of one file; the Hub refuses larger ones."""
COMMIT_FILES = 100
"""Files that are sent in one commit."""
COMMIT_BYTES = 1_000_000_000
"""Bytes after which a commit is closed: an interrupted push repeats at most this much."""


@dataclass(frozen=True)
class LocalFile:
    """A file to push.

    Attributes:
        path: Path in the repository, with slashes.
        source: The file on this machine.
        size: Its size in bytes.
    """

    path: str
    source: Path
    size: int


def list_files(folder: Path) -> list[LocalFile]:
    """Return the files of a folder in the order of their paths, without hidden ones."""
    found = []
    for source in sorted(folder.rglob("*")):
        relative = source.relative_to(folder)
        if source.is_file() and not any(part.startswith(".") for part in relative.parts):
            found.append(LocalFile(relative.as_posix(), source, source.stat().st_size))
    return found


def check_limits(files: Sequence[LocalFile]) -> None:
    """Check what would be pushed.

    Raises:
        Refused: The Hub would refuse it, or could not show it.
    """
    hint = "push it as --format parquet or --format webdataset: a few large files"
    if len(files) >= MAX_FILES:
        raise Refused(
            f"{len(files)} files are more than the {MAX_FILES} that a repository may have", hint
        )
    folder, most = max(_count_entries(files).items(), key=lambda item: item[1], default=("", 0))
    if most >= MAX_ENTRIES:
        raise Refused(
            f"the folder {folder or '.'!r} has {most} entries; a repository's may have "
            f"{MAX_ENTRIES}",
            hint,
        )
    large = next((file for file in files if file.size > MAX_FILE_BYTES), None)
    if large is not None:
        raise Refused(
            f"{large.path} has {large.size / 1e9:.1f} GB, and a file on the Hub at most "
            f"{MAX_FILE_BYTES / 1e9:.0f} GB",
            "give a smaller --shard-mb to a pull, and push weights in a smaller precision",
        )


def group_commits(files: Sequence[LocalFile]) -> Iterator[list[LocalFile]]:
    """Yield the files of each commit, in order."""
    group: list[LocalFile] = []
    size = 0
    for file in files:
        if group and (len(group) == COMMIT_FILES or size + file.size > COMMIT_BYTES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group


def _count_entries(files: Sequence[LocalFile]) -> Counter[str]:
    """Count the files and folders in each folder; "" is the root."""
    entries: Counter[str] = Counter()
    seen: set[str] = set()
    for file in files:
        path = file.path
        while path and path not in seen:
            seen.add(path)
            path = path.rpartition("/")[0]
            entries[path] += 1
    return entries
