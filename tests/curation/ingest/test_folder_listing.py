"""Folder listings: manifests, their errors, and captions of files that no manifest describes."""

import json
import os

import pytest

from curation.domain import Split
from curation.ingest.caption_files import caption_from_name
from curation.ingest.folder_listing import list_folder


def write(folder, name, text=""):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def manifest(folder, name, *rows):
    write(
        folder,
        name,
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
    )


def test_files_that_a_manifest_names_come_first(tmp_path):
    for name in ("a.png", "sub/b.png", "z.png", ".hidden.png", "__MACOSX/a.png"):
        write(tmp_path, name)
    row = {
        "file_name": "z.png",
        "text": "a hat",
        "licence": "MIT",
        "source": "a box",
        "split": "heldout",
    }
    manifest(tmp_path, "metadata.jsonl", row)
    manifest(
        tmp_path,
        "sub/metadata.jsonl",
        {"file_name": "b.png", "caption": "a cup", "license": "CC0-1.0"},
    )
    listing = list_folder(tmp_path)
    assert listing.files == ["z.png", "sub/b.png", "a.png"]
    assert listing.bad_lines == []
    hat, cup = listing.describe("z.png"), listing.describe("sub/b.png")
    assert (hat.caption, hat.licence, hat.source, hat.split) == (
        "a hat",
        "MIT",
        "a box",
        Split.heldout,
    )
    assert (cup.caption, cup.licence, cup.source, cup.split) == ("a cup", "CC0-1.0", None, None)


def test_each_bad_line_is_named_with_its_number_and_good_ones_still_count(tmp_path):
    write(tmp_path, "a.png")
    manifest(
        tmp_path,
        "metadata.jsonl",
        "{broken",
        "[1]",
        {"text": "no name"},
        {"file_name": "../../etc/passwd"},
        {"file_name": "missing.png"},
        {"file_name": "a.png", "text": 5},
        {"file_name": "a.png", "text": "x\0y"},
        {"file_name": "a.png", "text": "x" * 10_001},
        {"file_name": "a.png", "text": "\ud83d"},
        {"file_name": "a.png", "split": "later"},
        "",
        {"file_name": "a.png", "text": "<b>kept & verbatim</b>"},
        {"file_name": "a.png", "text": "too late", "licence": "MIT"},
        "[" * 5000,
    )
    listing = list_folder(tmp_path)
    assert [line.name.partition(":")[2] for line in listing.bad_lines] == [
        *map(str, range(1, 11)),
        "13",
        "14",
    ]
    assert [line.code for line in listing.bad_lines].count("path_traversal") == 1
    assert listing.describe("a.png").caption == "<b>kept & verbatim</b>"
    assert listing.describe("a.png").licence == "MIT"


def test_a_text_beside_an_image_is_its_caption(tmp_path):
    for name, text in (
        ("a.png", ""),
        ("a.txt", " a blue cup\n"),
        ("readme.txt", "hello"),
        ("b.png", ""),
        ("b.txt", " "),
    ):
        write(tmp_path, name, text)
    listing = list_folder(tmp_path)
    assert listing.files == ["a.png", "b.png", "readme.txt"]
    assert listing.describe("a.png").caption == "a blue cup"
    assert listing.describe("b.png").caption == "b"


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("red_apple-02.png", "red apple"),
        ("in/IMG_0042.PNG", "IMG"),
        ("123.png", "123"),
        ("photo\u202egnp.exe.png", "photo gnp exe"),
        ("___.png", "picture"),
        ("猫 🐱 (копия).png", "猫 копия"),
    ],
)
def test_captions_from_names(name, caption):
    assert caption_from_name(name) == caption


def test_links_are_listed_but_not_followed(tmp_path):
    write(tmp_path, "in/a.png")
    os.symlink("/etc", tmp_path / "in" / "etc")
    os.symlink("/etc/hostname", tmp_path / "in" / "h.png")
    assert list_folder(tmp_path).files == ["in/a.png", "in/etc", "in/h.png"]
