"""The contract of every object store, on the folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.adapters import s3, s3_removal, s3_sizes
from curation.adapters.s3 import S3Store
from curation.errors import (
    Conflict,
    Corrupt,
    LayerloopError,
    NotFound,
    Refused,
    TakenDown,
    Unreachable,
)
from curation.object_store import FolderStore, encode_notice
from curation.store_inventory import InstanceStore
from tests.support.servers import S3Server, free_port


@dataclass
class Case:
    """A store, and direct access to its files, as a failing disk or another writer has."""

    store: InstanceStore
    overwrite: Callable[[str, bytes], None]
    names: Callable[[], set[str]]


@pytest.fixture(params=["folder", "s3"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "folder":
        return folder_case(tmp_path / "objects")
    return s3_case(request.getfixturevalue("s3_credentials"))


def folder_case(folder: Path) -> Case:
    def names() -> set[str]:
        return {file.parent.name + file.name for file in folder.rglob("*") if file.is_file()}

    def overwrite(name: str, data: bytes) -> None:
        (folder / name[:2] / name[2:]).write_bytes(data)

    return Case(FolderStore(folder), overwrite, names)


def s3_case(server: S3Server) -> Case:
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client = boto3.client("s3", endpoint_url=server.endpoint)
    client.create_bucket(Bucket=bucket)

    def names() -> set[str]:
        listed = client.list_objects_v2(Bucket=bucket, Prefix="some/prefix/").get("Contents", [])
        return {entry["Key"].removeprefix("some/prefix/").replace("/", "") for entry in listed}

    def overwrite(name: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"some/prefix/{name[:2]}/{name[2:]}", Body=data)

    store = S3Store(bucket, "some/prefix", server.endpoint, public_endpoint=server.endpoint)
    return Case(store, overwrite, names)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_put_returns_the_sha256_of_the_bytes(case):
    name = case.store.put(b"some bytes")
    assert name == sha(b"some bytes")
    assert case.store.get(name) == b"some bytes"
    assert case.names() == {name}


def test_empty_bytes_can_be_stored(case):
    assert case.store.get(case.store.put(b"")) == b""


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=2_000))
def test_any_bytes_round_trip(case, data):
    assert case.store.get(case.store.put(data)) == data


def test_has_is_true_for_stored_objects_only(case):
    assert not case.store.has(sha(b"some bytes"))
    case.store.put(b"some bytes")
    assert case.store.has(sha(b"some bytes"))


def test_put_is_idempotent(case):
    first, second = case.store.put(b"some bytes"), case.store.put(b"some bytes")
    assert first == second
    assert case.names() == {first}


def test_a_missing_object_raises_not_found(case):
    with pytest.raises(NotFound, match=sha(b"never put")):
        case.store.get(sha(b"never put"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "abc",
        "../../etc/passwd",
        "A" * 64,
        "g" * 64,
        "0" * 63,
        "0" * 65,
        "0" * 62 + "/a",
        "٣" * 64,
    ],
)
def test_only_a_sha256_in_lower_case_hex_is_a_name(case, name):
    for method in (
        case.store.get,
        case.store.has,
        lambda name: case.store.address(name, "image/webp", 0, 60),
    ):
        try:
            address = method(name)
        except NotFound:
            continue
        assert address is None, "a folder has no addresses, so it need not check the name"


def test_damaged_bytes_raise_corrupt(case):
    name = case.store.put(b"some bytes")
    case.overwrite(name, b"some bytez")
    with pytest.raises(Corrupt, match=name):
        case.store.get(name)


def test_a_truncated_object_raises_corrupt(case):
    name = case.store.put(b"some bytes")
    case.overwrite(name, b"some")
    with pytest.raises(Corrupt):
        case.store.get(name)


def test_writers_of_the_same_bytes_do_not_disturb_each_other(case):
    start = threading.Barrier(12)

    def put(_: int) -> str:
        start.wait()
        return case.store.put(b"the same bytes" * 1_000)

    with ThreadPoolExecutor(12) as pool:
        names = set(pool.map(put, range(12)))
    assert names == case.names() == {sha(b"the same bytes" * 1_000)}
    assert case.store.get(names.pop()) == b"the same bytes" * 1_000


def test_writers_of_different_bytes_do_not_disturb_each_other(case):
    pieces = [bytes([value]) * 10_000 for value in range(40)]
    with ThreadPoolExecutor(12) as pool:
        names = list(pool.map(case.store.put, pieces))
    assert [case.store.get(name) for name in names] == pieces
    assert case.names() == set(names)


def test_a_big_file_is_stored_by_its_path(case, tmp_path, monkeypatch):
    # Small parts make a multipart upload of a small file; 5 MiB is the minimum of S3.
    monkeypatch.setattr(
        s3, "TRANSFER", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    )
    big = tmp_path / "big"
    with big.open("wb") as out:
        for value in range(17):
            out.write(bytes([value]) * (1 << 20))
    name = case.store.put(big)
    assert name == sha(big.read_bytes())
    assert case.store.get(name) == big.read_bytes()


def test_a_missing_file_stores_nothing(case, tmp_path):
    with pytest.raises(FileNotFoundError):
        case.store.put(tmp_path / "nothing")
    assert case.names() == set()


def test_sizes_are_those_of_stored_objects(case, monkeypatch):
    """For a few names each object is asked for, for many a shard is listed: with the same result."""
    stored = {case.store.put(b"x" * number): number for number in range(1, 30)}
    missing = [sha(b"missing %d" % number) for number in range(30)]
    case.overwrite(next(iter(stored)), b"a longer content")
    expected = stored | {next(iter(stored)): len(b"a longer content")}
    assert case.store.sizes([]) == {}
    assert case.store.sizes([*stored, *missing]) == expected
    monkeypatch.setattr(s3_sizes, "LISTED_FROM", 1)
    assert case.store.sizes([*stored, *missing]) == expected


def test_an_address_serves_the_bytes_until_it_expires(case):
    name = case.store.put(b"some bytes")
    now = int(time.time())
    address = case.store.address(name, "image/webp", now, 60)
    if address is None:
        assert isinstance(case.store, FolderStore)
        return
    with urllib.request.urlopen(address, timeout=10) as response:
        assert response.read() == b"some bytes"
        assert response.headers["content-type"] == "image/webp"
        assert response.headers["cache-control"] == "private, max-age=60, immutable"
    # Not after its time, not for another object, and not with another content type.
    changed = address.replace("image%2Fwebp", "text%2Fhtml")
    another = case.store.put(b"other bytes")
    other = address.replace(f"{name[:2]}/{name[2:]}", f"{another[:2]}/{another[2:]}")
    for wrong in (case.store.address(name, "image/webp", now - 61, 60), changed, other):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(wrong, timeout=10)


def test_a_writer_killed_in_the_middle_leaves_no_object(tmp_path):
    folder = tmp_path / "objects"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The child reads the fifo once for the hash, and hangs while it reads it again for the copy.
    program = "import sys, pathlib, curation.object_store as o; o.FolderStore(pathlib.Path(sys.argv[1])).put(pathlib.Path(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", program, str(folder), str(fifo)])
    with fifo.open("wb") as first:
        first.write(b"x" * 100_000)
    time.sleep(0.5)  # the reader of the first pass has closed; the second pass opens the fifo again
    with fifo.open("wb") as second:
        second.write(b"x" * 50_000)
        second.flush()
        time.sleep(0.2)
        child.kill()
        child.wait(10)
    store = FolderStore(folder)
    assert not store.has(sha(b"x" * 100_000))
    assert all(file.name.startswith(".put-") for file in folder.rglob("*") if file.is_file())
    assert store.get(store.put(b"x" * 100_000)) == b"x" * 100_000


def test_a_stopped_s3_server_raises_unreachable(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = S3Store("bucket", "", f"http://127.0.0.1:{free_port()}")
    for attempt in (
        lambda: store.put(b"x"),
        lambda: store.get(sha(b"x")),
        lambda: store.has(sha(b"x")),
    ):
        with pytest.raises(Unreachable) as error:
            attempt()
        assert error.value.hint


def test_a_missing_bucket_is_named_in_the_error(s3_credentials):
    with pytest.raises(Unreachable, match="no-such-bucket"):
        S3Store("no-such-bucket", "", s3_credentials.endpoint).put(b"x")


def test_wrong_credentials_are_refused_with_a_hint(s3_credentials, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(LayerloopError) as error:
        S3Store("bucket", "", s3_credentials.endpoint).put(b"x")
    assert not isinstance(error.value, NotFound)
    assert "credentials" in error.value.hint


def test_an_empty_bucket_name_is_refused():
    with pytest.raises(Refused, match="bucket"):
        S3Store("")


def test_objects_are_listed_in_order_and_after_any_name(case):
    names = sorted(case.store.put(bytes([value]) * (value + 1)) for value in range(20))
    listed = list(case.store.list_objects())
    assert [found.sha256 for found in listed] == names
    assert sorted(found.bytes for found in listed) == list(range(1, 21))
    assert all(abs(found.modified_at - datetime.now(UTC)) < timedelta(hours=1) for found in listed)
    assert [found.sha256 for found in case.store.list_objects(after=names[6])] == names[7:]
    assert list(case.store.list_objects(after=names[-1])) == []


def test_foreign_files_and_markers_are_not_listed(case):
    name = case.store.put(b"some bytes")
    if isinstance(case.store, FolderStore):
        (case.store.folder / "notes").mkdir()
        (case.store.folder / "aa").mkdir()
        (case.store.folder / "aa" / "README").write_bytes(b"hello")
    else:
        client, bucket = case.store.client, case.store.bucket
        for key in ("some/prefix/README", f"some/prefix/.removing/aa/{'0' * 32}"):
            client.put_object(Bucket=bucket, Key=key, Body=b"hello")
    assert [found.sha256 for found in case.store.list_objects()] == [name]


def test_an_object_is_read_to_a_file_only_if_its_bytes_are_right(case, tmp_path):
    name = case.store.put(b"some bytes")
    case.store.read_to(name, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"some bytes"
    with pytest.raises(NotFound):
        case.store.read_to(sha(b"never put"), tmp_path / "none")
    case.overwrite(name, b"some bytez")
    with pytest.raises(Corrupt):
        case.store.read_to(name, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_only_objects_older_than_the_given_time_are_removed(case):
    names = [case.store.put(bytes([value]) * 10) for value in range(5)]
    hour = timedelta(hours=1)
    assert case.store.remove(names, datetime.now(UTC) - hour) == []
    assert case.names() == set(names)
    assert set(case.store.remove(names[:3], datetime.now(UTC) + hour)) == set(names[:3])
    assert case.names() == set(names[3:])
    assert case.store.remove(names[:3], datetime.now(UTC) + hour) == [], "removed already"
    assert case.store.get(case.store.put(bytes([0]) * 10)) == bytes([0]) * 10


def test_writers_never_lose_an_object_to_a_removal(case, monkeypatch):
    """After a put has returned, its object exists, although a removal of it runs meanwhile."""
    monkeypatch.setattr(s3, "REFRESH_SECONDS", -60)  # every object counts as old
    pieces = [bytes([value]) * 100 for value in range(24)]
    names = {piece: case.store.put(piece) for piece in pieces}
    age(case, names.values())
    time.sleep(2.1)  # S3 has times in whole seconds
    before = datetime.now(UTC)
    time.sleep(1.1)
    start = threading.Barrier(5)

    def write(part: int) -> None:
        start.wait()
        for piece in pieces[part::4]:
            case.store.put(piece)

    def remove() -> None:
        start.wait()
        case.store.remove(list(names.values()), before)

    with ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(remove), *(pool.submit(write, part) for part in range(4))]:
            future.result()
    assert case.names() == set(names.values())
    assert all(case.store.get(name) == piece for piece, name in names.items())


def age(case: Case, names) -> None:
    """Set the times of a folder's objects to a day ago; S3 sets its own times."""
    if isinstance(case.store, FolderStore):
        for name in names:
            os.utime(case.store.folder / name[:2] / name[2:], (time.time() - 86_400,) * 2)


