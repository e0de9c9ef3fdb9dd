"""Training of layers: adapters alone are trained, runs resume exactly, and batches are right."""

from dataclasses import replace

import pytest
import torch

from curation.domain import LayerRole, Split, TrainingRequest
from curation.errors import Corrupt, Refused
from tests.support.composite_pairs import compose, freeze_pairs
from tests.training.layers.conftest import MICRO
from tests.training.pretrained import write_sdxl
from training.checkpoint import load_checkpoint
from training.data.layer_set_dataset import open_layer_sets
from training.denoiser.factory import load_denoiser
from training.denoiser.train import encode_images
from training.engine.state_files import read_state
from training.layers.model import load_layered_denoiser, new_layered_denoiser
from training.layers.stage import LayersStage
from training.layers.train import layers_loss, train_layers
from training.presets.presets import find_preset
from training.safetensors_io import load_part
from training.train import train

ROLES = (LayerRole.foreground, LayerRole.background)
SMALL = replace(MICRO, sample_every_images=64, checkpoint_every_images=48)


@pytest.fixture
def run(store, pairs, checkpoint):
    """Return a function that trains this stage alone, on a base of random weights."""
    parts = load_checkpoint(checkpoint, store)

    def train_stage(
        folder,
        images=192,
        preset=SMALL,
        start=None,
        report=lambda progress: None,
        seed=0,
        snapshot=pairs,
    ):
        request = TrainingRequest("layers", "micro", snapshot, None, None, seed, images)
        base = (parts.autoencoder, parts.transparency, parts.base)
        return train_layers(request, preset, store, folder, report, *base, start)

    return train_stage


def heldout_loss(checkpoint, store, pairs, stored, *, joined=True):
    parts = load_checkpoint(checkpoint, store)
    images = open_layer_sets(store, pairs, Split.heldout, SMALL.image_size, ROLES)
    latents = encode_images(
        SMALL, images.layers, parts.autoencoder, parts.transparency.encoder, None, lambda _: None
    )
    layered = load_layered_denoiser(load_denoiser(SMALL, *parts.base), *stored)
    return layers_loss(layered, SMALL, images, latents, joint=joined)


class StoppedError(Exception):
    """Raised by a progress callback to stop a run."""


def test_training_lowers_the_held_out_loss(run, tmp_path, store, checkpoint, pairs):
    losses = [
        heldout_loss(checkpoint, store, pairs, run(tmp_path / str(images), images))
        for images in (16, 768)
    ]
    assert losses[1] < 0.9 * losses[0]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, tmp_path):
    uninterrupted, metadata = run(tmp_path / "uninterrupted")

    def stop_at(images):
        def report(progress):
            if progress.stage == "layers" and progress.done >= images:
                raise StoppedError

        return report

    for images in (80, 160):  # between two saved states, twice
        with pytest.raises(StoppedError):
            run(tmp_path / "stopped", report=stop_at(images))
    resumed, again = run(tmp_path / "stopped")
    assert metadata == again
    assert uninterrupted.keys() == resumed.keys()
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


def test_accumulation_does_not_change_the_weights_and_the_seed_does(run, tmp_path):
    whole, _ = run(tmp_path / "whole", 64, replace(SMALL, layers_batch=16))
    parts, _ = run(tmp_path / "parts", 64, replace(SMALL, layers_batch=4, accumulation=4))
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-4
    other, _ = run(tmp_path / "other", 64, seed=1)
    assert any(not torch.equal(whole[name], other[name]) for name in whole)


def test_a_child_continues_from_the_adapters_of_its_parent(run, tmp_path, store, checkpoint, pairs):
    parent = run(tmp_path / "parent", 512)
    child = run(tmp_path / "child", 16, start=parent)
    fresh = run(tmp_path / "fresh", 16)
    assert heldout_loss(checkpoint, store, pairs, child) < heldout_loss(
        checkpoint, store, pairs, fresh
    )


