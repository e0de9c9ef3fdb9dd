"""Pipelines of every mode: layers generated together, and to given ones."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

from curation.domain import LayerRole
from curation.errors import Refused
from tests.training.pretrained import write_sd15, write_sdxl
from tests.training.released_files import (
    SD15_CHANNELS,
    SDXL_CHANNELS,
    TINY_SD15,
    TINY_SDXL,
    difference_shapes,
    patched,
    peft_shapes,
    sharing_shapes,
    write,
)
from training.external_weights import read_header
from training.interop.denoiser_weights import read_base
from training.interop.formats import recognize
from training.pipelines import (
    BackgroundToBlendedPipeline,
    BackgroundToForegroundPipeline,
    ForegroundToBackgroundPipeline,
    ForegroundToBlendedPipeline,
    LayersTogetherPipeline,
    TransparentPipeline,
)
from training.pipelines.images import resize_to_cover, to_rgba
from training.pipelines.weight_swap import SwappableWeights
from training.presets.presets import PRESETS
from training.transparency.codec import decode_rgba
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray

ROW = replace(PRESETS["micro"], latent_channels=4)
FEW = {"num_inference_steps": 2, "output_type": "pt"}
LATENT = {"num_inference_steps": 2, "output_type": "latent"}
SIDE = {"height": 64, "width": 64}
CLASSES = {
    "joint": LayersTogetherPipeline,
    "fg2bg": ForegroundToBackgroundPipeline,
    "bg2fg": BackgroundToForegroundPipeline,
    "fg2ble": ForegroundToBlendedPipeline,
    "bg2ble": BackgroundToBlendedPipeline,
    "fgble2bg": ForegroundToBackgroundPipeline,
    "bgble2fg": BackgroundToForegroundPipeline,
}
XL = ("fg2ble", "bg2ble", "fgble2bg", "bgble2fg")


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
    networks = Transparency(ROW)
    with torch.no_grad():
        networks.decoder.latent_conv_in.weight.normal_(std=0.1)
        networks.decoder.conv_out.weight.normal_(std=0.1)
    return networks.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    """Return released files of every mode, with random values."""
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("released")
    unets = {
        name: UNet2DConditionModel.from_pretrained(path, subfolder="unet")
        for name, path in models.items()
    }
    shapes = {
        "joint": sharing_shapes(unets["sd15"], 3, 4),
        "fg2bg": sharing_shapes(unets["sd15"], 2, 4, controlled=True),
        "bg2fg": sharing_shapes(unets["sd15"], 2, 4, controlled=True),
        "fg2ble": patched(difference_shapes(unets["sdxl"], 8), "sdxl"),
        "bg2ble": patched(difference_shapes(unets["sdxl"], 8), "sdxl"),
        "fgble2bg": patched(difference_shapes(unets["sdxl"], 12), "sdxl"),
        "bgble2fg": patched(difference_shapes(unets["sdxl"], 12), "sdxl"),
    }
    return {
        mode: write(folder / f"layer_{mode}.safetensors", mode_shapes, seed=index)
        for index, (mode, mode_shapes) in enumerate(shapes.items())
    }


@pytest.fixture
def make(models, networks, files):
    def make(mode, **options):
        family = "sdxl" if mode in XL else "sd15"
        pipe = CLASSES[mode].from_pretrained(models[family], networks, files[mode], **options)
        pipe.pipeline.set_progress_bar_config(disable=True)
        return pipe

    return make


def disc(size=(64, 64), color=(200, 40, 30)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] / 2, columns - size[1] / 2) / min(size)
    rgba = np.zeros((*size, 4), np.uint8)
    rgba[..., :3] = color
    rgba[..., 3] = (np.clip((0.4 - distance) * 10, 0, 1) * 255).astype(np.uint8)
    return rgba


def photograph(size=(64, 64), seed=0):
    rng = np.random.default_rng(seed)
    return np.repeat(
        np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), size[0] // 8, 0), size[1] // 8, 1
    )


def given_images(mode):
    """Return the images that a mode takes besides the prompt."""
    letters = {
        "fg2bg": "f",
        "bg2fg": "b",
        "fg2ble": "f",
        "bg2ble": "b",
        "fgble2bg": "fm",
        "bgble2fg": "bm",
    }.get(mode, "")
    images = {
        "f": ("foreground", disc()),
        "b": ("background", photograph()),
        "m": ("blended", photograph(seed=9)),
    }
    return dict(images[letter] for letter in letters)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("mode", CLASSES)
def test_every_mode_generates_its_layers_and_restores_the_unet(make, mode):
    pipe = make(mode)
    before = {name: value.clone() for name, value in pipe.pipeline.unet.state_dict().items()}
    processors = dict(pipe.pipeline.unet.attn_processors)
    out = pipe("a cat", **given_images(mode), generator=seeded(1), **SIDE, **FEW)
    assert set(out.latents) == set(pipe.mode.generated)
    for role, latents in out.latents.items():
        assert (latents.shape, getattr(out, role).shape) == ((1, 4, 8, 8), (1, 4, 64, 64))
        assert latents.isfinite().all()
        opaque = bool((getattr(out, role)[:, 3] == 1).all())
        assert opaque == (role != "foreground"), role
    for role, image in given_images(mode).items():
        torch.testing.assert_close(getattr(out, role), to_rgba(image))
    after = pipe.pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert dict(pipe.pipeline.unet.attn_processors) == processors
    again = pipe("a cat", **given_images(mode), generator=seeded(1), **SIDE, **FEW)
    assert all(torch.equal(again.latents[role], value) for role, value in out.latents.items())


@pytest.mark.parametrize("mode", CLASSES)
def test_a_batch_equals_its_images_generated_one_by_one(make, mode):
    pipe = make(mode)
    texts = ["a cat", "a red leaf"]
    images = [
        given_images(mode),
        {role: np.ascontiguousarray(image[::-1]) for role, image in given_images(mode).items()},
    ]
    both = {role: [mode_images[role] for mode_images in images] for role in given_images(mode)}
    options = {"negative_prompt": ["ugly", "bad"], "guidance_scale": 5.0}
    together = pipe(texts, **both, generator=seeded(1, 2), **options, **SIDE, **LATENT).latents
    for index, (text, mode_images) in enumerate(zip(texts, images, strict=True)):
        own_options = {"negative_prompt": options["negative_prompt"][index], "guidance_scale": 5.0}
        alone = pipe(
            text, **mode_images, generator=seeded(index + 1), **own_options, **SIDE, **LATENT
        ).latents
        for role, latents in alone.items():
            torch.testing.assert_close(
                together[role][index : index + 1], latents, atol=1e-4, rtol=1e-4
            )
    repeated = pipe(
        "a cat",
        **given_images(mode),
        num_images_per_prompt=2,
        generator=seeded(1, 1),
        **SIDE,
        **LATENT,
    ).latents
    for latents in repeated.values():
        torch.testing.assert_close(latents[0], latents[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["joint", "fg2bg", "bg2ble", "bgble2fg"])
def test_every_argument_has_an_effect(make, mode):
    pipe = make(mode)
    plain = pipe("a cat", **given_images(mode), generator=seeded(1), **SIDE, **LATENT).latents
    changes = [
        {"prompt": "a red leaf"}, {"negative_prompt": "bad"}, {"guidance_scale": 1.0}, {"generator": seeded(2)},
        {"stop_at": 0.25},
        *({role: 255 - image} for role, image in given_images(mode).items()),
    ]  # fmt: skip
    for change in changes:
        arguments = {
            "prompt": "a cat",
            **given_images(mode),
            "generator": seeded(1),
            **SIDE,
            **LATENT,
        } | change
        other = pipe(**arguments).latents
        for role, latents in other.items():
            assert not torch.allclose(latents, plain[role], atol=1e-4), (change, role)


def test_each_layer_has_its_own_prompt(make):
    pipe = make("joint")
    texts = {"foreground_prompt": "an apple", "background_prompt": "a table"}
    out = pipe("an apple on a table", **texts, generator=seeded(1), **SIDE, **FEW)
    generator = torch.Generator().manual_seed(1)
    with pipe.weights.applied():
        fitted = pipe.pipeline(
            ["an apple", "a table", "an apple on a table"],
            generator=[generator] * 3, num_inference_steps=2, output_type="latent", **SIDE,
        ).images  # fmt: skip
    ours = torch.cat([out.latents[role] for role in pipe.mode.generated])
    torch.testing.assert_close(ours, fitted / pipe.pipe.autoencoder.scale)
    rgba = decode_rgba(
        pipe.pipe.autoencoder, pipe.pipe.transparency.decoder, out.latents[LayerRole.foreground]
    )
    torch.testing.assert_close(out.foreground, rgba)
    image = pipe.pipeline.vae.decode(out.latents[LayerRole.background]).sample
    torch.testing.assert_close(out.background[:, :3], (image / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("mode", ["fg2ble", "bgble2fg"])
def test_given_layers_enter_the_unet_as_scaled_latents(make, files, mode):
    """Compare with a UNet whose first convolution has weights W + d and takes the conditions."""
    pipe = make(mode)
    pipe.pipeline.scheduler = EulerDiscreteScheduler.from_config(pipe.pipeline.scheduler.config)
    out = pipe(
        "a cat", **given_images(mode), generator=seeded(1), guidance_scale=1.0, **SIDE, **FEW
    )
    header = read_header(files[mode])
    tensors, _ = read_base(header, recognize(header))
    unet, vae = pipe.pipeline.unet, pipe.pipeline.vae
    first = unet.conv_in
    weight = tensors["conv_in.weight"].float().clone()
    weight[:, :4] += first.weight
    images = [to_rgba(image) for image in given_images(mode).values()]
    conditions = torch.cat(
        [
            vae.encode(over_gray(image[:, :3], image[:, 3:])).latent_dist.mean
            * vae.config.scaling_factor
            for image in images
        ],
        1,
    )
    added = {name: value for name, value in tensors.items() if name != "conv_in.weight"}
    state = unet.state_dict()
    input_channels = []

    class WideConvolution(torch.nn.Module):
        def forward(self, noisy):
            input_channels.append(noisy.shape[1])
            return torch.nn.functional.conv2d(
                torch.cat([noisy, conditions], 1), weight, state["conv_in.bias"], padding=1
            )

    with torch.no_grad():
        unet.load_state_dict(
            {n: v + added[n].float() if n in added else v for n, v in state.items()}
        )
        state = unet.state_dict()
        unet.conv_in = WideConvolution()
        expected = pipe.pipeline(
            "a cat",
            generator=seeded(1),
            guidance_scale=1.0,
            output_type="latent",
            num_inference_steps=2,
            **SIDE,
        ).images
    assert input_channels == [4, 4]
    [latents] = out.latents.values()
    torch.testing.assert_close(latents, expected / vae.config.scaling_factor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["fgble2bg", "joint", "bg2fg"])
def test_after_stop_at_the_unet_has_its_original_weights(make, mode):
    pipe = make(mode)
    seen = []
    forward = pipe.pipeline.unet.forward

    def recording(sample, timestep, *arguments, **keywords):
        seen.append((float(timestep), pipe.weights.within))
        return forward(sample, timestep, *arguments, **keywords)

    pipe.pipeline.unet.forward = recording
    arguments = {
        **given_images(mode),
        "generator": seeded(1),
        **SIDE,
        **FEW,
        "num_inference_steps": 8,
    }
    pipe("a cat", **arguments)
    assert [within for _, within in seen] == [
        time >= 500 or mode != "fgble2bg" for time, _ in seen
    ], "the default of stop_at"
    seen.clear()
    pipe("a cat", **arguments, stop_at=0.75)
    assert [within for _, within in seen] == [time >= 250 for time, _ in seen]
    assert {within for _, within in seen} == {True, False}
    for share in (0.0, 1.5):
        with pytest.raises(Refused, match="invalid stop_at"):
            pipe("a cat", **given_images(mode), stop_at=share, **FEW)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_dpm_warns_where_a_blended_image_is_given(make):
    without_blended, with_blended = make("fg2ble"), make("fgble2bg")
    assert type(without_blended.pipeline.scheduler) is EulerDiscreteScheduler, (
        "the scheduler of the model"
    )
    assert type(with_blended.pipeline.scheduler) is EulerAncestralDiscreteScheduler
    for pipe in (without_blended, with_blended):
        pipe.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            pipe.pipeline.scheduler.config
        )
    without_blended("a cat", disc(), **SIDE, **FEW)
    with pytest.warns(
        UserWarning, match=r"DPM\+\+ leaves artifacts with fgble2bg; use Euler ancestral or UniPC"
    ):
        with_blended("a cat", disc(), photograph(), **SIDE, **FEW)
    with_blended.pipeline.scheduler = UniPCMultistepScheduler.from_config(
        with_blended.pipeline.scheduler.config
    )
    with_blended("a cat", disc(), photograph(), **SIDE, **FEW)


@pytest.mark.parametrize("mode", ["joint", "bg2fg", "fg2ble", "bgble2fg"])
@pytest.mark.parametrize("size", [(65, 100), (8, 72)])
def test_any_size_is_generated(make, mode, size):
    pipe = make(mode)
    images = {
        role: np.resize(image, (*size, image.shape[2]))
        for role, image in given_images(mode).items()
    }
    requested = {} if images else {"height": size[0], "width": size[1]}
    out = pipe("a cat", **images, **requested, **FEW)
    for role in LayerRole:
        layer = getattr(out, role)
        assert layer is None or layer.shape[-2:] == size, role


def test_the_default_size_is_that_of_the_model_or_of_the_given_layer(make):
    assert make("joint")("a cat", num_inference_steps=1).foreground[0].size == (64, 64)
    out = make("fg2ble")("a cat", Image.fromarray(disc((40, 72))), num_inference_steps=1)
    assert out.blended[0].size == out.foreground[0].size == (72, 40)
    assert (out.background, out.blended[0].mode) == (None, "RGBA")


def test_a_photograph_is_rotated_and_resized(make):
    """A JPEG with an EXIF orientation, larger than the generated size."""
    upright = np.zeros((96, 160, 3), np.uint8)
    upright[:, :80] = (220, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = 8  # rotated by 90 degrees
    file = io.BytesIO()
    Image.fromarray(np.rot90(upright, -1)).save(file, "JPEG", quality=95, exif=exif)
    out = make("bg2ble")("a cat", Image.open(file), **SIDE, **FEW)
    assert out.background.shape == (1, 4, 64, 64)
    left, right = out.background[0, 0, :, :28].mean(), out.background[0, 0, :, 36:].mean()
    assert left > 0.8 and right < 0.1


def test_resize_to_cover_crops_centrally():
    rgba = to_rgba(disc((40, 80)))
    whole = resize_to_cover(rgba, 40, 80)
    assert whole is rgba
    small = resize_to_cover(rgba, 20, 20)
    assert small.shape == (1, 4, 20, 20)
    torch.testing.assert_close(small, resize_to_cover(rgba[..., 20:60], 20, 20), atol=1e-4, rtol=0)
    assert resize_to_cover(rgba, 100, 50).shape == (1, 4, 100, 50)


def test_two_modes_generate_a_background_for_a_given_foreground(make):
    """Foreground, then blended, then background, as the released SDXL files are used."""
    foreground = Image.fromarray(disc())
    blended = make("fg2ble")(
        "a ball in a room", foreground, generator=seeded(1), num_inference_steps=2
    ).blended
    out = make("fgble2bg")(
        "a room", foreground, blended, generator=seeded(1), num_inference_steps=4
    )
    assert [layer[0].size for layer in (out.foreground, out.background, out.blended)] == [
        (64, 64)
    ] * 3
    assert out.blended[0].tobytes() == blended[0].tobytes()


def test_wrong_weights_and_images_are_refused(make, models, networks, files, tmp_path):
    with pytest.raises(
        Refused, match="these weights are bg2ble: given background generates blended"
    ):
        ForegroundToBlendedPipeline.from_pretrained(models["sdxl"], networks, files["bg2ble"])
    with pytest.raises(Refused, match="does not generate single foregrounds: it is fg2ble"):
        TransparentPipeline.from_pretrained(models["sdxl"], networks, adapter=files["fg2ble"])
    with pytest.raises(Refused, match="weights of a single mode"):
        ForegroundToBlendedPipeline.from_pretrained(
            models["sdxl"], networks, [files["fg2ble"], files["fg2ble"]]
        )
    with pytest.raises(Refused, match="is not a tensor of this UNet"):
        ForegroundToBlendedPipeline.from_pretrained(models["sd15"], networks, files["fg2ble"])
    pipe = make("fgble2bg")
    with pytest.raises(Refused, match="needs foreground and blended, not foreground"):
        pipe("a room", disc(), **FEW)
    with pytest.raises(Refused, match="needs foreground, not foreground and blended"):
        make("fg2bg")("a room", disc(), photograph(), **FEW)
    with pytest.raises(Refused, match="differ in size"):
        pipe("a room", disc(), photograph((72, 64)), **FEW)
    with pytest.raises(Refused, match="both height and width"):
        pipe("a room", disc(), photograph(), height=64, **FEW)
    with pytest.raises(Refused, match="2 and 3 texts and images"):
        pipe(["a", "b"], [disc()] * 3, photograph(), **FEW)
    with pytest.raises(Refused, match="unknown output_type"):
        pipe("a", disc(), photograph(), num_inference_steps=1, output_type="gif")
    latent = pipe("a", disc(), photograph(), num_inference_steps=1, output_type="latent")
    torch.testing.assert_close(
        pipe.pipe.unscale_latents(latent.background), latent.latents[LayerRole.background]
    )


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_swappable_weights_may_be_of_any_kind(make, kind):
    unet = make("fg2ble").pipeline.unet
    rng = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(1, 4, 8, 8, generator=rng), torch.randn(1, 5, 64, generator=rng)
    added = {"text_embeds": torch.randn(1, 32, generator=rng), "time_ids": torch.zeros(1, 6)}

    def predict():
        with torch.no_grad():
            return unet(noisy, 500, encoder_hidden_states=states, added_cond_kwargs=added).sample

    plain = predict()
    if kind == "adapter":
        tensors = {
            n: 0.1 * torch.randn(shape, generator=rng) for n, shape in peft_shapes(unet, 4).items()
        }
        weights = SwappableWeights(unet, tensors, {"kind": "adapter", "rank": "4", "alpha": "8"})
    else:
        tensors = {
            n: v + 0.05 * torch.randn(v.shape, generator=rng) for n, v in unet.state_dict().items()
        }
        weights = SwappableWeights(unet, tensors, {"kind": "weights"})
    with weights.applied():
        if kind == "weights":
            assert all(
                torch.equal(value, tensors[name]) for name, value in unet.state_dict().items()
            )
        assert (predict() - plain).abs().max() > 1e-3
    assert torch.equal(predict(), plain)
    with pytest.raises(ZeroDivisionError), weights.applied():
        raise ZeroDivisionError
    assert torch.equal(predict(), plain), "the UNet is restored after an error"


def test_a_users_lora_is_kept(make):
    """A LoRA that is added after the weights applies with them, and can be disabled."""
    from peft import LoraConfig

    pipe = make("fg2ble")
    call = {"foreground": disc(), **SIDE, **FEW}
    before = pipe("a cat", generator=seeded(1), **call).latents[LayerRole.blended]
    pipe.pipeline.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "conv1"], init_lora_weights=False)
    )
    after = pipe("a cat", generator=seeded(1), **call).latents[LayerRole.blended]
    assert not torch.allclose(before, after)
    pipe.pipeline.unet.disable_adapters()
    again = pipe("a cat", generator=seeded(1), **call).latents[LayerRole.blended]
    torch.testing.assert_close(again, before, atol=1e-4, rtol=0)  # some CPUs round differently
