"""Every pipeline behaves as a diffusers pipeline, by the behaviors that diffusers tests."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from safetensors.torch import save_file

from curation.domain import LayerRole
from curation.errors import Refused
from tests.training.pretrained import write_sd15, write_sdxl
from tests.training.released_files import (
    SD15_CHANNELS,
    SDXL_CHANNELS,
    TINY_SD15,
    TINY_SDXL,
    difference_shapes,
    fill,
    patched,
    peft_shapes,
    sharing_shapes,
    write,
)
from training.pipelines import (
    BackgroundToBlendedPipeline,
    BackgroundToForegroundPipeline,
    ForegroundToBackgroundPipeline,
    ForegroundToBlendedPipeline,
    LayersTogetherPipeline,
    TransparentImageToImagePipeline,
    TransparentPipeline,
    TransparentUpscalePipeline,
)
from training.pipelines.images import as_latents
from training.presets.presets import PRESETS
from training.transparency.networks import Transparency

MODES = {
    "joint": (LayersTogetherPipeline, "sd15"),
    "fg2bg": (ForegroundToBackgroundPipeline, "sd15"),
    "bg2fg": (BackgroundToForegroundPipeline, "sd15"),
    "fg2ble": (ForegroundToBlendedPipeline, "sdxl"),
    "bg2ble": (BackgroundToBlendedPipeline, "sdxl"),
    "fgble2bg": (ForegroundToBackgroundPipeline, "sdxl"),
    "bgble2fg": (BackgroundToForegroundPipeline, "sdxl"),
}
PLAIN = {
    "text": TransparentPipeline,
    "image": TransparentImageToImagePipeline,
    "upscale": TransparentUpscalePipeline,
}
PIPELINES = [*(f"{name}-{family}" for name in PLAIN for family in ("sd15", "sdxl")), *MODES]
FROM_NOISE = [name for name in PIPELINES if not name.startswith(("image", "upscale"))]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd15": str(write_sd15(folder / "sd15", SD15_CHANNELS, **TINY_SD15)),
        "sdxl": str(write_sdxl(folder / "sdxl", SDXL_CHANNELS, **TINY_SDXL)),
    }


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    networks = Transparency(replace(PRESETS["micro"], latent_channels=4))
    with torch.no_grad():
        for layer in (
            networks.encoder.blocks[-1],
            networks.decoder.latent_conv_in,
            networks.decoder.conv_out,
        ):
            layer.weight.normal_(std=0.1)
    networks.encoder.offset_scale = 3.0
    return networks.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    """Return a released file of every mode, and a style LoRA of each family."""
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("released")
    unets = {
        name: UNet2DConditionModel.from_pretrained(path, subfolder="unet")
        for name, path in models.items()
    }
    shapes = {"joint": sharing_shapes(unets["sd15"], 3, 4)}
    shapes |= {
        mode: sharing_shapes(unets["sd15"], 2, 4, controlled=True) for mode in ("fg2bg", "bg2fg")
    }
    for mode, channels in {"fg2ble": 8, "bg2ble": 8, "fgble2bg": 12, "bgble2fg": 12}.items():
        shapes[mode] = patched(difference_shapes(unets["sdxl"], channels), "sdxl")
    found = {
        mode: write(folder / f"layer_{mode}.safetensors", mode_shapes, seed=n)
        for n, (mode, mode_shapes) in enumerate(shapes.items())
    }
    for family, unet in unets.items():
        (folder / family).mkdir()
        style = {
            name: value.float() * 3 for name, value in fill(peft_shapes(unet, 2), seed=7).items()
        }
        found[family] = folder / family / "style.safetensors"
        save_file(style, found[family])
    return found


@pytest.fixture(scope="module")
def make(models, networks, files):
    """Return a function that copies a pipeline, loaded once, so that tests do not share changes."""
    loaded = {}

    def load(name):
        if name in MODES:
            kind, family = MODES[name]
            pipe = kind.from_pretrained(models[family], networks, files[name])
        else:
            kind, family = name.split("-")
            pipe = PLAIN[kind].from_pretrained(models[family], networks)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def make(name):
        if name not in loaded:
            loaded[name] = load(name)
        return copy.deepcopy(loaded[name])

    return make


def family_of(name):
    return MODES[name][1] if name in MODES else name.split("-")[1]


def disc():
    rows, columns = np.mgrid[:64, :64]
    rgba = np.full((64, 64, 4), 200, np.uint8)
    rgba[..., 3] = (
        np.clip((0.4 - np.hypot(rows - 32, columns - 32) / 64) * 10, 0, 1) * 255
    ).astype(np.uint8)
    return rgba


def photograph():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def given_images(name):
    """Return the images and options that a pipeline takes besides the prompt."""
    if name.startswith(("image", "upscale")):
        return {"image": disc(), "strength": 1.0}
    letters = {
        "fg2bg": "f",
        "bg2fg": "b",
        "fg2ble": "f",
        "bg2ble": "b",
        "fgble2bg": "fm",
        "bgble2fg": "bm",
    }.get(name, "")
    images = {
        "f": ("foreground", disc()),
        "b": ("background", photograph()),
        "m": ("blended", photograph()),
    }
    return dict(images[letter] for letter in letters)


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def latent_of(out):
    """Return the latents of an output as one tensor, sorted by role."""
    latents = out.latents
    return (
        latents
        if isinstance(latents, torch.Tensor)
        else torch.cat([latents[role] for role in sorted(latents)])
    )


def generate(pipe, name, prompt="a cat", **options):
    arguments = (
        {"num_inference_steps": 2, "output_type": "latent", "generator": seeded(1)}
        | given_images(name)
        | options
    )
    return pipe(prompt, **arguments)


@pytest.mark.parametrize("name", PIPELINES)
def test_attributes_are_those_of_the_diffusers_pipeline(make, name):
    pipe = make(name)
    inner = pipe.pipeline
    assert (
        pipe.unet is inner.unet
        and pipe.vae is inner.vae
        and pipe.text_encoder is inner.text_encoder
    )
    assert pipe.tokenizer is inner.tokenizer and pipe.config == inner.config
    assert pipe.components.keys() == inner.components.keys()
    plain = StableDiffusionXLPipeline if family_of(name) == "sdxl" else StableDiffusionPipeline
    assert plain(**pipe.components).unet is pipe.unet
    for method in (
        "load_lora_weights",
        "set_adapters",
        "enable_model_cpu_offload",
        "progress_bar",
        "enable_vae_tiling",
    ):
        assert callable(getattr(pipe, method)) and method in dir(pipe)
    assert (str(pipe.device), pipe.dtype) == ("cpu", torch.float32)
    for wrong in ("schedular", "nonsense"):
        with pytest.raises(AttributeError, match=wrong):
            getattr(pipe, wrong)
        with pytest.raises(AttributeError, match=wrong):
            setattr(pipe, wrong, 1)
    with pytest.raises(AttributeError, match="did you mean 'scheduler'"):
        _ = pipe.schedular
    with pytest.raises(AttributeError, match="cannot be set"):
        pipe.save_pretrained = None
    assert not hasattr(pipe, "from_single_file"), "a single file has no transparency"


@pytest.mark.parametrize("name", PIPELINES)
def test_an_assigned_scheduler_is_used(make, name):
    pipe = make(name)
    before = latent_of(generate(pipe, name, num_inference_steps=4))
    other = (
        DDIMScheduler
        if isinstance(pipe.scheduler, EulerDiscreteScheduler)
        else EulerDiscreteScheduler
    )
    pipe.scheduler = other.from_config(pipe.scheduler.config)
    assert type(pipe.pipeline.scheduler) is other
    after = latent_of(generate(pipe, name, num_inference_steps=4))
    assert not torch.allclose(before, after)
    assert pipe.scheduler.num_inference_steps == 4


@pytest.mark.parametrize("name", PIPELINES)
def test_output_types_agree(make, name):
    pipe = make(name)
    outs = {
        kind: generate(pipe, name, output_type=kind, views=1)
        for kind in ("pil", "np", "pt", "latent")
    }
    for field in (
        ("images",) if hasattr(outs["pt"], "images") else ("foreground", "background", "blended")
    ):
        pil, array, tensor = (getattr(outs[kind], field) for kind in ("pil", "np", "pt"))
        if pil is None:
            assert array is None and tensor is None
            continue
        assert (
            array.dtype == np.float32
            and array.shape[-1] == 4
            and array.min() >= 0
            and array.max() <= 1
        )
        torch.testing.assert_close(torch.from_numpy(array).permute(0, 3, 1, 2), tensor)
        assert np.array_equal(np.asarray(pil[0]), np.round(array[0] * 255).astype(np.uint8))
    again = generate(pipe, name, output_type="pt", views=1, return_dict=False)
    assert isinstance(again, tuple)
    first = next(item for item in again if item is not None)
    torch.testing.assert_close(
        first, next(item for item in outs["pt"].to_tuple() if item is not None)
    )
    assert outs["pt"][0] is outs["pt"].to_tuple()[0], "indexed as diffusers' outputs are"
    with pytest.raises(Refused, match="unknown output_type"):
        generate(pipe, name, output_type="gif")
    with pytest.raises(TypeError, match="did you mean 'guidance_scale'"):
        generate(pipe, name, guidance_scal=3.0)


@pytest.mark.parametrize("name", PIPELINES)
def test_latents_are_scaled_as_diffusers_gives_them(make, name):
    pipe = make(name)
    out = generate(pipe, name)
    scaled = (
        out.images
        if hasattr(out, "images")
        else next(item for item in out.to_tuple() if torch.is_tensor(item))
    )
    unscaled = out.latents if hasattr(out, "images") else out.latents[_first_role(out)]
    scale = pipe.vae.config.scaling_factor
    torch.testing.assert_close(scaled, unscaled * scale)


def _first_role(out):
    return next(role for role in LayerRole if getattr(out, role) is not None)


@pytest.mark.parametrize("name", PIPELINES)
def test_sizes_and_positional_arguments_are_those_of_diffusers(make, name):
    pipe = make(name)
    if name.startswith(("image", "upscale")):
        out = pipe("a cat", disc(), 1.0, 2, output_type="latent", generator=seeded(1))
        assert torch.equal(latent_of(out), latent_of(generate(pipe, name)))
        return
    named = generate(pipe, name, height=72, width=40)
    images = given_images(name)
    first = () if name.startswith("text") else tuple(images.values())
    if name in {"fg2bg", "bg2fg"}:
        first = (*first, None)
    out = pipe(
        "a cat", *first, 72, 40, num_inference_steps=2, output_type="latent", generator=seeded(1)
    )
    assert torch.equal(latent_of(out), latent_of(named))
    assert latent_of(out).shape[-2:] == (9, 5)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_batch_equals_its_images_generated_one_by_one(make, name):
    pipe = make(name)
    both = generate(
        pipe, name, ["a cat", "a dog"], generator=seeded(1, 2), negative_prompt=["x", "y"]
    )
    alone = [
        generate(pipe, name, text, generator=seeded(seed), negative_prompt=word)
        for text, seed, word in (("a cat", 1, "x"), ("a dog", 2, "y"))
    ]
    if isinstance(both.latents, torch.Tensor):
        pairs = [(both.latents, torch.cat([item.latents for item in alone]))]
    else:
        pairs = [
            (both.latents[role], torch.cat([item.latents[role] for item in alone]))
            for role in both.latents
        ]
    for together, apart in pairs:
        torch.testing.assert_close(together, apart, atol=2e-3, rtol=2e-3)
    repeated = generate(pipe, name, ["a cat", "a dog"], num_images_per_prompt=2, generator=None)
    assert len(latent_of(repeated)) == 2 * len(latent_of(both))


@pytest.mark.parametrize("name", PIPELINES)
def test_prompt_embeddings_and_initial_latents_can_be_given(make, name):
    pipe = make(name)
    plain = generate(pipe, name, negative_prompt="ugly")
    frames = len(pipe.mode.generated) if name in MODES else 1
    encoded = (
        pipe.encode_prompt("a cat", "cpu", 1, True, negative_prompt="ugly")
        if family_of(name) == "sd15"
        else (
            pipe.encode_prompt(
                "a cat", device="cpu", do_classifier_free_guidance=True, negative_prompt="ugly"
            )
        )
    )
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    embeddings = {
        key: value.repeat_interleave(frames, 0) for key, value in zip(names, encoded, strict=False)
    }
    torch.testing.assert_close(
        latent_of(generate(pipe, name, None, **embeddings)), latent_of(plain), atol=1e-5, rtol=1e-5
    )
    if name.startswith(("image", "upscale")):
        return
    noise = torch.randn(frames, 4, 8, 8, generator=seeded(5))
    first_output, second_output = (
        latent_of(generate(pipe, name, latents=noise.clone(), generator=None)) for _ in range(2)
    )
    if "Ancestral" not in type(pipe.scheduler).__name__:
        torch.testing.assert_close(first_output, second_output)
    if name in MODES:
        with pytest.raises(Refused, match="initial latents"):
            generate(pipe, name, latents=torch.randn(frames + 1, 4, 8, 8))
        with pytest.raises(Refused, match="there is no prompt"):
            generate(pipe, name, None)


@pytest.mark.parametrize("name", PIPELINES)
def test_arguments_of_diffusers_have_an_effect(make, name):
    pipe = make(name)
    plain = latent_of(generate(pipe, name, num_inference_steps=3))
    for options in (
        {"guidance_scale": 1.0},
        {"guidance_rescale": 0.9},
        {"clip_skip": 1},
        {"negative_prompt": "ugly"},
    ):
        if (
            "guidance_rescale" in options
            and family_of(name) == "sd15"
            and name.startswith(("image", "upscale"))
        ):
            continue  # diffusers has no such argument here
        if (
            "clip_skip" in options
            and not hasattr(pipe.text_encoder, "text_model")
            and family_of(name) == "sd15"
        ):
            continue  # diffusers cannot with this version of transformers
        assert not torch.allclose(
            plain, latent_of(generate(pipe, name, num_inference_steps=3, **options))
        ), options
    assert torch.isfinite(
        latent_of(generate(pipe, name, cross_attention_kwargs={"scale": 0.5}))
    ).all()


@pytest.mark.parametrize("name", PIPELINES)
def test_callbacks_see_tensors_and_can_stop(make, name):
    pipe, steps = make(name), []

    def stop(pipeline, step, time, tensors):
        steps.append((step, set(tensors)))
        pipe._interrupt = True
        return tensors

    generate(
        pipe,
        name,
        num_inference_steps=4,
        callback_on_step_end=stop,
        callback_on_step_end_tensor_inputs=["latents"],
    )
    assert steps == [(0, {"latents"})]
    generate(
        pipe,
        name,
        num_inference_steps=4,
        callback_on_step_end=lambda *arguments: steps.append(arguments[1]) or arguments[3],
    )
    assert steps[1:] == [0, 1, 2, 3], "the next call is not interrupted"
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        generate(
            pipe, name, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["nonsense"]
        )


@pytest.mark.parametrize("name", PIPELINES)
def test_a_saved_pipeline_loads_with_the_same_results(make, name, tmp_path):
    pipe = make(name)
    before = generate(pipe, name, output_type="pt", views=1)
    pipe.save_pretrained(tmp_path / "saved")
    assert not [
        path for path in (tmp_path / "saved").rglob("*") if path.suffix in {".bin", ".pt", ".ckpt"}
    ]
    again = type(pipe).from_pretrained(str(tmp_path / "saved"))
    again.set_progress_bar_config(disable=True)
    assert again.transparency.encoder.offset_scale == 3.0
    after = generate(again, name, output_type="pt", views=1)
    assert torch.equal(latent_of(before), latent_of(after))
    for item, other in zip(before.to_tuple(), after.to_tuple(), strict=True):
        assert not torch.is_tensor(item) or torch.equal(item, other)


def test_a_plain_model_is_refused_with_what_is_missing(models):
    with pytest.raises(Refused, match="is a plain model without transparency"):
        TransparentPipeline.from_pretrained(models["sd15"])
    with pytest.raises(Refused, match="is a plain model without layers"):
        LayersTogetherPipeline.from_pretrained(models["sd15"])


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_can_be_moved_and_converted(make, name):
    pipe = make(name)
    assert pipe.to("cpu", torch.bfloat16) is pipe
    assert (pipe.unet.dtype, pipe.dtype) == (torch.bfloat16, torch.bfloat16)
    assert next(pipe.transparency.parameters()).dtype == torch.float32
    out = generate(pipe, name, output_type="pt", views=1)
    first = next(item for item in out.to_tuple() if torch.is_tensor(item))
    assert torch.isfinite(first).all()
    assert pipe.to(dtype=torch.float32).unet.dtype == torch.float32
    assert torch.isfinite(latent_of(generate(pipe, name))).all()


@pytest.mark.parametrize("name", PIPELINES)
def test_memory_options_keep_the_results(make, name):
    pipe = make(name)
    plain = generate(pipe, name, output_type="pt", views=1)
    pipe.enable_vae_tiling()
    assert pipe.vae.use_tiling
    pipe.enable_vae_slicing()
    tiled = generate(pipe, name, output_type="pt", views=1)
    assert pipe.vae.use_tiling, "a call does not disable tiling"
    if not name.startswith(
        "upscale"
    ):  # an upscaled image is larger than a tile, and encoded in tiles
        torch.testing.assert_close(latent_of(tiled), latent_of(plain), atol=1e-4, rtol=1e-4)
    pipe.disable_vae_tiling()
    pipe.enable_attention_slicing()
    torch.testing.assert_close(
        latent_of(generate(pipe, name)), latent_of(plain), atol=1e-3, rtol=1e-3
    )
    if not torch.accelerator.is_available():
        with pytest.raises(RuntimeError, match="requires accelerator"):
            pipe.enable_model_cpu_offload()


@pytest.mark.parametrize("name", PIPELINES)
def test_a_style_lora_works_by_the_methods_of_diffusers(make, files, name):
    pipe = make(name)
    style = files[family_of(name)]
    before = latent_of(generate(pipe, name))
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="style")
    with_style = latent_of(generate(pipe, name))
    pipe.set_adapters("style", 0.0)
    off = latent_of(generate(pipe, name))
    pipe.set_adapters("style", 1.0)
    again = latent_of(generate(pipe, name))
    torch.testing.assert_close(off, before, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(again, with_style)
    assert not torch.allclose(with_style, before, atol=1e-3)
    pipe.fuse_lora(adapter_names=["style"])
    torch.testing.assert_close(latent_of(generate(pipe, name)), with_style, atol=1e-3, rtol=1e-3)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(latent_of(generate(pipe, name)), before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "name", [item for item in PIPELINES if not item.startswith("text") and item != "joint"]
)
def test_given_images_in_every_form_are_equal(make, name):
    pipe = make(name)
    plain = latent_of(generate(pipe, name))
    conversions = (
        Image.fromarray,
        lambda rgba: rgba.astype(np.float32) / 255,
        lambda rgba: torch.from_numpy(rgba).permute(2, 0, 1) / 255,
        lambda rgba: [Image.fromarray(rgba)],
        lambda rgba: (torch.from_numpy(rgba).permute(2, 0, 1) / 255)[None],
    )
    for convert in conversions:
        images = {
            role: convert(item)
            for role, item in given_images(name).items()
            if isinstance(item, np.ndarray)
        }
        torch.testing.assert_close(
            latent_of(generate(pipe, name, **images)), plain, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_image_to_image_continues_from_latents(make, family):
    text = make(f"text-{family}")
    latents = generate(text, "text").images
    over = TransparentImageToImagePipeline.from_pipe(text)
    call = {"strength": 0.5, "num_inference_steps": 4, "output_type": "latent"}
    out = over("a cat", latents, generator=seeded(3), **call)
    assert out.images.shape == latents.shape
    expected = over.pipeline("a cat", image=latents, generator=seeded(3), **call).images
    torch.testing.assert_close(out.images, expected)
    assert over("a cat", latents, views=1, num_inference_steps=2).images[0].size == (64, 64)
    larger = TransparentUpscalePipeline.from_pipe(text)
    assert larger("a cat", latents, views=1, num_inference_steps=4).images[0].size == (96, 96)
    with pytest.raises(Refused, match="must be an image, not latents"):
        make("fg2ble")("a cat", latents)


def test_latents_are_distinguished_from_images():
    noise = torch.randn(2, 4, 8, 8, generator=seeded(0))
    assert as_latents(noise, 4) is noise
    assert as_latents(noise[0], 4).shape == (1, 4, 8, 8)
    assert as_latents(list(noise), 4).shape == (2, 4, 8, 8)
    for image in (
        torch.rand(4, 8, 8),
        torch.rand(2, 4, 8, 8) * 1.1 - 0.05,
        torch.rand(3, 8, 8),
        disc(),
        [disc()],
    ):
        assert as_latents(image, 4) is None
    assert as_latents(torch.rand(1, 16, 8, 8), 16) is not None


def test_an_autoencoder_can_be_replaced_but_not_a_unet_with_swapped_weights(make, models):
    pipe = make("text-sd15")
    other = make("text-sdxl")
    pipe.vae = other.vae
    assert pipe.autoencoder.autoencoder is other.vae
    pipe.unet = pipe.unet
    layers = make("joint")
    with pytest.raises(AttributeError, match="belong to the current unet"):
        layers.unet = layers.unet


def test_progress_is_shown_until_it_is_disabled(models, networks, capfd):
    pipe = TransparentPipeline.from_pretrained(models["sd15"], networks)
    capfd.readouterr()
    generate(pipe, "text")
    assert "2/2" in capfd.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    over = TransparentImageToImagePipeline.from_pipe(pipe)
    generate(pipe, "text")
    over("a cat", disc(), num_inference_steps=2, output_type="latent")
    assert "2/2" not in capfd.readouterr().err
