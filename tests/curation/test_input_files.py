"""Input files: regular ones are opened, everything else is refused at once with its reason."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from curation.errors import NotFound, Refused
from curation.input_files import UnsafeFile, open_beneath, read_input


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.txt").write_bytes(b"abc")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_bytes(b"secret")
    return tmp_path / "in"


def test_a_regular_file_below_the_folder_is_opened(folder: Path) -> None:
    with open_beneath(folder, "sub/a.txt") as file:
        assert file.read() == b"abc"


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../secret/key.txt", "sub/../../secret/key.txt", "a\0b"]
)
def test_a_name_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UnsafeFile) as caught:
        open_beneath(folder, name)
    assert caught.value.code == "path_traversal"


@pytest.mark.parametrize("link", ["file.txt", "linked/key.txt", "dangling.txt", "circle.txt"])
def test_links_are_refused_in_any_component(folder: Path, link: str) -> None:
    (folder / "file.txt").symlink_to(folder.parent / "secret" / "key.txt")
    (folder / "linked").symlink_to(folder.parent / "secret")
    (folder / "dangling.txt").symlink_to(folder / "nowhere")
    (folder / "circle.txt").symlink_to(folder / "circle.txt")
    with pytest.raises(UnsafeFile) as caught:
        open_beneath(folder, link)
    assert caught.value.code == "path_traversal"


def test_links_lead_into_named_roots_only(folder: Path) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    (blobs / "1").write_bytes(b"blob")
    (folder / "good").symlink_to("../blobs/1")
    (folder / "bad").symlink_to("../secret/key.txt")
    with open_beneath(folder, "good", [blobs]) as file:
        assert file.read() == b"blob"
    with pytest.raises(UnsafeFile, match="allowed folders"):
        open_beneath(folder, "bad", [blobs])


def test_pipes_sockets_devices_and_folders_are_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s.png"))
        for name in ("pipe.png", "s.png", "sub"):
            with pytest.raises(UnsafeFile) as caught:
                open_beneath(folder, name)
            assert caught.value.code == "special_file", name


def test_an_input_file_is_bounded(folder: Path) -> None:
    assert read_input(folder / "sub" / "a.txt", 3) == b"abc"
    for bad, kind in ((folder / "sub" / "a.txt", Refused), (Path("/dev/zero"), Refused), (folder, Refused),
                      (folder / "no", NotFound), (folder / "sub" / "a.txt" / "x", NotFound)):  # fmt: skip
        with pytest.raises(kind):
            read_input(bad, 2)
