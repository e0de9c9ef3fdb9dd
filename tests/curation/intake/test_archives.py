"""Archives: names that lead out, links, bombs and lies about sizes."""

import io
import stat
import zipfile

import pytest

from curation.intake.archives import check_inside, is_archive, list_members, read_member
from curation.intake.headers import BadFile


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data, **options)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/x",
        "\\x",
        "C:\\x",
        "c:x",
        "..\\x",
        "a\\..\\..\\x",
        "http://h/x",
        "s3://b/x",
        "file:///x",
        "",
    ],
)
def test_names_that_lead_out_are_refused(name):
    with pytest.raises(BadFile) as refused:
        check_inside(name)
    assert refused.value.code == "path_traversal"


@pytest.mark.parametrize("name", ["x.png", "a/b.png", "..x/y", "a..b", "-rf", "猫 🐱.png", "a/c"])
def test_names_that_stay_inside_are_taken(name):
    check_inside(name)


def test_members_are_listed_and_read(tmp_path):
    path = zipped(tmp_path / "a.zip", [("in/", b""), ("in/a.png", b"abc"), ("../b.png", b"x")])
    assert is_archive(path)
    good, bad = list_members(path, 100)
    assert (good.name, good.refusal) == ("in/a.png", None)
    assert read_member(path, good.index, 100) == b"abc"
    assert bad.refusal.code == "path_traversal"


def test_links_and_encrypted_members_are_refused(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "a.zip", [(link, "/etc/hostname")])
    assert list_members(path, 100)[0].refusal.code == "path_traversal"
    data = bytearray(zipped(tmp_path / "b.zip", [("x.png", b"abc")]).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    assert list_members(tmp_path / "b.zip", 100)[0].refusal.code == "encrypted"


def test_bombs_are_refused_by_what_they_declare(tmp_path):
    with pytest.raises(BadFile) as bomb:
        list_members(zipped(tmp_path / "a.zip", [("big.png", bytes(30 << 20))]), 64 << 20)
    assert bomb.value.code == "archive_too_large"
    with pytest.raises(BadFile) as large:
        list_members(zipped(tmp_path / "b.zip", [("x.png", bytes(2000))]), 1000)
    assert large.value.code == "archive_too_large"


def test_a_member_that_lies_about_its_size_gives_no_more_than_it_declared(tmp_path):
    data = bytearray(zipped(tmp_path / "a.zip", [("x.png", bytes(500_000))]).read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    member = list_members(tmp_path / "a.zip", 64 << 20)[0]
    with pytest.raises(BadFile, match="cannot be unpacked"):  # its checksum is of the longer content
        read_member(tmp_path / "a.zip", member.index, 64 << 20)


def test_damaged_archives_are_refused_whole(tmp_path):
    out = io.BytesIO(b"PK\3\4" + bytes(100))
    (tmp_path / "a.zip").write_bytes(out.getvalue())
    assert is_archive(tmp_path / "a.zip")
    with pytest.raises(BadFile) as refused:
        list_members(tmp_path / "a.zip", 100)
    assert refused.value.code == "corrupt"
    assert not is_archive(tmp_path / "gone.zip")
