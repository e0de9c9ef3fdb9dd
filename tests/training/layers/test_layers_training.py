"""The training of layers: adapters alone learn, a resumed run ends as a straight one, and what a step looks at."""

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
    """Return the stage by itself, on a base of random weights."""
    parts = load_checkpoint(checkpoint, store)

    def train_them(
        folder,
        images=192,
        preset=SMALL,
        start=None,
        report=lambda progress: None,
        seed=0,
        snapshot=pairs,
    ):
        order = TrainingRequest("layers", "micro", snapshot, None, None, seed, images)
        base = (parts.autoencoder, parts.transparency, parts.base)
        return train_layers(order, preset, store, folder, report, *base, start)

    return train_them


def heldout_loss(checkpoint, store, pairs, stored, *, joined=True):
    parts = load_checkpoint(checkpoint, store)
    images = open_layer_sets(store, pairs, Split.heldout, SMALL.image_size, ROLES)
    latents = encode_images(
        SMALL, images.layers, parts.autoencoder, parts.transparency.encoder, None, lambda _: None
    )
    layered = load_layered_denoiser(load_denoiser(SMALL, *parts.base), *stored)
    return layers_loss(layered, SMALL, images, latents, joint=joined)


class StoppedError(Exception):
    """What a report raises to stop a run in its middle."""


def test_it_learns(run, tmp_path, store, checkpoint, pairs):
    losses = [
        heldout_loss(checkpoint, store, pairs, run(tmp_path / str(images), images))
        for images in (16, 768)
    ]
    assert losses[1] < 0.9 * losses[0]


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(run, tmp_path):
    straight, metadata = run(tmp_path / "straight")

    def stop_at(images):
        def report(progress):
            if progress.stage == "layers" and progress.done >= images:
                raise StoppedError

        return report

    for images in (80, 160):  # between two saved states, twice
        with pytest.raises(StoppedError):
            run(tmp_path / "broken", report=stop_at(images))
    resumed, again = run(tmp_path / "broken")
    assert metadata == again
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_neither_accumulation_nor_the_seed_of_others_changes_what_is_learnt(run, tmp_path):
    whole, _ = run(tmp_path / "whole", 64, replace(SMALL, layers_batch=16))
    parts, _ = run(tmp_path / "parts", 64, replace(SMALL, layers_batch=4, accumulation=4))
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-4
    other, _ = run(tmp_path / "other", 64, seed=1)
    assert any(not torch.equal(whole[name], other[name]) for name in whole)


def test_a_child_goes_on_from_its_parents_adapters(run, tmp_path, store, checkpoint, pairs):
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
def recipe(store, checkpoint):
    """Return the recipe over pairs and lone foregrounds, with numbers that a test chooses."""
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


def test_what_a_step_looks_at(recipe, store, pairs):
    built = recipe(pairs, given_layer_prob=0.5, caption_dropout=0.25, foreground_only_prob=0.0)
    positions = [position % len(built.layer_sets) for position in range(400)]
    rows = built.make_batch(positions, range(400), torch.Generator().manual_seed(0))
    assert rows["latent"].shape == rows["noise"].shape == (400, 2, MICRO.latent_channels, 4, 4)
    known = rows["known"].float().mean(0)
    assert known.sum() == pytest.approx(
        0.5, abs=0.08
    )  # of the pairs one layer, either one as often as the other
    assert known[0] == pytest.approx(0.25, abs=0.06)
    assert not (rows["known"].sum(1) > 1).any()
    dropped = [texts == ["", ""] for texts in rows["texts"]]
    assert sum(dropped) / 400 == pytest.approx(0.25, abs=0.07)
    pair = next(number for number in range(30) if number % 5 != 4)
    assert rows["texts"][dropped.index(False)] == list(
        compose(pair + dropped.index(False), 32).texts.values()
    )
    some = built.make_batch(positions, range(100, 104), torch.Generator().manual_seed(0))
    assert torch.equal(some["noise"], rows["noise"][100:104])  # whichever rows are this process's


def test_the_loss_is_the_mean_over_both_layers_noise(recipe, pairs):
    """eps_m = [eps_f, eps_b]; where a layer is known it enters clean, at time 0, and the other alone counts."""
    built = recipe(pairs, given_layer_prob=0.0, caption_dropout=0.0)
    rows = dict(built.make_batch([0, 1, 2], range(3), torch.Generator().manual_seed(0)))
    rows["known"] = torch.tensor([[False, False], [True, False], [False, True]])
    seen = {}

    def predict(noisy, time, conditions, roles, *, joined=True):
        seen.update(noisy=noisy, time=time, roles=roles, joined=joined)
        return torch.zeros_like(noisy)

    built.layered.predict = predict
    loss, text_conditions = built(rows, 0)
    clean = built.layered.denoiser.normalize(rows["latent"].flatten(0, 1))
    time = rows["time"].repeat_interleave(2)
    noise = rows["noise"].flatten(0, 1)
    wanted = (
        built.noise_schedule.get_velocity(clean, noise, time).square().mean((1, 2, 3)).view(3, 2)
    )
    expected = torch.stack([wanted[0].mean(), wanted[1, 1], wanted[2, 0]]).mean()
    torch.testing.assert_close(loss, expected)
    assert text_conditions["error"] == loss
    assert torch.equal(seen["noisy"][2], clean[2]) and torch.equal(seen["noisy"][5], clean[5])
    assert seen["time"].tolist() == [time[0], time[1], 0, time[3], time[4], 0]
    assert seen["roles"] == ROLES and seen["joined"]
    torch.testing.assert_close(
        seen["noisy"][3], built.noise_schedule.add_noise(clean[3:4], noise[3:4], time[3:4])[0]
    )


