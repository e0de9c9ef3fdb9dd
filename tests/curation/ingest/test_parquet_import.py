"""Parquet files of embedded images: their rows become samples, and hostile files are refused."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tracemalloc
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from PIL import Image
from pyarrow import parquet

from curation.datasets.snapshots import freeze_snapshot
from curation.db.tables import import_files, samples
from curation.domain import Sample, Split
from curation.exports.formats import FORMATS, PullRequest, pull_snapshot
from curation.exports.rendering import Treatment
from curation.exports.selection import Selection
from curation.images.headers import InvalidImage
from curation.ingest import parquet_rows
from curation.ingest.listing import ListingOptions
from curation.ingest.parquet_process import ParquetTables
from curation.ingest.parquet_rows import ParquetFile, split_of_name
from curation.ingest.seed_import import import_seeds
from tests.support.snapshot_readers import readers_python
from tests.support.taken_down import blob

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def png(number):
    out = io.BytesIO()
    Image.fromarray(blob(number)).save(out, "PNG")
    return out.getvalue()


def write(path, images, columns=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": pa.array(images, IMAGE)} | (columns or {})
    parquet.write_table(pa.table(table), path, **options)
    return path


def run(database, store, folder, **options):
    given = ListingOptions(**options)
    return import_seeds(database, store, folder, workers=1, options=given, update=True)


def stored(database):
    with database.transaction() as tx:
        lines = tx.execute(sa.select(samples.c.line)).scalars()
        return {one.caption: one for one in map(Sample.read, lines)}


def codes(database):
    with database.transaction() as tx:
        rows = tx.execute(sa.select(import_files.c.name, import_files.c.codes))
        return {name: code[0] for name, code in rows if code}


def test_rows_become_samples_with_the_texts_of_their_columns(database, store, tmp_path):
    images = [{"bytes": png(number), "path": f"a/fox {number}.png"} for number in range(5)]
    images += [{"bytes": None, "path": "elsewhere.png"}, None, {"bytes": b"no image", "path": None}]
    columns = {
        "text": [f"caption {number}" for number in range(4)] + ["", "x", "y", "z"],
        "licence": ["cc by 4.0"] * 8,
        "source": [f"https://example.org/{number}" for number in range(8)],
        "label": list(range(8)),
    }
    file = write(tmp_path / "seeds" / "train-00000-of-00001.parquet", images, columns,
                 row_group_size=3)  # fmt: skip
    summary = run(database, store, file.parent, accept_unknown=False, splits_from_folders=True)
    found = stored(database)
    assert set(found) == {*(f"caption {number}" for number in range(4)), "fox"}
    one = found["caption 2"]
    assert (one.licence, one.source) == ("CC-BY-4.0", "https://example.org/2")
    assert one.split == Split.train
    assert codes(database)[f"{file.name}/0000005/elsewhere.png"] == "no_image"
    assert codes(database)[f"{file.name}/0000006/image"] == "no_image"
    assert f"{file.name}/0000007/image" in codes(database)
    assert summary.refused == 3
    # A second import decodes nothing; changed captions are applied.
    assert run(database, store, file.parent, accept_unknown=False).fresh == 0
    columns["text"] = pa.array(["another", *columns["text"][1:]])
    write(file, images, columns, row_group_size=3)
    run(database, store, file.parent, accept_unknown=False)
    assert "another" in stored(database)


def test_a_file_alone_is_imported_and_options_state_its_rights(database, store, tmp_path):
    file = write(tmp_path / "test.parquet", [{"bytes": png(n), "path": None} for n in range(3)])
    held = run(database, store, file, accept_unknown=False)
    assert sum("rights_missing" in one.codes for one in held.named) == 3
    run(database, store, file, accept_unknown=False, licence="mit", source="me",
        splits_from_folders=True)  # fmt: skip
    with database.transaction() as tx:
        found = [Sample.read(line) for line in tx.execute(sa.select(samples.c.line)).scalars()]
    assert {(one.licence, one.source, one.split) for one in found} == {
        ("MIT", "me", Split.heldout)
    }  # fmt: skip


def test_a_pulled_snapshot_has_the_same_pixels(database, store, tmp_path):
    images = [{"bytes": png(number), "path": f"shape {number}.png"} for number in range(4)]
    file = write(tmp_path / "first.parquet", images, {"text": [f"number {n}" for n in range(4)]})
    run(database, store, file, licence="mit", source="me")
    snapshot = freeze_snapshot(database, store, tag="first", actor="test").id
    chosen = FORMATS["parquet"]
    request = PullRequest(chosen, Selection(chosen.splits), Treatment(chosen.alpha))
    pull_snapshot(store, snapshot, request, tmp_path / "pulled")
    summary = run(database, store, tmp_path / "pulled" / "data", accept_unknown=False)
    assert dict(summary.outcomes) == {"duplicate": 4}


WRITE = """
import sys
import datasets
from PIL import Image
names = sys.argv[2:]
# An image with a file name would be stored by its path alone.
rows = {"image": [Image.open(name).copy() for name in names], "text": [f"number {n}" for n in range(len(names))]}
features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
made = datasets.Dataset.from_dict(rows, features=features)
made.to_parquet(sys.argv[1])
"""


@pytest.mark.slow
def test_the_library_datasets_writes_such_files(database, store, tmp_path):
    names = [str(tmp_path / f"{number}.png") for number in range(4)]
    for number, name in enumerate(names):
        Image.fromarray(blob(number)).save(name)
    file = tmp_path / "made.parquet"
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"}
    subprocess.run(
        [str(readers_python()), "-I", "-c", WRITE, str(file), *names],
        env=environment, check=True, cwd=tmp_path,
    )  # fmt: skip
    run(database, store, file, licence="mit", source="me")
    assert set(stored(database)) == {f"number {n}" for n in range(4)}


def test_memory_does_not_grow_with_the_file(tmp_path):
    """One row group at most is in memory."""
    size = 200_000
    rng = np.random.default_rng(0)
    images = [{"bytes": rng.bytes(size), "path": None} for _ in range(200)]
    file = write(tmp_path / "large.parquet", images, compression="none", row_group_size=10)
    before = pa.total_allocated_bytes()
    table = ParquetFile(file.open("rb"))
    tracemalloc.start()
    most = 0
    for row, *_ in list(table.describe()):
        assert len(table.read(row, size)) == size
        most = max(most, pa.total_allocated_bytes() - before)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    table.close()
    assert most < 16 << 20
    assert python < 16 << 20


def hostile(tmp_path):
    """Yield damaged and hostile files by the code of their refusal."""
    good = write(tmp_path / "good.parquet", [{"bytes": png(1), "path": None}]).read_bytes()
    yield "truncated", good[:-5]
    yield "truncated", b"PAR1"
    yield "corrupt", good[:-8] + struct.pack("<I", 1 << 30) + b"PAR1"
    yield "corrupt", good[:-80] + bytes(72) + good[-8:]
    yield "corrupt", b"PAR1" + bytes(len(good))[8:] + good[-8:]
    out = io.BytesIO()
    parquet.write_table(pa.table({"text": ["a"]}), out)
    yield "no_image_column", out.getvalue()
    out = io.BytesIO()
    parquet.write_table(pa.table({"a": pa.array([None], IMAGE), "b": pa.array([None], IMAGE)}), out)
    yield "no_image_column", out.getvalue()


def test_hostile_files_are_refused_and_others_go_on(database, store, tmp_path, monkeypatch):
    folder = tmp_path / "seeds"
    expected = {}
    for number, (code, data) in enumerate(hostile(tmp_path)):
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.parquet").write_bytes(data)
        expected[f"{number}.parquet"] = code
    write(folder / "sound.parquet", [{"bytes": png(9), "path": "x.png"}])
    run(database, store, folder)
    found = codes(database)
    assert {name: found[name] for name in expected} == expected
    assert len(stored(database)) == 1
    for name, value in (("MAX_ROWS", 0), ("MAX_GROUP_IMAGES", 10), ("MAX_COLUMNS", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(parquet_rows, name, value)
            with pytest.raises(InvalidImage) as refused:
                ParquetFile((folder / "sound.parquet").open("rb"))
            assert refused.value.code == "parquet_too_large"


@pytest.mark.slow
def test_no_flipped_bit_ends_the_import(tmp_path):
    """A damaged file gives other bytes or a refusal; the reader may end, and is started again."""
    data = write(tmp_path / "x.parquet", [{"bytes": bytes(50), "path": "a"}], {"text": ["b"]})
    whole = data.read_bytes()
    rng = np.random.default_rng(1)
    files = {}
    for number, place in enumerate(rng.choice(len(whole) * 8, 40, replace=False)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        files[str(number)] = bytes(damaged)
    # This one ends a process that reads it.
    files["limit"] = whole[:-8] + (len(whole) - 40).to_bytes(4, "little") + whole[-4:]
    files["sound"] = whole
    read = {}
    with closing(ParquetTables(lambda name: _on_disk(tmp_path, files[name]))) as tables:
        for name in files:
            try:
                read[name] = [tables.read(name, row, 1000) for row, *_ in tables.describe(name)]
            except InvalidImage:
                continue
    assert read["sound"] == [bytes(50)]
    assert len(read) < len(files)


def _on_disk(folder, data):
    (folder / "damaged").write_bytes(data)
    return (folder / "damaged").open("rb")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("data/train-00000-of-00002.parquet", "data/train/"),
        ("test.parquet", "test/"),
        ("validation-3f2a9c0d1e2f.parquet", "validation/"),
        ("a/b/train-00001-of-00002-abcdef0123456789.parquet", "a/b/train/"),
    ],
)
def test_the_name_of_a_file_stands_for_its_split(name, folder):
    assert split_of_name(name) == folder
