"""The command: it shows before it removes, asks, refuses what is unclear, and goes on when repeated."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from curation.cli.main import app
from curation.errors import NotFound, Refused, TakenDown
from curation.runtime.context import open_context
from tests.support.taken_down import BAD, blob, fill_two_sources, samples_of


@pytest.fixture
def made(settings, monkeypatch, tmp_path):
    """An instance of two sources, in which commands run."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    with open_context(settings) as context:
        return fill_two_sources(context.database, context.store, tmp_path)


def call(*arguments):
    result = CliRunner().invoke(app, ["takedown", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_administrator_looks_removes_and_keeps_the_record(made, settings, database, tmp_path):
    planned = json.loads(call("--source", BAD, "--dry-run", "--json"))
    assert (len(planned["samples"]), planned["candidate_states"]) == (7, {"waiting": 1})
    assert "samples" in call("--source", BAD, "--dry-run")
    gone = samples_of(database, BAD)
    assert len(gone) == 7
    # Nobody is asked without a terminal.
    with pytest.raises(Refused, match="cannot be undone"):
        call("--source", BAD)
    assert len(samples_of(database, BAD)) == 7
    caches = settings.path("runs/cache/latents-1")
    done = json.loads(call("--source", BAD, "--yes", "--json", "--reason", "asked\nto"))
    assert [one["counts"]["sample"] for one in done["takedowns"]] == [7]
    assert done["caches_cleared"]
    assert not caches.exists()
    assert samples_of(database, BAD) == []
    (row,) = json.loads(call("--list", "--json"))
    assert (row["state"], row["reason"], row["signed"]) == ("finished", "asked to", True)
    assert json.loads(call("--source", BAD, "--yes", "--json"))["takedowns"] == []
    # What is left of a sample is the time and the record.
    for name in (gone[0].id, gone[0].id[:10]):
        with pytest.raises(TakenDown, match=r"was taken down on 20\d\d-\d\d-\d\d") as told:
            CliRunner().invoke(app, ["why", name], catch_exceptions=False)
        assert row["record"] in told.value.hint
        assert "unlicensed" not in told.value.message + told.value.hint
    # The other commands say so.
    with pytest.raises(TakenDown, match="trained on samples"):
        CliRunner().invoke(app, ["checkpoint", "promote", made.child], catch_exceptions=False)
    push = ["checkpoint", "push", made.child, "hf://owner/name", "--dry-run"]
    with pytest.raises(TakenDown, match="trained on samples") as refused:
        CliRunner().invoke(app, push, catch_exceptions=False)
    assert "promote --tainted" in refused.value.hint
    train = ["train", "--snapshot", made.snapshot, "--no-wait"]
    with pytest.raises(TakenDown, match="taken down"):
        CliRunner().invoke(app, train, catch_exceptions=False)
    pull = ["snapshot", "pull", made.snapshot, str(tmp_path / "pulled")]
    with pytest.raises(TakenDown, match="was taken down"):
        CliRunner().invoke(app, pull, catch_exceptions=False)
    # So does the store alone, and the Python API.
    with pytest.raises(TakenDown, match="was taken down"):
        CliRunner().invoke(
            app, ["snapshot", "verify", made.snapshot, "--from", str(settings.home)],
            catch_exceptions=False,
        )  # fmt: skip
    from layerloop import open_snapshot

    with pytest.raises(TakenDown, match="was taken down"):
        open_snapshot(made.snapshot, home=settings.home)
    assert open_snapshot("both", home=settings.home).id != made.snapshot


def test_near_copies_are_shown_and_removed_only_if_they_are_named(made, database, tmp_path):
    near = blob(100)
    near[30:34, 30:34, :3] ^= 1
    file, sheet = tmp_path / "near.png", tmp_path / "sheet.png"
    Image.fromarray(near).save(file)
    planned = json.loads(call("--image", str(file), "--sheet", str(sheet), "--dry-run", "--json"))
    assert planned["samples"] == []
    (copy,) = planned["near_copies"]
    assert copy["kind"] == "sample"
    with Image.open(sheet) as drawn:
        assert drawn.size[1] > 100
    call("--image", str(file), "--yes")
    assert copy["id"] in {one.id for one in samples_of(database, "a friend")}
    call("--image", str(file), "--also", copy["id"], "--yes")
    assert copy["id"] not in {one.id for one in samples_of(database, "a friend")}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "name one kind"),
        (["--source", "a", "--licence", "b"], "name one kind"),
        (["--source", "a", "--also", "00112233"], "--also names"),
        (["--sample", "nothing"], "no sample and no candidate"),
        (["--reviewer", "nobody"], "no reviewer"),
    ],
)
def test_what_is_unclear_is_refused(made, arguments, error):
    with pytest.raises((Refused, NotFound), match=error):
        call(*arguments, "--yes")


def test_a_file_that_is_no_image_is_refused(made, tmp_path):
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(Refused, match="no image that an import would take"):
        call("--image", str(tmp_path / "note.png"), "--yes")
