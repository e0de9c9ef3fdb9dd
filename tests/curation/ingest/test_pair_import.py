"""Import of pairs: rows that name layers become samples of three, and a defect of any layer refuses the pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from curation.db.tables import candidates, prompts, rounds, samples
from curation.domain import Kind, LayerRole, Sample, Split
from curation.images.codec import decode_layer
from curation.images.pairs import composite
from curation.ingest.folder_listing import list_folder
from curation.ingest.inspection_result import InspectionOutcome
from curation.ingest.pair_inspection import inspect_and_encode_pair
from curation.ingest.seed_import import import_seeds
from curation.synthetic.pair_dataset import draw_pair_seed_set
from tests.support.factories import scenes

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended
TEXTS = {
    "text": "a red circle on grass",
    "text_foreground": "a red circle",
    "text_background": "grass",
}


def save(folder: Path, name: str, rgba: np.ndarray) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(folder / name)
    return name


def write_pair(folder: Path, index: int, blended: bool = True, **more: object) -> dict:
    """Return the files of one pair and its row, in our own words."""
    prompt, pair = scenes(1, 96, start=index)[0]
    row = {role: save(folder, f"{index}/{role}.png", pair[role]) for role in (FRONT, BACK)}
    if blended:
        row[WHOLE] = save(folder, f"{index}/blended.png", pair[WHOLE][..., :3])
    texts = {
        "text": prompt.text,
        "text_foreground": prompt.foreground,
        "text_background": prompt.background,
    }
    return {**row, **texts, "licence": "CC0-1.0", "source": "test", **more}


def manifest(folder: Path, *rows: dict) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_samples(database) -> list[Sample]:
    with database.transaction() as tx:
        return [
            Sample.read(row.line)
            for row in tx.execute(sa.select(samples).order_by(samples.c.created_at, samples.c.id))
        ]


def test_pairs_and_single_layers_of_one_folder(database, store, tmp_path):
    draw_pair_seed_set(tmp_path / "seeds", 4, 3)
    summary = import_seeds(database, store, tmp_path / "seeds")
    assert summary.files == 4 + 3
    found = read_samples(database)
    pairs = [one for one in found if one.kind is Kind.pair]
    assert len(pairs) == 4
    assert len(found) == 7
    for one in pairs:
        f, b, c = (decode_layer(store.get(one.layers[role])) for role in LayerRole)
        assert (composite(f, b) == c).all()
        assert one.texts[FRONT] in one.caption
        assert one.texts[BACK] in one.caption
        assert (one.licence, one.round) == ("CC0-1.0", 0)
        assert Sample.read(one.line()) == one
    again = import_seeds(database, store, tmp_path / "seeds")
    assert (again.fresh, again.outcomes) == (0, summary.outcomes)
    assert read_samples(database) == found


def test_the_blended_image_is_made_where_there_is_none_and_kept_where_it_is_nearly_right(
    database, store, tmp_path
):
    first = write_pair(tmp_path, 0, blended=False)
    second = write_pair(tmp_path, 1, split="heldout")
    path = tmp_path / second[WHOLE]
    near = np.clip(np.asarray(Image.open(path)).astype(int) + 3, 0, 255).astype(np.uint8)
    Image.fromarray(near).save(path)
    manifest(tmp_path, first, second)
    summary = import_seeds(database, store, tmp_path)
    assert summary.codes["blend_inexact"] == 1
    made, given = sorted(read_samples(database), key=lambda one: one.split is Split.heldout)
    f, b, c = (decode_layer(store.get(made.layers[role])) for role in LayerRole)
    assert (composite(f, b) == c).all()
    assert (decode_layer(store.get(given.layers[WHOLE]))[..., :3] == near).all()
    assert given.split is Split.heldout


def test_column_names_of_other_tools_are_read_and_mattes_are_no_images(tmp_path):
    for name in ("f.png", "b.png", "c.png", "a.png", "t.png", "alone.png"):
        save(tmp_path, name, np.zeros((4, 4, 4), np.uint8))
    row = {
        "id": "x", "kind": "composed", "foreground": "f.png", "background": "b.png", "composite": "c.png",
        "alpha": "a.png", "trimap": "t.png", "prompt_foreground": "a cat", "prompt_background": "a mat",
        "prompt_composite": "a cat on a mat", "fg_licence": "MIT", "bg_licence": "same", "fg_source": "here",
        "bg_source": "there", "exact": True,
    }  # fmt: skip
    manifest(tmp_path, row)
    listing = list_folder(tmp_path)
    assert listing.files == ["f.png", "alone.png"]
    pair = listing.pairs["f.png"]
    assert (pair.background, pair.blended, pair.prompt.background) == ("b.png", "c.png", "a mat")
    description = listing.describe("f.png")
    assert (description.caption, description.licence) == ("a cat on a mat", "MIT")
    assert description.source == "foreground: here; background: there"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"background": None}, "pair_incomplete"),
        ({"text_background": None}, "pair_incomplete"),
        ({"text": "  "}, "pair_incomplete"),
        ({"background": "../b.png"}, "path_traversal"),
        ({"background": "nowhere.png"}, "bad_line"),
        ({"background": "0/foreground.png"}, "bad_line"),
        ({"blended": 7}, "bad_line"),
        ({"text_foreground": ["a"]}, "bad_line"),
        ({"split": "sideways"}, "bad_line"),
        ({"foreground": 3}, "bad_line"),
    ],
)
def test_a_row_that_cannot_be_followed_is_named_and_its_files_are_left_alone(
    tmp_path, change, code
):
    manifest(tmp_path, write_pair(tmp_path, 0) | change, write_pair(tmp_path, 1))
    listing = list_folder(tmp_path)
    assert [(bad.name, bad.code) for bad in listing.bad_lines] == [("metadata.jsonl:1", code)]
    assert list(listing.pairs) == ["1/foreground.png"]
    if "foreground" not in change:
        assert "0/foreground.png" not in listing.files


def files_of(tmp_path: Path, f, b, c=None) -> tuple:
    names = [
        save(tmp_path, f"{n}.png", x) if x is not None else None
        for n, x in zip("fbc", (f, b, c), strict=True)
    ]
    return tuple(None if name is None else tmp_path / name for name in names)


def read(files: tuple) -> tuple:
    return tuple(file and file.read_bytes() for file in files)


def test_each_defect_refuses_the_pair_with_its_code(tmp_path):
    _, pair = scenes(1, 96)[0]
    f, b, c = pair[FRONT], pair[BACK], pair[WHOLE]
    clear = np.dstack([b[..., :3], np.full(b.shape[:2], 120, np.uint8)])
    cases = {
        "sizes_differ": (f, b[:-4], None),
        "background_not_opaque": (f, clear, None),
        "blended_not_opaque": (f, b, np.dstack([c[..., :3], clear[..., 3]])),
        "subject_left": (f, c, c),
        "does_not_blend": (f, b, 255 - c[..., :3]),
        "no_transparency": (b, b, None),
        "empty_alpha": (np.zeros_like(f), b, None),
    }
    for code, layers in cases.items():
        result = inspect_and_encode_pair(*read(files_of(tmp_path, *layers)), "pair")
        assert (result.outcome, result.code) == (InspectionOutcome.reject, code), result
        assert result.layer is None
        assert result.sentence
    files = files_of(tmp_path, f, b)
    files[1].write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    assert inspect_and_encode_pair(*read(files), "pair").code == "corrupt"
    files[1].write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert inspect_and_encode_pair(*read(files), "pair").sentence.startswith("background: ")


@pytest.mark.parametrize(
    ("suffix", "options"), [("jpg", {"quality": 95}), ("webp", {"quality": 95}), ("tif", {})]
)
def test_backgrounds_of_any_format_are_taken_and_lossy_ones_flagged(tmp_path, suffix, options):
    _, pair = scenes(1, 96)[0]
    [front, _, _] = files_of(tmp_path, pair[FRONT], pair[BACK])
    background = tmp_path / f"background.{suffix}"
    Image.fromarray(pair[BACK][..., :3]).save(background, **options)
    result = inspect_and_encode_pair(front.read_bytes(), background.read_bytes(), None, "pair")
    assert result.layer is not None, result
    assert ("lossy_source" in result.codes) == (suffix != "tif")
    stored = decode_layer(result.beside[BACK].layer)
    assert np.abs(stored.astype(int) - pair[BACK]).mean() < 3


def test_links_and_copies_are_recognized(database, store, tmp_path):
    rows = [write_pair(tmp_path, index) for index in range(2)]
    linked = tmp_path / rows[0][BACK]
    linked.rename(tmp_path / "elsewhere.png")
    linked.symlink_to(tmp_path / "elsewhere.png")
    copied = write_pair(tmp_path, 1)
    copy = dict(copied)
    for role in LayerRole:
        name = f"copy/{role}.png"
        save(tmp_path, name, np.asarray(Image.open(tmp_path / copied[role])))
        copy[role] = name
    manifest(tmp_path, *rows, copy)
    (tmp_path / "elsewhere.png").unlink()
    summary = import_seeds(database, store, tmp_path)
    named = {one.name: (one.outcome, one.codes) for one in summary.named}
    assert named["0/foreground.png"] == (InspectionOutcome.reject, ("path_traversal",))
    assert named["copy/foreground.png"] == (
        InspectionOutcome.duplicate,
        ("duplicate_of:1/foreground.png",),
    )
    assert len(read_samples(database)) == 1


def test_a_doubtful_pair_waits_for_people_with_all_its_layers(database, store, tmp_path):
    row = write_pair(tmp_path, 0, blended=False)
    path = tmp_path / row[FRONT]
    shifted = np.ascontiguousarray(np.roll(np.asarray(Image.open(path)), 48, axis=1))
    Image.fromarray(shifted).save(path)
    manifest(tmp_path, row)
    import_seeds(database, store, tmp_path)
    assert read_samples(database) == []
    with database.transaction() as tx:
        [one] = tx.execute(sa.select(candidates)).all()
        [of] = tx.execute(sa.select(rounds)).all()
        [text] = tx.execute(sa.select(prompts)).all()
    assert (of.purpose, of.kind, one.flags[0]) == ("seeds", "pair", "cut_at_border")
    assert (text.foreground, text.background) == (row["text_foreground"], row["text_background"])


@pytest.mark.slow
def test_real_pairs_are_all_accounted_for(database, store, shared):
    summary = import_seeds(database, store, shared / "layer_pairs")
    found = read_samples(database)
    assert (
        summary.outcomes
        == {
            InspectionOutcome.accept: 34,
            InspectionOutcome.accept_warn: 7,  # five of them animals whose necks leave the image at the bottom
            InspectionOutcome.reject: 1,
            InspectionOutcome.partial: 1,
        }
    )
    assert {one.kind for one in found} == {Kind.pair}
    assert len(found) == 41
    assert summary.codes == {"blend_inexact": 7, "pair_incomplete": 2}
    assert all("GPL-2" in one.licence or "MIT" in one.licence for one in found)
    assert all(set(one.texts) == {FRONT, BACK} for one in found)
    again = import_seeds(database, store, shared / "layer_pairs")
    assert (again.fresh, again.outcomes) == (0, summary.outcomes)
