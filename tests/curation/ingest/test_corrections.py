"""A repeated import: corrections are reported, applied on request and recorded; frozen snapshots do not change."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from curation.datasets.captions import set_caption
from curation.datasets.manifest import read_samples
from curation.datasets.sample_records import (
    list_samples,
    restore_samples,
    show_sample,
    withdraw_samples,
)
from curation.datasets.snapshots import freeze_snapshot
from curation.db.tables import candidates, events, import_files, prompts, samples
from curation.domain import CandidateState, CaptionSource, LayerRole, Sample, Split, Verdict
from curation.errors import NotFound, Refused
from curation.ingest import seed_import
from curation.ingest.inspection_result import InspectionOutcome
from curation.ingest.listing import ListingOptions
from curation.review.decisions import decide


def import_seeds(database, store, folder: Path, **options):
    """Import with one process, which is quick to start."""
    return seed_import.import_seeds(database, store, folder, workers=1, **options)


def blob(seed: int, size: int = 48, cut: bool = False) -> np.ndarray:
    """Return a soft blob of its own form and color; no two are near duplicates."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - size / 2) / size
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    edge = 0.3 + 0.12 * np.cos(int(rng.integers(2, 8)) * angle + rng.uniform(0, 6))
    alpha = np.clip((edge - radius) * size / 2 + 0.5, 0, 1)
    rgb = np.clip(
        rng.uniform(0, 255, 3) + 60 * np.sin(20 * x[..., None] * rng.uniform(-1, 1, 3)), 0, 255
    )
    rgba = np.rint(np.dstack([rgb, alpha * 255])).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    return np.ascontiguousarray(rgba[:, : size // 2]) if cut else rgba


def save(folder: Path, name: str, rgba: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(folder / name)


def describe(folder: Path, *rows: dict[str, object]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def line_of(database, caption: str) -> Sample:
    with database.transaction() as tx:
        lines = [Sample.read(row.line) for row in tx.execute(sa.select(samples.c.line))]
    [found] = [one for one in lines if one.caption == caption]
    return found


def standing(database) -> list[str]:
    with database.transaction() as tx:
        return sorted(row["caption"] for row in list_samples(tx))


def account(database) -> dict[str, tuple[str, list[str]]]:
    with database.transaction() as tx:
        return {row.name: (row.outcome, row.codes) for row in tx.execute(sa.select(import_files))}


def reported(summary) -> list[tuple[str, str, str | None, str | None, bool]]:
    return [(one.name, one.field, one.before, one.after, one.taken) for one in summary.differences]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two described files, one whose caption can only be its name, and one that waits for people."""
    at = tmp_path / "seeds"
    for number, name in enumerate(("a.png", "b.png", "IMG_07.png")):
        save(at, name, blob(number))
    save(at, "cut.png", blob(9, cut=True))
    describe(
        at,
        {
            "file_name": "a.png",
            "text": "an apple",
            "licence": "MIT",
            "source": "me",
            "split": "train",
        },
        {"file_name": "b.png", "text": "a bear", "split": "train"},
        {"file_name": "cut.png", "text": "a cut", "licence": "MIT"},
    )
    return at


CORRECTED = [
    {
        "file_name": "a.png",
        "text": "a red apple",
        "licence": "CC0-1.0",
        "source": "you",
        "split": "test",
    },
    {"file_name": "b.png", "text": "a bear", "licence": "MIT", "split": "train"},
    {"file_name": "cut.png", "text": "a cut fig", "licence": "CC0-1.0"},
]


def test_a_changed_description_is_reported_and_applied_on_request(database, store, folder):
    first = import_seeds(database, store, folder)
    assert first.captions == {CaptionSource.file_name: 1, CaptionSource.given: 3}
    assert first.differences == ()
    describe(folder, *CORRECTED)
    second = import_seeds(database, store, folder)
    expected = [
        ("a.png", "caption", "an apple", "a red apple"),
        ("a.png", "licence", "MIT", "CC0-1.0"),
        ("a.png", "source", "me", "you"),
        ("a.png", "split", "train", "heldout"),
        ("b.png", "licence", None, "MIT"),
        ("cut.png", "caption", "a cut", "a cut fig"),
        ("cut.png", "licence", "MIT", "CC0-1.0"),
    ]
    assert reported(second) == [(*one, False) for one in expected]
    assert second.fresh == 0
    assert standing(database) == ["IMG", "a bear", "an apple"]
    assert reported(import_seeds(database, store, folder)) == reported(
        second
    )  # told again until it is taken
    third = import_seeds(database, store, folder, update=True)
    assert reported(third) == [(*one, True) for one in expected]
    apple = line_of(database, "a red apple")
    assert (apple.licence, apple.source, apple.split) == ("CC0-1.0", "you", Split.heldout)
    assert line_of(database, "a bear").licence == "MIT"
    assert account(database)["b.png"] == ("accept", [])
    assert import_seeds(database, store, folder, update=True).differences == ()
    with database.transaction() as tx:
        [kept] = [
            one for one in show_sample(tx, apple.id)["history"] if one["kind"] == "sample described"
        ]
        assert kept["data"]["before"]["caption"] == "an apple"
        assert kept["data"]["after"]["split"] == "heldout"
        assert tx.scalar(sa.select(samples.c.split).where(samples.c.id == apple.id)) == "heldout"


def test_candidates_are_corrected_before_and_after_their_verdict(database, store, folder, reviewer):
    import_seeds(database, store, folder)
    describe(folder, *CORRECTED)
    import_seeds(database, store, folder, update=True)
    with database.transaction() as tx:
        row = tx.execute(
            sa.select(candidates.c.id, candidates.c.origin, prompts.c.text).join(prompts)
        ).one()
        assert (row.text, row.origin["licence"], row.origin["file"]) == (
            "a cut fig",
            "CC0-1.0",
            "cut.png",
        )
        decide(tx, reviewer.id, row.id, Verdict.accept, key=uuid.uuid4())
    assert line_of(database, "a cut fig").licence == "CC0-1.0"
    describe(
        folder, *CORRECTED[:2], {"file_name": "cut.png", "text": "half a fig", "licence": "CC0-1.0"}
    )
    assert reported(import_seeds(database, store, folder, update=True)) == [
        ("cut.png", "caption", "a cut fig", "half a fig", True)
    ]
    assert "half a fig" in standing(database)


@pytest.fixture
def reviewer(database):
    from curation.review.reviewers import add_reviewer

    with database.transaction() as tx:
        return add_reviewer(tx, "ann")


def test_a_touched_file_is_no_duplicate_of_itself_and_keeps_its_record(database, store, folder):
    shutil.copy(folder / "a.png", folder / "copy.png")
    first = import_seeds(database, store, folder)
    before = account(database)
    for name in ("a.png", "cut.png", "copy.png", "IMG_07.png"):
        os.utime(folder / name, (1, 1))
    again = import_seeds(database, store, folder)
    assert account(database) == before
    assert (again.outcomes, again.differences, again.fresh) == (first.outcomes, (), 4)
    assert import_seeds(database, store, folder).fresh == 0
    Image.open(folder / "b.png").save(
        folder / "b.png", optimize=True, compress_level=1
    )  # other bytes, the same pixels
    assert import_seeds(database, store, folder).differences == ()
    assert account(database) == before


def test_corrected_pixels_are_offered_and_replace_the_old_sample(database, store, folder):
    import_seeds(database, store, folder)
    old = line_of(database, "an apple")
    frozen = freeze_snapshot(database, store, tag=None, actor="test").id
    almost = blob(0)
    almost[20:24, 20:24, :3] = 0  # a small retouch: nearly the picture that it was
    for pixels in (almost, blob(50)):
        save(folder, "a.png", pixels)
        offered = import_seeds(database, store, folder)
        assert [(one.name, one.field, one.taken) for one in offered.differences] == [
            ("a.png", "pixels", False)
        ]
        assert standing(database) == ["IMG", "a bear", "an apple"]
        taken = import_seeds(database, store, folder, update=True)
        assert [(one.name, one.field, one.taken) for one in taken.differences] == [
            ("a.png", "pixels", True)
        ]
        assert standing(database) == ["IMG", "a bear", "an apple"]
        assert account(database)["a.png"][0] == "accept"
        assert import_seeds(database, store, folder, update=True).differences == ()
    assert old.id in {one.id for one in read_samples(store, frozen)}
    corrected = freeze_snapshot(database, store, tag=None, actor="test").id
    assert old.id not in {one.id for one in read_samples(store, corrected)}
    with database.transaction() as tx:
        assert [one["kind"] for one in show_sample(tx, old.id)["history"]] == ["sample replaced"]
    save(folder, "a.png", blob(0))  # and back again, with a better caption
    describe(folder, *CORRECTED)
    import_seeds(database, store, folder, update=True)
    assert standing(database) == ["IMG", "a bear", "a red apple"]
    assert line_of(database, "a red apple").id == old.id


def test_a_file_that_became_unreadable_is_reported_and_its_sample_kept(database, store, folder):
    import_seeds(database, store, folder)
    good = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(b"nothing")
    found = import_seeds(database, store, folder, update=True)
    [one] = found.differences
    assert (one.name, one.field, one.taken) == ("a.png", "pixels", False)
    assert one.after.startswith("refused: ")
    (folder / "a.png").write_bytes(good)
    describe(folder, {"file_name": "a.png", "text": 7})
    [one] = [
        one
        for one in import_seeds(database, store, folder, update=True).differences
        if one.name == "a.png"
    ]
    assert (one.field, "metadata.jsonl:1" in one.after) == ("description", True)
    assert "an apple" in standing(database)


def test_pixels_that_wait_for_people_are_replaced_too(database, store, folder):
    import_seeds(database, store, folder)
    save(folder, "cut.png", blob(60, cut=True))
    import_seeds(database, store, folder, update=True)
    with database.transaction() as tx:
        states = [
            row.state
            for row in tx.execute(sa.select(candidates.c.state).order_by(candidates.c.state))
        ]
    assert states == [CandidateState.waiting, CandidateState.withdrawn]


def test_a_replacement_that_repeats_another_file_is_a_duplicate(database, store, folder):
    import_seeds(database, store, folder)
    shutil.copy(folder / "b.png", folder / "a.png")
    import_seeds(database, store, folder, update=True)
    assert standing(database) == ["IMG", "a bear"]
    assert account(database)["a.png"] == ("duplicate", ["duplicate_of:b.png"])


def test_held_back_files_are_imported_once_their_description_is_corrected(database, store, folder):
    (folder / "IMG_07.txt").write_bytes("一只红色的碗".encode("gbk"))
    first = import_seeds(database, store, folder)
    assert account(database)["IMG_07.png"] == ("reject", ["caption_unreadable"])
    [held] = [one for one in first.named if one.name == "IMG_07.png"]
    assert "IMG_07.txt" in held.sentence
    assert import_seeds(database, store, folder).fresh == 0
    import_seeds(database, store, folder, options=ListingOptions(encoding="gb18030"))
    assert standing(database) == ["a bear", "an apple", "一只红色的碗"]
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    save(folder, "c.png", blob(30))
    describe(folder, *CORRECTED, {"file_name": "c.png", "split": "x"}, {"file_name": "gone.png"})
    bad = import_seeds(database, store, folder, options=ListingOptions(encoding="gb18030"))
    assert account(database)["c.png"] == ("reject", ["held_back"])
    assert bad.refused == 4
    describe(folder, *CORRECTED, {"file_name": "c.png", "split": "test"})
    mended = import_seeds(database, store, folder, options=ListingOptions(encoding="gb18030"))
    assert mended.refused == 0  # lines that were bad once are no part of the account any more
    assert account(database)["c.png"] == ("accept", ["licence_unknown"])


def test_a_caption_by_a_person_is_not_replaced_by_a_name(database, store, folder):
    import_seeds(database, store, folder)
    with database.transaction() as tx:
        set_caption(tx, line_of(database, "IMG").id, "a hat", "ann")
        set_caption(tx, line_of(database, "an apple").id, "a pear", "ann")
    assert import_seeds(database, store, folder, update=True).differences == ()
    describe(folder, {"file_name": "b.png", "text": "a bear", "split": "train"})
    import_seeds(database, store, folder, update=True)
    assert standing(database) == ["a bear", "a hat", "a pear"]
    assert line_of(database, "a pear").licence == "unknown"
    describe(
        folder,
        {"file_name": "a.png", "text": "a quince"},
        {"file_name": "IMG_07.png", "text": "a cap"},
    )
    import_seeds(database, store, folder, update=True)
    assert standing(database) == ["a cap", "a quince", "b"]
    assert line_of(database, "b").caption_source is CaptionSource.file_name


def test_names_become_captions_on_request(database, store, folder):
    import_seeds(database, store, folder)
    names = ListingOptions(captions_from_names=True)
    assert reported(import_seeds(database, store, folder, options=names)) == [
        ("IMG_07.png", "caption source", "file name", "given", False)
    ]
    import_seeds(database, store, folder, options=names, update=True)
    assert line_of(database, "IMG").caption_source is None
    with database.transaction() as tx:
        assert list_samples(tx, without_caption=True) == []


def test_an_import_from_before_descriptions_were_kept_is_compared_with_its_samples(
    database, store, folder
):
    import_seeds(database, store, folder)
    with database.transaction() as tx:
        tx.execute(sa.update(import_files).values(description=None))
        tx.execute(
            sa.update(samples)
            .where(samples.c.line.contains("a bear"))
            .values(caption_source="file name")
        )
        set_caption(tx, line_of(database, "an apple").id, "a pear", "ann")
    assert import_seeds(database, store, folder).differences == ()
    with database.transaction() as tx:
        assert [row["caption"] for row in list_samples(tx, without_caption=True)] == ["IMG"]
        tx.execute(sa.update(import_files).values(description=None))
    describe(folder, *CORRECTED)
    found = reported(import_seeds(database, store, folder))
    assert ("b.png", "licence", None, "MIT", False) in found
    assert ("a.png", "split", "train", "heldout", False) in found


def test_files_that_are_gone_are_counted_and_refused_ones_forgotten(database, store, folder):
    (folder / "bad.png").write_bytes(b"x")
    assert import_seeds(database, store, folder).refused == 1
    (folder / "bad.png").unlink()
    (folder / "a.png").unlink()
    describe(folder, *CORRECTED[1:])
    found = import_seeds(database, store, folder)
    assert (found.refused, found.gone) == (0, 1)
    assert "an apple" in standing(database)


def test_folders_named_like_a_split_are_reported(database, store, tmp_path):
    save(tmp_path, "s/Train/a.png", blob(1))
    save(tmp_path, "s/test/b.png", blob(2))
    found = import_seeds(database, store, tmp_path / "s")
    assert found.folder_splits == {"Train": 1, "test": 1}
    taken = import_seeds(
        database,
        store,
        tmp_path / "s",
        options=ListingOptions(splits_from_folders=True),
        update=True,
    )
    assert ("test/b.png", "split", None, "heldout", True) in reported(taken)
    assert taken.folder_splits == {}
    assert line_of(database, "b").split is Split.heldout


def test_archives_hold_captions_metadata_and_pairs(database, store, tmp_path):
    at = tmp_path / "seeds"
    for number, name in enumerate(("a.png", "b.png", "fg.png")):
        save(tmp_path, name, blob(number))
    back = np.dstack([np.full((48, 48), v, np.uint8) for v in (90, 140, 60)])
    Image.fromarray(back + np.random.default_rng(0).integers(0, 40, back.shape, np.uint8)).save(
        tmp_path / "bg.png"
    )
    at.mkdir()
    pair = {
        "foreground": "fg.png",
        "background": "bg.png",
        "text": "a thing on grass",
        "text_foreground": "a thing",
    }
    pair |= {"text_background": "grass", "licence": "MIT"}
    with zipfile.ZipFile(at / "x.zip", "w") as archive:
        for name in ("a.png", "b.png", "fg.png", "bg.png"):
            archive.write(tmp_path / name, f"in/{name}")
        archive.writestr("in/a.txt", "an apple")
        lines = [
            {"file_name": "B.PNG", "text": "a bear", "licence": "MIT"},
            {"file_name": "gone.png"},
            pair,
        ]
        archive.writestr("in/metadata.jsonl", "\n".join(map(json.dumps, lines)))
    found = import_seeds(database, store, at)
    assert standing(database) == ["a bear", "a thing on grass", "an apple"]
    assert line_of(database, "a bear").licence == "MIT"
    assert line_of(database, "a thing on grass").texts == {
        "foreground": "a thing",
        "background": "grass",
    }
    assert account(database)["x.zip/in/metadata.jsonl:2"] == ("reject", ["bad_line"])
    assert account(database)["x.zip/in/metadata.jsonl"] == ("partial", ["bad_line"])
    assert found.files == 5
    os.utime(at / "x.zip", (1, 1))
    again = import_seeds(database, store, at)
    assert (again.outcomes, again.differences) == (found.outcomes, ())


def test_any_sample_is_withdrawn_and_restored_by_name(database, store, folder):
    import_seeds(database, store, folder)
    apple = line_of(database, "an apple")
    with database.transaction() as tx:
        with pytest.raises(Refused, match="needs a reason"):
            withdraw_samples(tx, [apple.id], "  ", "ann")
        with pytest.raises(NotFound):
            withdraw_samples(tx, ["0" * 32], "x", "ann")
        assert [row["id"] for row in list_samples(tx, file_suffix="a.png")] == [apple.id]
        assert len(withdraw_samples(tx, [apple.id[:8], apple.id], "two apples", "ann")) == 1
        assert withdraw_samples(tx, [apple.id], "again", "ann") == []
        assert len(list_samples(tx)) == 2
        assert [row["id"] for row in list_samples(tx, withdrawn=True)] == [apple.id]
        shown = show_sample(tx, apple.id[:8])
        assert shown["files"] == ["a.png"]
        assert shown["history"][0]["data"] == {"reason": "two apples"}
    os.utime(folder / "a.png", (1, 1))
    import_seeds(
        database, store, folder, update=True
    )  # an import does not bring back what was withdrawn
    with database.transaction() as tx:
        assert len(list_samples(tx)) == 2
        assert len(restore_samples(tx, [apple.id], "ann")) == 1
        assert len(list_samples(tx)) == 3


PAIR = {
    "text": "a thing on grass",
    "text_foreground": "a thing",
    "text_background": "grass",
    "split": "train",
}


def test_pairs_are_corrected_and_replaced_like_single_files(database, store, tmp_path):
    at = tmp_path / "seeds"
    grass = np.dstack([np.full((48, 48), v, np.uint8) for v in (90, 140, 60)])
    save(at, "fg.png", blob(3))
    Image.fromarray(grass + np.random.default_rng(0).integers(0, 40, grass.shape, np.uint8)).save(
        at / "bg.png"
    )
    row = {"foreground": "fg.png", "background": "bg.png", "licence": "MIT"} | PAIR
    describe(at, row)
    assert import_seeds(database, store, at).outcomes == {InspectionOutcome.accept: 1}
    os.utime(at / "bg.png", (1, 1))
    assert import_seeds(database, store, at).differences == ()
    describe(
        at,
        row | {"text_background": "a meadow", "licence": "CC0-1.0", "text": "a thing on a meadow"},
    )
    changes = [
        ("fg.png", "caption", "a thing on grass", "a thing on a meadow"),
        ("fg.png", "licence", "MIT", "CC0-1.0"),
        ("fg.png", "background", "grass", "a meadow"),
    ]
    assert reported(import_seeds(database, store, at)) == [(*one, False) for one in changes]
    assert reported(import_seeds(database, store, at, update=True)) == [
        (*one, True) for one in changes
    ]
    assert line_of(database, "a thing on a meadow").texts[LayerRole.background] == "a meadow"
    Image.fromarray(
        255 - grass + np.random.default_rng(1).integers(0, 40, grass.shape, np.uint8)
    ).save(at / "bg.png")
    offered = import_seeds(database, store, at)
    assert [(one.name, one.field, one.taken) for one in offered.differences] == [
        ("fg.png", "pixels", False)
    ]
    import_seeds(database, store, at, update=True)
    with database.transaction() as tx:
        assert (len(list_samples(tx)), len(list_samples(tx, withdrawn=True))) == (1, 1)
        kinds = {row.kind for row in tx.execute(sa.select(events.c.kind))}
    assert {"sample described", "sample replaced"} <= kinds
