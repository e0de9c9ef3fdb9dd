"""The index of a shard: a Parquet file with a row per member, and Energon's offsets."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

from curation.errors import Corrupt, LayerloopError
from curation.exports.packs.tar import BLOCK, END, RECORD, ShardMember
from curation.object_store import is_sha256

MAX_MEMBER_BYTES = 1 << 30
"""Longest content of a member in bytes; stored layers are much shorter."""
MAX_UNPACKED_FACTOR = 200
"""How many times longer than its file the content of an index may be."""


def write_index(members: Sequence[ShardMember]) -> bytes:
    """Return the Parquet file of a shard's members.

    Args:
        members: The members, in the order of the tar.
    """
    arrow, parquet = _pyarrow()
    columns = {
        "sample": [one.sample for one in members],
        "member": [one.name for one in members],
        "offset": [one.offset for one in members],
        "length": [one.length for one in members],
        "sha256": [one.sha256 for one in members],
        "record": [one.record or None for one in members],
    }
    out = io.BytesIO()
    parquet.write_table(
        arrow.table(columns, schema=_schema(arrow)), out, compression="zstd",
        use_dictionary=["member"], write_page_checksum=True,
    )  # fmt: skip
    return out.getvalue()


def read_index(data: bytes, size: int, name: str) -> list[ShardMember]:
    """Return the members of a shard, after checking that they lie inside of it, one after another.

    Args:
        data: The Parquet file.
        size: Size of the shard in bytes.
        name: Name of the shard, for messages.

    Raises:
        Corrupt: The file is no index of a shard of that size.
    """
    arrow, parquet = _pyarrow()
    try:
        file = parquet.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        unpacked = sum(max(0, group.total_byte_size) for group in groups)
        if unpacked > MAX_UNPACKED_FACTOR * len(data) or file.metadata.num_rows > size // BLOCK:
            raise Corrupt(f"the index of shard {name} declares more than the shard can hold")
        table = file.read()
        if not table.schema.equals(_schema(arrow), check_metadata=False):
            raise Corrupt(f"the index of shard {name} has other columns than an index")
        columns = [column.to_pylist() for column in table.columns]
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Corrupt(f"the index of shard {name} cannot be read: {reason}") from error
    members = [
        ShardMember(sample, member, offset, length, sha256, record or "")
        for sample, member, offset, length, sha256, record in zip(*columns, strict=True)
    ]
    _check_members(members, size, name)
    return members


def write_offsets(members: Sequence[ShardMember]) -> bytes:
    """Return the `.tar.idx` of Energon: where each sample begins, and where the last one ends."""
    starts = [
        one.offset - BLOCK
        for before, one in zip([None, *members], members, strict=False)
        if before is None or before.sample != one.sample
    ]
    return struct.pack(f"<{len(starts) + 1}Q", *starts, members[-1].end if members else 0)


def group_by_sample(members: Sequence[ShardMember]) -> dict[str, list[ShardMember]]:
    """Return the members of each sample, in the order of the tar."""
    groups: dict[str, list[ShardMember]] = {}
    for one in members:
        groups.setdefault(one.sample, []).append(one)
    return groups


def _check_members(members: Sequence[ShardMember], size: int, name: str) -> None:
    """Raise Corrupt unless members follow each other without a gap and fill the shard."""
    place, seen = 0, set[str]()
    before: ShardMember | None = None
    for one in members:
        # A sample's members stand together, and its line is the last of them.
        is_next = before is not None and before.name != RECORD and before.sample == one.sample
        is_first = (before is None or before.name == RECORD) and one.sample not in seen
        is_text = all(isinstance(value, str) for value in (one.sample, one.name, one.sha256))
        is_number = isinstance(one.offset, int) and isinstance(one.length, int)
        is_sound = (
            is_text
            and is_number
            and is_id(one.sample)
            and is_member_name(one.name)
            and is_sha256(one.sha256)
            and 0 <= one.length <= MAX_MEMBER_BYTES
            and one.offset == place + BLOCK
            and bool(one.record) == (one.name == RECORD)
            and (is_next or is_first)
        )
        if not is_sound:
            raise Corrupt(f"the index of shard {name} has an invalid row at byte {place}")
        seen.add(one.sample)
        place, before = one.end, one
    if before is not None and before.name != RECORD:
        raise Corrupt(f"the index of shard {name} lacks the line of its last sample")
    if place + len(END) != size:
        raise Corrupt(
            f"the index of shard {name} describes {place + len(END)} bytes, and it has {size}"
        )


def is_id(text: str) -> bool:
    """Return whether a text is the id of a sample: 32 digits of lower-case hex."""
    return len(text) == 32 and all(digit in "0123456789abcdef" for digit in text)


def is_member_name(text: str) -> bool:
    """Return whether a text may stand behind an id and a dot: lower-case letters and dots."""
    return 0 < len(text) <= 40 and all("a" <= letter <= "z" or letter == "." for letter in text)


def _schema(arrow: Any) -> Any:
    text, number = arrow.string(), arrow.int64()
    kinds = {"sample": text, "member": text, "offset": number, "length": number}
    return arrow.schema([*kinds.items(), ("sha256", text), ("record", text)])


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise LayerloopError("pyarrow is not installed", "pip install pyarrow") from error
    return pa, parquet
