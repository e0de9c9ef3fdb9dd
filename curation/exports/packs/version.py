"""A version of a pack: the shards that hold one snapshot, and the rows in them that it lacks.

`versions/SNAPSHOT.jsonl` has a line about the snapshot and one per shard. Each line ends with a
check of itself, so that damage can be told to be in one of them. `pack.json` names the newest one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from curation.domain import canonical_json
from curation.errors import Corrupt, NotFound
from curation.exports.packs.folder import UNFINISHED, PackFolder
from curation.object_store import NOTICES, is_sha256, taken_down

FORMAT = "layerloop pack 1"
CURRENT = "pack.json"
WITHHELD, DECIDED = "withheld", "decided"
GROUPS = ("train", "validation", WITHHELD, DECIDED)
"""Groups of rows with shards of their own: samples by split, samples that are not trained on, and
candidates with their verdicts, where the snapshot has them."""
MAX_VERSION_BYTES = 64 << 20
MAX_SHARD_BYTES = 1 << 44

_NAME = re.compile(rf"({'|'.join(GROUPS)})-([0-9a-f]{{64}})")
_CHECK = re.compile(r',"check":"([0-9a-f]{8})"}')
_CHECK_LENGTH = len(',"check":"01234567"}')


@dataclass(frozen=True)
class Shard:
    """A shard of a version.

    Attributes:
        name: Group and sha256 of the tar: `train-3f2a...`.
        size: Size of the tar in bytes.
        samples: Number of its samples, also of removed ones.
        index: sha256 of its index.
        removed: Numbers of samples, in the order of the tar, that the snapshot does not have.
    """

    name: str
    size: int
    samples: int
    index: str
    removed: tuple[int, ...] = ()

    @property
    def group(self) -> str:
        """The group of its samples."""
        return self.name.partition("-")[0]

    @property
    def sha256(self) -> str:
        """The hash of the tar."""
        return self.name.partition("-")[2]

    @property
    def tar(self) -> str:
        """Path of the tar in the pack."""
        return f"shards/{self.name}.tar"

    @property
    def index_path(self) -> str:
        """Path of the index in the pack."""
        return f"shards/{self.name}.parquet"

    @property
    def offsets_path(self) -> str:
        """Path of Energon's index in the pack."""
        return f"shards/{self.name}.tar.idx"

    def row(self) -> dict[str, Any]:
        """Return the shard as JSON."""
        return self.__dict__ | {"removed": list(self.removed)}


@dataclass(frozen=True)
class PackVersion:
    """The shards that hold a snapshot, by name, whatever the order was in which they came about."""

    snapshot: str
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.shards, key=lambda shard: shard.name))
        object.__setattr__(self, "shards", ordered)

    @property
    def path(self) -> str:
        """Path of its file in the pack."""
        return version_path(self.snapshot)

    def bytes(self) -> bytes:
        """Return the file."""
        lines = "".join(_line(shard.row()) for shard in self.shards)
        head = {
            "format": FORMAT,
            "snapshot": self.snapshot,
            "shards": hashlib.sha256(lines.encode()).hexdigest(),
        }
        return (_line(head) + lines).encode()


def version_path(snapshot: str) -> str:
    """Return the path of the version of a snapshot in its pack."""
    return f"versions/{snapshot}.jsonl"


def object_path(sha256: str) -> str:
    """Return the path of a manifest or list in a pack."""
    return f"objects/{sha256[:2]}/{sha256[2:]}"


def parse_version(data: bytes, snapshot: str) -> PackVersion:
    """Parse the file of a version.

    Args:
        data: Its bytes.
        snapshot: The snapshot that it should be about.

    Raises:
        Corrupt: The bytes are damaged, or are no version of that snapshot.
    """
    named = f"version {snapshot[:12]} of the pack"
    try:
        text = data.decode()
        head, _, lines = text.partition("\n")
        body = parse_line(head)
        rows = [parse_line(line) for line in lines.split("\n")[:-1]]
        if body.get("format") != FORMAT:
            raise Corrupt(
                f"{named} is in a format that this version cannot read", "upgrade Layerloop"
            )
        is_whole = hashlib.sha256(lines.encode()).hexdigest() == body["shards"]
        is_own = body["snapshot"] == snapshot
        version = PackVersion(snapshot, tuple(_shard(row) for row in rows))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"{named} is damaged: {error}", "pack the snapshot again") from error
    names = [shard.name for shard in version.shards]
    if not is_whole or not is_own or len(set(names)) != len(names):
        raise Corrupt(f"{named} is not what its first line states", "pack the snapshot again")
    return version


