"""Captions in every usual layout and encoding: which are read, which take precedence, and which images are held back."""

from __future__ import annotations

import codecs
import json
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest

from curation.domain import CaptionSource, Split
from curation.ingest.folder_listing import list_folder
from curation.ingest.listing import Listing, ListingOptions

GIVEN, NAMED = CaptionSource.given, CaptionSource.file_name


def write(folder: Path, name: str, data: str | bytes = b"") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def caption_of(listing: Listing, name: str) -> tuple[str | None, str]:
    """Return the caption of a file and where it comes from, or why it is held back."""
    found = listing.describe(name)
    return (
        (found.refusal.code, found.refusal.sentence)
        if found.refusal
        else (found.caption, found.caption_source)
    )


CAPTION_FILES = [
    ("x.txt", b"a bowl\n", "a bowl"),
    ("x.TXT", b"a bowl", "a bowl"),
    ("X.txt", b"a bowl", "a bowl"),
    ("x.caption", b"a bowl", "a bowl"),
    ("x.png.txt", b"a bowl", "a bowl"),
    ("x.png.caption", b"a bowl", "a bowl"),
    ("x.json", b'{"caption": "a bowl", "width": 3, "source": null}', "a bowl"),
    ("x.json", b'{"text": ["a bowl", "a dish"]}', "a bowl"),
    ("x.json", b'"a bowl"', "a bowl"),
    ("x.png.json", b'{"prompt": "a bowl"}', "a bowl"),
    ("x.txt", b"a blue bowl\r\n  a bowl on nothing \n\n", "a blue bowl a bowl on nothing"),
    ("x.txt", codecs.BOM_UTF8 + b"a bowl", "a bowl"),
    ("x.txt", codecs.BOM_UTF16_LE + "ein Gefäß".encode("utf-16-le"), "ein Gefäß"),
    ("x.txt", codecs.BOM_UTF16_BE + "ein Gefäß".encode("utf-16-be"), "ein Gefäß"),
    ("x.txt", codecs.BOM_UTF32_LE + "ein Gefäß".encode("utf-32-le"), "ein Gefäß"),
    ("x.txt", "一只红色的碗".encode(), "一只红色的碗"),
    ("x.txt", b"x" * 10_000, "x" * 10_000),
]


@pytest.mark.parametrize(("name", "data", "caption"), CAPTION_FILES)
def test_a_text_file_beside_an_image_is_its_caption(tmp_path, name, data, caption):
    write(tmp_path, "x.png")
    write(tmp_path, name, data)
    listing = list_folder(tmp_path)
    assert listing.files == ["x.png"]
    assert caption_of(listing, "x.png") == (caption, GIVEN)


UNREADABLE = [
    ("gbk", "一只红色的碗".encode("gbk"), "gb18030"),
    ("shift_jis", "赤い茶碗の写真です".encode("shift_jis"), "shift_jis"),
    ("latin-1", "ein Gefäß".encode("latin-1"), "latin-1"),
    ("utf-16 without a mark", "ein Gefäß".encode("utf-16-le"), "utf-16-le"),
]


@pytest.mark.parametrize(
    ("what", "data", "encoding"), UNREADABLE, ids=[row[0] for row in UNREADABLE]
)
@pytest.mark.parametrize(
    "layout", ["x.txt", "x.caption", "metadata.csv", "metadata.jsonl", "metadata.json"]
)
def test_another_encoding_holds_the_image_back_until_it_is_named(
    tmp_path, what, data, encoding, layout
):
    text = data.decode(encoding)
    whole = {
        "metadata.csv": f"file_name,text\nx.png,{text}\n",
        "metadata.jsonl": f'{{"file_name": "x.png", "text": "{text}"}}\n',
        "metadata.json": f'[{{"file_name": "x.png", "text": "{text}"}}]',
    }.get(layout, text)
    write(tmp_path, "x.png")
    write(tmp_path, layout, whole.encode(encoding))
    code, sentence = caption_of(list_folder(tmp_path), "x.png")
    assert code in {"caption_unreadable", "manifest_unreadable", "held_back"}
    assert layout in sentence
    assert "--encoding" in sentence or what.startswith("utf-16")
    named = list_folder(tmp_path, options=ListingOptions(encoding=encoding))
    assert caption_of(named, "x.png") == (text, GIVEN)
    assert named.bad_lines == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a bowl\0with", "NUL"),
        (b"x" * 10_001, "more than 10,000"),
        ("ä".encode() * 90_000, "10,000"),
    ],
)
def test_a_caption_that_cannot_be_stored_holds_its_image_back(tmp_path, data, reason):
    write(tmp_path, "x.png")
    write(tmp_path, "x.txt", data)
    code, sentence = caption_of(list_folder(tmp_path), "x.png")
    assert code == "caption_unreadable"
    assert "'x.txt'" in sentence
    assert reason in sentence


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder"])
def test_a_caption_that_is_no_regular_file_is_never_opened(tmp_path, kind):
    inside = tmp_path / "in"
    write(inside, "x.png")
    write(tmp_path, "secret.txt", "a secret")
    {
        "link": lambda: os.symlink(tmp_path / "secret.txt", inside / "x.txt"),
        "pipe": lambda: os.mkfifo(inside / "x.txt"),
        "device": lambda: os.symlink("/dev/zero", inside / "x.txt"),
        "folder": (inside / "x.txt").mkdir,
    }[kind]()
    listing = list_folder(inside)
    assert caption_of(listing, "x.png") == (
        ("x", NAMED)
        if kind == "folder"
        else ("caption_unreadable", caption_of(listing, "x.png")[1])
    )
    assert "secret" not in str(listing.describe("x.png"))


