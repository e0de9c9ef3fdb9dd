"""Pairs out of a generator: what is asked for, to the bit, whatever else is drawn; and layers that are given."""

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
    """Every third asks for a single layer."""
    return [
        GenerationRequest(
            Prompt(f"a red star {k}")
            if k % 3 == 2
            else Prompt(f"a star {k} on sand", "a star", "sand"),
            50 + k,
        )
        for k in range(count)
    ]


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[role], two[role]) for role in one)


def test_a_prompt_for_a_pair_gives_layers_that_blend(checkpoint, store):
    drawn = load_generator(checkpoint, store).generate(requests(6))
    for index, layers in enumerate(drawn):
        assert set(layers) == ({FG} if index % 3 == 2 else {FG, BG, BLENDED})
        for layer in layers.values():
            assert (layer.shape, layer.dtype) == ((SIDE, SIDE, 4), np.uint8)
        if BG in layers:
            assert layers[BG][..., 3].min() == layers[BLENDED][..., 3].min() == 255
            assert np.array_equal(layers[BLENDED][..., :3], composite_over(layers[FG], layers[BG]))
            assert not layers[FG][layers[FG][..., 3] == 0].any()


def test_a_pair_is_drawn_alike_alone_and_in_any_company(checkpoint, store):
    generator = load_generator(checkpoint, store)
    together = generator.generate(requests(7))
    for request, layers in zip(requests(7), together, strict=True):
        assert same(generator.generate([request])[0], layers)
    backwards = generator.generate(requests(7)[::-1])[::-1]
    assert all(same(one, two) for one, two in zip(together, backwards, strict=True))
    assert same(load_generator(checkpoint, store).generate(requests(1))[0], together[0])


def test_a_single_layer_is_what_the_base_draws_alone(checkpoint, store):
    files = {name: file for name, file in checkpoint.files.items() if name != "layers"}
    lone = [GenerationRequest(Prompt("a red star"), 3)]
    before = load_generator(replace(checkpoint, files=files), store).generate(lone)[0]
    generator = load_generator(checkpoint, store)
    generator.generate(requests(1))
    assert same(generator.generate(lone)[0], before)


def test_the_layers_of_a_pair_depend_on_each_other_where_they_are_joined(checkpoint, store):
    def drawn(background, *, joined):
        generator = load_generator(checkpoint, store, joined=joined)
        return generator.generate([GenerationRequest(Prompt("a star", "a star", background), 1)])[0]

    assert np.array_equal(drawn("sand", joined=False)[FG], drawn("water", joined=False)[FG])
    assert not np.array_equal(drawn("sand", joined=True)[FG], drawn("water", joined=True)[FG])
    assert not np.array_equal(drawn("sand", joined=False)[BG], drawn("water", joined=False)[BG])


@pytest.mark.parametrize(("role", "other"), [(FG, BG), (BG, FG)])
def test_a_given_layer_comes_back_to_the_bit_and_counts(checkpoint, store, role, other):
    generator = load_generator(checkpoint, store)
    one, two = (
        generator.generate(
            [GenerationRequest(Prompt("a star on sand", "a star", "sand"), 1)],
            GenerationOptions(given={role: sha}),
        )[0]
        for sha in (store.put(encode_layer(_layer(role, number))) for number in (1, 2))
    )
    assert np.array_equal(one[role], _layer(role, 1))
    assert not np.array_equal(one[other], two[other])
    assert np.array_equal(one[BLENDED][..., :3], composite_over(one[FG], one[BG]))


