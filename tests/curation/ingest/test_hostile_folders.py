"""Links, pipes, devices, damaged archives and files that change during an import: each is one refusal with its reason."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from typer.testing import CliRunner

from curation.cli.main import app
from curation.db.tables import import_files, samples
from curation.errors import NotFound
from curation.image_limits import ImageLimits
from curation.ingest.folder_listing import list_folder
from curation.ingest.inspection_result import InspectionOutcome
from curation.ingest.items import ImportItems
from curation.ingest.seed_import import import_seeds
from tests.support.factories import image as picture
from tests.support.image_files import saved

TAKEN = {
    InspectionOutcome.accept,
    InspectionOutcome.accept_warn,
    InspectionOutcome.accept_strip,
    InspectionOutcome.review,
}


def put(folder: Path, name: str, seed: int) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(folder / name, "PNG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "seeds", "good.png", 1)
    return tmp_path / "seeds"


def outcomes(database) -> dict[str, tuple[str, list[str]]]:
    with database.transaction() as tx:
        return {row.name: (row.outcome, row.codes) for row in tx.execute(sa.select(import_files))}


def captions(database) -> str:
    with database.transaction() as tx:
        return json.dumps([row.line for row in tx.execute(sa.select(samples.c.line))], default=str)


def test_pipes_sockets_and_devices_are_recorded_without_waiting(
    database, store, folder, monkeypatch
):
    put(folder, "held.png", 2)
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "held.txt")
    os.mkfifo(folder / "metadata.jsonl")
    (folder / "zero.jsonl").symlink_to("/dev/zero")
    (folder / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)  # the path of a socket has few bytes
        listening.bind("socket.png")
        summary = import_seeds(database, store, folder)
    found = outcomes(database)
    assert InspectionOutcome(found["good.png"][0]) in TAKEN
    assert (
        found["held.png"][0] == "reject"
    )  # its text cannot be read, and is not replaced by its name
    for name in ("pipe.png", "metadata.jsonl", "socket.png"):
        assert found[name] == ("reject", ["special_file"]), name
    for name in ("zero.jsonl", "null.png"):
        assert found[name] == ("reject", ["path_traversal"]), name
    assert all(one.sentence for one in summary.named)
    assert import_seeds(database, store, folder).fresh == 0


def test_links_beside_images_reveal_nothing_of_other_files(database, store, folder, tmp_path):
    (tmp_path / "private.txt").write_text("the secret text")
    (folder / "good.txt").symlink_to(tmp_path / "private.txt")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "metadata.jsonl").symlink_to(tmp_path / "private.txt")
    import_seeds(database, store, folder)
    assert "secret" not in captions(database)
    found = outcomes(database)
    assert found["linked"] == ("reject", ["path_traversal"])
    assert found["metadata.jsonl"] == ("reject", ["path_traversal"])


def test_links_lead_into_a_named_root_only(database, store, folder, tmp_path):
    put(tmp_path / "blobs", "0a", 2)
    put(tmp_path / "blobs", "deep/er.png", 3)
    put(tmp_path / "elsewhere", "b.png", 4)
    (folder / "cached.png").symlink_to("../blobs/0a")
    (folder / "whole").symlink_to(tmp_path / "blobs" / "deep")
    (tmp_path / "blobs" / "deep" / "back").symlink_to(folder)
    (folder / "out.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert "cached.png" in list_folder(folder).files
    import_seeds(database, store, folder, link_roots=[tmp_path / "blobs"])
    found = outcomes(database)
    assert InspectionOutcome(found["cached.png"][0]) in TAKEN
    assert InspectionOutcome(found["whole/er.png"][0]) in TAKEN
    assert found["out.png"] == ("reject", ["path_traversal"])
    assert found["whole/back"][0] == "reject"  # the folder itself is no root


def test_follow_links_is_an_option_of_the_command(tmp_path, folder):
    result = CliRunner().invoke(
        app, ["seed", "import", str(folder), "--dry-run", "--follow-links", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    with pytest.raises(NotFound, match="there is no folder"):
        CliRunner().invoke(
            app,
            ["seed", "import", str(folder), "--follow-links", str(tmp_path / "gone")],
            catch_exceptions=False,
        )


@pytest.mark.parametrize("change", ["removed", "pipe", "link", "folder"])
def test_files_that_go_or_change_during_an_import_are_refused_alone(
    database, store, folder, monkeypatch, change
):
    for number in range(5):
        put(folder, f"{number}.png", 10 + number)
    read = ImportItems.load
    swapped = []

    def load(self, item):
        if item.name == "3.png" and not swapped:
            swapped.append(item)
            path = folder / "3.png"
            path.unlink()
            match change:
                case "pipe":
                    os.mkfifo(path)
                case "link":
                    path.symlink_to(folder / "2.png")
                case "folder":
                    path.mkdir()
        return read(self, item)

    monkeypatch.setattr(ImportItems, "load", load)
    import_seeds(database, store, folder)
    found = outcomes(database)
    assert found["3.png"][0] == "reject"
    assert all(InspectionOutcome(found[f"{number}.png"][0]) in TAKEN for number in (0, 1, 2, 4))


def test_a_file_that_can_be_read_again_is_tried_again(database, store, folder, monkeypatch):
    put(folder, "late.png", 30)
    read = ImportItems.load

    def failing(self, item):
        if item.name == "late.png":
            (folder / "late.png").rename(folder.parent / "late.png")
        return read(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(ImportItems, "load", failing)
        import_seeds(database, store, folder)
    assert outcomes(database)["late.png"] == ("reject", ["unreadable"])
    (folder.parent / "late.png").rename(folder / "late.png")
    assert import_seeds(database, store, folder).fresh == 1
    assert InspectionOutcome(outcomes(database)["late.png"][0]) in TAKEN


def test_bad_members_of_archives_are_refused_alone(database, store, folder):
    image = saved(picture(40), "PNG")
    with zipfile.ZipFile(folder / "mixed.zip", "w") as archive:
        archive.writestr("lzma.png", image, compress_type=zipfile.ZIP_LZMA)
        archive.writestr("bzip2.png", bytes(50 << 20), compress_type=zipfile.ZIP_BZIP2)
        archive.writestr("good.png", image, compress_type=zipfile.ZIP_DEFLATED)
        archive.writestr("n" * 60_000, image)
    data = bytearray((folder / "mixed.zip").read_bytes())
    data[data.index(b"lzma.png") + 20] ^= 0xFF
    (folder / "mixed.zip").write_bytes(data)
    (folder / "broken.zip").write_bytes(b"PK\3\4" + bytes(50))
    with tarfile.open(folder / "set.tar", "w") as archive:
        info = tarfile.TarInfo("0001.png")
        info.size = len(saved(picture(41), "PNG"))
        archive.addfile(info, io.BytesIO(saved(picture(41), "PNG")))
        linked = tarfile.TarInfo("0002.png")
        linked.type, linked.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(linked)
    (folder / "set.tar.gz").write_bytes(b"\x1f\x8b\x08\0" + bytes(30))
    import_seeds(database, store, folder)
    found = outcomes(database)
    assert found["mixed.zip/lzma.png"] == ("reject", ["unsupported_compression"])
    assert found["mixed.zip/bzip2.png"][0] == "reject"
    assert InspectionOutcome(found["mixed.zip/good.png"][0]) in TAKEN
    assert found["mixed.zip"][0] == "partial"
    assert found["broken.zip"] == ("reject", ["corrupt"])
    assert InspectionOutcome(found["set.tar/0001.png"][0]) in TAKEN
    assert found["set.tar/0002.png"] == ("reject", ["path_traversal"])
    assert found["set.tar.gz"] == ("reject", ["unsupported_format"])
    assert [
        name for name in found if "nnnn" in name and found[name] == ("reject", ["name_too_long"])
    ]
    assert InspectionOutcome(found["good.png"][0]) in TAKEN


def test_limits_are_settings_that_reach_the_import(database, store, tmp_path):
    put(tmp_path / "seeds", "a.png", 50)
    summary = import_seeds(database, store, tmp_path / "seeds", limits=ImageLimits(pixels=100))
    assert summary.named[0].codes == ("too_many_pixels",)


def test_folders_are_as_deep_as_the_system_allows(tmp_path):
    here = tmp_path
    for _ in range(1_200):
        here = here / "d"
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1_200):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    put(tmp_path, "a.png", 1)
    assert "a.png" in list_folder(tmp_path).files


def test_a_path_too_long_for_the_records_is_one_refusal(database, store, folder):
    deep = "/".join(f"{number}-" + os.urandom(120).hex() for number in range(11))
    put(folder, f"{deep}/deep.png", 2)
    member = "".join(chr(0x4E00 + byte * 7) for byte in os.urandom(990)) + ".png"
    with zipfile.ZipFile(folder / "box.zip", "w") as box:
        box.write(folder / f"{deep}/deep.png", member)
    summary = import_seeds(database, store, folder)
    found = outcomes(database)
    long = {name: one for name, one in found.items() if one[1] == ["name_too_long"]}
    assert {name[:5] for name in long} == {deep[:5], "box.z"}
    assert {one[0] for one in long.values()} == {"reject"}
    assert max(len(name.encode()) for name in found) < 300
    assert InspectionOutcome(found["good.png"][0]) in TAKEN
    assert any("shorten its folder names" in one.sentence for one in summary.named)
    again = import_seeds(database, store, folder)
    assert (again.fresh, again.refused, again.gone) == (0, 2, 0)