def test_a_text_is_shared_by_all_images_of_its_name_and_a_full_name_comes_first(tmp_path):
    for name, text in (
        ("x.png", ""),
        ("x.webp", ""),
        ("x.txt", "both"),
        ("x.webp.txt", "one"),
        ("X.caption", "no"),
    ):
        write(tmp_path, name, text)
    listing = list_folder(tmp_path)
    assert listing.files == ["x.png", "x.webp"]
    assert (caption_of(listing, "x.png"), caption_of(listing, "x.webp")) == (
        ("both", GIVEN),
        ("one", GIVEN),
    )


def test_a_blank_text_is_ignored_and_the_next_one_counts(tmp_path):
    for name, text in (
        ("x.png", ""),
        ("x.txt", " \n"),
        ("x.caption", "a bowl"),
        ("y.png", ""),
        ("y.txt", "\n"),
    ):
        write(tmp_path, name, text)
    listing = list_folder(tmp_path)
    assert caption_of(listing, "x.png") == ("a bowl", GIVEN)
    assert caption_of(listing, "y.png") == ("y", NAMED)


MANIFESTS = [
    ("metadata.jsonl", '{"file_name": "a.png", "text": "a jar"}\n'),
    (
        "metadata.jsonl",
        codecs.BOM_UTF16_LE + '{"file_name": "a.png", "text": "a jar"}\n'.encode("utf-16-le"),
    ),
    ("metadata.jsonl", codecs.BOM_UTF8 + b'{"file_name": "a.png", "caption": "a jar"}\n'),
    ("more.ndjson", '{"image": "a.png", "prompt": "a jar"}\n'),
    ("metadata.csv", "file_name,text\na.png,a jar\n"),
    ("metadata.csv", codecs.BOM_UTF8 + b"file_name;text\r\na.png;a jar\r\n"),
    ("captions.tsv", "image\tcaption\na.png\ta jar\n"),
    ("metadata.json", '[{"file_name": "a.png", "text": "a jar"}]'),
    ("list.json", '[{"image": "a.png", "caption": "a jar"}]'),
    ("meta_cap.json", '{"a.png": {"caption": "a jar", "tags": "jar, glass"}}'),
    ("meta_cap.json", '{"a": {"tags": "a jar"}}'),
    ("meta_cap.json", '{"a.png": "a jar"}'),
    (
        "coco.json",
        '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a jar"}]}',
    ),
]


@pytest.mark.parametrize(("name", "data"), MANIFESTS)
def test_usual_lists_of_captions_are_read(tmp_path, name, data):
    write(tmp_path, "a.png")
    write(tmp_path, name, data)
    listing = list_folder(tmp_path)
    assert (listing.files, listing.bad_lines) == (["a.png"], [])
    assert caption_of(listing, "a.png") == ("a jar", GIVEN)