def parse_line(line: str) -> dict[str, Any]:
    """Return the fields of a line, after checking its own check. Raises ValueError."""
    check = _CHECK.fullmatch(line, max(0, len(line) - _CHECK_LENGTH))
    body = line[: check.start()] + "}" if check else line
    if check is None or _check_of(body) != check.group(1):
        raise ValueError("a line does not match its check")
    row: dict[str, Any] = json.loads(body)
    return row


def read_version(folder: PackFolder, snapshot: str) -> PackVersion:
    """Read a version of a pack.

    Args:
        folder: The folder of the pack.
        snapshot: Full id of the snapshot.

    Raises:
        NotFound: The pack does not hold the snapshot.
        TakenDown: It was removed from the pack by a takedown.
        Corrupt: The version is damaged.
    """
    return parse_version(read_version_file(folder, snapshot), snapshot)


def read_version_file(folder: PackFolder, snapshot: str) -> bytes:
    """Return the file of a version.

    Args:
        folder: The folder of the pack.
        snapshot: Full id of the snapshot.

    Raises:
        NotFound: The pack does not hold the snapshot.
        TakenDown: It was removed from the pack by a takedown.
        Corrupt: The file is too large for a version.
    """
    path = version_path(snapshot)
    size = folder.sizes("versions").get(path)
    if size is None:
        with suppress(NotFound):
            raise taken_down(snapshot, folder.read(notice_path(snapshot)))
        raise NotFound(f"{folder.address} holds no snapshot {snapshot[:12]}", "pack it there first")
    if size > MAX_VERSION_BYTES:
        raise Corrupt(f"version {snapshot[:12]} of the pack has {size} bytes, which is too many")
    return folder.read(path)


def notice_path(snapshot: str) -> str:
    """Return the path of the notice that a takedown removed a snapshot from the pack."""
    return f"{NOTICES}/{snapshot}"


def removed_snapshots(folder: PackFolder) -> list[str]:
    """Return the ids of the snapshots that takedowns removed from a pack, sorted."""
    names = (path.removeprefix(f"{NOTICES}/") for path in folder.sizes(NOTICES))
    return sorted(one for one in names if is_sha256(one))


def is_unfinished(folder: PackFolder) -> bool:
    """Return whether a takedown began to rewrite the pack and did not end."""
    try:
        folder.read(UNFINISHED)
    except NotFound:
        return False
    return True


def packed_snapshots(folder: PackFolder) -> list[str]:
    """Return the ids of the snapshots that a pack holds, sorted."""
    names = (path.removeprefix("versions/") for path in folder.sizes("versions"))
    ids = (name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl"))
    return sorted(one for one in ids if is_sha256(one))


def current_snapshot(folder: PackFolder) -> str:
    """Return the id of the snapshot that was packed last.

    Args:
        folder: The folder of the pack.

    Raises:
        NotFound: There is no finished pack.
        Corrupt: The file that names it is damaged.
    """
    data = folder.read(CURRENT)
    try:
        snapshot = str(parse_line(data.decode().rstrip("\n"))["snapshot"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{CURRENT} of {folder.address} is damaged: {error}", "name the snapshot by its id"
        ) from error
    if not is_sha256(snapshot):
        raise Corrupt(f"{CURRENT} of {folder.address} names no snapshot", "name it by its id")
    return snapshot


def current_bytes(snapshot: str) -> bytes:
    """Return the content of `pack.json`."""
    return _line({"format": FORMAT, "snapshot": snapshot}).encode()


def _line(row: Mapping[str, Any]) -> str:
    body = canonical_json(row)
    return f'{body[:-1]},"check":"{_check_of(body)}"}}\n'


def _check_of(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def _shard(row: Mapping[str, Any]) -> Shard:
    """Return the shard of a row. Raises ValueError, KeyError or TypeError."""
    shard = Shard(
        str(row["name"]), row["size"], row["samples"], str(row["index"]), tuple(row["removed"])
    )
    numbers: Sequence[Any] = (shard.size, shard.samples, *shard.removed)
    if not _NAME.fullmatch(shard.name) or not is_sha256(shard.index):
        raise ValueError(f"{shard.name[:100]!r} is not the name of a shard")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"shard {shard.name} has an invalid number")
    if shard.size > MAX_SHARD_BYTES or shard.samples > shard.size:
        raise ValueError(f"shard {shard.name} declares an impossible size")
    rows = list(shard.removed)
    if rows != sorted(set(rows)) or (rows and rows[-1] >= shard.samples):
        raise ValueError(f"shard {shard.name} has invalid marks of removed samples")
    return shard
