"""Downloads from the Hub into a folder, which equals a revision's files afterwards."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curation.adapters.hub.address import HubAddress, is_safe_path
from curation.adapters.hub.push import list_repository
from curation.adapters.hub.requests import hub_errors, open_hub, retry_busy
from curation.domain import Progress
from curation.errors import NotFound, Refused
from curation.ports import ProgressCallback

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
WORKERS = 8


@dataclass(frozen=True)
class RemoteFiles:
    """The wanted files of one commit.

    Attributes:
        address: The repository, with the commit as its revision.
        sizes: Size in bytes of each file by its path.
    """

    address: HubAddress
    sizes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(self.sizes.values())


def find_files(
    address: HubAddress, patterns: Sequence[str], ignored: Collection[str] = ()
) -> RemoteFiles:
    """List the files of a repository that match a pattern, without downloading any.

    Args:
        address: The repository, or a file in it.
        patterns: Patterns of names such as "*.png", in lower case.
        ignored: Paths that are left out.

    Raises:
        NotFound: The repository or revision does not exist, or no file matches.
        Refused: A path would leave the folder; and as `hub_errors`.
        Unreachable: As `hub_errors`.
    """
    with hub_errors(address):
        hub = open_hub()
        commit = retry_busy(
            lambda: hub.repo_info(
                address.repository, repo_type=str(address.kind), revision=address.revision
            )
        ).sha
        pinned = HubAddress(address.repository, address.kind, address.file, str(commit))
        listed = list_repository(hub, pinned)
    wanted = {
        path: file.size
        for path, file in listed.items()
        if path not in ignored
        and any(fnmatch.fnmatchcase(path.lower(), pattern) for pattern in patterns)
    }
    unsafe = next((path for path in wanted if not is_safe_path(path)), None)
    if unsafe is not None:
        raise Refused(f"{address} names a file outside its folder: {unsafe!r}", "do not trust it")
    if not wanted:
        raise NotFound(
            f"{address} has none of the files that can be imported",
            f"they are {', '.join(patterns)}",
        )
    return RemoteFiles(pinned, wanted)


def download_files(files: RemoteFiles, folder: Path, report: ProgressCallback) -> None:
    """Download files into a folder; resumes after interruptions.

    A folder of a whole repository has no other files afterwards.

    Args:
        files: The files of one commit.
        folder: The folder of this repository alone.
        report: Receives the progress.

    Raises:
        NotFound, Refused, Unreachable: As `hub_errors` says.
        OSError: The disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(files, folder)
    with hub_errors(files.address):
        hub = open_hub()
        # Without a file, the client only keeps the list of files: none is asked for twice.
        _fetch(hub, files, folder, [])
        report(Progress("downloading", 0, len(files.sizes)))
        with ThreadPoolExecutor(WORKERS, "download") as pool:
            futures = [pool.submit(_download, hub, files, path, folder) for path in files.sizes]
            try:
                for count, future in enumerate(as_completed(futures), 1):
                    future.result()
                    report(Progress("downloading", count, len(files.sizes)))
            finally:
                for future in futures:
                    future.cancel()
    # Files that are named one by one share the folder.
    if not files.address.file:
        _remove_others(folder, files.sizes)


def download_card(files: RemoteFiles, folder: Path) -> Path | None:
    """Download the card of a repository into a folder, and return its path, None without a card.

    Raises:
        NotFound, Refused, Unreachable: As `hub_errors` says.
    """
    with hub_errors(files.address):
        _fetch(open_hub(), files, folder, [CARD])
    card = folder / CARD
    return card if card.is_file() else None


def _fetch(hub: HfApi, files: RemoteFiles, folder: Path, patterns: list[str]) -> None:
    hub.snapshot_download(
        files.address.repository,
        repo_type=str(files.address.kind),
        revision=files.address.revision,
        local_dir=folder,
        allow_patterns=patterns,
    )


def _download(hub: HfApi, files: RemoteFiles, path: str, folder: Path) -> str:
    return hub.hf_hub_download(
        files.address.repository,
        path,
        repo_type=str(files.address.kind),
        revision=files.address.revision,
        local_dir=folder,
    )


def _check_space(files: RemoteFiles, folder: Path) -> None:
    """Raise Refused if the disk has less space than all files need."""
    present = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    missing = files.total_bytes - present
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise Refused(
            f"{files.address.repository} has {files.total_bytes / 1e9:.1f} GB, and {folder} "
            f"{free / 1e9:.1f} GB of free space",
            "free some space, or move the instance to a larger disk",
        )


def _remove_others(folder: Path, wanted: Collection[str]) -> None:
    """Remove files of an earlier revision; hidden ones are the client's."""
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        is_hidden = relative.parts[0].startswith(".cache")
        if path.is_file() and not is_hidden and relative.as_posix() not in wanted:
            path.unlink()
