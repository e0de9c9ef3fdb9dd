"""Zip and tar archives: path traversal, links, bombs, damage, and wrong sizes and counts."""

import io
import resource
import stat
import struct
import tarfile
import zipfile

import pytest

from curation.images.headers import InvalidImage
from curation.ingest.archive_members import MAX_MEMBERS, Member, check_relative_path
from curation.ingest.archives import archive_kind, list_members, read_member


def zipped(members, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out


def tarred(members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out


def refusals(members: list[Member]) -> dict[str, str | None]:
    return {member.name: member.refusal.code if member.refusal else None for member in members}


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
def test_names_outside_the_archive_folder_are_refused(name):
    with pytest.raises(InvalidImage) as refused:
        check_relative_path(name)
    assert refused.value.code == "path_traversal"


@pytest.mark.parametrize("name", ["x.png", "a/b.png", "..x/y", "a..b", "-rf", "猫 🐱.png", "a/c"])
def test_names_inside_the_archive_folder_are_accepted(name):
    check_relative_path(name)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_are_listed_and_read(pack):
    archive = pack(
        [("in/a.png", b"abc" * 1000), ("../b.png", b"x"), ("名前 é.png", b"y"), ("empty", b"")]
    )
    assert archive_kind(archive.getvalue()[:512]) in {"zip", "tar"}
    members = list_members(archive, 5000)
    assert refusals(members) == {
        "in/a.png": None,
        "../b.png": "path_traversal",
        "名前 é.png": None,
        "empty": None,
    }
    assert read_member(archive, members[0], 5000) == b"abc" * 1000
    assert read_member(archive, members[2], 5000) == b"y"
    assert read_member(archive, members[3], 5000) == b""
    with pytest.raises(InvalidImage) as refused:
        read_member(archive, members[1], 5000)
    assert refused.value.code == "path_traversal"
    with pytest.raises(InvalidImage) as large:
        read_member(archive, members[0], 100)
    assert large.value.code == "archive_too_large"


def test_folders_are_left_out_and_links_and_devices_are_refused():
    linked = zipfile.ZipInfo("link.png")
    linked.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert refusals(list_members(zipped([("in/", b""), (linked, "/etc/hostname")]), 100)) == {
        "link.png": "path_traversal"
    }
    kinds = {"folder": tarfile.DIRTYPE, "soft": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE,
             "disk": tarfile.BLKTYPE, "tty": tarfile.CHRTYPE}  # fmt: skip
    special = []
    for name, kind in kinds.items():
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/hostname"
        special.append((info, b""))
    codes = refusals(list_members(tarred([*special, ("good", b"x")]), 100))
    assert codes == dict.fromkeys(["soft", "hard", "pipe", "disk", "tty"], "path_traversal") | {
        "good": None
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_than_deflate_are_refused_each_member_by_itself(method):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("odd.png", b"abc" * 99, compress_type=method)
        archive.writestr("stored.png", b"abc", compress_type=zipfile.ZIP_STORED)
        archive.writestr("good.png", b"abc", compress_type=zipfile.ZIP_DEFLATED)
    members = list_members(out, 1000)
    assert refusals(members) == {
        "odd.png": "unsupported_compression",
        "stored.png": None,
        "good.png": None,
    }
    assert [read_member(out, member, 1000) for member in members[1:]] == [b"abc", b"abc"]


def test_encrypted_members_are_refused():
    data = bytearray(zipped([("x.png", b"abc")]).getvalue())
    data[data.index(b"PK\1\2") + 8] |= 1
    assert list_members(io.BytesIO(data), 100)[0].refusal.code == "encrypted"


def test_bombs_are_refused_by_their_declared_sizes_and_others_are_read():
    archive = zipped(
        [
            ("bomb.png", bytes(30 << 20)),
            ("good.png", b"abc"),
            ("large.png", bytes(range(256)) * 3000),
        ]
    )
    members = list_members(archive, 64 << 20)
    assert refusals(members) == {
        "bomb.png": "archive_too_large",
        "good.png": None,
        "large.png": None,
    }
    assert list_members(archive, 1000)[2].refusal.code == "archive_too_large"
    assert read_member(archive, members[1], 64 << 20) == b"abc"


def test_a_member_with_a_wrong_size_yields_no_more_than_it_declares():
    data = bytearray(zipped([("x.png", bytes(500_000))]).getvalue())
    offset = data.index(b"PK\1\2") + 24
    data[offset : offset + 4] = (1000).to_bytes(4, "little")
    [member] = list_members(io.BytesIO(data), 64 << 20)
    with pytest.raises(InvalidImage, match="cannot be unpacked"):
        read_member(io.BytesIO(data), member, 64 << 20)


@pytest.mark.parametrize("true_count", [True, False])
def test_millions_of_members_are_refused_before_they_are_parsed(tmp_path, true_count):
    entry = (
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
        + b"a"
    )
    count = 3_000_000 if true_count else 1_000_000
    declared = count if true_count else 5
    directory = entry * count
    file = tmp_path / "many.zip"
    file.write_bytes(
        b"PK\3\4" + bytes(26) + directory
        + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, declared, declared, len(directory), 30)
        + struct.pack("<4sLQL", b"PK\6\7", 0, 30 + len(directory), 1)
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )  # fmt: skip
    del directory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with file.open("rb") as opened, pytest.raises(InvalidImage) as refused:
        list_members(opened, 1000)
    assert refused.value.code == "archive_too_large"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 << 10  # KiB; parsing a directory of this size takes more than a GiB


def test_a_tar_with_more_members_than_are_read_is_refused(monkeypatch):
    monkeypatch.setattr("curation.ingest.archives.MAX_MEMBERS", 10)
    with pytest.raises(InvalidImage) as refused:
        list_members(tarred([(str(n), b"") for n in range(11)]), 100)
    assert refused.value.code == "archive_too_large"
    assert MAX_MEMBERS == 100_000


def test_names_of_zips_are_utf8_where_they_can_be_and_else_of_the_formats_code_page():
    data = zipped([("aaaa.png", b"x")]).getvalue()
    assert list_members(io.BytesIO(data.replace(b"aaaa", "猫a".encode())), 9)[0].name == "猫a.png"
    assert list_members(io.BytesIO(data.replace(b"aaaa", b"\x81\x82aa")), 9)[0].name == "üéaa.png"
    [long] = list_members(zipped([("x" * 2000, b"x")]), 9)
    assert long.refusal.code == "name_too_long"


def test_a_large_zip64_archive_is_read():
    info = zipfile.ZipInfo("wide.png")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open(info, "w", force_zip64=True) as file:
        file.write(b"abc")
    [member] = list_members(out, 100)
    assert read_member(out, member, 100) == b"abc"


def test_good_members_of_a_damaged_tar_are_read_and_the_rest_is_reported():
    data = bytearray(
        tarred([("a", b"x" * 600), ("b", b"y" * 600), ("c", b"z")], tarfile.USTAR_FORMAT).getvalue()
    )
    broken = bytearray(data)
    broken[1536 + 148 : 1536 + 154] = b"999999"  # the checksum of the second header
    members = list_members(io.BytesIO(broken), 1000)
    assert refusals(members) == {"a": None, "(rest)": "corrupt"}
    members = list_members(io.BytesIO(data[: 1536 + 700]), 1000)
    assert refusals(members)["b"] == "truncated"
    assert read_member(io.BytesIO(data), members[0], 1000) == b"x" * 600


def test_a_tar_with_an_endless_header_or_a_negative_size_is_refused():
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * 1_000_000}
    with pytest.raises(InvalidImage) as refused:
        list_members(tarred([(info, b"x")]), 1000)
    assert refused.value.code == "corrupt"
    data = bytearray(tarred([("a", b"x")], tarfile.GNU_FORMAT).getvalue())
    data[124:136] = b"\xff" * 12  # base 256: minus one
    data[148:156] = b" " * 8
    data[148:155] = b"%06o\0" % sum(data[:512])
    codes = {
        member.refusal.code for member in list_members(io.BytesIO(data), 1000) if member.refusal
    }
    assert codes & {"truncated", "corrupt"}


@pytest.mark.parametrize(
    "data", [b"PK\3\4" + bytes(100), b"PK\5\6", b"PK\5\6" + bytes(17), bytes(257) + b"ustar"]
)
def test_damaged_zips_are_refused_as_a_whole(data):
    with pytest.raises(InvalidImage) as refused:
        list_members(io.BytesIO(data), 100)
    assert refused.value.code == "corrupt"
