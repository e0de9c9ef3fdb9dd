"""Every pipeline behaves as a diffusers pipeline: the behaviors of diffusers' own pipeline tests, on tiny models."""

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
EVERY = [*(f"{name}-{family}" for name in PLAIN for family in ("sd15", "sdxl")), *MODES]
FROM_NOISE = [name for name in EVERY if not name.startswith(("image", "upscale"))]


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
        mode: write(folder / f"layer_{mode}.safetensors", own, seed=n)
        for n, (mode, own) in enumerate(shapes.items())
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
    """Pipelines by name: loaded once, and copied, so that no test sees what another one changed."""
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


def given(name):
    """Return what a pipeline is given beside the prompt."""
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
    """Return the drawn latents, one tensor, whatever the pipeline draws."""
    latents = out.latents
    return (
        latents
        if isinstance(latents, torch.Tensor)
        else torch.cat([latents[role] for role in sorted(latents)])
    )


def draw(pipe, name, prompt="a cat", **more):
    arguments = (
        {"num_inference_steps": 2, "output_type": "latent", "generator": seeded(1)}
        | given(name)
        | more
    )
    return pipe(prompt, **arguments)


@pytest.mark.parametrize("name", EVERY)
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
    assert not hasattr(pipe, "from_single_file"), "it would lose the transparency"


@pytest.mark.parametrize("name", EVERY)
def test_an_assigned_scheduler_draws(make, name):
    pipe = make(name)
    before = latent_of(draw(pipe, name, num_inference_steps=4))
    other = (
        DDIMScheduler
        if isinstance(pipe.scheduler, EulerDiscreteScheduler)
        else EulerDiscreteScheduler
    )
    pipe.scheduler = other.from_config(pipe.scheduler.config)
    assert type(pipe.pipeline.scheduler) is other
    after = latent_of(draw(pipe, name, num_inference_steps=4))
    assert not torch.allclose(before, after)
    assert pipe.scheduler.num_inference_steps == 4


