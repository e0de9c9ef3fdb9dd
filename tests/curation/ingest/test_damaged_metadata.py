"""Damaged metadata: images that an unreadable line may describe are held back instead of imported without it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.domain import Split
from curation.ingest.folder_listing import list_folder
from curation.ingest.seed_import import import_seeds
from tests.curation.ingest.test_caption_layouts import GIVEN, NAMED, caption_of, write

NAMES = ("a.png", "b.png", "c.png", "d.png")

DAMAGED = {
    "a quote that is never closed": (
        "metadata.csv",
        'file_name,text,split\na.png,a house,train\nb.png,"a 5 inch cat,train\nc.png,a dog,test\nd.png,a tree,test\n',
    ),
    "a quote inside a quoted cell": (
        "metadata.csv",
        'file_name,text,split\na.png,a house,train\nb.png,"6" tall, a cup",test\nc.png,a dog,test\nd.png,a tree,test\n',
    ),
    "a cell without an end": (
        "metadata.csv",
        "file_name,text,split\na.png,a house,train\nb.png,"
        + "x" * 200_000
        + ",test\nc.png,c,test\nd.png,d,test\n",
    ),
    "lines that end in carriage returns": (
        "metadata.jsonl",
        (
            '{"file_name": "a.png", "text": "a house"}\n'
            '{"file_name": "b.png", "text": "b"}\r{"file_name": "c.png", "text": "c", "split": "test"}\r'
            '{"file_name": "d.png", "text": "d", "split": "test"}'
        ),
    ),
    "two objects on one line": (
        "metadata.jsonl",
        '{"file_name": "a.png", "text": "a house"}\n{"file_name": "b.png", "text": "b"} {"file_name": "c.png"}\n',
    ),
    "a line cut off before its name": (
        "metadata.jsonl",
        '{"file_name": "a.png", "text": "a house"}\n{"text": "a dog", "split": "test", "file_na\n',
    ),
}


@pytest.mark.parametrize(("manifest", "data"), DAMAGED.values(), ids=DAMAGED.keys())
def test_images_that_a_damaged_line_may_describe_are_held_back(
    tmp_path: Path, manifest: str, data: str
) -> None:
    for name in NAMES:
        write(tmp_path, name)
    write(tmp_path, manifest, data)
    listing = list_folder(tmp_path)
    assert caption_of(listing, "a.png") == ("a house", GIVEN)
    for name in NAMES[1:]:
        code, sentence = caption_of(listing, name)
        assert code == "held_back", name
        assert manifest in sentence


def test_a_row_with_too_many_cells_holds_its_own_image_back_and_no_other(tmp_path: Path) -> None:
    for name in NAMES:
        write(tmp_path, name)
    write(
        tmp_path,
        "metadata.csv",
        "file_name,text,split\na.png,6 tall, a cup,test\nb.png,b,train\nc.png,c,test\n",
    )
    listing = list_folder(tmp_path)
    assert caption_of(listing, "a.png")[0] == "held_back"
    assert caption_of(listing, "b.png") == ("b", GIVEN)
    assert listing.describe("c.png").split is Split.heldout
    assert caption_of(listing, "d.png") == ("d", NAMED)


def test_entries_of_a_json_object_that_are_no_text_hold_their_images_back(tmp_path: Path) -> None:
    for name in NAMES:
        write(tmp_path, name)
    write(
        tmp_path,
        "metadata.json",
        '{"a.png": {"caption": "aa"}, "b.png": ["bb", "b"], "c.png": 5, "d.png": [5]}',
    )
    listing = list_folder(tmp_path)
    assert (caption_of(listing, "a.png"), caption_of(listing, "b.png")) == (
        ("aa", GIVEN),
        ("bb", GIVEN),
    )
    assert caption_of(listing, "c.png")[0] == caption_of(listing, "d.png")[0] == "held_back"


def test_a_damaged_line_of_another_file_than_metadata_holds_nothing_back(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    write(tmp_path, "log.jsonl", "not JSON at all\n")
    assert caption_of(list_folder(tmp_path), "a.png") == ("a", NAMED)


def test_samples_of_webdataset_are_found_by_their_key(database, store, tmp_path: Path) -> None:
    layer = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    layer[:8, :, 3] = 0
    Image.fromarray(layer).save(tmp_path / "image.png")
    (tmp_path / "caption").write_text("a lamp")
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "000.tar", "w") as archive:
        archive.add(tmp_path / "image.png", "003.alpha.png")
        archive.add(tmp_path / "caption", "003.txt")
    summary = import_seeds(database, store, tmp_path / "in")
    assert summary.captions == {GIVEN: 1}, summary.named


def test_captions_without_an_image_and_hidden_files_are_accounted_for(
    database, store, tmp_path: Path
) -> None:
    write(tmp_path, "orphan.txt", "a lamp")
    write(tmp_path, ".hidden.png", b"x")
    summary = import_seeds(database, store, tmp_path)
    assert [(one.name, one.sentence) for one in summary.named] == [
        ("orphan.txt", "a caption or metadata file without an image of the same name")
    ]
    assert summary.hidden == 1
