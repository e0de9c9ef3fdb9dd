"""Captions from file names are no text for the captioner, prompts and training; older homes freeze the same snapshots."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.datasets.captions import (
    CaptionRequest,
    request_captions,
    select_samples,
    set_caption,
    store_captions,
)
from curation.datasets.manifest import read_samples
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.datasets.snapshots import freeze_snapshot
from curation.db.engine import Database
from curation.db.schema import migrate
from curation.db.tables import import_files, imports, samples
from curation.domain import CaptionSource, Kind, LayerRole, Sample, Split
from curation.errors import Refused
from curation.images.codec import encode_layer
from curation.loops.prompts import choose_prompts
from curation.quality.gold_creation import choose_sources
from tests.support.factories import fresh_database, image, make_round, with_database
from training.data.splits import open_split

NAME = CaptionSource.file_name


def add(tx, store, captions, source=NAME, start=0, texts=None) -> list[uuid.UUID]:
    news = []
    for number, text in enumerate(captions, start):
        data = encode_layer(image(number))
        sha = store.put(data)
        layers = {LayerRole.foreground: StoredLayer(sha, 32, 24, len(data), sha)}
        new = NewSample(
            Kind.single, text, "CC0", "here", 0, layers, Split.train, None, texts or {}, source
        )
        news.append(new)
    add_samples(tx, news)
    return [uuid.UUID(new.to_sample().id) for new in news]


def test_a_file_name_is_no_caption_unless_it_is_confirmed(database, store):
    with database.transaction() as tx:
        add(tx, store, ["IMG", "DSC"])
        with pytest.raises(Refused, match="no seed has a caption") as error:
            choose_prompts(tx, 5, 0)
        assert "caption run" in error.value.hint
        assert {one.text for one in choose_prompts(tx, 5, 0, use_file_names=True)} == {"IMG", "DSC"}
        add(tx, store, ["a cat", "", "unknown"], CaptionSource.given, start=2)
        add(tx, store, ["whole"], NAME, start=9, texts={LayerRole.foreground: "a dog"})
        assert {one.text for one in choose_prompts(tx, 9, 0)} == {"a cat", "a dog"}
        assert {one.text for one in choose_prompts(tx, 9, 0, use_file_names=True)} == {
            "a cat",
            "a dog",
            "IMG",
            "DSC",
        }


def test_captions_of_people_replace_those_of_models_and_names(database, store):
    with database.transaction() as tx:
        first, second = add(tx, store, ["IMG", "DSC"])
        add(tx, store, ["a cat"], CaptionSource.given, start=2)
        order = CaptionRequest("model")
        assert set(select_samples(tx, order)) == {first, second}
        set_caption(tx, second.hex, "a hat", "ann")
        assert select_samples(tx, order) == [first]
        request_captions(tx, order, "test")
        assert store_captions(tx, order, {first: "a bowl", second: "a cap"}, "m@1") == 1
        rows = {row.id: row for row in tx.execute(sa.select(samples))}
    line = Sample.read(rows[first].line)
    assert (line.caption, line.captioner, line.caption_source, rows[first].caption_source) == (
        "a bowl",
        "m@1",
        None,
        "model",
    )
    assert (Sample.read(rows[second].line).caption, rows[second].caption_source) == (
        "a hat",
        "given",
    )


def test_a_caption_from_a_file_name_is_trained_as_an_empty_text(database, store):
    with database.transaction() as tx:
        add(tx, store, ["IMG"])
        add(tx, store, ["a cat"], CaptionSource.given, start=1)
    snapshot = freeze_snapshot(database, store, tag=None, actor="test").id
    assert sorted(open_split(store, snapshot, Split.train, 32).captions) == ["", "a cat"]
    lines = {one.caption: one for one in read_samples(store, snapshot)}
    assert (lines["IMG"].caption_source, lines["a cat"].caption_source) == (NAME, None)
    assert "caption_source" not in lines["a cat"].line()


def test_samples_with_captions_from_names_become_gold_last(database, store):
    with database.transaction() as tx:
        add(tx, store, ["IMG"] * 9)
        add(tx, store, ["a cat"], CaptionSource.given, start=9)
        assert [one.caption for one in choose_sources(tx, make_round(tx), 1)] == ["a cat"]


def test_a_home_of_an_older_version_opens_and_freezes_what_it_froze(postgres_address, store):
    """Before 0008: names are marked where they are captions, and the snapshot's id stays."""
    with fresh_database(postgres_address) as name:
        database = Database(with_database(postgres_address, name))
        migrate(database)
        with database.transaction() as tx:
            ids = add(tx, store, ["red bowl", "a cat", "IMG", "given later"], CaptionSource.given)
        before = freeze_snapshot(database, store, tag=None, actor="test").id
        with database.transaction() as tx:
            imported = uuid.uuid4()
            tx.execute(sa.insert(imports), {"id": imported, "folder": "/x"})
            lines = [
                Sample.read(row.line)
                for row in tx.execute(sa.select(samples).order_by(samples.c.id))
            ]
            files = {
                "red bowl": "in/red_bowl-02.png",
                "a cat": "IMG_1.png",
                "IMG": "IMG_0042.PNG",
                "given later": "x.png",
            }
            rows = [
                {
                    "import_id": imported,
                    "name": files[one.caption],
                    "stamp": "1:1",
                    "outcome": "accept",
                }
                | {"layer": one.layers[LayerRole.foreground]}
                for one in lines
            ]
            tx.execute(sa.insert(import_files), rows)
            tx.connection.exec_driver_sql(
                f"insert into captions (sample_id, text, source) values ('{ids[3]}', 'given later', 'person:ann')"
            )
        migrate(database, revision="0007")
        migrate(database)
        assert freeze_snapshot(database, store, tag=None, actor="test").id == before
        with database.transaction() as tx:
            rows = tx.execute(sa.select(samples.c.id, samples.c.caption_source))
            marked = {row.id: row.caption_source for row in rows}
            assert set(select_samples(tx, CaptionRequest("model"))) == {ids[0], ids[2]}
        database.close()
    assert marked == dict(zip(ids, [NAME, "given", NAME, "given"], strict=True))


def test_a_caption_from_a_file_name_is_read_back_as_empty(database, store):
    with database.transaction() as tx:
        add(tx, store, ["IMG"])
    snapshot = freeze_snapshot(database, store, tag=None, actor="test").id
    [one] = read_samples(store, snapshot)
    assert Sample.read(one.line()) == one
    assert one.caption_for() == one.caption_for(LayerRole.foreground) == ""
