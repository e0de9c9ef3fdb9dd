"""Hostile packs: whatever their files state, they are refused with a plain error, or read as true."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from curation.datasets.manifest import read_samples
from curation.errors import Corrupt, LayerloopError, NotFound
from curation.exports.formats import pull_snapshot
from curation.exports.packs import index as index_module
from curation.exports.packs.check import verify_pack
from curation.exports.packs.folder import LocalPackFolder
from curation.exports.packs.index import read_index, write_index
from curation.exports.packs.opening import open_pack
from curation.exports.packs.repack import repack
from curation.exports.packs.tar import ShardMember
from curation.exports.packs.version import (
    PackVersion,
    Shard,
    current_bytes,
    read_version,
    version_path,
)
from curation.exports.packs.writer import pack_snapshot
from tests.curation.exports.test_pull import request
from tests.support.snapshots import make_sample, make_snapshot


@pytest.fixture
def samples(store):
    return [make_sample(store, number) for number in range(1, 13)]


@pytest.fixture
def snapshot(store, samples):
    return make_snapshot(store, samples)


@pytest.fixture
def folder(store, snapshot, tmp_path):
    folder = LocalPackFolder(tmp_path / "pack")
    pack_snapshot(store, snapshot, folder, shard_bytes=15_000)
    return folder


def forge_version(folder: LocalPackFolder, snapshot: str, change: Callable[[list[dict]], None]):
    """Rewrite a version with other rows, and with checks that fit."""
    version = read_version(folder, snapshot)
    rows = [shard.row() for shard in version.shards]
    change(rows)
    forged = PackVersion(snapshot, ())
    shards = [_RawShard(row) for row in rows]
    object.__setattr__(forged, "shards", tuple(shards))
    folder.write(version_path(snapshot), forged.bytes())


class _RawShard:
    def __init__(self, row: dict) -> None:
        self._row = row

    def row(self) -> dict:
        return self._row


def forge_index(folder: LocalPackFolder, snapshot: str, data: bytes, number: int = 0) -> Shard:
    """Replace an index of a shard, with the hash in the version."""
    shard = read_version(folder, snapshot).shards[number]
    folder.write(shard.index_path, data)
    digest = hashlib.sha256(data).hexdigest()
    forge_version(folder, snapshot, lambda rows: rows[number].update(index=digest))
    return shard


def members_of(folder: LocalPackFolder, shard: Shard) -> list[ShardMember]:
    return read_index(folder.read(shard.index_path), shard.size, shard.name)


def _pull(folder: LocalPackFolder, snapshot: str, tmp_path: Path) -> None:
    pull_snapshot(open_pack(folder, snapshot), snapshot, request("png"), tmp_path / "pulled")


def must_refuse(folder: LocalPackFolder, snapshot: str, tmp_path: Path) -> str:
    """Opening fails with a plain error, verification finds damage, nothing is written outside."""
    with pytest.raises(LayerloopError) as caught:
        _pull(folder, snapshot, tmp_path)
    assert verify_pack(folder, [snapshot])
    return caught.value.message


@pytest.mark.parametrize(
    "name",
    ["../../outside", "/etc/passwd", "train-" + "g" * 64, "train-" + "0" * 63, "other-" + "0" * 64,
     "train-" + "0" * 64 + "/..", "train-" + "0" * 64 + "\n", "", 7, None],
)  # fmt: skip
def test_names_of_shards_that_are_paths(folder, snapshot, tmp_path, name):
    forge_version(folder, snapshot, lambda rows: rows[0].update(name=name))
    assert "is not the name of a shard" in must_refuse(folder, snapshot, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"size": 1 << 60}, {"size": -1}, {"size": 1e300}, {"size": "9"}, {"size": 10}, {"size": True},
     {"samples": 10**9}, {"samples": -1}, {"samples": 0}, {"removed": [10**9]}, {"removed": [-1]},
     {"removed": [1, 0]}, {"removed": [0, 0]}, {"removed": "01"}, {"removed": None},
     {"index": "0" * 64}, {"index": "../x"}, {"index": 3}, {"removed": [0]}],
)  # fmt: skip
def test_numbers_that_do_not_fit_the_shard(folder, snapshot, tmp_path, change):
    # A shard with several samples, so that marking one of them as removed leaves others.
    number = max(range(3), key=lambda n: read_version(folder, snapshot).shards[n].samples)
    forge_version(folder, snapshot, lambda rows: rows[number].update(change))
    must_refuse(folder, snapshot, tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"{}", b"[]\n", b"null\n", b"\xff\xfe\n", b'{"check":"00000000"}\n',
     b'{"format":"layerloop pack 2"}\n', b"{" * 100_000, b"[" * 200_000 + b"\n", b"\0" * 1000],
)  # fmt: skip
def test_versions_that_are_none(folder, snapshot, tmp_path, data):
    folder.write(version_path(snapshot), data)
    must_refuse(folder, snapshot, tmp_path)


def test_a_version_of_another_snapshot_or_with_a_shard_twice(folder, snapshot, tmp_path):
    sound = folder.read(version_path(snapshot))
    folder.write(version_path("0" * 64), sound)
    with pytest.raises(Corrupt, match="first line"):
        open_pack(folder, "0" * 64)
    forge_version(folder, snapshot, lambda rows: rows.append(rows[0]))
    must_refuse(folder, snapshot, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"offset": 1 << 60}, {"offset": -512}, {"offset": 0}, {"offset": 1024}, {"length": 1 << 62},
     {"length": -1}, {"length": 0}, {"name": "../../../etc/passwd"}, {"name": "a" * 41},
     {"name": ""}, {"sample": "../../../../../../etc/passwd00000"}, {"sample": "A" * 32},
     {"sample": "0" * 32}, {"sha256": "../" * 21 + "a"}, {"sha256": "0" * 63}, {"name": "json"}],
)  # fmt: skip
def test_rows_of_an_index_that_do_not_fit_the_tar(folder, snapshot, tmp_path, change):
    shard = read_version(folder, snapshot).shards[0]
    members = members_of(folder, shard)
    forge_index(folder, snapshot, write_index([replace(members[0], **change), *members[1:]]))
    assert "index of shard" in must_refuse(folder, snapshot, tmp_path)


def test_an_index_with_hashes_of_other_bytes_gives_none_of_them_out(
    folder, snapshot, store, samples, tmp_path
):
    shard = read_version(folder, snapshot).shards[0]
    members = members_of(folder, shard)
    first = next(one for one in members if one.is_layer)
    wanted = hashlib.sha256(b"another layer").hexdigest()
    forged = [replace(one, sha256=wanted) if one is first else one for one in members]
    forge_index(folder, snapshot, write_index(forged))
    with pytest.raises(Corrupt, match="do not match"):
        open_pack(folder, snapshot).get(wanted)
    # The layer is not found under its true name, and verification names the sample twice over.
    with pytest.raises(NotFound):
        open_pack(folder, snapshot).get(first.sha256)
    found = verify_pack(folder, [snapshot])
    assert {one.kind for one in found} == {"shard", "layer"}
    assert {sample for one in found for sample in one.samples} == {first.sample}


def test_an_index_with_other_lines_does_not_change_the_snapshot(folder, snapshot, tmp_path):
    shard = read_version(folder, snapshot).shards[0]
    members = members_of(folder, shard)
    victim = next(one for one in members if one.record)
    row = json.loads(victim.record) | {"licence": "MIT", "caption": "mine"}
    forged = [replace(one, record=json.dumps(row)) if one is victim else one for one in members]
    forge_index(folder, snapshot, write_index(forged))
    assert "do not match" in must_refuse(folder, snapshot, tmp_path)
    # Also a line that is no sample.
    for line in ("{}", "[" * 100_000, "null", "x"):
        forged = [replace(one, record=line) if one is victim else one for one in members]
        forge_index(folder, snapshot, write_index(forged))
        must_refuse(folder, snapshot, tmp_path)


def test_swapped_missing_and_foreign_indexes(folder, snapshot, tmp_path):
    first, second = read_version(folder, snapshot).shards[:2]
    sound = folder.read(first.index_path)
    forge_index(folder, snapshot, folder.read(second.index_path))
    must_refuse(folder, snapshot, tmp_path)
    folder.remove(first.index_path)
    assert "lacks" in must_refuse(folder, snapshot, tmp_path)
    for data in (b"", b"PAR1", b"PAR1" + bytes(8) + b"PAR1", sound[:-1], sound + b"x"):
        forge_index(folder, snapshot, data)
        must_refuse(folder, snapshot, tmp_path)
    out = io.BytesIO()
    parquet.write_table(pa.table({"sample": ["x"], "other": [1]}), out)
    forge_index(folder, snapshot, out.getvalue())
    assert "other columns" in must_refuse(folder, snapshot, tmp_path)
    empty = parquet.read_table(io.BytesIO(sound)).slice(0, 1)
    nulls = pa.table({name: pa.nulls(1, kind) for name, kind in
                      zip(empty.schema.names, empty.schema.types, strict=True)})  # fmt: skip
    out = io.BytesIO()
    parquet.write_table(nulls, out)
    forge_index(folder, snapshot, out.getvalue())
    must_refuse(folder, snapshot, tmp_path)


def test_an_index_that_unpacks_to_far_more_than_its_size(folder, snapshot, tmp_path):
    # 300 MB of one letter in a file of some kB.
    out = io.BytesIO()
    rows = {"sample": ["0" * 32], "member": ["json"], "offset": [512], "length": [1],
            "sha256": ["0" * 64], "record": ["x" * 300_000_000]}  # fmt: skip
    schema = index_module._schema(pa)
    parquet.write_table(pa.table(rows, schema=schema), out, compression="zstd")
    assert len(out.getvalue()) < 1_000_000
    forge_index(folder, snapshot, out.getvalue())
    assert "declares more" in must_refuse(folder, snapshot, tmp_path)


def test_a_tar_with_names_that_are_paths_is_not_extracted_and_is_found(
    folder, snapshot, store, tmp_path
):
    """Only offsets are used; names are compared with the index, never opened."""
    shard = read_version(folder, snapshot).shards[0]
    data = bytearray(folder.read(shard.tar))
    members = members_of(folder, shard)
    evil = tarfile.TarInfo("../../../../tmp/evil")
    evil.size, evil.mode = members[0].length, 0o644
    data[:512] = evil.tobuf(tarfile.USTAR_FORMAT)
    # Under a name that fits the new bytes, so that only the header tells.
    name = f"{shard.group}-{hashlib.sha256(data).hexdigest()}"
    folder.write(f"shards/{name}.tar", bytes(data))
    folder.write(f"shards/{name}.parquet", folder.read(shard.index_path))
    forge_version(folder, snapshot, lambda rows: rows[0].update(name=name))
    found = [one for one in verify_pack(folder, [snapshot]) if one.kind == "shard"]
    assert [one.samples for one in found] == [(members[0].sample,)]
    assert "header" in found[0].problem
    assert list(read_samples(open_pack(folder, snapshot), snapshot)) == list(
        read_samples(store, snapshot)
    )
    assert not Path("/tmp/evil").exists()


def test_a_shorter_a_longer_and_a_missing_tar(folder, snapshot, tmp_path):
    shard = read_version(folder, snapshot).shards[0]
    sound = folder.read(shard.tar)
    for data in (sound[:-1], sound + b"\0", b""):
        folder.write(shard.tar, data)
        assert "bytes instead of" in must_refuse(folder, snapshot, tmp_path)
    folder.remove(shard.tar)
    assert "lacks" in must_refuse(folder, snapshot, tmp_path)


def test_a_pack_without_its_manifest_or_with_a_foreign_pointer(folder, snapshot, tmp_path):
    sound = folder.read("pack.json")
    for data in (b"", b"{}", b"\xff", current_bytes("../../etc"), b"x" * 10_000):
        folder.write("pack.json", data)
        with pytest.raises(LayerloopError):
            open_pack(folder)
        assert verify_pack(folder, [snapshot])
        with pytest.raises(LayerloopError):
            repack(folder)
    folder.write("pack.json", sound)
    folder.remove(f"objects/{snapshot[:2]}/{snapshot[2:]}")
    must_refuse(folder, snapshot, tmp_path)


def test_a_damaged_index_is_written_again_by_the_next_pack(folder, snapshot, store):
    shard = read_version(folder, snapshot).shards[0]
    sound = folder.read(shard.index_path)
    folder.write(shard.index_path, sound[: len(sound) // 2])
    assert verify_pack(folder, [snapshot])
    pack_snapshot(store, snapshot, folder, shard_bytes=15_000)
    assert verify_pack(folder, [snapshot]) == []
    assert folder.read(shard.index_path) == sound
