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
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from curation.adapters import s3
from curation.adapters.s3 import S3Store
from curation.errors import Corrupt, LayerloopError, NotFound, Refused, Unreachable
from curation.object_store import FolderStore
from curation.ports import ObjectStore
from tests.support.servers import S3Server, free_port


@dataclass
class Case:
    """One store, and the way around it: what a failing disk or another writer would do."""

    store: ObjectStore
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
        return {one["Key"].removeprefix("some/prefix/").replace("/", "") for one in listed}

    def overwrite(name: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"some/prefix/{name[:2]}/{name[2:]}", Body=data)

    return Case(S3Store(bucket, "some/prefix", server.endpoint), overwrite, names)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_put_is_got_under_its_hash(case):
    name = case.store.put(b"some bytes")
    assert name == sha(b"some bytes")
    assert case.store.get(name) == b"some bytes"
    assert case.names() == {name}


def test_nothing_at_all_is_an_object_too(case):
    assert case.store.get(case.store.put(b"")) == b""


@how(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2_000))
def test_any_bytes_come_back_as_they_were(case, data):
    assert case.store.get(case.store.put(data)) == data


def test_has_tells_what_is_there(case):
    assert not case.store.has(sha(b"some bytes"))
    case.store.put(b"some bytes")
    assert case.store.has(sha(b"some bytes"))


def test_putting_twice_is_putting_once(case):
    first, second = case.store.put(b"some bytes"), case.store.put(b"some bytes")
    assert first == second
    assert case.names() == {first}


def test_what_is_not_there_is_not_found(case):
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
    for method in (case.store.get, case.store.has, lambda name: case.store.address(name, 60)):
        try:
            answer = method(name)
        except NotFound:
            continue
        assert answer is None, "a folder has no addresses, so it need not look at the name"


def test_rotten_bytes_are_an_error_and_not_a_picture(case):
    name = case.store.put(b"some bytes")
    case.overwrite(name, b"some bytez")
    with pytest.raises(Corrupt, match=name):
        case.store.get(name)


def test_a_short_object_is_an_error_too(case):
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
    pieces = [bytes([number]) * 10_000 for number in range(40)]
    with ThreadPoolExecutor(12) as pool:
        names = list(pool.map(case.store.put, pieces))
    assert [case.store.get(name) for name in names] == pieces
    assert case.names() == set(names)


def test_a_big_file_is_stored_by_its_path(case, tmp_path, monkeypatch):
    # Small parts, so that the parts of a multipart upload are many and the test is short; 5 MiB is S3's least.
    monkeypatch.setattr(
        s3, "TRANSFER", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    )
    big = tmp_path / "big"
    with big.open("wb") as out:
        for number in range(17):
            out.write(bytes([number]) * (1 << 20))
    name = case.store.put(big)
    assert name == sha(big.read_bytes())
    assert case.store.get(name) == big.read_bytes()


def test_a_file_that_is_not_there_stores_nothing(case, tmp_path):
    with pytest.raises(FileNotFoundError):
        case.store.put(tmp_path / "nothing")
    assert case.names() == set()


def test_an_address_gives_the_bytes_to_anybody_for_a_while(case):
    name = case.store.put(b"some bytes")
    address = case.store.address(name, 1)
    if address is None:
        assert isinstance(case.store, FolderStore)
        return
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.read() == b"some bytes"
    time.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(address, timeout=10)


def test_a_writer_killed_in_the_middle_leaves_no_object(tmp_path):
    folder = tmp_path / "objects"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The hash is known beforehand only to the test; the child reads a first time for it, and hangs in the second.
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


def test_an_s3_server_that_is_away_is_unreachable(monkeypatch):
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


def test_a_bucket_that_is_not_there_is_named(s3_credentials):
    with pytest.raises(NotFound, match="no-such-bucket"):
        S3Store("no-such-bucket", "", s3_credentials.endpoint).put(b"x")


def test_wrong_credentials_are_refused_with_a_hint(s3_credentials, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(LayerloopError) as error:
        S3Store("bucket", "", s3_credentials.endpoint).put(b"x")
    assert not isinstance(error.value, NotFound)
    assert "credentials" in error.value.hint


def test_an_address_without_a_bucket_is_refused():
    with pytest.raises(Refused, match="bucket"):
        S3Store("")
