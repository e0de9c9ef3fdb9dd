"""Rows of Parquet files with embedded images, as the library `datasets` writes them.

A file is read by row group and in small batches, so that memory does not grow with the file. The
reader of the format ends its process on some damaged files, and runs in a confined one
(curation.ingest.parquet_process). The images' bytes are decoded in others, like any file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from curation.images.headers import InvalidImage
from curation.ingest.caption_files import CAPTION_KEYS
from curation.ingest.pair_rows import LICENSE_KEYS, SOURCE_KEYS

MAGIC: Final = b"PAR1"
"""The first and the last bytes of a Parquet file."""
MAX_FOOTER: Final = 64 << 20
MAX_ROWS: Final = 1_000_000
MAX_COLUMNS: Final = 1_000
MAX_ENTRIES: Final = 1_000_000
"""Entries of a list in the footer: row groups, columns."""
MAX_GROUP_TEXT: Final = 256 << 20
"""Bytes of one column of texts in a row group."""
MAX_GROUP_IMAGES: Final = 8 << 30
"""Bytes of the images in a row group."""
TEXT_BATCH, IMAGE_BATCH = 1_000, 8
"""Rows that are read at once: of texts, and of images."""
IMAGE_COLUMNS: Final = ("image", "img", "picture", "png", "jpg", "webp")
"""Names of the column of images, by precedence; otherwise the only column with images."""
TEXT_COLUMNS: Final = (*CAPTION_KEYS, *LICENSE_KEYS[0], *SOURCE_KEYS[0], "split", "file_name")


@dataclass(frozen=True)
class ParquetRow:
    """A row of a Parquet file: its number, and its number in its row group."""

    number: int
    group: int
    index: int


class ParquetFile:
    """A Parquet file with a column of images; the caller closes it.

    Args:
        file: The open, seekable file, which is closed with it.

    Raises:
        InvalidImage: The file is damaged, too large, or has no column of images.
    """

    def __init__(self, file: BinaryIO) -> None:
        from pyarrow import parquet

        self._file = file
        with ExitStack() as stack, _translated():
            stack.callback(file.close)
            _check_ends(file)
            # Without buffers of whole columns: a row group may have gigabytes of images.
            self._parquet = parquet.ParquetFile(
                file, pre_buffer=False, buffer_size=1 << 20,
                thrift_string_size_limit=MAX_FOOTER, thrift_container_size_limit=MAX_ENTRIES,
                page_checksum_verification=True,
            )  # fmt: skip
            self.rows = int(self._parquet.metadata.num_rows)
            schema = self._parquet.schema_arrow
            if not 0 <= self.rows <= MAX_ROWS or len(schema.names) > MAX_COLUMNS:
                raise InvalidImage(
                    "parquet_too_large",
                    f"it declares {self.rows:,} rows of {len(schema.names):,} columns, more than "
                    f"{MAX_ROWS:,} or {MAX_COLUMNS:,}: split it into several files",
                )
            self.column = _image_column(schema)
            self._is_struct = _is_image_struct(schema.field(self.column).type)
            self._texts = [name for name in TEXT_COLUMNS if name in schema.names]
            self._check_groups()
            stack.pop_all()
        self._group = -1
        self._next = 0
        self._batches: Iterator[Any] = iter(())
        self._batch: list[Any] = []

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def describe(self) -> Iterator[tuple[ParquetRow, str, Mapping[str, Any]]]:
        """Yield each row with the path of its image, which may be empty, and its texts.

        Raises:
            InvalidImage: The file is damaged.
        """
        paths = [f"{self.column}.path"] if self._is_struct else []
        number = 0
        for group in range(self._parquet.num_row_groups):
            index = 0
            for batch in self._read(group, [*paths, *self._texts], TEXT_BATCH):
                for row in batch:
                    image = row.pop(self.column, None)
                    path = image.get("path") if isinstance(image, dict) else row.get("file_name")
                    place = ParquetRow(number, group, index)
                    yield place, path if isinstance(path, str) else "", row
                    number, index = number + 1, index + 1
            # Without columns of texts, batches may be empty.
            for left in range(index, self._parquet.metadata.row_group(group).num_rows):
                yield ParquetRow(number, group, left), "", {}
                number += 1

    def read(self, row: ParquetRow, max_bytes: int) -> bytes:
        """Return the image of a row; rows are read fastest in their order.

        Args:
            row: The row.
            max_bytes: Largest size of an image.

        Raises:
            InvalidImage: There is no image in it, it is too large, or the file is damaged.
        """
        if row.group != self._group or row.index < self._next - len(self._batch):
            column = f"{self.column}.bytes" if self._is_struct else self.column
            self._batches = self._read(row.group, [column], IMAGE_BATCH)
            self._group, self._next, self._batch = row.group, 0, []
        while row.index >= self._next:
            self._batch = next(self._batches, [])
            self._next += len(self._batch)
            if not self._batch:
                raise InvalidImage("corrupt", "the Parquet file has fewer rows than it declares")
        value = self._batch[row.index - self._next + len(self._batch)][self.column]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise InvalidImage(
                "no_image", "the row has no embedded image: write the file with embedded images"
            )
        if len(data) > max_bytes:
            raise InvalidImage(
                "too_large", f"the image has {len(data):,} bytes, more than {max_bytes:,}"
            )
        return data

    def _read(self, group: int, columns: list[str], size: int) -> Iterator[Any]:
        """Yield the rows of a row group in batches."""
        with _translated():
            for batch in self._parquet.iter_batches(
                size, row_groups=[group], columns=columns, use_threads=False
            ):
                yield batch.to_pylist()

    def _check_groups(self) -> None:
        """Refuse row groups that declare more than is read at once."""
        for number in range(self._parquet.num_row_groups):
            group = self._parquet.metadata.row_group(number)
            for index in range(group.num_columns):
                chunk = group.column(index)
                name = chunk.path_in_schema.partition(".")[0]
                limit = MAX_GROUP_IMAGES if name == self.column else MAX_GROUP_TEXT
                is_read = name == self.column or name in self._texts
                if is_read and not 0 <= chunk.total_uncompressed_size <= limit:
                    raise InvalidImage(
                        "parquet_too_large",
                        f"row group {number} has {chunk.total_uncompressed_size:,} bytes of "
                        f"{name[:100]!r}, more than {limit:,}: write smaller row groups",
                    )


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what pyarrow raises on a damaged file as InvalidImage with the code "corrupt"."""
    try:
        yield
    except InvalidImage:
        raise
    # A parser may raise any exception on hostile bytes; each one refuses the file.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InvalidImage("corrupt", f"the Parquet file cannot be read: {reason}") from error


