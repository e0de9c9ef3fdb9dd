"""Sampling: the same layer for the same request in any batch, without hidden colors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from curation.domain import Checkpoint, GenerationRequest, LayerRole, Prompt, Split
from curation.errors import Refused
from curation.ports import GenerationOptions
from training.data.splits import open_split
from training.denoiser.builtin import BuiltinDenoiser, noise_schedule
from training.denoiser.sampling import sample_latents
from training.generate import load_generator
from training.presets.presets import PRESETS
from training.safetensors_io import save_part
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray

MICRO = PRESETS["micro"]


@pytest.fixture
def checkpoint(store, snapshot):
    """Return a checkpoint with random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rgba = open_split(store, snapshot, Split.train, MICRO.image_size).load_batch(range(20))
    autoencoder = fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:]))
    denoiser = BuiltinDenoiser(MICRO)
    for parameter in denoiser.network.parameters():
        if not parameter.any():  # new layers output 0
            torch.nn.init.normal_(parameter, std=0.1)
    files = {
        "backbone": save_part(store, "backbone", autoencoder.state_dict(), autoencoder.metadata()),
        "transparency": save_part(store, "transparency", Transparency(MICRO).state_dict(), {}),
        "base": save_part(store, "base", denoiser.finetuned_state_dict(), denoiser.metadata()),
    }
    return Checkpoint(files, "whole", "micro", snapshot, None, 0, "test")


def requests(count):
    return [
        GenerationRequest(Prompt(f"a {'red' if k % 2 else 'blue'} shape {k}"), seed=1000 + k)
        for k in range(count)
    ]


def pixels(layers):
    return [layer[LayerRole.foreground] for layer in layers]


def test_every_request_gets_its_own_layer(checkpoint, store):
    drawn = load_generator(checkpoint, store).generate(requests(6))
    assert [set(layers) for layers in drawn] == [{LayerRole.foreground}] * 6
    for layer in pixels(drawn):
        assert (layer.shape, layer.dtype) == ((MICRO.image_size, MICRO.image_size, 4), np.uint8)
        assert not layer[layer[..., 3] == 0].any()
    assert len({layer.tobytes() for layer in pixels(drawn)}) == 6


def test_a_request_does_not_depend_on_its_batch(checkpoint, store):
    """Bit for bit: in batches of 1 and 4 (the preset's), and at every index of a longer list."""
    generator = load_generator(checkpoint, store)
    together = pixels(generator.generate(requests(6)))
    for k, request in enumerate(requests(6)):
        assert np.array_equal(pixels(generator.generate([request]))[0], together[k])
    backwards = pixels(generator.generate(requests(6)[::-1]))[::-1]
    assert all(
        np.array_equal(first, second) for first, second in zip(together, backwards, strict=True)
    )


def test_a_reloaded_generator_generates_the_same(checkpoint, store):
    first, second = (
        pixels(load_generator(checkpoint, store).generate(requests(3))) for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_seed_and_prompt_have_an_effect(checkpoint, store):
    one, other_seed, other_text = pixels(
        load_generator(checkpoint, store).generate(
            [
                GenerationRequest(Prompt("a red circle"), 1),
                GenerationRequest(Prompt("a red circle"), 2),
                GenerationRequest(Prompt("a blue circle"), 1),
            ]
        )
    )
    assert not np.array_equal(one, other_seed)
    assert not np.array_equal(one, other_text)


@pytest.mark.parametrize("seed", [0, -1, 2**63 + 5])
def test_any_integer_is_a_valid_seed(checkpoint, store, seed):
    assert (
        len(load_generator(checkpoint, store).generate([GenerationRequest(Prompt(""), seed)])) == 1
    )


def test_no_requests_give_no_layers(checkpoint, store):
    assert load_generator(checkpoint, store).generate([]) == []


def test_a_checkpoint_without_a_base_is_refused(checkpoint, store):
    files = {name: file for name, file in checkpoint.files.items() if name != "base"}
    with pytest.raises(Refused, match="no base model"):
        load_generator(replace(checkpoint, files=files), store)


def test_supported_options_have_an_effect_and_others_are_refused(checkpoint, store):
    generator = load_generator(checkpoint, store)

    def drawn(**options):
        return pixels(
            generator.generate(
                [GenerationRequest(Prompt("a red circle"), 1)], GenerationOptions(**options)
            )
        )[0]

    plain = drawn()
    assert np.array_equal(drawn(size=(32, 32), sampler="ddim", negative=""), plain)
    for options in ({"steps": 3}, {"guidance": 1.0}, {"negative": "a blue circle"}):
        assert not np.array_equal(drawn(**options), plain)
    text_conditions = generator.describe(GenerationOptions(steps=3))
    assert text_conditions == {"sampler": "ddim", "steps": "3", "guidance": "3.0", "size": "32x32"}
    for options in (
        {"size": (64, 32)},
        {"aspect": 2.0},
        {"sampler": "euler"},
        {"image": "0" * 64},
        {"upscale": 2.0},
    ):
        with pytest.raises(Refused, match="do not support"):
            drawn(**options)


class PerfectDenoiser(BuiltinDenoiser):
    """Predicts x_0 = its centre for a prompt, else 0: v = (sqrt(abar) x_t - x_0) / sqrt(1 - abar)."""

    def predict(self, noisy_BCHW, time_B, conditions):
        level = noise_schedule(MICRO).alphas_cumprod[time_B].view(-1, 1, 1, 1)
        prompted = (conditions.mask_BL.sum(1) > 1).float().view(-1, 1, 1, 1)
        return (level.sqrt() * noisy_BCHW - prompted * self.centre[:, None, None]) / (
            1 - level
        ).sqrt()


def test_the_sampler_reaches_the_target_of_a_perfect_denoiser():
    """DDIM with guidance g ends in g x_0, from any noise and in any number of steps."""
    torch.manual_seed(0)
    perfect = PerfectDenoiser(MICRO)
    perfect.centre.copy_(torch.randn(MICRO.latent_channels))
    for steps, guidance in ((1, 1.0), (4, 1.0), (25, 1.0), (4, 3.0)):
        preset = replace(MICRO, draw_steps=steps, guidance=guidance)
        drawn = sample_latents(perfect, preset, ["a", "b"], [1, 2])
        expected = (guidance * perfect.centre)[:, None, None].expand_as(drawn)
        torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=1e-3)
