"""Pulls into shards: rows in Parquet files with embedded images, or WebDataset tars.

A shard is named by its content and never changes. A pull of a later snapshot keeps all shards whose
rows are unchanged; other rows go to new shards, with images from the old shards where possible.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from curation.domain import canonical_json
from curation.errors import LayerloopError
from curation.exports.plan import (
    SPLIT_FOLDERS,
    PlannedFile,
    PullOptions,
    columns_of,
    first_role,
    present_roles,
)
from curation.exports.rendering import Alpha
from curation.exports.selection import SelectedSample

ROW_GROUP = 100
"""Rows of a row group; a reader of one row reads its group and not the whole shard."""


@dataclass(frozen=True)
class ShardRow:
    """A row: its columns, and its images by column.

    Attributes:
        split: Folder name of its split.
        sample: Id of the sample.
        columns: The columns without images.
        images: By column, the planned file of the image.
    """

    split: str
    sample: str
    columns: Mapping[str, Any]
    images: Mapping[str, PlannedFile]

    @property
    def key(self) -> str:
        """The hash of the row's content, computed without fetching images."""
        parts = [
            self.split,
            dict(self.columns),
            {column: file.key for column, file in self.images.items()},
        ]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:32]


class ShardFormat(Protocol):
    """A file format of shards."""

    ending: str

    def write(
        self, path: Path, rows: Iterator[tuple[ShardRow, Mapping[str, bytes]]], ending: str
    ) -> None:
        """Write rows with their images; `ending` is the file type of images."""

    def read_images(self, path: Path) -> dict[tuple[str, str], bytes]:
        """Return the images of a shard by sample and column."""


def plan_rows(selected: Sequence[SelectedSample], options: PullOptions) -> list[ShardRow]:
    """Return the rows of a pull: the column `image`, and one for each further layer or the mask.

    Args:
        selected: The samples of the pull.
        options: Options of the pull.
    """
    rows = []
    for item in selected:
        sample, first = item.sample, first_role(item.sample, options.roles)
        images = {
            "image" if role is first else str(role): PlannedFile(
                f"{sample.id}.{options.treatment.image_type}",
                sample.id,
                sample.layers[role],
                options.treatment,
            )
            for role in present_roles(sample, options.roles)
        }
        if options.treatment.alpha is Alpha.mask:
            images["mask"] = PlannedFile(f"{sample.id}.mask.png", sample.id, sample.layers[first])
        columns = columns_of(item, options)
        rows.append(ShardRow(SPLIT_FOLDERS[sample.split], sample.id, columns, images))
    return rows


@dataclass(frozen=True)
class TableColumns:
    """The columns of a Parquet table.

    Attributes:
        key: The column with the id of a row.
        images: Columns of images.
        values: Other columns with their Arrow types.
        as_bytes: Whether images are plain bytes, as in Pick-a-Pic, and not the feature Image.
    """

    key: str
    images: tuple[str, ...]
    values: Mapping[str, str]
    as_bytes: bool = False


SAMPLE_COLUMNS: Mapping[str, str] = {
    "text": "string", "sample_id": "string", "kind": "string", "licence": "string",
    "source": "string", "round": "int64", "weight": "double",
}  # fmt: skip
KEYS = ("pair_id", "candidate_id", "sample_id")
"""Columns that may name a row, the first that a row has."""


class WebDatasetFormat:
    """Tars of WebDataset: `ID.png`, `ID.txt`, `ID.json`, further layers as `ID.background.png`."""

    ending = "tar"

    def write(
        self, path: Path, rows: Iterator[tuple[ShardRow, Mapping[str, bytes]]], ending: str
    ) -> None:
        """Write a tar whose bytes depend only on its rows."""
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, images in rows:
                for column, data in images.items():
                    file_type = "png" if column == "mask" else ending
                    name = file_type if column == "image" else f"{column}.{file_type}"
                    _add(tar, f"{row.sample}.{name}", data)
                _add(tar, f"{row.sample}.txt", str(row.columns["text"]).encode())
                metadata = canonical_json(dict(row.columns)).encode()
                _add(tar, f"{row.sample}.json", metadata)

    def read_images(self, path: Path) -> dict[tuple[str, str], bytes]:
        """Return the images of a tar by sample and column."""
        found = {}
        with tarfile.open(path) as tar:
            for member in tar:
                sample, _, rest = member.name.partition(".")
                column = rest.rpartition(".")[0] or "image"
                if not rest.endswith(("txt", "json")) and (file := tar.extractfile(member)):
                    found[sample, column] = file.read()
        return found


class ParquetFormat:
    """Parquet files whose images are embedded as Hugging Face's feature Image."""

    ending = "parquet"

    def write(
        self, path: Path, rows: Iterator[tuple[ShardRow, Mapping[str, bytes]]], ending: str
    ) -> None:
        """Write a Parquet file in row groups of ROW_GROUP rows."""
        arrow, parquet = _pyarrow()
        writer, block = None, []
        try:
            for row, images in rows:
                cells: dict[str, Any] = dict(images)
                if not self.columns.as_bytes:
                    cells = {
                        column: {"bytes": data, "path": f"{row.sample}.{column}.{ending}"}
                        for column, data in images.items()
                    }
                block.append(cells | dict(row.columns))
                if writer is None:
                    schema = _schema(arrow, self.columns)
                    # Images are compressed already.
                    writer = parquet.ParquetWriter(path, schema, compression="snappy")
                if len(block) == ROW_GROUP:
                    writer.write_table(arrow.Table.from_pylist(block, schema))
                    block = []
            if writer is not None and block:
                writer.write_table(arrow.Table.from_pylist(block, schema))
        finally:
            if writer is not None:
                writer.close()

    def __init__(self, columns: TableColumns | None = None) -> None:
        self.columns = columns or TableColumns("sample_id", ("image",), SAMPLE_COLUMNS)

    def read_images(self, path: Path) -> dict[tuple[str, str], bytes]:
        """Return the images of a Parquet file by sample and column."""
        _, parquet = _pyarrow()
        found = {}
        for row in parquet.read_table(path).to_pylist():
            key = next(row[name] for name in KEYS if name in row)
            for column, cell in row.items():
                data = cell.get("bytes") if isinstance(cell, dict) else cell
                if isinstance(data, bytes):
                    found[key, column] = data
        return found


def sample_table(options: PullOptions) -> TableColumns:
    """Return the columns of samples: the same in every shard, null where a layer is absent."""
    mask = ["mask"] if options.treatment.alpha is Alpha.mask else []
    images = ("image", *map(str, options.roles[1:]), *mask)
    return TableColumns("sample_id", images, SAMPLE_COLUMNS)


def _schema(arrow: Any, table: TableColumns) -> Any:
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    stored = arrow.binary() if table.as_bytes else image
    columns = [(name, stored) for name in table.images]
    columns += [(name, arrow.type_for_alias(kind)) for name, kind in table.values.items()]
    # Readers of Hugging Face decode the columns that this metadata describes as images.
    value = {"string": "string", "int64": "int64", "double": "float64", "bool": "bool"}
    value["binary"] = "binary"
    features = {
        name: {"_type": "Image"} if kind is image else {"dtype": value[str(kind)], "_type": "Value"}
        for name, kind in columns
    }
    described = json.dumps({"info": {"features": features}})
    return arrow.schema(columns, metadata={"huggingface": described})


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise LayerloopError("pyarrow is not installed", "pip install pyarrow") from error
    return pa, parquet


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
