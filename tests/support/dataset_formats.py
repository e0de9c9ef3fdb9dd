"""Formats of other programs that benchmarks compare with snapshots."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.snapshot_formats import LayerloopPack, LayerloopStore, SnapshotFormat

SHARD_BYTES = 64 << 20


class Dvc(SnapshotFormat):
    """DVC: a folder of files, kept in a cache by hash."""

    def put(self, images: list[bytes]) -> None:
        data = self.folder / "data"
        if not data.exists():
            data.mkdir()
            self._run("init", "--no-scm", "-q")
        for row in self.rows(images):
            (data / f"{row['id']:07d}.webp").write_bytes(row["image"])
            (data / f"{row['id']:07d}.txt").write_text(row["caption"])

    def add(self, images: list[bytes]) -> None:
        self._run("add", "-q", "data")

    def discard(self, count: int) -> None:
        for path in sorted((self.folder / "data").iterdir())[: 2 * count]:
            path.unlink()

    def remove(self, count: int) -> None:
        self._run("add", "-q", "data")

    def open(self) -> FileReader:
        return FileReader(sorted((self.folder / "data").glob("*.webp")))

    def _run(self, *arguments: str) -> None:
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        command = [sys.executable, "-m", "dvc", *arguments]
        subprocess.run(command, cwd=self.folder, env=environment, check=True)


class FileReader:
    """Plain files, which are not checked."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: list[int]) -> Sequence[bytes]:
        return [self.paths[index].read_bytes() for index in indices]


class HuggingFace(SnapshotFormat):
    """Hugging Face datasets: Arrow files; a version is a list of folders."""

    def add(self, images: list[bytes]) -> None:
        from datasets import Dataset

        number = len(self._folders())
        made = Dataset.from_list(self.rows(images))
        made.save_to_disk(str(self.folder / f"part-{number}"))

    def remove(self, count: int) -> None:
        whole = self.open().table
        kept = whole.select(range(count, len(whole)))
        kept.save_to_disk(str(self.folder / "whole"))

    def open(self) -> TableReader:
        from datasets import concatenate_datasets, load_from_disk

        whole = self.folder / "whole"
        folders = [whole] if whole.exists() else self._folders()
        return TableReader(concatenate_datasets([load_from_disk(str(one)) for one in folders]))

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("part-*"))