@pytest.mark.parametrize("name", EVERY)
def test_outputs_in_every_form(make, name):
    pipe = make(name)
    outs = {
        kind: draw(pipe, name, output_type=kind, views=1) for kind in ("pil", "np", "pt", "latent")
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
    again = draw(pipe, name, output_type="pt", views=1, return_dict=False)
    assert isinstance(again, tuple)
    first = next(one for one in again if one is not None)
    torch.testing.assert_close(first, next(one for one in outs["pt"].to_tuple() if one is not None))
    assert outs["pt"][0] is outs["pt"].to_tuple()[0], "indexed as diffusers' outputs are"
    with pytest.raises(Refused, match="unknown output_type"):
        draw(pipe, name, output_type="gif")
    with pytest.raises(TypeError, match="did you mean 'guidance_scale'"):
        draw(pipe, name, guidance_scal=3.0)


@pytest.mark.parametrize("name", EVERY)
def test_latents_are_scaled_as_diffusers_gives_them(make, name):
    pipe = make(name)
    out = draw(pipe, name)
    scaled = (
        out.images
        if hasattr(out, "images")
        else next(one for one in out.to_tuple() if torch.is_tensor(one))
    )
    unscaled = out.latents if hasattr(out, "images") else out.latents[_drawn_first(out)]
    scale = pipe.vae.config.scaling_factor
    torch.testing.assert_close(scaled, unscaled * scale)


def _drawn_first(out):
    return next(role for role in LayerRole if getattr(out, role) is not None)


@pytest.mark.parametrize("name", EVERY)
def test_sizes_and_positions(make, name):
    pipe = make(name)
    if name.startswith(("image", "upscale")):
        out = pipe("a cat", disc(), 1.0, 2, output_type="latent", generator=seeded(1))
        assert torch.equal(latent_of(out), latent_of(draw(pipe, name)))
        return
    named = draw(pipe, name, height=72, width=40)
    images = given(name)
    first = () if name.startswith("text") else tuple(images.values())
    if name in {"fg2bg", "bg2fg"}:
        first = (*first, None)
    out = pipe(
        "a cat", *first, 72, 40, num_inference_steps=2, output_type="latent", generator=seeded(1)
    )
    assert torch.equal(latent_of(out), latent_of(named))
    assert latent_of(out).shape[-2:] == (9, 5)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_is_its_pictures_one_by_one(make, name):
    pipe = make(name)
    both = draw(pipe, name, ["a cat", "a dog"], generator=seeded(1, 2), negative_prompt=["x", "y"])
    alone = [
        draw(pipe, name, text, generator=seeded(seed), negative_prompt=word)
        for text, seed, word in (("a cat", 1, "x"), ("a dog", 2, "y"))
    ]
    if isinstance(both.latents, torch.Tensor):
        pairs = [(both.latents, torch.cat([one.latents for one in alone]))]
    else:
        pairs = [
            (both.latents[role], torch.cat([one.latents[role] for one in alone]))
            for role in both.latents
        ]
    for together, apart in pairs:
        torch.testing.assert_close(together, apart, atol=2e-3, rtol=2e-3)
    several = draw(pipe, name, ["a cat", "a dog"], num_images_per_prompt=2, generator=None)
    assert len(latent_of(several)) == 2 * len(latent_of(both))


@pytest.mark.parametrize("name", EVERY)
def test_encoded_texts_and_first_noise(make, name):
    pipe = make(name)
    plain = draw(pipe, name, negative_prompt="ugly")
    frames = len(pipe.mode.generated) if name in MODES else 1
    told = (
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
    encoded = {
        one: rows.repeat_interleave(frames, 0) for one, rows in zip(names, told, strict=False)
    }
    torch.testing.assert_close(
        latent_of(draw(pipe, name, None, **encoded)), latent_of(plain), atol=1e-5, rtol=1e-5
    )
    if name.startswith(("image", "upscale")):
        return
    noise = torch.randn(frames, 4, 8, 8, generator=seeded(5))
    one, same = (
        latent_of(draw(pipe, name, latents=noise.clone(), generator=None)) for _ in range(2)
    )
    if "Ancestral" not in type(pipe.scheduler).__name__:
        torch.testing.assert_close(one, same)
    if name in MODES:
        with pytest.raises(Refused, match="initial latents"):
            draw(pipe, name, latents=torch.randn(frames + 1, 4, 8, 8))
        with pytest.raises(Refused, match="there is no prompt"):
            draw(pipe, name, None)


@pytest.mark.parametrize("name", EVERY)
def test_what_diffusers_takes_has_an_effect(make, name):
    pipe = make(name)
    plain = latent_of(draw(pipe, name, num_inference_steps=3))
    for more in (
        {"guidance_scale": 1.0},
        {"guidance_rescale": 0.9},
        {"clip_skip": 1},
        {"negative_prompt": "ugly"},
    ):
        if (
            "guidance_rescale" in more
            and family_of(name) == "sd15"
            and name.startswith(("image", "upscale"))
        ):
            continue  # diffusers' own has no such argument
        if (
            "clip_skip" in more
            and not hasattr(pipe.text_encoder, "text_model")
            and family_of(name) == "sd15"
        ):
            continue  # diffusers' own cannot with this version of transformers
        assert not torch.allclose(
            plain, latent_of(draw(pipe, name, num_inference_steps=3, **more))
        ), more
    assert torch.isfinite(latent_of(draw(pipe, name, cross_attention_kwargs={"scale": 0.5}))).all()


@pytest.mark.parametrize("name", EVERY)
def test_callbacks_see_and_stop(make, name):
    pipe, steps = make(name), []

    def stop(pipeline, step, time, tensors):
        steps.append((step, set(tensors)))
        pipe._interrupt = True
        return tensors

    draw(
        pipe,
        name,
        num_inference_steps=4,
        callback_on_step_end=stop,
        callback_on_step_end_tensor_inputs=["latents"],
    )
    assert steps == [(0, {"latents"})]
    draw(
        pipe,
        name,
        num_inference_steps=4,
        callback_on_step_end=lambda *told: steps.append(told[1]) or told[3],
    )
    assert steps[1:] == [0, 1, 2, 3], "the next drawing is whole"
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        draw(pipe, name, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["nonsense"])


@pytest.mark.parametrize("name", EVERY)
def test_saved_and_read_again(make, name, tmp_path):
    pipe = make(name)
    before = draw(pipe, name, output_type="pt", views=1)
    pipe.save_pretrained(tmp_path / "saved")
    assert not [
        path for path in (tmp_path / "saved").rglob("*") if path.suffix in {".bin", ".pt", ".ckpt"}
    ]
    again = type(pipe).from_pretrained(str(tmp_path / "saved"))
    again.set_progress_bar_config(disable=True)
    assert again.transparency.encoder.offset_scale == 3.0
    after = draw(again, name, output_type="pt", views=1)
    assert torch.equal(latent_of(before), latent_of(after))
    for one, other in zip(before.to_tuple(), after.to_tuple(), strict=True):
        assert not torch.is_tensor(one) or torch.equal(one, other)


def test_a_plain_folder_says_what_is_missing(models):
    with pytest.raises(Refused, match="is a plain model without transparency"):
        TransparentPipeline.from_pretrained(models["sd15"])
    with pytest.raises(Refused, match="is a plain model without layers"):
        LayersTogetherPipeline.from_pretrained(models["sd15"])


@pytest.mark.parametrize("name", EVERY)
def test_moved_and_converted(make, name):
    pipe = make(name)
    assert pipe.to("cpu", torch.bfloat16) is pipe
    assert (pipe.unet.dtype, pipe.dtype) == (torch.bfloat16, torch.bfloat16)
    assert next(pipe.transparency.parameters()).dtype == torch.float32
    out = draw(pipe, name, output_type="pt", views=1)
    first = next(one for one in out.to_tuple() if torch.is_tensor(one))
    assert torch.isfinite(first).all()
    assert pipe.to(dtype=torch.float32).unet.dtype == torch.float32
    assert torch.isfinite(latent_of(draw(pipe, name))).all()


@pytest.mark.parametrize("name", EVERY)
def test_memory_savers(make, name):
    pipe = make(name)
    plain = draw(pipe, name, output_type="pt", views=1)
    pipe.enable_vae_tiling()
    assert pipe.vae.use_tiling
    pipe.enable_vae_slicing()
    tiled = draw(pipe, name, output_type="pt", views=1)
    assert pipe.vae.use_tiling, "a call leaves it on"
    if not name.startswith(
        "upscale"
    ):  # an enlarged picture is larger than a tile, and encoded otherwise
        torch.testing.assert_close(latent_of(tiled), latent_of(plain), atol=1e-4, rtol=1e-4)
    pipe.disable_vae_tiling()
    pipe.enable_attention_slicing()
    torch.testing.assert_close(latent_of(draw(pipe, name)), latent_of(plain), atol=1e-3, rtol=1e-3)
    if not torch.accelerator.is_available():
        with pytest.raises(RuntimeError, match="requires accelerator"):
            pipe.enable_model_cpu_offload()


@pytest.mark.parametrize("name", EVERY)
def test_a_style_lora_by_diffusers_own_methods(make, files, name):
    pipe = make(name)
    style = files[family_of(name)]
    before = latent_of(draw(pipe, name))
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="style")
    with_style = latent_of(draw(pipe, name))
    pipe.set_adapters("style", 0.0)
    off = latent_of(draw(pipe, name))
    pipe.set_adapters("style", 1.0)
    again = latent_of(draw(pipe, name))
    torch.testing.assert_close(off, before, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(again, with_style)
    assert not torch.allclose(with_style, before, atol=1e-3)
    pipe.fuse_lora(adapter_names=["style"])
    torch.testing.assert_close(latent_of(draw(pipe, name)), with_style, atol=1e-3, rtol=1e-3)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(latent_of(draw(pipe, name)), before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "name", [one for one in EVERY if not one.startswith("text") and one != "joint"]
)
def test_given_pictures_in_every_form(make, name):
    pipe = make(name)
    plain = latent_of(draw(pipe, name))
    forms = (
        Image.fromarray,
        lambda rgba: rgba.astype(np.float32) / 255,
        lambda rgba: torch.from_numpy(rgba).permute(2, 0, 1) / 255,
        lambda rgba: [Image.fromarray(rgba)],
        lambda rgba: (torch.from_numpy(rgba).permute(2, 0, 1) / 255)[None],
    )
    for form in forms:
        images = {
            role: form(one) for role, one in given(name).items() if isinstance(one, np.ndarray)
        }
        torch.testing.assert_close(
            latent_of(draw(pipe, name, **images)), plain, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_image_to_image_goes_on_from_latents(make, family):
    text = make(f"text-{family}")
    latents = draw(text, "text").images
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


def test_latents_are_told_from_pictures():
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


def test_another_autoencoder_decodes_and_another_unet_is_refused_where_weights_are_held(
    make, models
):
    pipe = make("text-sd15")
    other = make("text-sdxl")
    pipe.vae = other.vae
    assert pipe.autoencoder.autoencoder is other.vae
    pipe.unet = pipe.unet
    layers = make("joint")
    with pytest.raises(AttributeError, match="belong to the current unet"):
        layers.unet = layers.unet


def test_progress_is_shown_until_it_is_turned_off(models, networks, capfd):
    pipe = TransparentPipeline.from_pretrained(models["sd15"], networks)
    capfd.readouterr()
    draw(pipe, "text")
    assert "2/2" in capfd.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    over = TransparentImageToImagePipeline.from_pipe(pipe)
    draw(pipe, "text")
    over("a cat", disc(), num_inference_steps=2, output_type="latent")
    assert "2/2" not in capfd.readouterr().err