def test_a_repeated_put_renews_the_time_of_an_old_object(case, monkeypatch):
    monkeypatch.setattr(s3, "REFRESH_SECONDS", -60)
    name = case.store.put(b"some bytes")
    age(case, [name])
    time.sleep(2.1)
    before = datetime.now(UTC)
    time.sleep(1.1)
    case.store.put(b"some bytes")
    assert case.store.remove([name], before) == []


def test_two_removals_of_a_shard_do_not_run_at_once(s3_credentials):
    case = s3_case(s3_credentials)
    name = case.store.put(b"some bytes")
    future = datetime.now(UTC) + timedelta(hours=1)
    with case.store._removing(name[:2]), pytest.raises(Conflict):
        case.store.remove([name], future)
    assert case.names() == {name}
    assert case.store.remove([name], future) == [name]
    assert case.names() == set()


def test_the_marker_of_a_killed_removal_expires(s3_credentials, monkeypatch):
    case = s3_case(s3_credentials)
    name = case.store.put(b"some bytes")
    case.store.client.put_object(
        Bucket=case.store.bucket, Key=f"some/prefix/.removing/{name[:2]}/{'0' * 32}", Body=b""
    )
    monkeypatch.setattr(s3_removal, "MARKER_SECONDS", 2)
    time.sleep(3.1)
    assert case.store.remove([name], datetime.now(UTC) + timedelta(hours=1)) == [name]


