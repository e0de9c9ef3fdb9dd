"""Packs: equal to their store, small deltas, removal and repacking, killed and resumed anywhere."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from torch.utils.data import DataLoader

from curation.adapters.remote_pack import RemotePackFolder
from curation.adapters.s3 import S3Store
from curation.adapters.snapshot_sources import find_pack, open_source, pack_folder
from curation.datasets.decision_records import (
    DecidedCandidates,
    DecisionRecord,
    read_decisions,
    write_decisions,
)
from curation.datasets.manifest import read_manifest, read_samples
from curation.domain import LayerRole, Sample, Verdict
from curation.errors import NotFound, Refused
from curation.exports.formats import FORMATS, pull_snapshot
from curation.exports.packs.check import verify_pack
from curation.exports.packs.estimate import estimate_pack
from curation.exports.packs.folder import LocalPackFolder, check_new_folder
from curation.exports.packs.opening import open_pack
from curation.exports.packs.repack import repack
from curation.exports.packs.version import packed_snapshots, read_version
from curation.exports.packs.writer import pack_snapshot
from curation.exports.selection import Selection
from curation.exports.verify import verify_snapshot
from curation.object_store import FolderStore
from layerloop import open_snapshot
from tests.curation.exports.test_pull import files_of, request
from tests.support.snapshots import make_sample, make_snapshot

ROOT = Path(__file__).resolve().parents[3]
SHARD = 20_000


@pytest.fixture
def samples(store):
    return [make_sample(store, number) for number in range(1, 41)]


@pytest.fixture
def snapshot(store, samples):
    return make_snapshot(store, samples, withheld=[samples[3].id])


@pytest.fixture
def folder(tmp_path):
    return LocalPackFolder(tmp_path / "pack")


class CutOff(Exception):
    """The process dies here."""


class MortalFolder(LocalPackFolder):
    """A folder whose process dies before its n-th change."""

    def __init__(self, folder: Path, changes: int) -> None:
        super().__init__(folder)
        self.left = changes

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CutOff

    def write(self, path: str, source: bytes | Path) -> None:
        self._count()
        super().write(path, source)

    def remove(self, path: str) -> None:
        self._count()
        super().remove(path)


def pack(store: FolderStore, snapshot: str, folder: LocalPackFolder, **options):
    return pack_snapshot(store, snapshot, folder, **{"shard_bytes": SHARD, "workers": 3} | options)


def pack_files(folder: LocalPackFolder) -> dict[str, bytes]:
    """The files of a pack, without the mark for locks."""
    return {
        str(file.relative_to(folder.folder)): file.read_bytes()
        for file in folder.folder.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def live_bytes(folder: LocalPackFolder, snapshot: str) -> dict[str, bytes]:
    """The layers of a snapshot in a pack, by sample and role, as stored."""
    reader = open_pack(folder, snapshot)
    return {
        f"{sample.id}.{role}": reader.get(name)
        for sample in read_samples(reader, snapshot)
        for role, name in sample.layers.items()
    }


def test_a_pack_holds_exactly_what_its_store_holds(store, samples, snapshot, folder):
    result = pack(store, snapshot, folder)
    assert (result.samples, result.written, result.removed) == (40, 40, 0)
    reader = open_pack(folder)
    assert list(read_samples(reader, snapshot)) == list(read_samples(store, snapshot))
    # Layers are the stored bytes, so that hidden colors are the same.
    for sample in samples:
        for name in sample.layers.values():
            assert reader.get(name) == store.get(name)
    assert verify_pack(folder, [snapshot]) == []
    assert verify_snapshot(reader, snapshot) == []
    for name in ("0" * 64, "nonsense"):
        with pytest.raises(NotFound):
            reader.get(name)
    # Packing again writes no shard.
    before = pack_files(folder)
    assert pack(store, snapshot, folder).written == 0
    assert pack_files(folder) == before


def test_shards_are_plain_tars_in_the_order_of_ids(store, samples, snapshot, folder):
    pack(store, snapshot, folder)
    by_id = {one.id: one for one in samples}
    found: dict[str, set[str]] = {}
    for file in sorted((folder.folder / "shards").glob("*.tar")):
        with tarfile.open(file) as tar:
            names = tar.getnames()
            ids = list(dict.fromkeys(name.partition(".")[0] for name in names))
            assert ids == sorted(ids)
            for id_ in ids:
                sample = by_id[id_]
                roles = [f"{id_}.{role}.webp" for role in LayerRole if role in sample.layers]
                own = [name for name in names if name.startswith(id_)]
                assert own == [*roles, f"{id_}.txt", f"{id_}.json"]
                line = tar.extractfile(f"{id_}.json").read().decode()
                assert Sample.read(line) == sample
                assert tar.extractfile(f"{id_}.txt").read().decode() == sample.caption_for()
            found.setdefault(file.name.partition("-")[0], set()).update(ids)
    assert found["withheld"] == {samples[3].id}
    heldout = {one.id for one in samples if one.split == "heldout"}
    assert found["validation"] == heldout - found["withheld"]
    assert set.union(*found.values()) == set(by_id)


@pytest.mark.parametrize("name", FORMATS)
def test_a_pull_from_a_pack_equals_a_pull_from_the_store(store, snapshot, folder, tmp_path, name):
    pack(store, snapshot, folder)
    found = open_source(folder.address, "latest")
    assert found.snapshot == snapshot
    targets = [tmp_path / place / "p" for place in "ab"]
    for source, target in zip((store, found.store), targets, strict=True):
        pull_snapshot(source, snapshot, request(name), target)
    expected = {path: data.replace(str(targets[0]).encode(), str(targets[1]).encode())
                for path, data in files_of(targets[0]).items()}  # fmt: skip
    got = files_of(targets[1])
    expected.pop("croissant.json"), got.pop("croissant.json")  # it names hashes of other files
    assert got == expected


def test_the_loader_reads_the_same_batches_from_a_pack(store, snapshot, folder):
    pack(store, snapshot, folder)
    packed, stored = open_snapshot(folder.address), open_snapshot(snapshot, store=store)
    assert (packed.id, len(packed)) == (stored.id, len(stored))
    options = {"size": 32, "batch_size": 4, "images": 24, "seed": 3, "aspect_buckets": True}
    for split in ("train", "heldout"):
        for one, other in zip(
            packed.loader(split, **options), stored.loader(split, **options), strict=True
        ):
            assert one.sample_ids == other.sample_ids
            assert one.layers["foreground"].equal(other.layers["foreground"])


def test_worker_processes_read_a_pack(store, snapshot, folder):
    pack(store, snapshot, folder)
    loader = open_snapshot(folder.address).loader(size=16, batch_size=4, images=16, threads=1)
    alone = [batch.sample_ids for batch in loader]
    loader.load_state_dict({"images_seen": 0})
    for method in ("fork", "spawn"):
        several = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context=method)
        assert [batch.sample_ids for batch in several] == alone


def test_adding_one_percent_writes_about_one_percent(store, folder):
    samples = [make_sample(store, number) for number in range(1, 201)]
    first = pack(store, make_snapshot(store, samples), folder, shard_bytes=200_000)
    more = [*samples, *(make_sample(store, number) for number in range(201, 203))]
    newer = make_snapshot(store, more)
    estimate = estimate_pack(store, newer, folder)
    assert (estimate.missing, estimate.removed, estimate.is_exact) == (2, 0, True)
    second = pack(store, newer, folder, shard_bytes=200_000)
    # Besides the shard, a manifest, a version and the description are written.
    assert (second.written, second.removed) == (2, 0)
    tars = sum(shard.size for shard in read_version(folder, newer).shards if shard.samples <= 2)
    assert estimate.bytes == tars - 1024 * sum(
        shard.samples <= 2 for shard in read_version(folder, newer).shards
    )
    assert 0.005 < tars / first.written_bytes < 0.02
    assert second.written_bytes < 0.04 * first.written_bytes
    assert verify_pack(folder, packed_snapshots(folder)) == []


def test_removed_and_changed_rows_are_marked_until_a_repack(store, samples, snapshot, folder):
    pack(store, snapshot, folder)
    changed = make_sample(store, 9, caption="another caption")
    # One is removed, one has another caption, and one is withheld now.
    later = [changed if one.id == changed.id else one for one in samples if one is not samples[20]]
    newer = make_snapshot(store, later, withheld=[samples[3].id, samples[10].id])
    result = pack(store, newer, folder)
    assert (result.written, result.removed) == (2, 3)
    assert verify_pack(folder, packed_snapshots(folder)) == []
    assert list(read_samples(open_pack(folder), newer)) == list(read_samples(store, newer))
    # The older version is still whole.
    assert list(read_samples(open_pack(folder, snapshot), snapshot)) == list(
        read_samples(store, snapshot)
    )
    split = json.loads((folder.folder / ".nv-meta" / "split.yaml").read_text())
    gone = {samples[20].id, changed.id, samples[10].id}
    assert {path.rpartition("/")[2] for path in split["exclude"]} == gone
    layer = samples[20].layers[LayerRole.foreground]
    data = store.get(layer)
    holding = [path for path, content in pack_files(folder).items() if data in content]
    assert len(holding) == 1

    planned = repack(folder, min_removed=0.01, shard_bytes=SHARD, dry_run=True)
    assert pack_files(folder).keys() >= set(holding)
    done = repack(folder, min_removed=0.01, shard_bytes=SHARD)
    assert (done.snapshot, done.removed_versions) == (newer, (snapshot,))
    assert (planned.rewritten, planned.removed_versions) == (done.rewritten, (snapshot,))
    assert not [path for path, content in pack_files(folder).items() if data in content]
    assert packed_snapshots(folder) == [newer]
    assert sum(len(shard.removed) for shard in read_version(folder, newer).shards) == 0
    assert verify_pack(folder, [newer]) == []
    assert list(read_samples(open_pack(folder), newer)) == list(read_samples(store, newer))
    with pytest.raises(NotFound):
        open_pack(folder, snapshot)
    again = repack(folder, min_removed=0.01, shard_bytes=SHARD)
    assert (again.rewritten, again.removed_files) == (0, 0)


def test_a_repack_may_keep_older_versions(store, samples, snapshot, folder):
    pack(store, snapshot, folder)
    newer = make_snapshot(store, samples[:30])
    pack(store, newer, folder)
    expected = live_bytes(folder, snapshot)
    repack(folder, min_removed=0.01, shard_bytes=SHARD, keep_versions=True)
    assert packed_snapshots(folder) == sorted([snapshot, newer])
    assert live_bytes(folder, snapshot) == expected
    assert verify_pack(folder, packed_snapshots(folder)) == []
    assert sum(len(shard.removed) for shard in read_version(folder, newer).shards) == 0


def test_an_older_snapshot_of_the_pack_serves_as_since(store, samples, snapshot, folder, tmp_path):
    older = make_snapshot(store, samples[:30])
    pack(store, older, folder)
    pack(store, snapshot, folder)
    chosen = Selection(FORMATS["png"].splits, since=older, new_weight=2.0)
    wish = request("png", selection=chosen)
    for place, source in (("a", store), ("b", open_pack(folder))):
        pull_snapshot(source, snapshot, wish, tmp_path / place)
    assert files_of(tmp_path / "a").keys() == files_of(tmp_path / "b").keys()
    name = "metadata.jsonl"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def decided(samples: list[Sample], rejected: list[Sample]) -> list[DecisionRecord]:
    """One record for each of two samples and of some rejected ones."""
    records = []
    for verdict, one in [*((Verdict.accept, s) for s in samples[:2]),
                         *((Verdict.reject, s) for s in rejected)]:  # fmt: skip
        records.append(
            DecisionRecord(
                hashlib.sha256(one.id.encode()).hexdigest()[:32], one.kind, one.caption, 1, 7,
                "c" * 64, one.layers, verdict, False, 1, 1, 0.5, 0.5,
                sample=one.id if verdict is Verdict.accept else "",
            )
        )  # fmt: skip
    return sorted(records, key=lambda record: record.candidate)


def test_decided_candidates_are_packed_and_read(store, samples, folder):
    rejected = [make_sample(store, number) for number in range(50, 56)]
    records = decided(samples, rejected)
    plain = read_manifest(store, make_snapshot(store, samples))
    index = write_decisions(store, DecidedCandidates({"c" * 64: len(records)}, iter(records)))
    manifest = replace(plain, decisions=index)
    store.put(manifest.bytes())
    result = pack(store, manifest.id, folder)
    assert (result.samples, result.written) == (len(samples), len(samples) + len(records))
    reader = open_pack(folder)
    assert list(read_decisions(reader, manifest.id)) == records
    assert list(read_samples(reader, manifest.id)) == list(read_samples(store, manifest.id))
    for one in rejected:
        assert [reader.get(name) for name in one.layers.values()] == [
            store.get(name) for name in one.layers.values()
        ]
    assert verify_pack(folder, [manifest.id]) == []
    # Energon and readers of its splits do not see them.
    split = json.loads((folder.folder / ".nv-meta" / "split.yaml").read_text())
    assert not [
        path for paths in split["split_parts"].values() for path in paths if "decided" in path
    ]
    tar = next((folder.folder / "shards").glob("decided-*.tar"))
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    [damage] = verify_pack(folder, [manifest.id])
    assert (damage.samples, damage.candidates) == ((), (data[:32].decode(),))


@pytest.mark.slow
def test_a_pack_that_dies_before_any_change_resumes_to_the_same_files(store, samples, tmp_path):
    """Also a repack: whatever was written or removed last, the next run ends with the same pack."""
    snapshot, later = make_snapshot(store, samples[:12]), make_snapshot(store, samples[4:14])
    whole = LocalPackFolder(tmp_path / "whole")
    pack(store, snapshot, whole)
    pack(store, later, whole)
    packed = pack_files(whole)
    repack(whole, min_removed=0.01, shard_bytes=SHARD)
    expected = pack_files(whole)
    changes = 0
    while True:
        broken = tmp_path / f"broken-{changes}"
        mortal = MortalFolder(broken, changes)
        changes += 1
        folder = LocalPackFolder(broken)
        try:
            pack(store, snapshot, mortal)
            pack(store, later, mortal)
            assert pack_files(folder) == packed
            repack(mortal, min_removed=0.01, shard_bytes=SHARD)
        except CutOff:
            if packed_snapshots(folder):
                # Finished versions are whole at any time.
                assert all(one.kind == "energon" or one.name == "pack.json" for one in
                           verify_pack(folder, packed_snapshots(folder)))  # fmt: skip
            if later not in packed_snapshots(folder):
                pack(store, snapshot, folder)
            pack(store, later, folder)
            repack(folder, min_removed=0.01, shard_bytes=SHARD)
            assert pack_files(folder) == expected
            continue
        break
    assert changes > 30


def test_two_packers_at_once_do_no_harm(store, samples, snapshot, folder):
    other = make_snapshot(store, samples[10:])
    failures = []

    def run(one: str) -> None:
        try:
            for _ in range(3):
                pack(store, one, LocalPackFolder(folder.folder))
        except Exception as error:  # reported below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in (snapshot, other) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert packed_snapshots(folder) == sorted([snapshot, other])
    assert verify_pack(folder, packed_snapshots(folder)) == []
    for one in (snapshot, other):
        assert list(read_samples(open_pack(folder, one), one)) == list(read_samples(store, one))


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "curation.cli.main", *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def run_command(*arguments: str) -> tuple[int, str, str]:
    process = command(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_behind_that_the_next_one_does_not_use(store, tmp_path):
    snapshot = make_snapshot(store, [make_sample(store, number) for number in range(1, 801)])
    target = tmp_path / "pack"
    arguments = (
        "snapshot", "pack", snapshot, str(target), "--from", str(store.folder), "--workers", "1",
    )  # fmt: skip
    rng = random.Random(7)
    for _ in range(6):
        process = command(*arguments)
        # Killed at any time after the first file appears.
        while process.poll() is None and not list(target.glob(".shard-*")):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.communicate()
    code, _, err = run_command(*arguments)
    assert code == 0, err
    assert not list(target.glob("**/.shard-*"))
    code, out, err = run_command("snapshot", "verify", str(target), "--json")
    assert (code, json.loads(out)) == (0, []), err


def test_the_commands(store, samples, snapshot, tmp_path):
    target = str(tmp_path / "pack")
    source = ("--from", str(store.folder))
    code, out, err = run_command(
        "snapshot", "pack", snapshot, target, *source, "--dry-run", "--json"
    )
    assert code == 0, err
    assert (json.loads(out)["missing"], Path(target).exists()) == (40, False)
    code, out, err = run_command("snapshot", "pack", snapshot, target, *source, "--json")
    assert code == 0, err
    assert json.loads(out)["written"] == 40
    newer = make_snapshot(store, samples[:35])
    code, out, err = run_command("snapshot", "pack", newer, target, *source)
    assert code == 0, err
    assert "5 rows marked as removed" in " ".join(err.split())
    code, out, err = run_command("snapshot", "repack", target, "--min-removed", "0.01", "--json")
    assert code == 0, err
    assert json.loads(out)["removed_versions"] == [snapshot]
    code, out, err = run_command(
        "snapshot", "pull", "latest", str(tmp_path / "p"), "--from", target
    )
    assert code == 0, err
    code, out, err = run_command("snapshot", "verify", newer[:12], "--from", target)
    assert code == 0, err
    tar = max((tmp_path / "pack" / "shards").glob("*.tar"), key=lambda one: one.stat().st_size)
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    code, out, err = run_command("snapshot", "verify", target, "--json")
    assert code == 4
    assert json.loads(out)[0]["samples"] == [data[:32].decode()]
    for arguments in (
        ("snapshot", "repack", str(tmp_path / "p")),
        ("snapshot", "pack", newer, str(tmp_path / "p"), *source),
        ("snapshot", "pack", newer, "https://example.org/x", *source),
        ("snapshot", "pull", "0" * 12, str(tmp_path / "q"), "--from", target),
    ):
        code, _, err = run_command(*arguments)
        assert code in (2, 3), err
        assert "Traceback" not in err


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match="other files"):
        check_new_folder(tmp_path)
    with pytest.raises(Refused, match="not a folder"):
        check_new_folder(tmp_path / "notes.txt")
    check_new_folder(tmp_path / "new")


_read = RemotePackFolder.read


def _read_no_tar(folder: RemotePackFolder, path: str) -> bytes:
    assert not path.endswith(".tar"), "a tar is read by ranges only"
    return _read(folder, path)


@pytest.mark.slow
def test_a_pack_in_a_bucket_of_a_real_server(
    s3_credentials, store, samples, snapshot, tmp_path, monkeypatch
):
    client = boto3.client("s3", endpoint_url=s3_credentials.endpoint)
    client.create_bucket(Bucket="packs")
    endpoint, address = s3_credentials.endpoint, "s3://packs/some/pack"
    assert find_pack(address, endpoint) is None
    remote = pack_folder(address, endpoint)
    pack_snapshot(store, snapshot, remote, shard_bytes=SHARD)
    local = LocalPackFolder(tmp_path / "local")
    pack(store, snapshot, local)
    listed = S3Store("packs", endpoint=endpoint).list_files("some/pack/")
    assert sorted(listed) == sorted(pack_files(local))
    for path, data in pack_files(local).items():
        assert remote.read(path) == data
    # Pull, verification and the loader read ranges of it.
    found = open_source(address, "latest", endpoint=endpoint)
    assert found.snapshot == snapshot
    monkeypatch.setattr(RemotePackFolder, "read", _read_no_tar)
    for place, source in (("a", store), ("b", found.store)):
        pull_snapshot(source, snapshot, request("png"), tmp_path / place)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    options = {"size": 32, "batch_size": 4, "images": 24, "seed": 3}
    monkeypatch.setenv("LAYERLOOP_STORAGE_ENDPOINT", endpoint)
    streamed = open_snapshot(address).loader(**options)
    for one, other in zip(
        streamed, open_snapshot(snapshot, store=store).loader(**options), strict=True
    ):
        assert one.sample_ids == other.sample_ids
        assert one.layers["foreground"].equal(other.layers["foreground"])
    streamed.load_state_dict({"images_seen": 0})
    # The connections of a bucket do not survive a fork.
    workers = DataLoader(streamed, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert sum(len(batch) for batch in workers) == 24
    assert verify_pack(remote, [snapshot]) == []
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_credentials.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_credentials.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    newer = make_snapshot(store, samples[:30])
    result = pack_snapshot(store, newer, remote, shard_bytes=SHARD)
    # One is no longer withheld; shards without any row of the snapshot are not named at all.
    assert result.written == 1
    assert 0 < result.removed <= 11
    repack(remote, min_removed=0.01, shard_bytes=SHARD)
    assert packed_snapshots(remote) == [newer]
    assert verify_pack(remote, [newer]) == []
    assert live_bytes(remote, newer).keys() == {
        f"{one.id}.{role}" for one in samples[:30] for role in one.layers
    }
    tar = read_version(remote, newer).shards[0].tar
    data = bytearray(remote.read(tar))
    data[600] ^= 1
    client.put_object(Bucket="packs", Key=f"some/pack/{tar}", Body=bytes(data))
    [damage] = verify_pack(remote, [newer])
    assert damage.samples == (data[:32].decode(),)