def test_a_table_has_quotes_and_bad_rows_by_their_lines(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path, name)
    table = 'file_name,text,licence,split\na.png,"a jar, with\na comma",MIT,TEST\nb.png,x,y,z,1\ngone.png,a\nc.png,c,,later\n'
    write(tmp_path, "metadata.csv", table)
    listing = list_folder(tmp_path)
    found = listing.describe("a.png")
    assert (found.caption, found.licence, found.split) == (
        "a jar, with\na comma",
        "MIT",
        Split.heldout,
    )
    assert [line.name for line in listing.bad_lines] == [
        "metadata.csv:4",
        "metadata.csv:5",
        "metadata.csv:6",
    ]
    assert caption_of(listing, "c.png")[0] == "held_back"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("package.json", '{"name": "x"}'),
        ("results.csv", "loss,step\n1,2\n"),
        ("list.json", "[1, 2]"),
        ("x.json", "{"),
    ],
)
def test_a_file_that_describes_no_images_is_an_ordinary_file(tmp_path, name, data):
    write(tmp_path, "a.png")
    write(tmp_path, name, data)
    listing = list_folder(tmp_path)
    assert (sorted(listing.files), listing.bad_lines) == (["a.png", name], [])


@pytest.mark.parametrize("data", ["[" * 200_000, '{"a":' * 50_000, "[" + "1," * 10 + "]"])
def test_deep_and_broken_json_is_no_manifest(tmp_path, data):
    write(tmp_path, "a.png")
    write(tmp_path, "deep.json", data)
    assert sorted(list_folder(tmp_path).files) == ["a.png", "deep.json"]


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        (unicodedata.normalize("NFD", "gefäß.png"), unicodedata.normalize("NFC", "gefäß.png")),
        (unicodedata.normalize("NFC", "gefäß.png"), unicodedata.normalize("NFD", "gefäß.png")),
        ("sub/a.png", "sub\\a.png"),
        ("sub/a.png", "./sub/a.png"),
        ("sub/a.png", "Sub/A.PNG"),
        ("back\\slash.png", "back\\slash.png"),
        ("a.png", "a"),
    ],
)
@pytest.mark.parametrize("layout", ["metadata.jsonl", "metadata.csv"])
def test_names_are_compared_as_people_write_them(tmp_path, on_disk, written, layout):
    write(tmp_path, on_disk)
    row = (
        json.dumps({"file_name": written, "text": "a jar"})
        if layout == "metadata.jsonl"
        else f"file_name,text\n{written},a jar"
    )
    write(tmp_path, layout, row)
    assert caption_of(list_folder(tmp_path), on_disk) == ("a jar", GIVEN)


def test_a_name_that_fits_several_files_fits_none(tmp_path):
    for name in ("a.png", "A.png", "b.png", "b.webp"):
        write(tmp_path, name)
    rows = [
        {"file_name": "a.PNG", "text": "x"},
        {"file_name": "b", "text": "y"},
        {"file_name": "A.png", "text": "z"},
    ]
    write(tmp_path, "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    listing = list_folder(tmp_path)
    assert [(line.name, "matches 2 files" in line.sentence) for line in listing.bad_lines] == [
        ("metadata.jsonl:1", True),
        ("metadata.jsonl:2", True),
    ]
    assert caption_of(listing, "A.png") == ("z", GIVEN)


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "a.png", "text": 5}',
        '{"file_name": "a.png", "split": "x"}',
        '{"file_name": "a.png", "text": "b',
    ],
)
def test_a_file_whose_line_fails_is_held_back_with_the_reason(tmp_path, line):
    write(tmp_path, "a.png")
    write(tmp_path, "b.png")
    write(tmp_path, "metadata.jsonl", line)
    listing = list_folder(tmp_path)
    code, sentence = caption_of(listing, "a.png")
    assert (code, "metadata.jsonl:1" in sentence) == ("held_back", True)
    assert caption_of(listing, "b.png") == ("b", NAMED)


def test_contradicting_lines_are_reported_and_the_first_counts(tmp_path):
    write(tmp_path, "a.png")
    write(tmp_path, "metadata.csv", "file_name,text\na.png,a third\n")
    rows = [
        {"text": "one"},
        {"text": "one", "licence": "MIT"},
        {"text": "two", "licence": "CC0", "source": "me"},
    ]
    write(
        tmp_path,
        "metadata.jsonl",
        "\n".join(json.dumps({"file_name": "a.png"} | row) for row in rows),
    )
    listing = list_folder(tmp_path)
    found = listing.describe("a.png")
    assert (found.caption, found.licence, found.source) == ("one", "MIT", "me")
    found = {line.name: line.sentence for line in listing.bad_lines}
    assert list(found) == ["metadata.jsonl:3", "metadata.csv:2"]
    assert "metadata.jsonl:1" in found["metadata.jsonl:3"]
    assert "licence differs from that of metadata.jsonl:2" in found["metadata.jsonl:3"]


