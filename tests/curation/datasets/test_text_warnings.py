"""Warnings on texts that a built-in preset cuts or cannot read, or that its training captions did not contain."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from curation.cli.main import app
from curation.datasets import text_warnings
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.datasets.snapshots import freeze_snapshot
from curation.domain import CaptionSource, Checkpoint, Kind, LayerRole, Prompt
from curation.images.codec import encode_layer
from curation.runtime.context import open_context
from tests.support.factories import image
from training.prompt_coverage import measure_coverage


@pytest.fixture
def context(settings):
    with open_context(settings) as opened:
        opened.database.send = None
        yield opened


@pytest.fixture
def snapshot(context) -> str:
    """Return a snapshot of four captions: plain, too long, without words, and from a file name."""
    captions = ["a red fox", " ".join(f"word{n}" for n in range(20)), "🦊", "IMG"]
    new_samples = []
    for seed, text in enumerate(captions):
        data = encode_layer(image(seed))
        sha = context.store.put(data)
        layers = {LayerRole.foreground: StoredLayer(sha, 32, 24, len(data), sha)}
        source = CaptionSource.file_name if text == "IMG" else CaptionSource.given
        new_samples.append(
            NewSample(Kind.single, text, "CC0", "here", 0, layers, caption_source=source)
        )
    with context.database.transaction() as tx:
        add_samples(tx, new_samples)
    return freeze_snapshot(context.database, context.store, tag="latest", actor="test").id


def make_checkpoint(snapshot: str, preset: str = "tiny", **changes: str) -> Checkpoint:
    return Checkpoint({}, "whole", preset, snapshot, None, 0, "test", {}, None, changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red fox", ""),
        ("a RED fox!", ""),
        ("fox " * 15, ""),
        ("fox " * 16, "1 of 1 texts are cut after 15 words"),
        ("🦊", "1 of 1 texts have no known word, such as '🦊'"),
        ("一只红色的狐狸", "in no training caption: '一只红色的狐狸'"),
        ("a red wolf", "in no training caption: 'wolf'"),
    ],
)
def test_a_prompt_is_compared_with_the_captions_of_its_training(context, snapshot, text, expected):
    warning = text_warnings.prompt_warning(
        measure_coverage, context.store, make_checkpoint(snapshot), [Prompt(text)]
    )
    assert expected in warning
    assert bool(warning) == bool(expected)


def test_overrides_and_all_texts_of_pairs_count(context, snapshot):
    prompt = Prompt("a red fox", "a fox", "a red red red red fox")
    assert (
        text_warnings.prompt_warning(
            measure_coverage, context.store, make_checkpoint(snapshot), [prompt]
        )
        == ""
    )
    warning = text_warnings.prompt_warning(
        measure_coverage, context.store, make_checkpoint(snapshot, text_length="5"), [prompt]
    )
    assert (
        warning
        == "preset tiny: 1 of 3 texts are cut after 4 words, such as 'a red red red red fox'"
    )


def test_many_unknown_words_are_one_line(context, snapshot):
    prompts = [Prompt(f"a red beast{n}") for n in range(50)]
    warning = text_warnings.prompt_warning(
        measure_coverage, context.store, make_checkpoint(snapshot), prompts
    )
    assert warning.endswith(
        "50 of 50 have words that are in no training caption: 'beast0', 'beast1', 'beast2' and 47 more"
    )


def test_imported_models_and_weights_without_a_snapshot_are_not_checked(context, snapshot):
    long = [Prompt("wolf " * 100)]
    assert (
        text_warnings.prompt_warning(
            measure_coverage, context.store, make_checkpoint(snapshot, "sd15"), long
        )
        == ""
    )
    assert (
        text_warnings.prompt_warning(
            measure_coverage, context.store, make_checkpoint(snapshot, "no such preset"), long
        )
        == ""
    )
    imported = Checkpoint({}, "imported", "tiny", None, None, 0, "test")
    assert "training caption" not in text_warnings.prompt_warning(
        measure_coverage, context.store, imported, [Prompt("a wolf")]
    )


def test_a_training_warns_of_its_captions(context, snapshot):
    warning = text_warnings.snapshot_warning(measure_coverage, context.store, snapshot, "tiny", {})
    assert warning.startswith(
        "preset tiny: 1 of 3 captions are cut after 15 words, such as 'word0 word1"
    )
    assert "1 of 3 captions have no known word, such as '🦊'" in warning
    assert warning.endswith(
        "1 of 4 samples have only a file name as caption and are trained on without text"
    )
    assert "cut" not in text_warnings.snapshot_warning(
        measure_coverage, context.store, snapshot, "sd15", {}
    )


def test_reading_texts_loads_no_torch():
    code = "import sys, training.prompt_coverage; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_commands_warn_in_one_line_on_stderr(settings, context, snapshot, monkeypatch):
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    from curation.checkpoints.registry import promote_checkpoint, register_checkpoint

    with context.database.transaction() as tx:
        register_checkpoint(tx, make_checkpoint(snapshot), "test")
        promote_checkpoint(tx, make_checkpoint(snapshot).id, "test")
    (settings.home / "prompts.txt").write_text("a red fox\n一只狐狸\n", "utf-8")
    result = CliRunner().invoke(
        app,
        [
            "round",
            "open",
            "--quota",
            "2",
            "--prompts",
            str(settings.home / "prompts.txt"),
            "--json",
        ],
    )
    assert [line for line in result.stderr.splitlines() if line.startswith("warning:")] == [
        "warning: preset tiny: 1 of 2 have words that are in no training caption: '一只狐狸'"
    ]
    assert json.loads(result.stdout)["warning"].startswith("preset tiny")
    assert (
        "warning: preset tiny: 1 of 3 captions"
        in CliRunner().invoke(app, ["train", "--dry-run"]).stderr
    )
    quiet = CliRunner().invoke(app, ["round", "open", "--quota", "1", "--json"])
    assert "file name" not in quiet.stderr