class TableReader:
    """Rows of a table by index."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def read(self, indices: list[int]) -> Sequence[bytes]:
        found: Sequence[bytes] = self.table[indices]["image"]
        return found


class Lance(SnapshotFormat):
    """Lance: a versioned table in fragments."""

    def add(self, images: list[bytes]) -> None:
        import lance
        import pyarrow as pa

        table = pa.Table.from_pylist(self.rows(images))
        mode = "append" if (self.folder / "set.lance").exists() else "create"
        lance.write_dataset(table, str(self.folder / "set.lance"), mode=mode)

    def remove(self, count: int) -> None:
        self.open().table.delete(f"id < {count}")

    def open(self) -> LanceReader:
        import lance

        return LanceReader(lance.dataset(str(self.folder / "set.lance")))


class LanceReader(TableReader):
    """Rows of a Lance table by index."""

    def __len__(self) -> int:
        return int(self.table.count_rows())

    def read(self, indices: list[int]) -> Sequence[bytes]:
        found: Sequence[bytes] = self.table.take(indices, columns=["image"])["image"].to_pylist()
        return found


class Rewritten(SnapshotFormat):
    """A format of shards whose samples cannot be removed: every shard is written again."""

    def remove(self, count: int) -> None:
        reader = self.open()
        kept = reader.read(list(range(count, len(reader))))
        for path in self.shards():
            path.rename(path.with_name("old-" + path.name))
        self.count = count
        self.add(list(kept))

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("part-*"))

    def next_shard(self) -> Path:
        """Return the path of the next shard, or folder of shards."""
        return self.folder / f"part-{len(self.shards()):04d}"


class MosaicMl(Rewritten):
    """MosaicML Streaming: shards in its format MDS, in a folder for each addition."""

    def add(self, images: list[bytes]) -> None:
        from streaming import MDSWriter

        columns = {"id": "int", "caption": "str", "image": "bytes"}
        with MDSWriter(out=str(self.next_shard()), columns=columns) as writer:
            for row in self.rows(images):
                writer.write(row)

    def open(self) -> JoinedReader:
        from streaming import LocalDataset

        return JoinedReader([LocalDataset(str(one)) for one in self.shards()])


class LitData(Rewritten):
    """LitData: chunks in a folder for each addition."""

    def add(self, images: list[bytes]) -> None:
        from litdata.streaming.writer import BinaryWriter

        folder = self.next_shard()
        folder.mkdir()
        writer = BinaryWriter(str(folder), chunk_bytes=SHARD_BYTES)
        for place, row in enumerate(self.rows(images)):
            writer[place] = row
        writer.done()
        writer.merge(1)

    def open(self) -> JoinedReader:
        from litdata import StreamingDataset

        return JoinedReader([StreamingDataset(str(one)) for one in self.shards()])


class JoinedReader:
    """Several datasets with an index, one after another."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts
        self.lengths = [len(part) for part in parts]

    def __len__(self) -> int:
        return sum(self.lengths)

    def read(self, indices: list[int]) -> Sequence[bytes]:
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> bytes:
        for part, length in zip(self.parts, self.lengths, strict=True):
            if index < length:
                return bytes(part[index]["image"])
            index -= length
        raise IndexError(index)


class Grain(Rewritten):
    """Grain over ArrayRecord files."""

    def add(self, images: list[bytes]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(self.next_shard()), "group_size:1")
        for row in self.rows(images):
            writer.write(row["image"])
        writer.close()

    def open(self) -> GrainReader:
        import grain

        return GrainReader(grain.sources.ArrayRecordDataSource([str(p) for p in self.shards()]))


class GrainReader(TableReader):
    """Records by index."""

    def read(self, indices: list[int]) -> Sequence[bytes]:
        found: Sequence[bytes] = self.table.__getitems__(indices)
        return found


class WebDataset(Rewritten):
    """WebDataset: tars that are read from the beginning."""

    is_random = False

    def add(self, images: list[bytes]) -> None:
        from webdataset import ShardWriter

        pattern = f"{self.folder}/part-{len(self.shards()):04d}-%05d.tar"
        with ShardWriter(pattern, maxsize=SHARD_BYTES / 8, verbose=0) as writer:
            for row in self.rows(images):
                sample = {"webp": row["image"], "txt": row["caption"].encode()}
                writer.write({"__key__": f"{row['id']:07d}", **sample})

    def open(self) -> TarReader:
        return TarReader(self.shards())


class TarReader:
    """The members of tars in order; workers share the tars."""

    def __init__(self, paths: list[Path]) -> None:
        from webdataset import WebDataset as Tars

        self.paths, self.tars = paths, Tars

    def __len__(self) -> int:
        return sum(1 for _ in self.iterate(0, 1))

    def read(self, indices: list[int]) -> Sequence[bytes]:
        return list(self.iterate(0, 1))[indices[0] : indices[-1] + 1]

    def iterate(self, worker: int, workers: int) -> Iterator[bytes]:
        for sample in self.tars(
            [str(one) for one in self.paths[worker::workers]], shardshuffle=False
        ):
            yield sample["webp"]


FORMATS: dict[str, type[SnapshotFormat]] = {
    "Layerloop store": LayerloopStore,
    "Layerloop pack": LayerloopPack,
    "DVC": Dvc,
    "HF datasets": HuggingFace,
    "WebDataset": WebDataset,
    "Lance": Lance,
    "LitData": LitData,
    "Grain": Grain,
    "MosaicML Streaming": MosaicMl,
}
