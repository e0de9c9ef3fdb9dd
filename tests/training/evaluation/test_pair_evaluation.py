"""Evaluation of pairs: joint, separate and real ones, and generators with known metrics."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import t as student

from curation.datasets.manifest import Manifest, Part
from curation.domain import Kind, LayerRole, Sample, Split, TrainingRequest
from curation.images.codec import encode_layer, pixel_hash
from curation.images.pairs import blended_error, composite, harmony, leakage, seam_energy
from curation.object_store import FolderStore
from curation.ports import DEFAULT_OPTIONS, EvaluationOptions
from tests.support.clip_models import write_clip
from tests.support.composite_pairs import compose, freeze_pairs
from training.checkpoint import load_checkpoint
from training.data.letterbox import letterbox
from training.evaluation.full import evaluate_fully
from training.evaluation.heldout import HIGHER_IS_BETTER, evaluate
from training.evaluation.pair_metrics import mean_with_interval, measure_pair
from training.evaluation.pairs import (
    GENERATED_PAIRS,
    compare_pairs,
    generates_pairs,
    heldout_pairs,
    open_pair_generators,
)
from training.layers.model import LayeredDenoiser
from training.metrics.clip_score import load_clip_score
from training.presets.presets import PRESETS
from training.train import train
from training.transparency.codec import reconstruct

FG, BG, BLENDED = LayerRole
SIDE = PRESETS["micro"].image_size
WHOSE = ["joint", "apart", "joint - apart", "real"]


def ignore_progress(_):
    """Ignore progress."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a checkpoint trained on pairs for seconds, its store and its snapshot of 40 pairs."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    store = FolderStore(folder / "objects")
    snapshot = freeze_pairs(store, range(40), side=SIDE)
    return train(
        TrainingRequest("pairs", "micro", snapshot, None, None, 0, 192),
        store,
        folder / "run",
        ignore_progress,
    ), store


@pytest.fixture(scope="module")
def measured(trained):
    checkpoint, store = trained
    return evaluate_fully(
        checkpoint,
        checkpoint.snapshot,
        store,
        EvaluationOptions(draws=GENERATED_PAIRS),
        ignore_progress,
    )


def same(first, second):
    return all(np.array_equal(first[role], second[role]) for role in LayerRole)


def test_a_training_of_pairs_is_measured_by_generated_pairs(trained):
    metrics = trained[0].evaluation
    pairs = {
        "pair_harmony",
        "pair_light_r",
        "pair_leakage",
        "pair_seam",
        "pair_error",
        "pair_empty",
    }
    assert (
        pairs | {"layers_mse", "layers_apart_mse", "background_psnr"}
        <= metrics.keys()
        <= HIGHER_IS_BETTER.keys()
    )
    assert all(map(math.isfinite, metrics.values()))
    assert metrics["pair_error"] == pytest.approx(0, abs=0.6), "blended is made of the two"


def test_the_command_adds_separate_and_real_pairs_to_the_metrics_after_training(trained, measured):
    checkpoint, _ = trained
    assert {name: measured.metrics[name] for name in checkpoint.evaluation} == pytest.approx(
        checkpoint.evaluation, rel=1e-4, abs=1e-6
    )
    assert set(measured.pairs) == {"error", "empty", "leakage", "seam", "harmony", "light_r"}
    for name, row in measured.pairs.items():
        assert list(row) == WHOSE, name
        for found in row.values():
            assert found.count == 8, "16 drawings of 8 texts"
            assert found.low <= found.mean <= found.high
            assert all(map(math.isfinite, (found.low, found.high)))
        assert row["joint - apart"].mean == pytest.approx(row["joint"].mean - row["apart"].mean)
        assert measured.metrics[f"pair_{name}"] == row["joint"].mean
    assert measured.pairs["harmony"]["joint - apart"].mean != 0
    assert measured.pairs["error"]["real"].mean == 0
    assert measured.standard
    assert any("Student's t" in note for note in measured.notes)
    assert any("--clip" in note for note in measured.notes)


def test_the_sample_grid_has_a_column_for_each_text_and_six_rows(measured):
    with Image.open(io.BytesIO(measured.pairs_grid)) as grid:
        assert grid.width // 100 == 8
        assert grid.height // 212 == 6


def test_without_images_there_are_no_pair_metrics_and_another_count_is_not_standard(trained):
    checkpoint, store = trained
    none = evaluate_fully(
        checkpoint, checkpoint.snapshot, store, EvaluationOptions(draws=0), ignore_progress
    )
    assert (none.pairs, none.pairs_grid, none.standard) == ({}, b"", True)
    assert any(note.startswith("no pairs were generated") for note in none.notes)
    assert "pair_harmony" not in none.metrics
    assert "layers_mse" in none.metrics
    few = evaluate_fully(
        checkpoint, checkpoint.snapshot, store, EvaluationOptions(draws=3), ignore_progress
    )
    assert {found.count for row in few.pairs.values() for found in row.values()} == {3}
    assert not few.standard