def test_interrupted_writes_are_cleaned_up(case):
    before = datetime.now(UTC) + timedelta(hours=1)
    if isinstance(case.store, FolderStore):
        case.store.put(b"some bytes")
        shard = next(case.store.folder.iterdir())
        (shard / ".put-abc").write_bytes(b"half")
    else:
        case.store.client.create_multipart_upload(
            Bucket=case.store.bucket, Key=f"some/prefix/aa/{'0' * 62}"
        )
    assert case.store.remove_incomplete(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert case.store.remove_incomplete(before) == 1
    assert case.store.remove_incomplete(before) == 0


def test_a_bucket_is_created_once(s3_credentials):
    store = S3Store(f"test-{uuid.uuid4().hex[:12]}", "", s3_credentials.endpoint)
    assert store.create_bucket()
    assert not store.create_bucket()
    assert store.get(store.put(b"some bytes")) == b"some bytes"


def test_a_notice_is_reported_once_the_object_is_gone(case):
    """A reader without an instance learns why a snapshot is not there."""
    name = case.store.put(b"a manifest")
    case.store.write_notice(name, encode_notice("0123", "2026-11-30", "ab" * 32))
    assert case.store.get(name) == b"a manifest"
    case.store.remove([name], datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(TakenDown, match="taken down on 2026-11-30") as error:
        case.store.get(name)
    assert "ab" * 32 in error.value.hint
    assert not case.store.has(name)
    assert name not in {found.sha256 for found in case.store.list_objects()}
    # A notice that cannot be read is one all the same.
    case.store.write_notice(name, b"not json")
    with pytest.raises(TakenDown, match="unknown date"):
        case.store.get(name)
