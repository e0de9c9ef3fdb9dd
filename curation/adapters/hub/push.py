"""Pushes of a folder to a repository of the Hub: only what is missing is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curation.adapters.hub.address import HubAddress
from curation.adapters.hub.limits import COMMIT_FILES, LocalFile, check_limits, group_commits
from curation.adapters.hub.requests import hub_errors, open_hub, retry_busy
from curation.domain import Progress
from curation.object_store import compute_sha256
from curation.ports import ProgressCallback

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

MARKER = "croissant.json"
"""A file that every pushed snapshot has: only in such a repository are files removed."""
LAST = ("croissant.json", "checkpoint.json", "README.md")
"""Files about the others, which are sent when these are there."""


@dataclass(frozen=True)
class PushedFiles:
    """The result of a push.

    Attributes:
        url: Address of the repository for browsers.
        files: Files that the repository has of this push.
        sent: Files that were sent now.
        sent_bytes: Their size.
        removed: Files of an earlier push that were removed.
        commits: Commits that were made.
    """

    url: str
    files: int
    sent: int = 0
    sent_bytes: int = 0
    removed: int = 0
    commits: int = 0


def push_files(
    address: HubAddress,
    files: Sequence[LocalFile],
    message: str,
    report: ProgressCallback,
    *,
    private: bool = False,
    owned: Collection[str] = (),
) -> PushedFiles:
    """Push files to a repository, which is created if it is missing.

    Data comes first and the card last. Each commit has at most 100 files; files that the
    repository has already are not sent again, so that an interrupted push resumes.

    Args:
        address: The repository.
        files: All files of the push.
        message: Message of the commits.
        report: Receives the progress.
        private: Whether a new repository is private; an existing one stays as it is.
        owned: Folders in which files of an earlier push are removed.

    Raises:
        NotFound, Conflict, Refused, Unreachable: As `hub_errors` says.
    """
    check_limits(files)
    with hub_errors(address):
        hub = open_hub()
        url = retry_busy(
            lambda: hub.create_repo(
                address.repository,
                repo_type=str(address.kind),
                private=private or None,
                exist_ok=True,
            )
        )
        present = list_repository(hub, address)
        missing = _missing(files, present)
        obsolete = _obsolete(files, present, owned)
        done, commits = len(files) - len(missing), 0
        report(Progress("pushing", done, len(files)))
        for group in group_commits(missing):
            _commit(hub, address, message, group, [])
            done, commits = done + len(group), commits + 1
            report(Progress("pushing", done, len(files)))
        # Only after everything new is there, remove what is no longer wanted.
        for begin in range(0, len(obsolete), COMMIT_FILES):
            _commit(hub, address, message, [], obsolete[begin : begin + COMMIT_FILES])
            commits += 1
    sent_bytes = sum(file.size for file in missing)
    return PushedFiles(str(url), len(files), len(missing), sent_bytes, len(obsolete), commits)


def list_repository(hub: HfApi, address: HubAddress) -> dict[str, RepoFile]:
    """Return the files of a revision of a repository by their paths."""
    from huggingface_hub.hf_api import RepoFile

    listed: Iterable[object] = retry_busy(
        lambda: list(
            hub.list_repo_tree(
                address.repository,
                recursive=True,
                revision=address.revision,
                repo_type=str(address.kind),
            )
        )
    )
    return {file.path: file for file in listed if isinstance(file, RepoFile)}


def _missing(files: Sequence[LocalFile], present: Mapping[str, RepoFile]) -> list[LocalFile]:
    """Return the files that a repository lacks, those about the others at the end."""
    missing = [file for file in files if not _is_equal(file, present.get(file.path))]
    return sorted(missing, key=lambda file: file.path in LAST)


def _is_equal(file: LocalFile, remote: RepoFile | None) -> bool:
    """Return whether a file of a repository has the content of a local one."""
    if remote is None or remote.size != file.size:
        return False
    if remote.lfs is not None:
        return bool(remote.lfs.sha256 == compute_sha256(file.source))
    # Git names small files by the SHA-1 of a header and their content.
    content = file.source.read_bytes()
    blob = b"blob %d\0%b" % (len(content), content)
    return bool(remote.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest())


def _obsolete(
    files: Sequence[LocalFile], present: Mapping[str, RepoFile], owned: Collection[str]
) -> list[str]:
    """Return the files in owned folders that an earlier push sent and this one lacks."""
    if MARKER not in present:
        return []
    wanted = {file.path for file in files}
    return [path for path in present if path.partition("/")[0] in owned and path not in wanted]


def _commit(
    hub: HfApi,
    address: HubAddress,
    message: str,
    added: Sequence[LocalFile],
    removed: Sequence[str],
) -> None:
    """Send a group of files, or remove one, in one commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def request() -> None:
        # New operations each time: the client keeps its state in them.
        hub.create_commit(
            address.repository,
            [
                *(CommitOperationAdd(file.path, file.source) for file in added),
                *(CommitOperationDelete(path, is_folder=False) for path in removed),
            ],
            commit_message=message,
            repo_type=str(address.kind),
        )

    retry_busy(request)
