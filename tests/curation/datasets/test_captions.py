"""Captions: models fill empty ones, people overrule them, frozen snapshots do not change, and runs resume."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from curation import jobs
from curation.cli.main import app
from curation.datasets import captions
from curation.datasets.captions import CaptionRequest, request_captions, select_samples, set_caption
from curation.datasets.manifest import read_samples
from curation.datasets.samples import NewSample, StoredLayer, add_samples, withdraw_sample_of
from curation.datasets.snapshots import freeze_snapshot
from curation.db import leases
from curation.db.tables import caption_runs, samples
from curation.db.tables import leases as lease_rows
from curation.domain import Job, Kind, LayerRole, RunState, Sample
from curation.errors import LayerloopError, NotFound, Refused
from curation.images.codec import composite_over, encode_layer
from curation.jobs.looking import find_job
from curation.runtime.context import open_context
from tests.support.factories import image, make_candidates, make_round
from tests.support.text_generator import CAPTIONERS, BrightnessCaptioner

ORDER = CaptionRequest("model")


@pytest.fixture
def model_captioner(monkeypatch):
    one = BrightnessCaptioner()
    monkeypatch.setitem(CAPTIONERS, "model", one)
    yield one
    jobs.stop_requested.clear()


@pytest.fixture
def context(settings):
    with open_context(
        settings.model_copy(
            update={"captioner": "tests.support.text_generator:open_brightness_captioner"}
        )
    ) as opened:
        opened.database.send = None
        yield opened


def test_a_model_captions_only_samples_without_a_caption(context, model_captioner):
    ids = _add(context, ["", "a cat", "unknown"])
    run = _caption(context, ORDER)
    first, second, third = (_sample(context, id_) for id_ in ids)
    seen = composite_over(image(0), (128, 128, 128))
    assert first.caption == f"Describe of {seen.astype(int).sum()} {seen.shape} in 60"
    assert first.captioner == third.captioner == "brightness@1"
    assert (second.caption, second.captioner) == ("a cat", "")
    with context.database.transaction() as tx:
        row = captions.find_run(tx, run)
        kept = tx.execute(
            sa.select(captions.captions).order_by(captions.captions.c.sample_id)
        ).all()
    assert (row["state"], row["background"]) == ("finished", 128)
    assert (row["progress"]["done"], row["progress"]["total"]) == (2, 2)
    assert {one.source for one in kept} == {"machine:brightness@1"}
    assert {one.text for one in kept} == {first.caption, third.caption}
    assert _run_again(context) == 0


def test_captions_of_people_are_kept_before_during_and_after_a_run(context, model_captioner):
    before, during, after = _add(context, [""] * 3)
    with context.database.transaction() as tx:
        set_caption(tx, before.hex, "  a red\nhat ", "ann")

    def interrupt():
        with context.database.transaction() as tx:
            set_caption(tx, str(during)[:13], "a boat", "ann")

    model_captioner.before = interrupt
    _caption(context, ORDER)
    model_captioner.before = lambda: None
    assert _sample(context, before).caption == "a red hat"
    assert _sample(context, during).caption == "a boat"
    assert _sample(context, after).captioner == "brightness@1"
    with context.database.transaction() as tx:
        set_caption(tx, after.hex, "a star", "ann")
    assert _run_again(context, recaption=True) == 0
    assert (_sample(context, after).caption, _sample(context, after).captioner) == ("a star", "")


def test_the_next_snapshot_has_the_caption_and_the_last_one_does_not(context, model_captioner):
    _add(context, ["", "a cat"])
    old = freeze_snapshot(context.database, context.store, tag=None, actor="test").id
    _caption(context, ORDER)
    new = freeze_snapshot(context.database, context.store, tag=None, actor="test").id
    assert freeze_snapshot(context.database, context.store, tag=None, actor="test").id == new != old
    assert sorted(sample.caption for sample in read_samples(context.store, old)) == ["", "a cat"]
    assert sorted(sample.captioner for sample in read_samples(context.store, new)) == [
        "",
        "brightness@1",
    ]


def test_a_manifest_line_without_a_captioner_is_unchanged(context):
    [id_] = _add(context, ["a cat"])
    sample = _sample(context, id_)
    assert "captioner" not in sample.line()
    response = Sample(**(sample.__dict__ | {"captioner": "m@1"}))
    assert Sample.read(response.line()) == response
    assert Sample.read(sample.line()) == sample


def test_a_stopped_run_goes_on_where_it_was_left(context, model_captioner, monkeypatch):
    monkeypatch.setattr(captions, "BATCH_SIZE", 2)
    ids = _add(context, [""] * 5)
    model_captioner.before = lambda: (
        jobs.stop_requested.set() if len(model_captioner.batches) == 2 else None
    )
    run = _caption(context, ORDER)
    with context.database.transaction() as tx:
        assert captions.find_run(tx, run)["state"] == RunState.requested
        assert tx.scalar(sa.select(sa.func.count()).select_from(lease_rows)) == 0
    jobs.stop_requested.clear()
    assert [bool(_sample(context, id_).caption) for id_ in ids].count(True) == 4
    with context.database.transaction() as tx:
        assert find_job(tx, "train") == Job("caption", (str(run),))
    jobs.caption(context, str(run))
    assert all(_sample(context, id_).captioner for id_ in ids)
    assert model_captioner.batches == [2, 2, 1]


def test_captions_of_a_model_are_replaced_only_when_asked_and_once_a_run(
    context, model_captioner, monkeypatch
):
    monkeypatch.setattr(captions, "BATCH_SIZE", 1)
    [id_, _] = _add(context, ["", "a cat"])
    _caption(context, ORDER)
    assert _run_again(context, prompt="another question") == 0
    assert _run_again(context, prompt="another question", recaption=True) == 1
    assert _sample(context, id_).caption.startswith("another")
    assert (
        _run_again(context, prompt="another question", recaption=True) == 1
    )  # ordered again, it begins again
    with context.database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(captions.captions)) == 3


def test_a_limit_counts_over_the_whole_run(context, model_captioner, monkeypatch):
    monkeypatch.setattr(captions, "BATCH_SIZE", 1)
    ids = _add(context, [""] * 4)
    order = CaptionRequest("model", max_samples=3)
    model_captioner.before = lambda: (
        jobs.stop_requested.set() if len(model_captioner.batches) == 2 else None
    )
    run = _caption(context, order)
    jobs.stop_requested.clear()
    jobs.caption(context, str(run))
    assert sum(bool(_sample(context, id_).caption) for id_ in ids) == 3


def test_a_withdrawn_sample_and_a_lost_layer_are_left_out(context, model_captioner, caplog):
    lost, whole = _add(context, ["", ""])
    with context.database.transaction() as tx:
        [candidate] = make_candidates(tx, context.store, make_round(tx), 1)
        add_samples(tx, [_new(context, 9, "", candidate)])
        withdraw_sample_of(tx, candidate)
        assert len(select_samples(tx, ORDER)) == 2
    context.store._path(_sample(context, lost).layers[LayerRole.foreground]).unlink()
    _caption(context, ORDER)
    assert _sample(context, lost).caption == ""
    assert _sample(context, whole).captioner
    assert lost.hex in caplog.text


def test_pairs_are_shown_blended(context, model_captioner):
    blended = np.full((4, 6, 4), 255, np.uint8)
    layers = {
        LayerRole.foreground: _stored(context, image(1)),
        LayerRole.background: _stored(context, image(2)),
    }
    pair = NewSample(
        Kind.pair, "", "CC0", "here", 0, layers | {LayerRole.blended: _stored(context, blended)}
    )
    with context.database.transaction() as tx:
        [id_] = add_samples(tx, [pair])
    _caption(context, ORDER)
    assert f"of {4 * 6 * 3 * 255} (4, 6, 3)" in _sample(context, id_).caption


def test_a_failed_run_has_a_reason_and_a_hint_and_resumes_on_request(
    context, model_captioner, monkeypatch
):
    [id_] = _add(context, [""])
    with monkeypatch.context() as without:
        without.delitem(CAPTIONERS, "model")
        run = _caption(context, ORDER)
    with context.database.transaction() as tx:
        row = captions.find_run(tx, run)
    assert (row["state"], row["error"]) == (
        "failed",
        "NotFound: there is no folder model (make a captioner first)",
    )
    assert _caption(context, ORDER) == run
    assert _sample(context, id_).captioner


def test_a_run_whose_lease_is_lost_keeps_nothing_more(context, model_captioner):
    [id_] = _add(context, [""])

    def take_over():
        with context.database.transaction() as tx:
            leases.release_holder(tx, jobs.WORKER_ID)
            run = tx.scalar(sa.select(caption_runs.c.id))
            assert captions.claim_run(tx, run, "another", 60) == ORDER

    model_captioner.before = take_over
    run = _caption(context, ORDER)
    assert _sample(context, id_).caption == ""
    with context.database.transaction() as tx:
        assert captions.find_run(tx, run)["state"] == RunState.running
        assert captions.claim_run(tx, run, "a third", 60) is None


def test_a_run_that_fails_in_a_worker_that_has_lost_it_is_not_failed(context, model_captioner):
    _add(context, [""])

    def lose_it_and_fail():
        with context.database.transaction() as tx:
            tx.execute(sa.update(lease_rows).values(holder="another"))
        raise RuntimeError("broken")

    model_captioner.before = lose_it_and_fail
    run = _caption(context, ORDER)
    with context.database.transaction() as tx:
        row = captions.find_run(tx, run)
    assert (row["state"], row["error"]) == (RunState.running, None)


def test_invalid_captions_and_unknown_samples_are_refused(context):
    [id_] = _add(context, [""])
    with context.database.transaction() as tx:
        with pytest.raises(Refused, match="caption is empty"):
            set_caption(tx, id_.hex, " \n\0", "ann")
        for name in (id_.hex[:7], "0" * 32, "", "%" * 8):
            with pytest.raises(NotFound):
                set_caption(tx, name, "a hat", "ann")
        with pytest.raises(NotFound):
            captions.find_run(tx, uuid.uuid4())


def test_commands_caption_and_give(settings, context, model_captioner, monkeypatch):
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv(
        "LAYERLOOP_CAPTIONER", "tests.support.text_generator:open_brightness_captioner"
    )
    first, _, third = _add(context, ["", "a cat", ""])
    one, three = sorted((first, third))
    assert "2 samples" in _call("run", "--model", "model", "--dry-run").stderr
    assert _sample(context, one).caption == ""
    response = json.loads(_call("run", "--model", "model", "--limit", "1", "--json").stdout)
    assert (response["state"], response["done"]) == ("finished", 1)
    assert _call("set", three.hex[:8], "a red hat").stdout == f"{three.hex}\n"
    assert _sample(context, three).caption == "a red hat"
    assert _sample(context, one).captioner == "brightness@1"
    waiting = _call("run", "--model", "model", "--no-wait").stdout.strip()
    with context.database.transaction() as tx:
        assert captions.find_run(tx, uuid.UUID(waiting))["state"] == "requested"
    with pytest.raises(LayerloopError, match="captioning failed: NotFound"):
        CliRunner().invoke(app, ["caption", "run", "--model", "none"], catch_exceptions=False)


def _call(*arguments):
    result = CliRunner().invoke(app, ["caption", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def _add(context, texts) -> list[uuid.UUID]:
    """Return a sample of each caption; ids in the order of the texts."""
    news = [_new(context, number, text) for number, text in enumerate(texts)]
    with context.database.transaction() as tx:
        add_samples(tx, news)
    return [uuid.UUID(new.to_sample().id) for new in news]


def _new(context, number, text, candidate=None) -> NewSample:
    layer = _stored(context, image(number))
    return NewSample(
        Kind.single, text, "CC0", "here", 0, {LayerRole.foreground: layer}, candidate=candidate
    )


def _stored(context, rgba) -> StoredLayer:
    data = encode_layer(rgba)
    sha = context.store.put(data)
    return StoredLayer(sha, rgba.shape[1], rgba.shape[0], len(data), sha)


def _caption(context, order) -> uuid.UUID:
    with context.database.transaction() as tx:
        run = request_captions(tx, order, "test")
    jobs.caption(context, str(run))
    return run


def _run_again(context, **changes) -> int:
    """How many samples another order is for; it is carried out."""
    order = CaptionRequest(**(ORDER.__dict__ | changes))
    run = _caption(context, order)
    with context.database.transaction() as tx:
        return captions.find_run(tx, run)["progress"]["done"]


def _sample(context, id_) -> Sample:
    with context.database.transaction() as tx:
        return Sample.read(tx.scalar(sa.select(samples.c.line).where(samples.c.id == id_)))
