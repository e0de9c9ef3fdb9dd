"""Addresses of repositories and files on the Hub: hf://owner/name/file@revision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from curation.errors import Refused

SCHEME = "hf://"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


class RepositoryKind(StrEnum):
    """The kinds of repositories that hold snapshots and checkpoints."""

    dataset = "dataset"
    model = "model"


@dataclass(frozen=True)
class HubAddress:
    """A repository on the Hub, or a file in it.

    Attributes:
        repository: Owner and name, with a slash.
        kind: Whether it is a dataset or a model.
        file: Path of a file, with slashes; "" for the whole repository.
        revision: Branch, tag or commit.
    """

    repository: str
    kind: RepositoryKind
    file: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{file}{revision}"

    @property
    def folder_name(self) -> str:
        """A name for a folder of this repository; different repositories have different ones."""
        return f"{self.kind}--{self.repository.replace('/', '--')}"


def is_hub_address(text: str) -> bool:
    """Return whether a text is an address on the Hub."""
    return text.startswith(SCHEME)


def parse_address(text: str, kind: RepositoryKind) -> HubAddress:
    """Parse hf://owner/name, hf://owner/name/file@revision or hf://owner/name@revision/file.

    Args:
        text: The address; the Hub's own prefixes "datasets/" and "models/" are accepted.
        kind: The kind of repository that is meant.

    Raises:
        Refused: It is no such address, or of a repository of the other kind.
    """
    path = text.removeprefix(SCHEME)
    for prefix in RepositoryKind:
        if path.startswith(f"{prefix}s/"):
            path = path.removeprefix(f"{prefix}s/")
            if prefix is not kind:
                raise _refused(text, kind, f"is not the address of a {kind}")
    owner, _, rest = path.partition("/")
    name, _, file = rest.partition("/")
    name, named_revision, revision = name.partition("@")
    if not named_revision:
        # Without a file the name itself ends before the revision.
        file, named_revision, revision = file.rpartition("@") if "@" in file else (file, "", "")
    if not all(map(_is_name, (owner, name))):
        raise _refused(text, kind, "names no repository")
    if named_revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _refused(text, kind, "names no revision after @")
    if file and not is_safe_path(file):
        raise _refused(text, kind, "names no file")
    return HubAddress(f"{owner}/{name}", kind, file, revision or "main")


def parse_repository(text: str, kind: RepositoryKind) -> HubAddress:
    """Parse the address of a repository to write to.

    Raises:
        Refused: It is none, or it names a file or a revision.
    """
    address = parse_address(text, kind)
    if address != HubAddress(address.repository, kind):
        raise _refused(text, kind, "names a file or a revision, where a whole repository is meant")
    return address


def is_safe_path(path: str) -> bool:
    """Return whether a path of a repository stays inside a folder that it is written to."""
    parts = path.split("/")
    return not any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts) and (
        not PurePosixPath(path).is_absolute()
    )


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and "--" not in text and ".." not in text


def _refused(text: str, kind: RepositoryKind, reason: str) -> Refused:
    example = "hf://anna/flowers" if kind is RepositoryKind.dataset else "hf://anna/flowers-lora"
    return Refused(f"{text!r} {reason}", f"for example {example}, or {example}@v2")