def test_joint_and_separate_pairs_differ_by_joint_attention_only(trained, monkeypatch):
    checkpoint, store = trained
    ways = open_pair_generators(checkpoint, store)
    joint, apart = ways["joint"], ways["apart"]
    assert (
        joint.layered is apart.layered
        and joint.parts is apart.parts
        and joint.single_generator is apart.single_generator
    )
    descriptions = [way.describe(DEFAULT_OPTIONS) for way in (joint, apart)]
    assert {key for key in descriptions[0] if descriptions[0][key] != descriptions[1][key]} == {
        "attention"
    }
    samples = heldout_pairs(store, checkpoint.snapshot)
    seen = compare_pairs(ways, samples, 8, None, store, ignore_progress)
    assert seen.table["harmony"]["joint - apart"].mean != 0
    predict = LayeredDenoiser.predict
    monkeypatch.setattr(
        LayeredDenoiser, "predict", lambda *a, **k: predict(*a, **{**k, "joined": False})
    )
    parted = compare_pairs(ways, samples, 8, None, store, ignore_progress)
    for name, row in parted.table.items():
        assert (row["joint - apart"].mean, row["joint - apart"].low, row["joint - apart"].high) == (
            0,
            0,
            0,
        ), name
        assert row["apart"] == seen.table[name]["apart"]


def test_the_order_of_the_samples_does_not_matter(trained):
    checkpoint, store = trained
    ways, samples = (
        open_pair_generators(checkpoint, store),
        heldout_pairs(store, checkpoint.snapshot),
    )
    first, second = (
        compare_pairs(ways, order, 8, SIDE, store, ignore_progress).table
        for order in (samples, samples[::-1])
    )
    assert first == second
    assert first["harmony"]["joint"].count == 8


def test_text_agreement_is_measured_with_a_clip(trained, tmp_path):
    checkpoint, store = trained
    clip = str(write_clip(tmp_path / "clip"))
    found = evaluate_fully(
        checkpoint,
        checkpoint.snapshot,
        store,
        EvaluationOptions(draws=8, clip=clip),
        ignore_progress,
    )
    for role in LayerRole:
        row = found.pairs[f"text_{role}"]
        assert list(row) == WHOSE
        assert 0 <= row["joint"].mean <= 100
        assert found.metrics[f"pair_text_{role}"] == row["joint"].mean
    assert not any("--clip" in note for note in found.notes)
    # The expected score of a layer over gray with its own text.
    agree, samples = (
        load_clip_score(clip, torch.device("cpu")),
        heldout_pairs(store, checkpoint.snapshot),
    )
    pairs = [compose(int(sample.id, 16), SIDE) for sample in samples]
    on_gray = [
        composite(pair.layers[FG], np.full((SIDE, SIDE, 4), (128, 128, 128, 255), np.uint8))
        for pair in pairs
    ]
    scores = agree([image[..., :3] for image in on_gray], [pair.texts[FG] for pair in pairs])
    assert found.pairs["text_foreground"]["real"].mean == pytest.approx(np.mean(scores), abs=1.0)


class Painted:
    """Generates the composite pair of the seed, with a change."""

    batch_size = 3

    def __init__(self, change):
        self.change = change

    def generate(self, requests, options=None):
        return [self._draw(request) for request in requests]

    def describe(self, options):
        return {}

    def _draw(self, request):
        pair = compose(request.seed % 2**48, SIDE)
        foreground, background = self.change(pair.layers[FG].copy(), pair.layers[BG].copy())
        return {FG: foreground, BG: background, BLENDED: composite(foreground, background)}


def agreeing(foreground, background):
    """Return the foreground in the colors of its background."""
    foreground[..., :3] = background[..., :3]
    return foreground, background


def disagreeing(foreground, background):
    """Return a dark blue foreground over a bright background."""
    foreground[..., :3] = (foreground[..., :3] * (0.1, 0.1, 0.4)).astype(np.uint8)
    background[..., :3] = 255 - (255 - background[..., :3]) // 4
    return foreground, background


def leaking(foreground, background):
    """Return a background that holds the subject already."""
    return foreground, composite(foreground, background)


def empty(foreground, background):
    return foreground * 0, background


def planted(store, samples, change, count=8):
    return compare_pairs({"drawn": Painted(change)}, samples, count, SIDE, store, ignore_progress)


