"""Pairs from a checkpoint of several modes, which generates the layers that are not given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from curation.domain import GenerationRequest, LayerRole, Prompt
from curation.errors import NotFound, Refused
from curation.images.codec import encode_layer
from curation.ports import GenerationOptions
from tests.training.interop.test_transparency_weights import NARROW, narrow
from tests.training.pretrained import write_sd15, write_sdxl
from tests.training.released_files import (
    SD15_CHANNELS,
    SDXL_CHANNELS,
    TINY_SD15,
    TINY_SDXL,
    difference_shapes,
    network_shapes,
    patch_shapes,
    patched,
    sharing_shapes,
    write,
)
from training.checkpoint import load_checkpoint
from training.generate import load_generator
from training.interop.import_checkpoint import import_checkpoint
from training.pipelines import LayersTogetherPipeline

FOREGROUND, BACKGROUND, BLENDED = LayerRole
PAIR = Prompt("a cat in a garden", "a cat", "a garden")
GENERATION = {"image_size": "64", "draw_steps": "2", "draw_batch": "2", "decoder_views": "1"}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Return a model of each family, and the files of its modes."""
    folder = tmp_path_factory.mktemp("released")
    models = {
        "sd15": write_sd15(folder / "sd15", SD15_CHANNELS, **TINY_SD15),
        "sdxl": write_sdxl(folder / "sdxl", SDXL_CHANNELS, **TINY_SDXL),
    }
    sd15, sdxl = (
        UNet2DConditionModel.from_pretrained(models[name], subfolder="unet") for name in models
    )
    shapes = {
        "sd15": {
            "base": sharing_shapes(sd15, 1, 4),
            "joint": sharing_shapes(sd15, 3, 4),
            "bg2fg": sharing_shapes(sd15, 2, 4, controlled=True),
        },
        "sdxl": {
            "base": patch_shapes(sdxl, 4, "sdxl"),
            "fg2ble": patched(difference_shapes(sdxl, 8), "sdxl"),
            "bg2ble": patched(difference_shapes(sdxl, 8), "sdxl"),
            "fgble2bg": patched(difference_shapes(sdxl, 12), "sdxl"),
            "bgble2fg": patched(difference_shapes(sdxl, 12), "sdxl"),
        },
    }
    files = {
        family: {
            mode: write(folder / f"{family}_{mode}", one, seed=index)
            for index, (mode, one) in enumerate(own.items())
        }
        for family, own in shapes.items()
    }
    networks = [
        write(folder / f"{network}", network_shapes(narrow(), network))
        for network in ("encoder", "decoder")
    ]
    return models, files, networks


@pytest.fixture
def import_(released, store):
    models, files, networks = released

    def import_(family, *modes, **changes):
        chosen = [files[family][mode] for mode in modes]
        changed = {"model": str(models[family]), **GENERATION, **NARROW, **changes}
        return import_checkpoint(
            [*networks, *chosen], family, changed, store, lambda seen: None
        ).checkpoint

    return import_


def pixels(side=64, seed=0, opaque=True):
    rng = np.random.default_rng(seed)
    rgba = np.repeat(
        np.repeat(rng.integers(0, 256, (8, 8, 4), np.uint8), side // 8, 0), side // 8, 1
    )
    rgba[..., 3] = 255 if opaque else rgba[..., 3]
    return rgba


def make_request(seed=1, prompt=PAIR):
    return GenerationRequest(prompt, seed)


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[role], second[role]) for role in first
    )


def test_joint_layers_do_not_depend_on_their_batch(import_, store, released):
    checkpoint = import_("sd15", "base", "joint")
    generator = load_generator(checkpoint, store)
    together = generator.generate([make_request(seed) for seed in range(3)])
    for layers in together:
        assert list(layers) == [FOREGROUND, BACKGROUND, BLENDED]
        assert {(layer.shape, layer.dtype) for layer in layers.values()} == {
            ((64, 64, 4), np.dtype(np.uint8))
        }
        assert not layers[FOREGROUND][layers[FOREGROUND][..., 3] == 0].any()
        assert (layers[BACKGROUND][..., 3] == 255).all() and (layers[BLENDED][..., 3] == 255).all()
    assert not same(together[0], together[1])
    again = load_generator(checkpoint, store)
    for seed in (2, 0, 1):
        assert same(again.generate([make_request(seed)])[0], together[seed])

    models, files, _ = released
    parts = load_checkpoint(checkpoint, store)
    pipe = LayersTogetherPipeline.from_pretrained(
        str(models["sd15"]), parts.transparency, files["sd15"]["joint"]
    )
    out = pipe(
        PAIR.text, foreground_prompt="a cat", background_prompt="a garden", num_inference_steps=2, output_type="np",
        guidance_scale=parts.preset.guidance, generator=[torch.Generator().manual_seed(1)], height=64, width=64,
    )  # fmt: skip
    away = np.abs(np.round(out.background[0] * 255).astype(int) - together[1][BACKGROUND])
    assert away.max() <= 1, (
        "what anybody draws without Layerloop; a batch of another size rounds otherwise"
    )