def write_sample() -> BinaryIO:
    """Return a small file with an image and a text, to try the reader."""
    import pyarrow as pa
    from pyarrow import parquet

    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {"image": pa.array([{"bytes": b"x", "path": "x.png"}], image), "text": ["x"]}
    file = io.BytesIO()
    for compression in ("snappy", "zstd", "gzip", "none"):
        file = io.BytesIO()
        parquet.write_table(pa.table(columns), file, compression=compression)
        table = ParquetFile(io.BytesIO(file.getvalue()))
        for row, _, _ in table.describe():
            table.read(row, 100)
    return file


def is_parquet(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a Parquet file."""
    return head.startswith(MAGIC)


def split_of_name(name: str) -> str:
    """Return the folder that stands for a file: `data/train-00000-of-00002.parquet` is of train."""
    path = PurePosixPath(name)
    stem = re.sub(r"([-_.]?\d+-of-\d+)?([-_.][0-9a-f]{8,})?$", "", path.stem)
    return f"{path.parent.as_posix()}/{stem}/" if path.parent.name else f"{stem}/"


def name_of_row(row: ParquetRow, path: str) -> str:
    """Return the name of a row in its file: its number, and the last part of the image's path."""
    last = PurePosixPath(path.replace("\\", "/")).name if path else ""
    return f"{row.number:07d}/{last[-200:] or 'image'}"


def _check_ends(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    end = file.read(8)
    file.seek(0)
    if size < 12 or end[4:] != MAGIC:
        raise InvalidImage("truncated", "the Parquet file has no end: copy it again")
    if int.from_bytes(end[:4], "little") > min(MAX_FOOTER, size):
        raise InvalidImage("corrupt", "the footer of the Parquet file is larger than the file")


def _image_column(schema: Any) -> str:
    names = [field.name for field in schema if _is_image_struct(field.type)]
    if not names:
        names = [
            field.name for field in schema
            if field.name in IMAGE_COLUMNS and str(field.type) in ("binary", "large_binary")
        ]  # fmt: skip
    chosen = [name for name in IMAGE_COLUMNS if name in names] or names
    if not names or (len(names) > 1 and chosen[0] not in IMAGE_COLUMNS):
        found = f"several: {', '.join(names)[:200]}" if names else "none"
        raise InvalidImage(
            "no_image_column",
            f"it needs a column 'image' of structs with 'bytes' and 'path', and has {found}",
        )
    return chosen[0]


def _is_image_struct(kind: Any) -> bool:
    fields = {kind.field(number).name for number in range(kind.num_fields)}
    return str(kind).startswith("struct<") and fields == {"bytes", "path"}
