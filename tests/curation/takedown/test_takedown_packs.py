"""A takedown leaves no byte in packs, on a disk and in a bucket, and is killed without harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from curation.adapters.snapshot_sources import open_source, pack_folder
from curation.cli.main import app
from curation.datasets.manifest import read_samples
from curation.datasets.pack_places import list_packs, pack_place, record_pack
from curation.datasets.snapshots import find_snapshot, freeze_snapshot
from curation.db.tables import events, takedown_items
from curation.errors import NotFound, TakenDown
from curation.exports.packs.check import verify_pack
from curation.exports.packs.folder import UNFINISHED, LocalPackFolder
from curation.exports.packs.opening import open_pack
from curation.exports.packs.removal import RemovedContent, remove_rows
from curation.exports.packs.version import packed_snapshots, read_version
from curation.exports.packs.writer import pack_snapshot
from curation.object_store import encode_notice
from curation.runtime.context import open_context
from curation.takedown import execution
from curation.takedown.preview import preview
from curation.takedown.records import read_record
from curation.takedown.selectors import Selector
from tests.curation.exports.test_packs import CutOff, MortalFolder, live_bytes, pack_files
from tests.support.snapshots import make_decision, make_sample, make_snapshot
from tests.support.taken_down import (
    BAD,
    GOOD,
    fill_two_sources,
    find_forbidden,
    samples_of,
    take_down_now,
)

ROOT = Path(__file__).resolve().parents[3]
SOURCE = Selector("source", (BAD,))
SHARD = 6_000


@pytest.fixture
def made(database, store, tmp_path):
    return fill_two_sources(database, store, tmp_path)


def record(database, address, endpoint=None):
    with database.transaction() as tx:
        record_pack(tx, pack_place(str(address), endpoint))


def pack(store, snapshot, folder, **options):
    return pack_snapshot(store, snapshot, folder, **{"shard_bytes": SHARD, "workers": 2} | options)


def notice(_, successor):
    return encode_notice("takedown", "2026-11-30", successor)


def ids_in(file):
    with tarfile.open(file) as tar:
        return {name.partition(".")[0] for name in tar.getnames()}


def test_no_byte_of_it_is_left_in_a_pack_on_a_disk(database, store, made, tmp_path):
    folder = LocalPackFolder(tmp_path / "pack")
    for snapshot in (made.only_good, made.snapshot):
        pack(store, snapshot, folder)
    # What a killed packer left holds bytes too: a shard in work, a shard without an index.
    (folder.folder / ".shard-0").write_bytes(made.forbidden[1])
    (folder.folder / "shards" / f"train-{'0' * 64}.tar").write_bytes(made.forbidden[1])
    record(database, folder.address)
    bad = {one.id for one in samples_of(database, BAD)}
    clean = {file.name for file in folder.folder.rglob("*.tar")
             if file.stem[-64:] != "0" * 64 and not bad & ids_in(file)}  # fmt: skip
    assert clean
    assert find_forbidden(folder.folder, made.forbidden)
    planned = preview(database, store, SOURCE, pack_folder)
    assert len(planned["packs"]) == 1
    assert "7 rows" in planned["packs"][0]

    (row,) = take_down_now(database, store, SOURCE)

    assert (row["counts"]["pack"], row["counts"]["unreached_pack"]) == (1, 0)
    assert find_forbidden(folder.folder, made.forbidden) == []
    with database.transaction() as tx:
        successor = find_snapshot(tx, "both")
        assert tx.scalar(sa.select(sa.func.count()).where(events.c.kind == "pack rewritten")) == 1
    assert packed_snapshots(folder) == sorted({made.only_good, successor})
    assert verify_pack(folder, packed_snapshots(folder)) == []
    reader = open_pack(folder)
    assert reader.version.snapshot == successor
    assert {one.id for one in read_samples(reader, successor)} == {
        one.id for one in samples_of(database, GOOD)
    }
    # Only the shards that held such rows were written again.
    assert clean <= {file.name for file in folder.folder.rglob("*.tar")}
    split = json.loads((folder.folder / ".nv-meta" / "split.yaml").read_text())
    assert not any(one in json.dumps(split) for one in bad)
    for name in (made.snapshot, made.snapshot[:12]):
        with pytest.raises(TakenDown, match="was taken down") as error:
            open_source(folder.address, name)
        assert successor in error.value.hint
    # A second run finds nothing to do, and writes nothing.
    before = pack_files(folder)
    assert take_down_now(database, store, SOURCE) == []
    assert pack_files(folder) == before


def test_marked_rows_go_from_the_shards_of_an_untouched_snapshot(database, store, made, tmp_path):
    """The newest version only marks the removed rows; its shards hold their bytes all the same."""
    folder = LocalPackFolder(tmp_path / "pack")
    pack(store, made.snapshot, folder, shard_bytes=1 << 30)
    pack(store, made.only_good, folder, shard_bytes=1 << 30)
    assert any(shard.removed for shard in read_version(folder, made.only_good).shards)
    record(database, folder.address)
    take_down_now(database, store, SOURCE)
    assert find_forbidden(folder.folder, made.forbidden) == []
    assert verify_pack(folder, packed_snapshots(folder)) == []
    assert open_pack(folder).version.snapshot == made.only_good


def test_a_pack_of_nothing_else_is_emptied(database, store, made, tmp_path):
    ids = [one.id for one in samples_of(database, GOOD)]
    for one in ids:
        take_down_now(database, store, Selector("sample", (one,)))
    only_bad = freeze_snapshot(database, store, tag="bad", actor="test").id
    folder = LocalPackFolder(tmp_path / "pack")
    pack(store, only_bad, folder)
    record(database, folder.address)
    take_down_now(database, store, SOURCE)
    left = {path for path in pack_files(folder) if not path.startswith("taken-down/")}
    assert left == set()
    with pytest.raises(TakenDown, match="was taken down"):
        open_pack(folder, only_bad)


def test_decided_candidates_go_and_a_foreign_snapshot_gets_a_successor(store, tmp_path):
    """Snapshots of another instance in the same pack lose the rows as well."""
    samples = [make_sample(store, number) for number in range(1, 21)]
    made = [make_decision(store, number) for number in range(1, 11)]
    decided = sorted(made, key=lambda one: one.candidate)
    snapshot = make_snapshot(store, samples, [samples[3].id], decided)
    folder = LocalPackFolder(tmp_path / "pack")
    pack(store, snapshot, folder)
    gone = {samples[0].id, samples[3].id, decided[1].candidate}
    layers = {*samples[0].layers.values(), *decided[1].layers.values()}
    forbidden = tuple(store.get(name) for name in layers)
    removed = RemovedContent(frozenset(gone), frozenset(layers))
    done = remove_rows(folder, removed, store, notice)
    [(old, new)] = done.successors.items()
    assert (old, done.rows) == (snapshot, 3)
    assert find_forbidden(folder.folder, (*forbidden, samples[3].id.encode())) == []
    assert verify_pack(folder, packed_snapshots(folder)) == []
    reader = open_pack(folder)
    assert {one.id for one in read_samples(reader, new)} == {one.id for one in samples} - gone
    assert set(reader.lines(new, decided=True)) == {one.candidate for one in decided} - gone


@pytest.mark.slow
def test_a_removal_that_dies_before_any_change_leaves_an_old_or_a_new_pack(store, tmp_path):
    samples = [make_sample(store, number) for number in range(1, 17)]
    first, second = make_snapshot(store, samples[:12]), make_snapshot(store, samples[4:16])
    gone = [samples[5], samples[9]]
    layers = frozenset(name for one in gone for name in one.layers.values())
    removed = RemovedContent(frozenset(one.id for one in gone), layers)
    forbidden = tuple(store.get(name) for name in sorted(layers))

    def packed(folder):
        for snapshot in (first, second):
            pack(store, snapshot, folder, shard_bytes=20_000)
        return folder

    whole = packed(LocalPackFolder(tmp_path / "whole"))
    old_bytes = {one: live_bytes(whole, one) for one in (first, second)}
    remove_rows(whole, removed, store, notice)
    expected = pack_files(whole)
    new_bytes = {one: live_bytes(whole, one) for one in packed_snapshots(whole)}
    assert find_forbidden(whole.folder, forbidden) == []
    changes = 0
    while True:
        folder = packed(LocalPackFolder(tmp_path / f"broken-{changes}"))
        mortal = MortalFolder(folder.folder, changes)
        changes += 1
        try:
            remove_rows(mortal, removed, store, notice)
        except CutOff:
            assert verify_pack(folder, packed_snapshots(folder)) == []
            for one in packed_snapshots(folder):
                assert live_bytes(folder, one) == (old_bytes | new_bytes)[one]
            remove_rows(folder, removed, store, notice)
            assert pack_files(folder) == expected
            continue
        break
    assert changes > 15
    assert UNFINISHED not in expected


def test_packs_that_are_not_reached_are_named_and_cleaned_later(database, store, made, tmp_path):
    folder = LocalPackFolder(tmp_path / "pack")
    pack(store, made.snapshot, folder)
    record(database, folder.address)
    record(database, "s3://layerloop-nowhere/pack", "http://127.0.0.1:9")
    folder.folder.rename(tmp_path / "unmounted")
    outside = preview(database, store, SOURCE, pack_folder)["outside"]
    assert any(folder.address in one and "not mounted" in one for one in outside)
    assert any("s3://layerloop-nowhere/pack: " in one for one in outside)
    (row,) = take_down_now(database, store, SOURCE)
    assert row["counts"]["unreached_pack"] == 2
    named = read_record(store, row["record"])["items"]["unreached_pack"]
    assert [one.partition(" on ")[0] for one in named] == [
        folder.address, "s3://layerloop-nowhere/pack",
    ]  # fmt: skip
    (tmp_path / "unmounted").rename(folder.folder)
    place = execution.TakedownPlace(database, store, "s" * 32, "test", pack_folder)
    done = execution.clean_left_packs(place, lambda _: None)
    assert [bool(one.problem) for one in done] == [False, True]
    assert find_forbidden(folder.folder, made.forbidden) == []
    left = sa.select(takedown_items.c.name).where(takedown_items.c.kind == "unreached_pack")
    with database.transaction() as tx:
        assert list(tx.execute(left).scalars()) == ["s3://layerloop-nowhere/pack"]


def test_a_damaged_pack_is_named_and_left(database, store, made, tmp_path):
    folder = LocalPackFolder(tmp_path / "pack")
    pack(store, made.snapshot, folder)
    record(database, folder.address)
    next(folder.folder.rglob("*.parquet")).write_bytes(b"no index")
    (row,) = take_down_now(database, store, SOURCE)
    assert row["counts"]["unreached_pack"] == 1


@pytest.mark.slow
def test_no_byte_of_it_is_left_in_a_bucket(database, store, made, tmp_path, s3_credentials):
    endpoint, address = s3_credentials.endpoint, "s3://takedowns/a/pack"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="takedowns")
    remote = pack_folder(address, endpoint)
    pack(store, made.snapshot, remote)
    record(database, address, endpoint)

    def found():
        listed = client.list_objects_v2(Bucket="takedowns")["Contents"]
        files = (client.get_object(Bucket="takedowns", Key=one["Key"]) for one in listed)
        bodies = [one["Body"].read() for one in files]
        return [one for one in made.forbidden if any(one in body for body in bodies)]

    assert len(found()) > 7
    take_down_now(database, store, SOURCE)
    assert found() == []
    [snapshot] = packed_snapshots(remote)
    assert verify_pack(remote, [snapshot]) == []
    with pytest.raises(TakenDown, match="was taken down"):
        open_source(address, made.snapshot, endpoint=endpoint)
    assert len(list(read_samples(open_pack(remote), snapshot))) == len(samples_of(database, GOOD))


@pytest.fixture
def environment(settings, monkeypatch, tmp_path):
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    with open_context(settings) as context:
        return fill_two_sources(context.database, context.store, tmp_path)


def call(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_the_commands_record_a_pack_and_say_what_was_taken_down(environment, database, tmp_path):
    made, target = environment, str(tmp_path / "pack")
    call("snapshot", "pack", made.snapshot, target)
    with database.transaction() as tx:
        assert [one.address for one in list_packs(tx)] == [target]
    assert target in call("snapshot", "packs").stdout
    # The instance does not know of a copy until somebody names it.
    copy = str(tmp_path / "copy")
    subprocess.run(["cp", "-r", target, copy], check=True)
    shown = call("takedown", "--source", BAD, "--dry-run").stdout
    assert f"{target} on " in " ".join(shown.split())
    done = json.loads(call("takedown", "--source", BAD, "--yes", "--json").stdout)
    assert done["takedowns"][0]["counts"]["pack"] == 1
    assert find_forbidden(Path(target), made.forbidden) == []
    told = call("snapshot", "verify", target).stderr
    assert "was taken down" in told
    for command in (
        ("snapshot", "pack", made.snapshot, target),
        ("snapshot", "pull", made.snapshot, str(tmp_path / "p"), "--from", target),
        ("snapshot", "verify", made.snapshot, "--from", target),
        # A pack that still holds it is cleaned before it gets anything new.
        ("snapshot", "pack", "both", copy),
    ):
        with pytest.raises(TakenDown, match="taken down"):
            CliRunner().invoke(app, list(command), catch_exceptions=False)
    assert find_forbidden(Path(copy), made.forbidden)
    planned = json.loads(call("takedown", "--pack", copy, "--dry-run", "--json").stdout)
    assert [one["rows"] for one in planned["packs"]] == [7]
    done = json.loads(call("takedown", "--pack", copy, "--json").stdout)
    assert [one["rows"] for one in done["packs"]] == [7]
    assert find_forbidden(Path(copy), made.forbidden) == []
    assert "no pack holds" in call("takedown", "--pack", copy).stderr
    call("snapshot", "pack", "both", copy)
    assert copy not in call("snapshot", "packs", "--forget", copy).stdout
    for command in (("takedown", "--pack", str(tmp_path)), ("snapshot", "packs", "--forget", copy)):
        with pytest.raises(NotFound, match="no pack"):
            CliRunner().invoke(app, list(command), catch_exceptions=False)


@pytest.mark.slow
def test_a_killed_takedown_is_finished_by_the_same_command(environment, settings, tmp_path):
    made, target = environment, tmp_path / "pack"
    call("snapshot", "pack", made.snapshot, str(target))
    arguments = ("takedown", "--source", BAD, "--yes")
    process = subprocess.Popen(
        [sys.executable, "-m", "curation.cli.main", *arguments], cwd=ROOT, env=dict(os.environ),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (target / UNFINISHED).exists():
        pass
    process.kill()
    process.wait()
    folder = LocalPackFolder(target)
    assert verify_pack(folder, packed_snapshots(folder)) == []
    call(*arguments)
    assert find_forbidden(target, made.forbidden) == []
    assert not (target / UNFINISHED).exists()
    assert verify_pack(folder, packed_snapshots(folder)) == []
