"""Pairs from a generator: independent of other requests of a batch; layers to given ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from curation.domain import GenerationRequest, LayerRole, Prompt
from curation.errors import Refused
from curation.images.codec import composite_over, encode_layer
from curation.images.pairs import composite
from curation.ports import GenerationOptions
from tests.support.composite_pairs import compose
from tests.training.layers.conftest import MICRO
from tests.training.pretrained import write_sd15, write_sdxl
from training.checkpoint import load_checkpoint
from training.denoiser.builtin import BuiltinDenoiser, noise_schedule
from training.generate import load_generator
from training.layers.model import new_layered_denoiser
from training.layers.sampling import LayerRequest, sample_layers
from training.presets.presets import find_preset
from training.safetensors_io import save_part
from training.transparency.autoencoder import load_autoencoder
from training.transparency.networks import Transparency

FG, BG, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended
SIDE = MICRO.image_size


def requests(count):
    """Return requests for pairs, every third for a single layer."""
    return [
        GenerationRequest(
            Prompt(f"a red star {k}")
            if k % 3 == 2
            else Prompt(f"a star {k} on sand", "a star", "sand"),
            50 + k,
        )
        for k in range(count)
    ]


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[role], second[role]) for role in first
    )


def test_a_prompt_for_a_pair_gives_layers_that_blend(checkpoint, store):
    generated = load_generator(checkpoint, store).generate(requests(6))
    for index, layers in enumerate(generated):
        assert set(layers) == ({FG} if index % 3 == 2 else {FG, BG, BLENDED})
        for layer in layers.values():
            assert (layer.shape, layer.dtype) == ((SIDE, SIDE, 4), np.uint8)
        if BG in layers:
            assert layers[BG][..., 3].min() == layers[BLENDED][..., 3].min() == 255
            assert np.array_equal(layers[BLENDED][..., :3], composite_over(layers[FG], layers[BG]))
            assert not layers[FG][layers[FG][..., 3] == 0].any()


def test_a_pair_does_not_depend_on_other_requests_of_its_batch(checkpoint, store):
    generator = load_generator(checkpoint, store)
    together = generator.generate(requests(7))
    for request, layers in zip(requests(7), together, strict=True):
        assert same(generator.generate([request])[0], layers)
    reversed_order = generator.generate(requests(7)[::-1])[::-1]
    assert all(same(first, second) for first, second in zip(together, reversed_order, strict=True))
    assert same(load_generator(checkpoint, store).generate(requests(1))[0], together[0])


def test_a_single_layer_equals_that_of_the_base_alone(checkpoint, store):
    files = {name: file for name, file in checkpoint.files.items() if name != "layers"}
    single = [GenerationRequest(Prompt("a red star"), 3)]
    before = load_generator(replace(checkpoint, files=files), store).generate(single)[0]
    generator = load_generator(checkpoint, store)
    generator.generate(requests(1))
    assert same(generator.generate(single)[0], before)


def test_joined_layers_of_a_pair_depend_on_each_other(checkpoint, store):
    def generate(background, *, joined):
        generator = load_generator(checkpoint, store, joined=joined)
        return generator.generate([GenerationRequest(Prompt("a star", "a star", background), 1)])[0]

    assert np.array_equal(generate("sand", joined=False)[FG], generate("water", joined=False)[FG])
    assert not np.array_equal(generate("sand", joined=True)[FG], generate("water", joined=True)[FG])
    assert not np.array_equal(
        generate("sand", joined=False)[BG], generate("water", joined=False)[BG]
    )


@pytest.mark.parametrize(("role", "other"), [(FG, BG), (BG, FG)])
def test_a_given_layer_is_returned_unchanged_and_has_an_effect(checkpoint, store, role, other):
    generator = load_generator(checkpoint, store)
    first, second = (
        generator.generate(
            [GenerationRequest(Prompt("a star on sand", "a star", "sand"), 1)],
            GenerationOptions(given={role: sha}),
        )[0]
        for sha in (store.put(encode_layer(_layer(role, index))) for index in (1, 2))
    )
    assert np.array_equal(first[role], _layer(role, 1))
    assert not np.array_equal(first[other], second[other])
    assert np.array_equal(first[BLENDED][..., :3], composite_over(first[FG], first[BG]))


def test_a_given_layer_of_another_size_is_letterboxed(checkpoint, store):
    sha = store.put(encode_layer(compose(1, 96).layers[BG][:64]))
    request = GenerationRequest(Prompt("a star"), 1)  # a given layer alone requests a pair
    layers = load_generator(checkpoint, store).generate(
        [request], GenerationOptions(given={BG: sha})
    )[0]
    assert layers[BG].shape == (SIDE, SIDE, 4)
    assert layers[BG][0, 0, 3] == 0 and layers[BG][SIDE // 2, SIDE // 2, 3] == 255
    assert np.array_equal(layers[BLENDED], composite(layers[FG], layers[BG]))


def test_options_have_an_effect_and_invalid_ones_are_refused(checkpoint, store):
    generator = load_generator(checkpoint, store)
    request = requests(1)

    def generate(**options):
        return generator.generate(request, GenerationOptions(**options))[0]

    plain = generate()
    assert same(generate(size=(SIDE, SIDE), sampler="ddim", negative=""), plain)
    assert same(generate(guidance=2.0), plain), "the guidance of the preset for layers"
    for options in ({"steps": 3}, {"guidance": 1.0}, {"negative": "a star"}):
        assert not same(generate(**options), plain)
    sha = store.put(encode_layer(_layer(FG, 1)))
    description = generator.describe(GenerationOptions(given={FG: sha}))
    assert (
        description["layers"] == "foreground + background"
        and description["attention"] == "joint"
        and description["guidance"] == "2.0"
    )
    assert generator.describe(GenerationOptions(negative="a star"))["guidance"] == "3.0"
    assert description["given foreground"] == sha and description["steps"] == "4"
    assert (
        load_generator(checkpoint, store, joined=False).describe(GenerationOptions())["attention"]
        == "apart"
    )
    for options, message in [
        ({"size": (64, 32)}, "this size"),
        ({"sampler": "euler"}, "other samplers"),
        ({"image": "0" * 64}, "a starting image"),
        ({"upscale": 2.0}, "upscaling"),
        ({"given": {BLENDED: sha}}, "'blended' cannot be given"),
        ({"given": {FG: sha, BG: sha}}, "nothing to generate"),
    ]:
        with pytest.raises(Refused, match=message):
            generate(**options)


def test_a_checkpoint_without_layers_refuses_pairs(checkpoint, store):
    files = {name: file for name, file in checkpoint.files.items() if name != "layers"}
    assert load_checkpoint(checkpoint, store).layers is not None
    generator = load_generator(replace(checkpoint, files=files), store)
    with pytest.raises(Refused, match="no part 'layers'") as error:
        generator.generate(requests(1))
    assert "pairs" in error.value.hint
    with pytest.raises(Refused, match="no part 'layers'"):
        generator.generate(
            [GenerationRequest(Prompt("a star"), 1)], GenerationOptions(given={BG: "0" * 64})
        )


class PerfectDenoiser(BuiltinDenoiser):
    """Predicts that every layer is the centre, and records its last inputs."""

    def predict(self, noisy_BCHW, time_B, conditions):
        self.seen = (noisy_BCHW.clone(), time_B.clone())
        level = noise_schedule(MICRO).alphas_cumprod[time_B].view(-1, 1, 1, 1)
        return (level.sqrt() * noisy_BCHW - self.centre[:, None, None]) / (1 - level).sqrt()


def test_given_layers_enter_every_step_clean_at_time_0():
    denoiser = PerfectDenoiser(MICRO)
    denoiser.centre.copy_(torch.arange(MICRO.latent_channels) / 8)
    layered = new_layered_denoiser(MICRO, denoiser)
    clean = torch.randn(MICRO.latent_channels, 4, 4, generator=torch.Generator().manual_seed(8))
    images = [
        [
            LayerRequest("foreground", "a"),
            LayerRequest("background", "b", clean),
            LayerRequest("foreground", "c"),
        ],
        [
            LayerRequest("foreground", "a"),
            LayerRequest("background", "b"),
            LayerRequest("foreground", "c", clean),
        ],
    ]
    generated = sample_layers(layered, replace(MICRO, layers_guidance=2.0), images, [1, 2])
    assert generated.shape == (2, 3, MICRO.latent_channels, 4, 4)
    assert torch.equal(generated[0, 1], clean) and torch.equal(generated[1, 2], clean)
    noisy, time = denoiser.seen
    assert torch.equal(noisy[1], clean) and torch.equal(
        noisy[6 + 1], clean
    )  # with and without the prompt
    assert time[[1, 5]].eq(0).all() and time[[0, 2, 3, 4]].gt(0).all()
    centre = denoiser.centre[:, None, None].expand(-1, 4, 4)
    for image, index in ((0, 0), (0, 2), (1, 0), (1, 1)):
        torch.testing.assert_close(generated[image, index], centre, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "write"), [("sd15", write_sd15), ("sdxl", write_sdxl)])
def test_a_pretrained_model_generates_pairs_and_the_same_single_layers(
    store, tmp_path, preset, write
):
    torch.set_num_threads(1)
    torch.manual_seed(2)
    from tests.training.layers.conftest import stir
    from training.denoiser.stable_diffusion import StableDiffusion

    changes = {
        "model": str(write(tmp_path / "model")), "image_size": "64", "threads": "1", "adapter_rank": "4", "layer_rank": "4",
        "encoder_widths": "8,8,8,8", "decoder_widths": "8,8,8,8", "decoder_attention": "0", "decoder_layers": "1",
        "decoder_views": "1", "precision": "fp32", "draw_steps": "2",
    }  # fmt: skip
    row = find_preset(preset, changes)
    denoiser, autoencoder = StableDiffusion(row), load_autoencoder(changes["model"])
    stir(denoiser.unet)
    base = save_part(store, "base", denoiser.finetuned_state_dict(), denoiser.metadata())
    layered = new_layered_denoiser(row, denoiser)
    stir(layered.adapters)
    from curation.domain import Checkpoint

    files = {
        "backbone": save_part(store, "backbone", autoencoder.state_dict(), autoencoder.metadata()),
        "transparency": save_part(store, "transparency", Transparency(row).state_dict(), {}),
        "base": base,
        "layers": save_part(store, "layers", layered.finetuned_state_dict(), layered.metadata()),
    }
    checkpoint = Checkpoint(files, "pairs", preset, None, None, 0, "test", changes=changes)
    generator = load_generator(checkpoint, store)
    single = [GenerationRequest(Prompt("a red star"), 3)]
    before = generator.generate(single)[0]
    pair = [
        GenerationRequest(Prompt("a star on sand", "a star", "sand"), 1),
        GenerationRequest(Prompt("water", None, "water"), 2),
    ]
    generated = generator.generate(pair)
    assert [set(layers) for layers in generated] == [{FG, BG, BLENDED}] * 2
    assert all(
        same(first, second)
        for first, second in zip(generated, generator.generate(pair[::-1])[::-1], strict=True)
    )
    assert same(generator.generate(single)[0], before)
    apart = load_generator(checkpoint, store, joined=False).generate(pair)
    assert not np.array_equal(apart[0][BG], generated[0][BG])
    sha = store.put(encode_layer(compose(3, 64).layers[BG]))
    given = generator.generate(pair[:1], GenerationOptions(given={BG: sha}))[0]
    assert np.array_equal(given[BG], compose(3, 64).layers[BG])
    wide = generator.generate(pair[:1], GenerationOptions(size=(96, 64)))[0]
    assert wide[BLENDED].shape == (64, 96, 4)
    with pytest.raises(Refused, match="this size"):
        generator.generate(pair[:1], GenerationOptions(size=(90, 64)))
    assert generator.describe(GenerationOptions())["attention"] == "joint"


def _layer(role, index):
    return compose(index, SIDE).layers[role]