def test_matching_layers_have_better_metrics(store):
    samples = heldout_pairs(store, freeze_pairs(store, range(60), side=SIDE))
    good, bad, ghosts = (
        planted(store, samples, change, 12).table for change in (agreeing, disagreeing, leaking)
    )
    assert good["harmony"]["drawn"].high < bad["harmony"]["drawn"].low
    assert good["leakage"]["drawn"].high < ghosts["leakage"]["drawn"].low
    assert ghosts["leakage"]["drawn"].mean > 0.8
    assert "joint - apart" not in good["harmony"]
    assert (
        good["light_r"]["drawn"].mean > 0.85
    )  # not 1: the background varies behind the foreground
    assert good["light_r"]["drawn"].low > 0.7
    untouched = planted(store, samples, lambda *layers: layers, 12).table
    assert untouched["harmony"]["drawn"].mean == pytest.approx(
        untouched["harmony"]["real"].mean, rel=0.02
    )


def test_invisible_layers_are_counted_and_have_no_other_metrics(store):
    samples = heldout_pairs(store, freeze_pairs(store, range(20), side=SIDE))
    found = planted(store, samples, empty, 4)
    assert found.table["empty"]["drawn"].mean == 1
    assert list(found.table["harmony"]) == ["real"]
    assert found.metrics == {"pair_error": 0, "pair_empty": 1}
    turns = iter(range(100))
    half = planted(store, samples, lambda *layers: empty(*layers) if next(turns) % 2 else layers, 4)
    assert half.table["empty"]["drawn"].mean == 0.5
    assert half.table["harmony"]["drawn"].count == 2
    assert "drawn" not in half.table["light_r"], "two pairs do not correlate"


def test_the_metrics_of_a_pair_equal_the_screening_signals():
    pair = compose(3, 64)
    layers = dict(pair.layers)
    assert measure_pair(layers) == {
        "error": blended_error(pair.layers[FG], pair.layers[BG], pair.layers[BLENDED]),
        "empty": 0,
        "leakage": leakage(pair.layers[FG], pair.layers[BG]),
        "seam": seam_energy(pair.layers[FG], pair.layers[BG], pair.layers[BLENDED]),
        "harmony": harmony(pair.layers[FG], pair.layers[BG]),
    }


def test_intervals_are_those_of_students_t():
    values = [1.0, 2.5, 4.0, 4.5, 9.0]
    found = mean_with_interval(values)
    low, high = student.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / math.sqrt(5))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found == mean_with_interval(values[::-1])
    assert (
        mean_with_interval([2.0]).mean,
        mean_with_interval([2.0]).low,
        mean_with_interval([2.0]).high,
    ) == (2, None, None)


def wide(store, layers):
    """Return a snapshot of one held-out pair, 96 wide and 48 high."""
    stored = {role: store.put(encode_layer(layer[:48])) for role, layer in layers.items()}
    known = ("a pair", "CC0-1.0", "test", Split.heldout, 0, pixel_hash(layers[BLENDED]), stored)
    line = Sample(f"{5:064x}", Kind.pair, *known).line() + "\n"
    return store.put(Manifest((Part("", store.put(line.encode()), 1),), {}).bytes())


def test_letterbox_margins_are_cropped_from_real_pairs(store):
    pair = compose(5, 96)
    layers = dict(pair.layers)
    samples = heldout_pairs(store, wide(store, layers))
    found = compare_pairs(
        {"drawn": Painted(agreeing)}, samples, 2, 96, store, ignore_progress
    ).table
    cut = {role: layer[:48] for role, layer in layers.items()}
    real = {name: row["real"].mean for name, row in found.items()}
    assert real == pytest.approx(measure_pair(cut), abs=1e-6)
    assert found["harmony"]["drawn"].count == 1, "two drawings of one text are one"
    assert found["harmony"]["drawn"].low is None


def test_background_psnr_is_of_opaque_pixels(trained):
    checkpoint, store = trained
    pair = compose(5, 96)
    layers = dict(pair.layers)
    snapshot = wide(store, layers)
    metrics = evaluate(checkpoint, snapshot, store, ignore_progress)
    parts = load_checkpoint(checkpoint, store)
    truth = (
        torch.from_numpy(letterbox(pair.layers[BG][:48], SIDE)).permute(2, 0, 1)[None].float() / 255
    )
    again = (reconstruct(parts.autoencoder, parts.transparency, truth) * 255).round() / 255
    error = (again - truth)[0, :3, SIDE // 4 : -SIDE // 4]
    assert metrics["background_psnr"] == pytest.approx(
        -10 * math.log10(float((error**2).mean())), abs=0.01
    )


def test_generates_pairs_depends_on_the_parts_of_a_checkpoint(trained):
    checkpoint, store = trained
    parts = load_checkpoint(checkpoint, store)
    assert generates_pairs(parts)
    alone = replace(parts, layers=None)
    assert not generates_pairs(alone)
    assert generates_pairs(
        replace(alone, preset=replace(parts.preset, inpainter="somebody/inpaints"))
    )
    assert generates_pairs(replace(alone, modes={"joint": "0" * 64}))
    assert not generates_pairs(replace(alone, modes={"bg2ble": "0" * 64}, base=None))