def test_a_saved_state_holds_the_adapters_and_not_the_base(run, tmp_path):
    run(tmp_path, 48)
    state = read_state(next((tmp_path / "layers").glob("state-*")))
    names = [name for name in state.tensors if name.startswith("recipe/")]
    assert any("lora_A" in name for name in names)
    assert not [name for name in names if ".network." in name and "lora" not in name]
    assert (tmp_path / "layers/sheet-000000000048.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def make_stage(store, checkpoint):
    """Return a function that builds the stage over pairs and single foregrounds."""
    parts = load_checkpoint(checkpoint, store)

    def build(snapshot, **changes):
        preset = replace(SMALL, **changes)
        images = open_layer_sets(
            store,
            snapshot,
            Split.train,
            preset.image_size,
            ROLES,
            with_single_foregrounds=preset.foreground_only_prob > 0,
        )
        latents = encode_images(
            preset,
            images.layers,
            parts.autoencoder,
            parts.transparency.encoder,
            None,
            lambda _: None,
        )
        layered = new_layered_denoiser(preset, load_denoiser(preset, *parts.base))
        return LayersStage(
            preset, layered, images, latents, None, parts.autoencoder, parts.transparency
        )

    return build


def test_a_batch_has_given_layers_and_dropped_captions_at_their_probabilities(
    make_stage, store, pairs
):
    stage = make_stage(pairs, given_layer_prob=0.5, caption_dropout=0.25, foreground_only_prob=0.0)
    indices = [index % len(stage.layer_sets) for index in range(400)]
    batch = stage.make_batch(indices, range(400), torch.Generator().manual_seed(0))
    assert batch["latent"].shape == batch["noise"].shape == (400, 2, MICRO.latent_channels, 4, 4)
    given_share = batch["known"].float().mean(0)
    assert given_share.sum() == pytest.approx(
        0.5, abs=0.08
    )  # one layer of a pair, each as often as the other
    assert given_share[0] == pytest.approx(0.25, abs=0.06)
    assert not (batch["known"].sum(1) > 1).any()
    dropped = [texts == ["", ""] for texts in batch["texts"]]
    assert sum(dropped) / 400 == pytest.approx(0.25, abs=0.07)
    pair = next(index for index in range(30) if index % 5 != 4)
    assert batch["texts"][dropped.index(False)] == list(
        compose(pair + dropped.index(False), 32).texts.values()
    )
    part = stage.make_batch(indices, range(100, 104), torch.Generator().manual_seed(0))
    assert torch.equal(
        part["noise"], batch["noise"][100:104]
    )  # the same for the rows of any process


def test_the_loss_is_the_mean_over_the_noisy_layers(make_stage, pairs):
    """A given layer enters clean, at time 0, and only the loss of the other one counts."""
    stage = make_stage(pairs, given_layer_prob=0.0, caption_dropout=0.0)
    batch = dict(stage.make_batch([0, 1, 2], range(3), torch.Generator().manual_seed(0)))
    batch["known"] = torch.tensor([[False, False], [True, False], [False, True]])
    seen = {}

    def predict(noisy, time, conditions, roles, *, joined=True):
        seen.update(noisy=noisy, time=time, roles=roles, joined=joined)
        return torch.zeros_like(noisy)

    stage.layered.predict = predict
    loss, metrics = stage(batch, 0)
    clean = stage.layered.denoiser.normalize(batch["latent"].flatten(0, 1))
    time = batch["time"].repeat_interleave(2)
    noise = batch["noise"].flatten(0, 1)
    losses = (
        stage.noise_schedule.get_velocity(clean, noise, time).square().mean((1, 2, 3)).view(3, 2)
    )
    expected = torch.stack([losses[0].mean(), losses[1, 1], losses[2, 0]]).mean()
    torch.testing.assert_close(loss, expected)
    assert metrics["error"] == loss
    assert torch.equal(seen["noisy"][2], clean[2]) and torch.equal(seen["noisy"][5], clean[5])
    assert seen["time"].tolist() == [time[0], time[1], 0, time[3], time[4], 0]
    assert seen["roles"] == ROLES and seen["joined"]
    torch.testing.assert_close(
        seen["noisy"][3], stage.noise_schedule.add_noise(clean[3:4], noise[3:4], time[3:4])[0]
    )


def test_single_foregrounds_come_in_batches_of_their_own(make_stage, store):
    from training.data.buckets import BucketSampler

    for singles in (0, 7):  # with 0, the foregrounds of pairs are used
        snapshot = freeze_pairs(store, range(20), singles=singles, side=32)
        images = make_stage(snapshot, foreground_only_prob=0.25).layer_sets
        single = [index for index, roles in enumerate(images.roles) if roles == ROLES[:1]]
        assert len(single) == (singles or 16)
        sampler = BucketSampler(images.order(store, None, 2.0, 0.25, 0), images.keys, 4)
        batches = [sampler.indices(start, 4) for start in range(0, 4_000, 4)]
        assert all(len({images.roles[index] for index in batch}) == 1 for batch in batches)
        drawn = [index for batch in batches for index in batch]
        assert sum(index in set(single) for index in drawn) / len(drawn) == pytest.approx(
            0.25, abs=0.03
        )
    assert not [
        roles
        for roles in make_stage(snapshot, foreground_only_prob=0.0).layer_sets.roles
        if len(roles) == 1
    ]


def test_a_single_foreground_trains_its_adapter_only(make_stage, store, pairs):
    stage = make_stage(pairs, foreground_only_prob=0.5)
    single = [index for index, roles in enumerate(stage.layer_sets.roles) if len(roles) == 1]
    batch = stage.make_batch(single[:4], range(4), torch.Generator().manual_seed(0))
    assert not batch["known"].any()
    loss, _ = stage(batch, 0)
    loss.backward()
    for name, parameter in stage.layered.adapters.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (
            "foreground" in name and "lora_B" in name
        ), name  # a new B is 0, so A has no gradient yet


def test_an_image_with_a_broken_layer_is_left_out_or_replaced(store, pairs):
    images = open_layer_sets(store, pairs, Split.train, 32, ROLES, in_memory=False)
    broken = images.samples[3].layers[LayerRole.background]
    path = store.folder / broken[:2] / broken[2:]
    path.chmod(0o644)
    path.write_bytes(b"nothing")
    readable = open_layer_sets(store, pairs, Split.train, 32, ROLES)
    assert images.samples[3].id not in {sample.id for sample in readable.samples}
    assert len(readable) == len(images) - 1
    with pytest.raises(Corrupt) as error:
        images.layers[images.layer_indices[3][1]]
    images.layers.mark_unreadable(images.layer_indices[3][1], error.value)
    assert images.readable_indices([2, 3, 4]) == [2, 4, 4]


def test_a_snapshot_without_pairs_is_refused(run, tmp_path, snapshot):
    with pytest.raises(Refused, match="no train samples with foreground and background"):
        run(tmp_path, snapshot=snapshot)


def test_a_base_of_other_sizes_is_refused(run, tmp_path):
    with pytest.raises(Refused, match="does not fit"):
        run(tmp_path, preset=replace(SMALL, dit_width=96))


@pytest.mark.slow
def test_the_recipe_of_pairs_trains_all_parts(store, pairs, tmp_path):
    """Train all parts, then layers alone from that checkpoint, also with the blended role."""
    torch.set_num_threads(1)
    stages = []
    request = TrainingRequest("pairs", "micro", pairs, None, None, 1, 64)
    checkpoint = train(request, store, tmp_path / "run", lambda p: stages.append(p.stage))
    assert list(dict.fromkeys(stages)) == [
        *("backbone", "transparency", "latents", "base", "layers"),
        *("pairs", "evaluate", "sheet"),
    ]
    assert set(checkpoint.files) == {"backbone", "transparency", "base", "layers"}
    assert checkpoint.evaluation["layers_mse"] > 0 and checkpoint.evaluation["layers_apart_mse"] > 0
    assert store.get(checkpoint.sample_grid).startswith(b"\x89PNG")
    metadata = load_part(store, checkpoint.files["layers"])[1]
    assert (metadata["base"], metadata["snapshot"], metadata["roles"]) == (
        checkpoint.files["base"],
        pairs,
        "foreground,background",
    )
    child = train(
        replace(request, recipe="layers", parent=checkpoint),
        store,
        tmp_path / "next",
        lambda _: None,
    )
    assert {part for part in checkpoint.files if checkpoint.files[part] != child.files[part]} == {
        "layers"
    }
    three = {"layer_roles": "foreground,background,blended"}
    fresh = replace(
        checkpoint,
        files={part: file for part, file in checkpoint.files.items() if part != "layers"},
    )
    blended = train(
        replace(request, recipe="layers", parent=fresh, changes=three),
        store,
        tmp_path / "three",
        lambda _: None,
    )
    assert load_part(store, blended.files["layers"])[1]["roles"] == "foreground,background,blended"


def test_a_base_of_pairs_is_trained_longer(store, pairs, snapshot, tmp_path):
    torch.set_num_threads(1)
    totals = {}

    def train_recipe(name, recipe, snapshot_id, parent=None):
        request = TrainingRequest(recipe, "micro", snapshot_id, None, parent, 1, changes=changes)
        return train(
            request,
            store,
            tmp_path / name,
            lambda step: totals.update({(name, step.stage): step.total}),
        )

    changes = {
        "transparency_images": "8",
        "base_images": "32",
        "background_images": "48",
        "draw_steps": "1",
    }
    first = train_recipe("singles", "whole", snapshot)
    train_recipe("pairs", "base", pairs, first)
    assert (totals["singles", "base"], totals["pairs", "base"]) == (32, 80)


def test_layers_without_a_base_are_refused(store, pairs, tmp_path):
    request = TrainingRequest("layers", "micro", pairs, None, None, 1, 16)
    with pytest.raises(Refused, match="'transparency' of a parent checkpoint"):
        train(request, store, tmp_path / "run", lambda _: None)


@pytest.mark.slow
def test_a_pretrained_base_learns_layers_in_buckets_from_caches(store, tmp_path):
    """SDXL with a LoRA, latents cached on disk, texts of both layers, sizes; run twice."""
    torch.set_num_threads(1)
    changes = {
        "model": str(write_sdxl(tmp_path / "model")), "image_size": "64", "precision": "fp32", "adapter_rank": "4",
        "layer_rank": "4", "buckets": "true", "threads": "1", "draw_steps": "1", "encoder_widths": "8,8,8,8",
        "decoder_widths": "8,8,8,8", "decoder_attention": "0", "decoder_layers": "1", "decoder_views": "1",
        "discriminator_weight": "0", "transparency_batch": "4", "base_batch": "4", "layers_batch": "4",
        "warmup_images": "8", "checkpoint_every_images": "8", "sample_every_images": "16", "layers_lr": "1e-3", "draw_batch": "4",
        "gradient_checkpointing": "true", "joint_text_attention": "true",
    }  # fmt: skip
    snapshot = freeze_pairs(store, range(12), singles=2, side=64)
    request = TrainingRequest("pairs", "sdxl", snapshot, None, None, 1, 16, changes)
    checkpoint = train(request, store, tmp_path / "run" / "one", lambda _: None)
    tensors, metadata = load_part(store, checkpoint.files["layers"])
    assert metadata["join_text"] == "True"
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    again = train(request, store, tmp_path / "run" / "one", lambda _: None)
    assert again.id == checkpoint.id
    assert find_preset("sdxl", changes).layer_rank == 4