def test_single_layers_and_pairs_are_returned_in_order(import_, store):
    generator = load_generator(import_("sd15", "base", "joint"), store)
    single = Prompt("a cat")
    requests = [
        make_request(1, single),
        make_request(2),
        make_request(3, single),
        make_request(4, single),
        make_request(5),
    ]
    drawn = generator.generate(requests)
    assert [len(layers) for layers in drawn] == [1, 3, 1, 1, 3]
    alone = load_generator(import_("sd15", "base"), store)
    for index in (0, 2, 3):
        assert same(drawn[index], alone.generate([requests[index]])[0]), (
            "as if the other weights were not there"
        )
    assert same(drawn[4], generator.generate([requests[4]])[0])
    assert generator.generate([]) == []


@pytest.mark.parametrize(
    ("family", "modes", "given", "way"),
    [
        ("sd15", ["bg2fg"], [BACKGROUND], "bg2fg"),
        ("sdxl", ["fg2ble", "fgble2bg"], [FOREGROUND], "fg2ble, fgble2bg"),
        ("sdxl", ["bg2ble", "bgble2fg"], [BACKGROUND], "bg2ble, bgble2fg"),
        ("sdxl", ["bgble2fg"], [BACKGROUND, BLENDED], "bgble2fg"),
    ],
)
def test_given_layers_are_used_unchanged(import_, store, family, modes, given, way):
    generator = load_generator(import_(family, *modes), store)
    layers = {role: pixels(seed=n, opaque=role != FOREGROUND) for n, role in enumerate(given)}
    stored = {role: store.put(encode_layer(rgba)) for role, rgba in layers.items()}
    options = GenerationOptions(given=stored)
    [drawn] = generator.generate([make_request(prompt=Prompt("a cat"))], options)
    assert set(drawn) == set(LayerRole)
    for role, rgba in layers.items():
        assert np.array_equal(drawn[role], rgba), "bit for bit, also under alpha 0"
    output = generator.describe(options)
    assert output["modes"] == way
    assert {output[f"given {role}"] for role in given} == set(stored.values())
    assert output.get("sampler of the last mode") == ("euler_a" if "ble2" in way else None)
    others = {role: store.put(encode_layer(255 - rgba)) for role, rgba in layers.items()}
    [other] = generator.generate(
        [make_request(prompt=Prompt("a cat"))], GenerationOptions(given=others)
    )
    for role in set(LayerRole) - set(given):
        assert not np.array_equal(drawn[role], other[role])


def test_sdxl_generates_a_pair_in_three_steps(import_, store):
    generator = load_generator(
        import_("sdxl", "base", "fg2ble", "fgble2bg", image_size="72"), store
    )
    drawn = generator.generate([make_request(1), make_request(2)])
    assert {layer.shape for layers in drawn for layer in layers.values()} == {(72, 72, 4)}
    assert same(drawn[1], generator.generate([make_request(2)])[0])
    [single] = generator.generate([make_request(1, Prompt("a cat"))])
    assert np.array_equal(single[FOREGROUND], drawn[0][FOREGROUND]), (
        "the foreground is drawn first, by its own text"
    )
    [wide] = generator.generate(
        [make_request(1)],
        GenerationOptions(size=(80, 64), steps=1, sampler="unipc", negative="bad"),
    )
    assert wide[BLENDED].shape == (64, 80, 4)


def test_pairs_that_a_checkpoint_cannot_generate_are_refused(import_, store):
    joint = load_generator(import_("sd15", "joint"), store)
    with pytest.raises(Refused, match="it cannot generate single foregrounds") as refused:
        joint.generate([make_request(prompt=Prompt("a cat"))])
    assert "foreground or background text" in refused.value.hint
    with pytest.raises(Refused, match="neither an initial image nor upscaling"):
        joint.generate([make_request()], GenerationOptions(upscale=2.0))
    sha = store.put(encode_layer(pixels()))
    with pytest.raises(Refused, match="cannot generate a pair around background; its modes: joint"):
        joint.generate([make_request()], GenerationOptions(given={BACKGROUND: sha}))
    single = load_generator(import_("sdxl", "base"), store)
    for options in (GenerationOptions(), GenerationOptions(given={BACKGROUND: sha})):
        with pytest.raises(Refused, match="this checkpoint cannot generate a pair"):
            single.generate([make_request()], options)
    with pytest.raises(Refused, match="cannot generate a pair"):
        single.describe(GenerationOptions(given={BACKGROUND: sha}))
    led = load_generator(import_("sd15", "bg2fg"), store)
    with pytest.raises(NotFound):
        led.generate([make_request()], GenerationOptions(given={BACKGROUND: "0" * 64}))
    with pytest.raises(Refused, match="differ in size: 64x64 and 64x72"):
        led.generate([make_request()], GenerationOptions(given={BACKGROUND: sha}, size=(64, 72)))
    assert led.generate([make_request()], GenerationOptions(given={BACKGROUND: sha}, size=(64, 64)))