def test_a_given_layer_of_another_size_is_fitted(checkpoint, store):
    sha = store.put(encode_layer(compose(1, 96).layers[BG][:64]))
    request = GenerationRequest(
        Prompt("a star"), 1
    )  # a layer that is given asks for a pair by itself
    layers = load_generator(checkpoint, store).generate(
        [request], GenerationOptions(given={BG: sha})
    )[0]
    assert layers[BG].shape == (SIDE, SIDE, 4)
    assert layers[BG][0, 0, 3] == 0 and layers[BG][SIDE // 2, SIDE // 2, 3] == 255
    assert np.array_equal(layers[BLENDED], composite(layers[FG], layers[BG]))


def test_options_count_and_what_cannot_be_is_refused(checkpoint, store):
    generator = load_generator(checkpoint, store)
    request = requests(1)

    def drawn(**options):
        return generator.generate(request, GenerationOptions(**options))[0]

    plain = drawn()
    assert same(drawn(size=(SIDE, SIDE), sampler="ddim", negative=""), plain)
    assert same(drawn(guidance=2.0), plain), "the preset's own for layers"
    for options in ({"steps": 3}, {"guidance": 1.0}, {"negative": "a star"}):
        assert not same(drawn(**options), plain)
    sha = store.put(encode_layer(_layer(FG, 1)))
    text_conditions = generator.describe(GenerationOptions(given={FG: sha}))
    assert (
        text_conditions["layers"] == "foreground + background"
        and text_conditions["attention"] == "joint"
        and text_conditions["guidance"] == "2.0"
    )
    assert generator.describe(GenerationOptions(negative="a star"))["guidance"] == "3.0"
    assert text_conditions["given foreground"] == sha and text_conditions["steps"] == "4"
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
            drawn(**options)


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


class Known(BuiltinDenoiser):
    """Knows of every row that it is the centre, and what was told of times and of layers."""

    def predict(self, noisy_BCHW, time_B, conditions):
        self.seen = (noisy_BCHW.clone(), time_B.clone())
        level = noise_schedule(MICRO).alphas_cumprod[time_B].view(-1, 1, 1, 1)
        return (level.sqrt() * noisy_BCHW - self.centre[:, None, None]) / (1 - level).sqrt()


def test_given_layers_enter_every_step_clean_at_time_0():
    perfect = Known(MICRO)
    perfect.centre.copy_(torch.arange(MICRO.latent_channels) / 8)
    layered = new_layered_denoiser(MICRO, perfect)
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
    drawn = sample_layers(layered, replace(MICRO, layers_guidance=2.0), images, [1, 2])
    assert drawn.shape == (2, 3, MICRO.latent_channels, 4, 4)
    assert torch.equal(drawn[0, 1], clean) and torch.equal(drawn[1, 2], clean)
    noisy, time = perfect.seen
    assert torch.equal(noisy[1], clean) and torch.equal(
        noisy[6 + 1], clean
    )  # with the prompt and without
    assert time[[1, 5]].eq(0).all() and time[[0, 2, 3, 4]].gt(0).all()
    known = perfect.centre[:, None, None].expand(-1, 4, 4)
    for image, index in ((0, 0), (0, 2), (1, 0), (1, 1)):
        torch.testing.assert_close(drawn[image, index], known, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "write"), [("sd15", write_sd15), ("sdxl", write_sdxl)])
def test_a_pretrained_model_draws_pairs_and_goes_on_drawing_single_layers(
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
    lone = [GenerationRequest(Prompt("a red star"), 3)]
    before = generator.generate(lone)[0]
    pair = [
        GenerationRequest(Prompt("a star on sand", "a star", "sand"), 1),
        GenerationRequest(Prompt("water", None, "water"), 2),
    ]
    drawn = generator.generate(pair)
    assert [set(layers) for layers in drawn] == [{FG, BG, BLENDED}] * 2
    assert all(
        same(one, two) for one, two in zip(drawn, generator.generate(pair[::-1])[::-1], strict=True)
    )
    assert same(generator.generate(lone)[0], before)
    apart = load_generator(checkpoint, store, joined=False).generate(pair)
    assert not np.array_equal(apart[0][BG], drawn[0][BG])
    sha = store.put(encode_layer(compose(3, 64).layers[BG]))
    given = generator.generate(pair[:1], GenerationOptions(given={BG: sha}))[0]
    assert np.array_equal(given[BG], compose(3, 64).layers[BG])
    wide = generator.generate(pair[:1], GenerationOptions(size=(96, 64)))[0]
    assert wide[BLENDED].shape == (64, 96, 4)
    with pytest.raises(Refused, match="this size"):
        generator.generate(pair[:1], GenerationOptions(size=(90, 64)))
    assert generator.describe(GenerationOptions())["attention"] == "joint"


def _layer(role, number):
    return compose(number, SIDE).layers[role]