def test_lone_foregrounds_come_in_steps_of_their_own(recipe, store):
    from training.data.buckets import BucketSampler

    for singles in (0, 7):  # of pairs where the snapshot has no others
        snapshot = freeze_pairs(store, range(20), singles=singles, side=32)
        images = recipe(snapshot, foreground_only_prob=0.25).layer_sets
        lone = [position for position, roles in enumerate(images.roles) if roles == ROLES[:1]]
        assert len(lone) == (singles or 16)
        order = BucketSampler(images.order(store, None, 2.0, 0.25, 0), images.keys, 4)
        steps = [order.indices(start, 4) for start in range(0, 4_000, 4)]
        assert all(len({images.roles[position] for position in step}) == 1 for step in steps)
        drawn = [position for step in steps for position in step]
        assert sum(position in set(lone) for position in drawn) / len(drawn) == pytest.approx(
            0.25, abs=0.03
        )
    assert not [
        roles
        for roles in recipe(snapshot, foreground_only_prob=0.0).layer_sets.roles
        if len(roles) == 1
    ]


def test_a_lone_foreground_teaches_its_adapter_alone(recipe, store, pairs):
    built = recipe(pairs, foreground_only_prob=0.5)
    lone = [position for position, roles in enumerate(built.layer_sets.roles) if len(roles) == 1]
    rows = built.make_batch(lone[:4], range(4), torch.Generator().manual_seed(0))
    assert not rows["known"].any()
    loss, _ = built(rows, 0)
    loss.backward()
    for name, parameter in built.layered.adapters.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (
            "foreground" in name and "lora_B" in name
        ), name  # a fresh B is 0, so A has no gradient yet


def test_a_picture_with_a_broken_layer_is_left_out_or_stood_in_for(store, pairs):
    images = open_layer_sets(store, pairs, Split.train, 32, ROLES, in_memory=False)
    broken = images.samples[3].layers[LayerRole.background]
    path = store.folder / broken[:2] / broken[2:]
    path.chmod(0o644)
    path.write_bytes(b"nothing")
    kept = open_layer_sets(store, pairs, Split.train, 32, ROLES)
    assert images.samples[3].id not in {sample.id for sample in kept.samples}
    assert len(kept) == len(images) - 1
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
def test_the_recipe_of_a_round_of_pairs(store, pairs, tmp_path):
    """Every part, figures of layers, a sheet; then layers alone from that checkpoint, and with the blended role."""
    torch.set_num_threads(1)
    stages = []
    order = TrainingRequest("pairs", "micro", pairs, None, None, 1, 64)
    made = train(order, store, tmp_path / "run", lambda p: stages.append(p.stage))
    assert list(dict.fromkeys(stages)) == [
        *("backbone", "transparency", "latents", "base", "layers"),
        *("pairs", "evaluate", "sheet"),
    ]
    assert set(made.files) == {"backbone", "transparency", "base", "layers"}
    assert made.evaluation["layers_mse"] > 0 and made.evaluation["layers_apart_mse"] > 0
    assert store.get(made.sample_grid).startswith(b"\x89PNG")
    metadata = load_part(store, made.files["layers"])[1]
    assert (metadata["base"], metadata["snapshot"], metadata["roles"]) == (
        made.files["base"],
        pairs,
        "foreground,background",
    )
    child = train(
        replace(order, recipe="layers", parent=made), store, tmp_path / "next", lambda _: None
    )
    assert {part for part in made.files if made.files[part] != child.files[part]} == {"layers"}
    three = {"layer_roles": "foreground,background,blended"}
    fresh = replace(
        made, files={part: file for part, file in made.files.items() if part != "layers"}
    )
    blended = train(
        replace(order, recipe="layers", parent=fresh, changes=three),
        store,
        tmp_path / "three",
        lambda _: None,
    )
    assert load_part(store, blended.files["layers"])[1]["roles"] == "foreground,background,blended"


def test_a_base_of_pairs_learns_for_longer(store, pairs, snapshot, tmp_path):
    torch.set_num_threads(1)
    text_conditions = {}

    def learn(name, recipe, of, parent=None):
        order = TrainingRequest(recipe, "micro", of, None, parent, 1, changes=few)
        return train(
            order,
            store,
            tmp_path / name,
            lambda step: text_conditions.update({(name, step.stage): step.total}),
        )

    few = {
        "transparency_images": "8",
        "base_images": "32",
        "background_images": "48",
        "draw_steps": "1",
    }
    first = learn("singles", "whole", snapshot)
    learn("pairs", "base", pairs, first)
    assert (text_conditions["singles", "base"], text_conditions["pairs", "base"]) == (32, 80)


def test_layers_without_a_base_are_refused(store, pairs, tmp_path):
    order = TrainingRequest("layers", "micro", pairs, None, None, 1, 16)
    with pytest.raises(Refused, match="'transparency' of a parent checkpoint"):
        train(order, store, tmp_path / "run", lambda _: None)


@pytest.mark.slow
def test_a_pretrained_base_learns_layers_in_buckets_from_caches(store, tmp_path):
    """SDXL with a LoRA, pictures cached on disk, texts of both layers, sizes; killed nowhere, resumed from its end."""
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
    order = TrainingRequest("pairs", "sdxl", snapshot, None, None, 1, 16, changes)
    made = train(order, store, tmp_path / "run" / "one", lambda _: None)
    tensors, metadata = load_part(store, made.files["layers"])
    assert metadata["join_text"] == "True"
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    again = train(order, store, tmp_path / "run" / "one", lambda _: None)
    assert again.id == made.id
    assert find_preset("sdxl", changes).layer_rank == 4
