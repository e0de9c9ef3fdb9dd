"""Pulls of decided candidates: labels and pairs as trainers read them, complete and verified."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from curation.datasets.decision_records import read_decisions
from curation.domain import LayerRole, Split, Verdict
from curation.errors import Conflict, Refused
from curation.exports.decisions import DecisionForm, DecisionsRequest, make_pairs
from curation.exports.formats import FORMATS, make_plan, pull_snapshot
from curation.exports.rendering import Alpha
from curation.exports.selection import SelectedSample, Selection, parse_condition, parse_weight
from curation.exports.verify_pull import verify_folder
from curation.images.codec import composite_over, decode_layer
from tests.curation.exports.test_pull import files_of
from tests.curation.exports.test_pull import request as plain_request
from tests.support.snapshots import make_decision, make_sample, make_snapshot

LABELS, PAIRS = DecisionForm.labels, DecisionForm.pairs
FORMS, CONTAINERS = list(DecisionForm), ["imagefolder", "parquet"]


@pytest.fixture
def samples(store):
    return [make_sample(store, number) for number in range(1, 8)]


@pytest.fixture
def decided(store):
    return [make_decision(store, number) for number in range(40)]


@pytest.fixture
def snapshot(store, samples, decided):
    return make_snapshot(store, samples, decisions=decided)


def request(name, form, *, automatic=False, alpha=None, **fields):
    alpha = alpha or (Alpha.composite if form is PAIRS else Alpha.keep)
    return plain_request(name, alpha, decisions=DecisionsRequest(form, automatic), **fields)


def rows_of(folder, name):
    """Return the rows of a pull; those of an image folder with the images that they name."""
    if name == "imagefolder":
        train = folder / "train"
        rows = [json.loads(line) for line in (train / "metadata.jsonl").read_text().splitlines()]
        for row in rows:
            files = {key: value for key, value in row.items() if key.endswith("file_name")}
            for key, value in files.items():
                data = io.BytesIO((train / value).read_bytes())
                row[key.removesuffix("_name")] = Image.open(data)
        return rows
    tables = [parquet.read_table(one) for one in sorted((folder / "data").iterdir())]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("name", CONTAINERS)
def test_labels_have_the_picture_and_what_its_label_is_worth(
    store, decided, snapshot, tmp_path, name, automatic
):
    pull_snapshot(store, snapshot, request(name, LABELS, automatic=automatic), tmp_path / "p")
    rows = {row["candidate_id"]: row for row in rows_of(tmp_path / "p", name)}
    expected = {one.candidate: one for one in decided if automatic or not one.automatic}
    assert set(rows) == set(expected)
    for id_, one in expected.items():
        row, accepted = rows[id_], one.verdict is Verdict.accept
        assert (row["label"], row["posterior"]) == (accepted, one.posterior)
        assert row["weight"] == pytest.approx({None: 1.0, 0.9: 0.9, 0.2: 0.8}[one.posterior])
        assert (row["propensity"], row["automatic"]) == (one.propensity, one.automatic)
        assert (row["seed"], row["checkpoint"]) == (one.seed, one.checkpoint)
        assert row["text"] == one.prompt
        is_pair = LayerRole.background in one.layers
        assert row["reasons"] == ("" if accepted else "foreground halo" if is_pair else "halo")
        file = row["file"] if name == "imagefolder" else io.BytesIO(row["image"]["bytes"])
        image = file if name == "imagefolder" else Image.open(file)
        stored = decode_layer(store.get(one.layers[LayerRole.foreground]))
        assert np.array_equal(np.asarray(image), stored)


@pytest.mark.parametrize("name", CONTAINERS)
def test_pairs_are_of_one_prompt_and_in_the_columns_that_scripts_read(
    store, decided, snapshot, tmp_path, name
):
    pull_snapshot(store, snapshot, request(name, PAIRS), tmp_path / "p")
    records = {one.candidate: one for one in decided}
    rows, sides = rows_of(tmp_path / "p", name), set()
    assert rows
    for row in rows:
        if name == "imagefolder":
            ids = row["chosen_id"], row["rejected_id"]
            images = row["chosen_file"], row["rejected_file"]
        else:
            # As train_diffusion_dpo.py: bytes of images, label_0 is 1 where the first is preferred.
            images = tuple(Image.open(io.BytesIO(row[one])) for one in ("jpg_0", "jpg_1"))
            ids = row["image_0_uid"], row["image_1_uid"]
            assert {row["label_0"], row["label_1"]} == {0.0, 1.0}
            sides.add(row["label_0"])
            if row["label_0"] == 0:
                ids, images = ids[::-1], images[::-1]
            assert row["best_image_uid"] == ids[0]
        chosen, rejected = (records[one] for one in ids)
        assert (chosen.verdict, rejected.verdict) == (Verdict.accept, Verdict.reject)
        assert chosen.prompt == rejected.prompt == (row.get("caption") or row["prompt"])
        assert chosen.kind == rejected.kind
        assert row["weight"] == pytest.approx(0.9 * 0.8)
        for one, image in zip((chosen, rejected), images, strict=True):
            rgba = decode_layer(store.get(one.layers[LayerRole.foreground]))
            assert np.array_equal(np.asarray(image), composite_over(rgba, (255, 255, 255)))
    assert name == "imagefolder" or sides == {0.0, 1.0}


def test_every_candidate_of_the_larger_side_is_in_one_pair(store):
    made = [make_decision(store, n, prompt="x", accept=n < 3) for n in range(1, 12)]
    chosen = [SelectedSample(one) for one in made if one.kind == "single"]
    chosen.sort(key=lambda one: one.sample.id)
    pairs = make_pairs(chosen)
    rejects = [one.sample.id for one in chosen if one.sample.verdict is Verdict.reject]
    assert sorted(pair.rejected.sample.id for pair in pairs) == sorted(rejects)
    accepted = [pair.chosen.sample.id for pair in pairs]
    counts = [accepted.count(one) for one in set(accepted)]
    assert len(counts) == 2
    assert max(counts) - min(counts) <= 1
    assert make_pairs([one for one in chosen if one.sample.id in rejects]) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONTAINERS)
def test_the_next_version_fetches_the_difference(store, samples, decided, tmp_path, name, form):
    first = make_snapshot(store, samples, decisions=decided[:30])
    second = make_snapshot(store, samples, decisions=decided[5:])
    wish = request(name, form, shard_bytes=9_000)
    pull_snapshot(store, first, wish, tmp_path / "p")
    again = pull_snapshot(store, first, wish, tmp_path / "p")
    assert (again.written, again.fetched_bytes) == (0, 0)
    pull_snapshot(store, second, wish, tmp_path / "p")
    pull_snapshot(store, second, wish, tmp_path / "fresh")
    if name == "imagefolder":
        assert files_of(tmp_path / "p") == files_of(tmp_path / "fresh")
    key = "pair_id" if form is PAIRS else "candidate_id"
    ids = [sorted(row[key] for row in rows_of(tmp_path / one, name)) for one in ("p", "fresh")]
    assert ids[0] == ids[1]
    assert verify_folder(tmp_path / "p") == []
    with pytest.raises(Conflict, match="other --decisions"):
        pull_snapshot(store, second, plain_request(name), tmp_path / "p")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_damaged_file_names_its_candidates(store, snapshot, tmp_path, name, form):
    pull_snapshot(store, snapshot, request(name, form, shard_bytes=1 << 20), tmp_path / "p")
    victim = max((tmp_path / "p").rglob("*.png" if name == "imagefolder" else "*.parquet"))
    data = bytearray(victim.read_bytes())
    data[data.find(b"IDAT") + 20] ^= 1
    victim.write_bytes(data)
    [damage] = verify_folder(tmp_path / "p")
    assert damage.samples == ()
    assert len(damage.candidates) == 1
    assert {len(part) for part in damage.candidates[0].split("-")} == {32}


def test_conditions_weights_and_since_choose_candidates(store, samples, decided, snapshot):
    wish = Selection(
        (Split.train,),
        (parse_condition("round=2"), parse_condition("caption~prompt 1")),
        (parse_weight("kind=single:3"),),
    )
    plan = make_plan(store, snapshot, request("parquet", LABELS, selection=wish), store.folder)
    people = [one for one in decided if not one.automatic]
    expected = {one.candidate for one in people if one.round == 2 and "prompt 1" in one.prompt}
    assert {row.sample for row in plan.rows} == expected != set()
    for row in plan.rows:
        factor = 3 if row.columns["kind"] == "single" else 1
        right = 0.9 if row.columns["label"] else 0.8
        assert row.columns["weight"] == pytest.approx(right * factor)
    older = make_snapshot(store, samples, decisions=decided[:20])
    newer = Selection((Split.train,), since=older, new_weight=2.0)
    plan = make_plan(store, snapshot, request("parquet", LABELS, selection=newer), store.folder)
    known = {one.candidate for one in decided[:20]}
    for row in plan.rows:
        right = (0.9 if row.columns["label"] else 0.8) * (1 if row.sample in known else 2)
        assert row.columns["weight"] == pytest.approx(right)


def test_what_cannot_be_pulled_is_refused(store, samples, decided, snapshot, tmp_path):
    plain = make_snapshot(store, samples)
    with pytest.raises(Refused, match="without decisions"):
        make_plan(store, plain, request("parquet", LABELS), tmp_path)
    rejects = [one for one in decided if one.verdict is Verdict.reject]
    lonely = make_snapshot(store, samples, decisions=rejects)
    with pytest.raises(Refused, match="no prompt has"):
        make_plan(store, lonely, request("parquet", PAIRS), tmp_path)
    nothing = Selection((Split.heldout,))
    with pytest.raises(Refused, match="no decided candidate"):
        make_plan(store, snapshot, request("parquet", LABELS, selection=nothing), tmp_path)
    roles = (LayerRole.foreground, LayerRole.background)
    with pytest.raises(Refused, match="several layers"):
        make_plan(store, snapshot, request("parquet", PAIRS, roles=roles), tmp_path)
    with pytest.raises(Refused, match="mask"):
        make_plan(store, snapshot, request("parquet", LABELS, alpha=Alpha.mask), tmp_path)
    for name, one in FORMATS.items():
        if not one.takes_decisions:
            with pytest.raises(Refused, match="--decisions labels"):
                make_plan(store, snapshot, request(name, LABELS, alpha=one.alpha), tmp_path)


def test_withheld_samples_are_in_no_decision(store, samples, decided):
    hidden = samples[0].id
    changed = [*decided]
    changed[3] = make_decision(store, 3, sample=hidden)
    snapshot = make_snapshot(store, samples, withheld=[hidden], decisions=changed)
    found = {one.candidate for one in read_decisions(store, snapshot)}
    assert found == {one.candidate for one in changed} - {changed[3].candidate}


@pytest.mark.parametrize("form", [None, *FORMS])
def test_cards_tell_how_candidates_were_shown_and_name_nobody(store, snapshot, tmp_path, form):
    wish = request("parquet", form) if form else plain_request("parquet")
    info = {"query": {"reviewers": ["Anna", "Bernd"], "rounds": [3]}}
    pull_snapshot(store, snapshot, wish, tmp_path / "p", info=info)
    card = (tmp_path / "p" / "README.md").read_text()
    croissant = (tmp_path / "p" / "croissant.json").read_text()
    for text in (card, croissant):
        assert "propensities) from 0.25 to 1" in text
        assert "Anna" not in text
    assert "40 decided candidates" in card
    assert "2 chosen reviewers" in card
    assert "14 accept" in card
    fields = {one["name"] for one in json.loads(croissant)["recordSet"][0]["field"]}
    needed = {
        None: {"image", "text", "sample_id"},
        LABELS: {"image", "label", "weight", "propensity"},
        PAIRS: {"jpg_0", "jpg_1", "label_0", "caption"},
    }
    assert fields >= needed[form]