def test_two_pairs_with_one_foreground_are_reported(tmp_path):
    for name in ("f.png", "b.png", "c.png"):
        write(tmp_path, name)
    row = {
        "foreground": "F.png",
        "background": "b.png",
        "text": "x",
        "text_foreground": "y",
        "text_background": "z",
    }
    rows = [row, row, row | {"background": "c.png"}]
    write(tmp_path, "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    listing = list_folder(tmp_path)
    assert [(line.name, line.code) for line in listing.bad_lines] == [
        ("metadata.jsonl:3", "line_conflict")
    ]
    assert listing.files == ["f.png"]
    assert listing.describe("f.png").texts == {"foreground": "y", "background": "z"}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train/a.png", Split.train),
        ("Test/a.png", Split.heldout),
        ("data/VAL/deep/a.png", Split.heldout),
        ("held-out/a.png", Split.heldout),
        ("train/validation/a.png", Split.heldout),
        ("test-00003/a.png", Split.heldout),
        ("latest/a.png", None),
        ("a_test.png", None),
    ],
)
def test_folders_named_like_a_split_are_used_on_request(tmp_path, name, split):
    write(tmp_path, name)
    plain, taken = (
        list_folder(tmp_path),
        list_folder(tmp_path, options=ListingOptions(splits_from_folders=True)),
    )
    assert plain.describe(name).split is None
    assert taken.describe(name).split == split
    assert bool(plain.folder_splits(name)) == (split is not None)


def test_a_manifest_overrules_the_folder_name(tmp_path):
    write(tmp_path, "test/a.png")
    write(tmp_path, "metadata.jsonl", '{"file_name": "test/a.png", "split": "train"}')
    assert (
        list_folder(tmp_path, options=ListingOptions(splits_from_folders=True))
        .describe("test/a.png")
        .split
        is Split.train
    )


def test_names_become_captions_on_request_of_the_user(tmp_path):
    write(tmp_path, "red_bowl-02.png")
    assert caption_of(
        list_folder(tmp_path, options=ListingOptions(captions_from_names=True)), "red_bowl-02.png"
    ) == (
        "red bowl",
        GIVEN,
    )


def test_caption_layouts_of_other_tools_are_read(shared):
    listing = list_folder(shared / "cases" / "captions")
    found = {name: caption_of(listing, name) for name in listing.files}
    assert {name: text for name, (text, _) in found.items()} == {
        "bom.png": "a red bowl",
        "capext.png": "a caption in kohya's default extension",
        "csv/a.png": "a purple jar",
        "csv/b.png": "a jar, with a comma",
        "double.png": "a caption with a double extension",
        "empty.png": "empty",
        "gbk.png": "caption_unreadable",
        "multi.png": "a blue bowl a bowl on nothing",
        "nul.png": "caption_unreadable",
        "twin.png": "twins",
        "twin.webp": "twins",
        "upper.png": "a caption in upper case extension",
    }
    assert found["empty.png"][1] == NAMED
    named = list_folder(shared / "cases" / "captions", options=ListingOptions(encoding="gb18030"))
    assert caption_of(named, "gbk.png") == ("一只红色的碗", GIVEN)


def test_metadata_and_texts_in_a_zip_are_listed_alike(tmp_path):
    from curation.ingest.archives import list_members
    from curation.ingest.folder_listing import list_tree
    from curation.ingest.listing import DEFAULT_OPTIONS
    from curation.ingest.trees import ArchiveTree

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", b"")
        archive.writestr("a.txt", b"a bowl")
        archive.writestr("in/b.png", b"")
        archive.writestr("in/metadata.csv", "file_name,text\nB.PNG,a jar\n")
        archive.writestr("__MACOSX/._a.png", b"")
    with (tmp_path / "x.zip").open("rb") as file:
        members = list_members(file, 1 << 20)
    listing = list_tree(
        ArchiveTree(lambda: (tmp_path / "x.zip").open("rb"), members, 1 << 20),
        DEFAULT_OPTIONS,
        "x.zip/",
    )
    assert sorted(listing.files) == ["a.png", "in/b.png"]
    assert (caption_of(listing, "a.png"), caption_of(listing, "in/b.png")) == (
        ("a bowl", GIVEN),
        ("a jar", GIVEN),
    )
