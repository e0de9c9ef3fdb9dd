"""The folder store: its files on disk. The contract of all stores is tested in tests/ports."""

from __future__ import annotations

import hashlib
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from curation import object_store
from curation.errors import Corrupt, NotFound
from curation.object_store import FolderStore, compute_sha256, write_file_atomically


def test_a_name_is_a_folder_of_two_digits_and_a_file_of_the_rest(store):
    name = store.put(b"some bytes")
    assert (store.folder / name[:2] / name[2:]).read_bytes() == b"some bytes"


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc" * 1_000_000)
    assert (
        compute_sha256(file)
        == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
        == compute_sha256(b"abc" * 1_000_000)
    )


def test_nothing_is_left_when_the_disk_is_full(store, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(object_store.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put(b"some bytes")
    assert [file for file in store.folder.rglob("*") if file.is_file()] == []


def test_an_object_is_on_the_disk_before_its_name_is(store, monkeypatch):
    """A put is durable in this order: the bytes, then the name, then the folder of the name."""
    done: list[str] = []

    def fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "bytes")

    def replace(source: str, target: Path) -> None:
        done.append("name")
        real(source, target)

    real = os.replace
    monkeypatch.setattr(object_store.os, "fsync", fsync)
    monkeypatch.setattr(object_store.os, "replace", replace)
    store.put(b"some bytes")
    assert done == ["bytes", "name", "folder", "folder"]


def test_a_second_put_writes_nothing(store, monkeypatch):
    store.put(b"some bytes")
    monkeypatch.setattr(object_store.tempfile, "mkstemp", lambda **_: pytest.fail("it wrote"))
    store.put(b"some bytes")


def test_two_stores_on_one_folder_are_one_store(tmp_path):
    first, second = FolderStore(tmp_path / "objects"), FolderStore(tmp_path / "objects")
    assert second.get(first.put(b"some bytes")) == b"some bytes"


def test_a_flipped_bit_is_reported_with_a_hint(store):
    name = store.put(b"some bytes")
    (store.folder / name[:2] / name[2:]).write_bytes(b"some bytez")
    with pytest.raises(Corrupt) as error:
        store.get(name)
    assert "backup" in error.value.hint


def test_a_name_never_leads_out_of_the_folder(store, tmp_path):
    (tmp_path / "secret").write_bytes(b"not an object")
    for name in ("../secret", "../" + "a" * 61, "/" + "a" * 63, "aa/../../secret"):
        with pytest.raises(NotFound):
            store.get(name)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_file_unchanged(tmp_path, monkeypatch, stop):
    def stopped(_: int) -> None:
        raise stop

    write_file_atomically(tmp_path / "a.png", b"first")
    with monkeypatch.context() as patch:
        patch.setattr(object_store.os, "fsync", stopped)
        with pytest.raises(type(stop)):
            write_file_atomically(tmp_path / "a.png", b"second")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.png": b"first"}


def test_a_named_file_keeps_its_permissions_and_links_stay(tmp_path):
    (tmp_path / "there").write_bytes(b"first")
    (tmp_path / "there").chmod(0o640)
    (tmp_path / "link").symlink_to("there")
    write_file_atomically(tmp_path / "link", b"second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_bytes() == b"second"
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o640
    write_file_atomically(Path("/dev/null"), b"third")
    assert Path("/dev/null").is_char_device()


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        write_file_atomically(tmp_path / "absent" / "a.png", b"data")
    assert missing.value.filename == str(tmp_path / "absent" / "a.png")


def test_an_object_that_is_put_during_its_removal_stays(store, monkeypatch):
    """The put happens between the check of the time and the rename, the narrowest gap."""
    name = store.put(b"some bytes")
    path = store.folder / name[:2] / name[2:]
    os.utime(path, (0, 0))
    rename = Path.rename

    def put_first(source: Path, target: Path) -> Path:
        if source == path:
            store.put(b"some bytes")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", put_first)
    assert store.remove([name], datetime.now(UTC) - timedelta(hours=1)) == []
    assert store.get(name) == b"some bytes"


def test_a_put_after_the_rename_writes_the_object_again(store, monkeypatch):
    name = store.put(b"some bytes")
    path = store.folder / name[:2] / name[2:]
    os.utime(path, (0, 0))
    rename = Path.rename

    def put_after(source: Path, target: Path) -> Path:
        moved = rename(source, target)
        if source == path:
            store.put(b"some bytes")
        return moved

    monkeypatch.setattr(Path, "rename", put_after)
    store.remove([name], datetime.now(UTC) - timedelta(hours=1))
    assert store.get(name) == b"some bytes"


def test_an_object_that_a_killed_removal_moved_is_restored(store):
    name, other = store.put(b"some bytes"), store.put(b"other")
    path = store.folder / name[:2] / name[2:]
    path.rename(path.with_name(f".gc-{path.name}"))
    assert [found.sha256 for found in store.list_objects()] == [other]
    store.remove([name], datetime.now(UTC) - timedelta(hours=1))
    assert store.get(name) == b"some bytes"
    assert not list(store.folder.rglob(".gc-*"))
