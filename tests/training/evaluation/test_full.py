"""Full evaluation: the metrics after training and more, by background, with a sample grid."""

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from curation.datasets.manifest import Manifest, Part
from curation.domain import Kind, LayerRole, Sample, Split
from curation.errors import Refused
from curation.images.codec import BACKGROUNDS, encode_layer, pixel_hash
from curation.ports import EvaluationOptions
from tests.support.factories import image
from tests.training.evaluation.test_evaluate import MICRO, untrained_checkpoint
from training.denoiser.builtin import BuiltinDenoiser
from training.evaluation.full import evaluate_fully
from training.evaluation.heldout import HIGHER_IS_BETTER, evaluate
from training.metrics import inception
from training.metrics.perceptual import LPIPS
from training.metrics.reference_results import PUBLISHED
from training.safetensors_io import save_part


def ignore_progress(_):
    """Ignore progress."""


def test_it_has_the_metrics_after_training_and_more(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    measured = evaluate_fully(checkpoint, snapshot, store, EvaluationOptions(), ignore_progress)
    light = evaluate(checkpoint, snapshot, store, ignore_progress)
    assert {name: measured.metrics[name] for name in light} == pytest.approx(light, rel=1e-5)
    assert list(measured.metrics) == [name for name in HIGHER_IS_BETTER if name in measured.metrics]
    assert set(measured.metrics) - set(light) == {
        "psnr_worst", "alpha_grad", "alpha_conn", "unknown_sad", "unknown_mse", "unknown_grad", "unknown_conn",
        "offset_mean", "offset_max", "offset_energy",
    }  # fmt: skip
    assert list(measured.backgrounds) == list(BACKGROUNDS)
    assert {frozenset(row) for row in measured.backgrounds.values()} == {
        frozenset({"psnr", "ssim"})
    }
    assert measured.metrics["psnr_worst"] == min(
        row["psnr"] for row in measured.backgrounds.values()
    )
    assert (measured.images, measured.standard, measured.published) == (6, True, {})
    assert [note.split(":")[0] for note in measured.notes] == [
        "no lpips", "no rfid", "no JPEG metrics", "no noise_mse and no generated images",
    ]  # fmt: skip
    assert Image.open(io.BytesIO(measured.sheet)).height > 6 * 128


def test_jpeg_metrics_have_names_of_their_own(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    plain = evaluate_fully(
        checkpoint, snapshot, store, EvaluationOptions(), ignore_progress
    ).metrics
    measured = evaluate_fully(
        checkpoint, snapshot, store, EvaluationOptions(published=True), ignore_progress
    )
    assert set(measured.metrics) - set(plain) == {"psnr_jpeg", "ssim_jpeg"}
    assert {name: measured.metrics[name] for name in plain} == plain
    assert measured.metrics["psnr_jpeg"] != pytest.approx(plain["psnr"], abs=0.05)
    assert set(measured.backgrounds["grey"]) == {"psnr", "ssim", "psnr_jpeg", "ssim_jpeg"}
    assert measured.published == PUBLISHED
    assert all(name.endswith("_jpeg") for row in PUBLISHED.values() for name in row)
    assert PUBLISHED["AIM-500: LayerDiffuse SDXL"]["psnr_jpeg"] == 32.09
    assert any("of other images" in note for note in measured.notes)


def test_given_weights_enable_their_metrics(store, snapshot, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "INPUT_SIZE", 80)  # reduces the work to a fifteenth
    torch.manual_seed(0)
    for name, network in (("lpips", LPIPS()), ("inception", inception.Inception())):
        save_file(network.state_dict(), tmp_path / name)
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    wanted = EvaluationOptions(
        published=True, perceptual=tmp_path / "lpips", inception=tmp_path / "inception", limit=2
    )
    measured = evaluate_fully(checkpoint, snapshot, store, wanted, ignore_progress)
    for name in ("lpips", "rfid", "lpips_jpeg", "rfid_jpeg"):
        by_background = [row[name] for row in measured.backgrounds.values()]
        assert measured.metrics[name] == pytest.approx(sum(by_background) / 9)
        assert len(set(by_background)) == 9
    assert measured.metrics["rfid"] > 0
    assert (measured.images, measured.standard) == (2, False)
    assert any(note.startswith("rfid of 2 images") for note in measured.notes)
    alone = evaluate_fully(
        checkpoint,
        snapshot,
        store,
        replace(wanted, limit=1, published=False, perceptual=None),
        ignore_progress,
    )
    assert "rfid" not in alone.metrics
    assert "no rfid: it needs two images" in alone.notes


def test_the_offset_is_measured_in_deviations_of_the_posterior(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot, offset=2.0)
    metrics = evaluate_fully(
        checkpoint, snapshot, store, EvaluationOptions(), ignore_progress
    ).metrics
    assert metrics["offset_mean"] == pytest.approx(2 * MICRO.offset_scale, rel=1e-3)
    assert metrics["offset_max"] == pytest.approx(2 * MICRO.offset_scale, rel=1e-3)
    assert 0 < metrics["offset_energy"] < 1
    fresh, _, _ = untrained_checkpoint(store, snapshot)
    none = evaluate_fully(fresh, snapshot, store, EvaluationOptions(), ignore_progress).metrics
    assert (none["offset_mean"], none["offset_max"], none["offset_energy"]) == (0, 0, 0)


def test_images_of_a_base_are_generated_and_measured(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    torch.manual_seed(0)
    denoiser = BuiltinDenoiser(MICRO)
    base = save_part(store, "base", denoiser.finetuned_state_dict(), denoiser.metadata())
    stages = []
    whole = replace(checkpoint, files={**checkpoint.files, "base": base})
    measured = evaluate_fully(
        whole,
        snapshot,
        store,
        EvaluationOptions(draws=7),
        lambda seen: stages.append((seen.stage, seen.done)),
    )
    assert measured.metrics["noise_mse"] > 0
    assert 0 <= measured.metrics["drawn_empty"] <= 1
    assert 0 <= measured.metrics["drawn_opaque"] <= 1
    assert 0 < measured.metrics["drawn_coverage_gap"] < 1
    assert stages[-1] == ("draw", 7)
    assert (
        "drawn_empty"
        not in evaluate_fully(
            whole, snapshot, store, EvaluationOptions(draws=0), ignore_progress
        ).metrics
    )


def test_results_of_other_views_or_sizes_are_not_standard(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    assert evaluate_fully(
        checkpoint, snapshot, store, EvaluationOptions(views=1), ignore_progress
    ).standard
    eight = evaluate_fully(
        checkpoint, snapshot, store, EvaluationOptions(views=8, limit=2), ignore_progress
    )
    assert not eight.standard
    assert (
        eight.metrics["psnr"]
        != evaluate_fully(
            checkpoint, snapshot, store, EvaluationOptions(limit=2), ignore_progress
        ).metrics["psnr"]
    )
    with pytest.raises(Refused, match="invalid number of views 3"):
        evaluate_fully(checkpoint, snapshot, store, EvaluationOptions(views=3), ignore_progress)
    original = evaluate_fully(
        checkpoint, snapshot, store, EvaluationOptions(original=True), ignore_progress
    )
    assert (original.images, original.standard) == (6, False)


def heldout(store, *sizes):
    """Return a snapshot of held-out images of given widths and heights."""
    lines = []
    for number, (width, height) in enumerate(sizes):
        rgba = image(number, width, height)
        layers = {LayerRole.foreground: store.put(encode_layer(rgba))}
        name, seen = f"{number:064x}", pixel_hash(rgba)
        lines.append(
            Sample(
                name, Kind.single, "noise", "CC0-1.0", "test", Split.heldout, 0, seen, layers
            ).line()
        )
    part = Part("", store.put("".join(line + "\n" for line in lines).encode()), len(lines))
    return store.put(Manifest((part,), {}).bytes())


def test_images_too_small_at_their_original_size_are_left_out_and_counted(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    measured = evaluate_fully(
        checkpoint,
        heldout(store, (37, 50), (20, 64)),
        store,
        EvaluationOptions(original=True),
        ignore_progress,
    )
    assert measured.images == 1
    assert measured.notes[0] == "1 images with a side under 32 pixels were left out"
    with pytest.raises(Refused, match="no held-out image"):
        evaluate_fully(
            checkpoint,
            heldout(store, (20, 20)),
            store,
            EvaluationOptions(original=True),
            ignore_progress,
        )
