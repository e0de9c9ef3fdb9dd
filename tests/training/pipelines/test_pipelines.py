"""Pipelines that generate RGBA: their arguments reach diffusers, and results are transparent."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from safetensors.torch import save_file

from curation.errors import NotFound, Refused
from tests.training.pretrained import write_sd15, write_sdxl
from training.denoiser.factory import new_denoiser
from training.pipelines import (
    SDXL_SIZES,
    TransparentImageToImagePipeline,
    TransparentPipeline,
    TransparentUpscalePipeline,
    nearest_size,
)
from training.pipelines.images import resize_rgba, to_pil, to_rgba
from training.pipelines.loading import load_transparency, merge_files
from training.pipelines.sizes import scaled_size
from training.presets.presets import PRESETS
from training.safetensors_io import part_metadata, save_part
from training.transparency.autoencoder import KLAutoencoder, load_autoencoder
from training.transparency.codec import adjust, decode_rgba
from training.transparency.networks import Transparency
from training.transparency.padding import pad_colors

ROW = replace(PRESETS["micro"], latent_channels=4)
PROMPT = "a glass bottle"
FEW = {"num_inference_steps": 2, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"sd15": str(write_sd15(folder / "sd15")), "sdxl": str(write_sdxl(folder / "sdxl"))}


@pytest.fixture(scope="module")
def networks():
    """Return networks with random last layers, since those of new networks are 0."""
    torch.manual_seed(0)
    networks = Transparency(ROW)
    with torch.no_grad():
        for layer in (networks.encoder.blocks[-1], networks.decoder.latent_conv_in):
            layer.weight.normal_(std=0.1)
        networks.decoder.conv_out.weight.normal_(std=0.1)
    return networks.eval().requires_grad_(False)


@pytest.fixture(params=["sd15", "sdxl"])
def pipe(request, models, networks):
    return without_progress(TransparentPipeline.from_pretrained(models[request.param], networks))


@pytest.fixture
def pipe_xl(models, networks):
    return without_progress(TransparentPipeline.from_pretrained(models["sdxl"], networks))


def without_progress(pipe):
    pipe.pipeline.set_progress_bar_config(disable=True)
    return pipe


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def glass(side=64, color=(30, 90, 200)):
    """Return a soft, translucent disc."""
    rows, columns = np.mgrid[:side, :side]
    distance = np.hypot(rows - side / 2, columns - side / 2) / side
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[..., :3] = np.where(distance[..., None] < 0.4, color, 255)
    rgba[..., 3] = (np.clip((0.4 - distance) * 10, 0, 1) * 160).astype(np.uint8)
    return rgba


def test_text_to_rgba(pipe, networks):
    out = pipe(PROMPT, generator=seeded(1), **FEW)
    (image,) = out.images
    assert (image.mode, image.size) == ("RGBA", (64, 64))
    assert out.latents.shape == (1, 4, 8, 8)
    again = pipe(PROMPT, generator=seeded(1), **FEW)
    assert torch.equal(out.latents, again.latents)
    assert image.tobytes() == again.images[0].tobytes()
    assert image.tobytes() != pipe(PROMPT, generator=seeded(2), **FEW).images[0].tobytes()


def test_latents_equal_those_of_diffusers_and_images_those_of_the_codec(pipe, networks):
    out = pipe(PROMPT, generator=seeded(1), output_type="pt", **FEW)
    reference = pipe.pipeline(PROMPT, generator=seeded(1), output_type="latent", **FEW).images
    vae = pipe.pipeline.vae
    torch.testing.assert_close(out.latents, reference / vae.config.scaling_factor)
    expected = decode_rgba(KLAutoencoder(vae), networks.decoder, out.latents)
    torch.testing.assert_close(out.images, expected)
    assert out.images.shape == (1, 4, 64, 64)


def test_a_batch_equals_its_images_generated_one_by_one(pipe):
    together = pipe([PROMPT, "a red leaf"], generator=seeded(1, 2), output_type="pt", **FEW).images
    alone = [
        pipe(text, generator=seeded(k), output_type="pt", **FEW).images
        for text, k in ((PROMPT, 1), ("a red leaf", 2))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert len(pipe(PROMPT, num_images_per_prompt=3, **FEW).images) == 3


def test_negative_prompt_guidance_and_callback_reach_diffusers(pipe):
    steps = []

    def record_step(pipeline, step, time, given):
        steps.append(step)
        return given

    plain = pipe(PROMPT, generator=seeded(1), callback_on_step_end=record_step, **FEW)
    assert steps == [0, 1]
    for options in ({"negative_prompt": "bad, ugly"}, {"guidance_scale": 1.0}):
        assert not torch.equal(
            plain.latents, pipe(PROMPT, generator=seeded(1), **options, **FEW).latents
        )


@pytest.mark.parametrize("size", [(64, 64), (72, 40), (65, 100), (9, 71)])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_any_size_is_generated(models, networks, family, size):
    height, width = size
    pipe = without_progress(TransparentPipeline.from_pretrained(models[family], networks))
    out = pipe(PROMPT, height=height, width=width, num_inference_steps=1)
    assert out.images[0].size == (width, height)
    assert out.latents.shape[-2:] == (-(-height // 8), -(-width // 8))


def test_the_default_size_is_that_of_the_model(pipe):
    assert pipe(PROMPT, num_inference_steps=1).images[0].size == (
        64,
        64,
    )  # sample_size 8 times the stride 8


@pytest.mark.parametrize(
    "scheduler", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]
)
def test_any_scheduler_of_diffusers_works(pipe_xl, scheduler):
    pipe_xl.pipeline.scheduler = scheduler.from_config(pipe_xl.pipeline.scheduler.config)
    out = pipe_xl(PROMPT, num_inference_steps=3, height=64, width=64, generator=seeded(1))
    assert out.latents.isfinite().all()


def test_output_types_agree(pipe_xl):
    array = pipe_xl(PROMPT, output_type="np", generator=seeded(1), **FEW).images
    assert (array.dtype, array.shape) == (np.float32, (1, 64, 64, 4))
    pil = pipe_xl(PROMPT, generator=seeded(1), **FEW).images
    assert np.array_equal(np.asarray(pil[0]), np.round(array[0] * 255).astype(np.uint8))
    latent = pipe_xl(PROMPT, output_type="latent", generator=seeded(1), **FEW)
    assert torch.equal(
        latent.images, pipe_xl.pipeline(PROMPT, output_type="latent", generator=seeded(1), **FEW)[0]
    )
    torch.testing.assert_close(pipe_xl.unscale_latents(latent.images), latent.latents)
    with pytest.raises(Refused, match="unknown output_type"):
        pipe_xl(PROMPT, output_type="gif", **FEW)


def test_the_number_of_views_changes_images_but_not_latents(pipe_xl):
    one_view, eight_views = (
        pipe_xl(PROMPT, views=views, output_type="pt", generator=seeded(1), **FEW)
        for views in (1, 8)
    )
    assert torch.equal(one_view.latents, eight_views.latents)
    assert not torch.equal(one_view.images, eight_views.images)


def test_a_controlnet_passes_through(models, networks):
    plain = StableDiffusionXLPipeline.from_pretrained(models["sdxl"])
    control = ControlNetModel.from_unet(plain.unet, conditioning_channels=3)
    with torch.no_grad():
        for name, parameter in control.named_parameters():
            if "controlnet_" in name:
                parameter.normal_(std=0.1)
    pipe = without_progress(
        TransparentPipeline(
            StableDiffusionXLControlNetPipeline(controlnet=control, **plain.components),
            None,
            networks,
        )
    )
    outputs = []
    for shade in (0, 255):
        sketch = Image.new("RGB", (64, 64), (shade, 128, 128))
        outputs.append(pipe(PROMPT, image=sketch, generator=seeded(1), num_inference_steps=2))
    assert outputs[0].images[0].size == (64, 64)
    assert not torch.allclose(outputs[0].latents, outputs[1].latents)
    over = without_progress(
        TransparentImageToImagePipeline(pipe.pipeline, pipe.autoencoder, networks)
    )
    assert type(over.pipeline).__name__ == "StableDiffusionXLControlNetImg2ImgPipeline"
    assert (
        over(PROMPT, glass(), control_image=sketch, num_inference_steps=2).images[0].mode == "RGBA"
    )


def test_a_controlnet_pipeline_loads_by_its_name(models, networks):
    control = ControlNetModel.from_unet(
        StableDiffusionXLPipeline.from_pretrained(models["sdxl"]).unet
    )
    kind = "StableDiffusionXLControlNetPipeline"
    pipe = TransparentPipeline.from_pretrained(
        models["sdxl"], networks, kind=kind, controlnet=control
    )
    assert (type(pipe.pipeline).__name__, pipe.pipeline.controlnet) == (kind, control)


def test_an_ip_adapter_passes_through(pipe_xl):
    """An IP-Adapter sets attention processors of its own in every cross-attention."""
    unet, width = pipe_xl.pipeline.unet, 16
    torch.manual_seed(3)
    weights = {
        "proj.weight": torch.randn(4 * 64, width),
        "proj.bias": torch.zeros(4 * 64),
        "norm.weight": torch.ones(64),
        "norm.bias": torch.zeros(64),
    }
    adapters = {}
    attentions = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for index, name in enumerate(attentions):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for part in ("k", "v"):
            adapters[f"{2 * index + 1}.to_{part}_ip.weight"] = torch.randn(hidden, 64) * 0.2
    unet._load_ip_adapter_weights([{"image_proj": weights, "ip_adapter": adapters}])
    outputs = []
    for seed in (1, 2):
        embeds = torch.randn(2, 1, width, generator=torch.Generator().manual_seed(seed))
        outputs.append(
            pipe_xl(PROMPT, ip_adapter_image_embeds=[embeds], generator=seeded(1), **FEW).latents
        )
    assert not torch.allclose(*outputs)


def test_image_to_rgba(pipe, networks):
    over = without_progress(
        TransparentImageToImagePipeline(pipe.pipeline, pipe.autoencoder, networks)
    )
    assert over.pipeline.unet is pipe.pipeline.unet
    image = glass()
    out = over(
        PROMPT, Image.fromarray(image), strength=0.5, num_inference_steps=4, generator=seeded(1)
    )
    assert (out.images[0].mode, out.images[0].size) == ("RGBA", (64, 64))
    for same in (image, torch.from_numpy(image).permute(2, 0, 1) / 255):
        again = over(PROMPT, same, strength=0.5, num_inference_steps=4, generator=seeded(1))
        torch.testing.assert_close(again.latents, out.latents, atol=1e-5, rtol=1e-5)
    with pytest.raises(Refused, match="no image to start from"):
        over(PROMPT)
    with pytest.raises(Refused, match="invalid strength"):
        over(PROMPT, image, strength=0.0)
    assert over(PROMPT, image, strength=0.1, num_inference_steps=2).latents.isfinite().all()


def test_image_to_image_starts_from_the_adjusted_latent(pipe_xl, networks):
    """Image-to-image starts from the scaled adjusted latent."""
    over = without_progress(
        TransparentImageToImagePipeline(pipe_xl.pipeline, pipe_xl.autoencoder, networks)
    )
    given = []
    over.pipeline.prepare_latents = _recording(over.pipeline.prepare_latents, given)
    over(PROMPT, glass(), strength=0.3, num_inference_steps=4)
    rgba = to_rgba(glass())
    adjusted = adjust(pipe_xl.autoencoder, networks.encoder, rgba[:, 3:], pad_colors(rgba))
    torch.testing.assert_close(given[0], adjusted * pipe_xl.autoencoder.scale)
    plain = pipe_xl.autoencoder.encode((rgba[:, :3] * 2 - 1) * rgba[:, 3:])[0]
    assert not torch.allclose(adjusted, plain)


def _recording(function, given):
    def recording(image, *arguments, **keywords):
        given.append(image)
        return function(image, *arguments, **keywords)

    return recording


@pytest.mark.parametrize("size", [(65, 70), (100, 24)])
def test_an_image_of_any_size_keeps_its_size(pipe, networks, size):
    over = without_progress(
        TransparentImageToImagePipeline(pipe.pipeline, pipe.autoencoder, networks)
    )
    image = np.resize(glass(128), (*size, 4))
    assert over(PROMPT, image, num_inference_steps=2).images[0].size == size[::-1]


def test_a_result_is_upscaled_with_its_alpha(pipe, networks):
    larger = without_progress(TransparentUpscalePipeline(pipe.pipeline, pipe.autoencoder, networks))
    small = pipe(PROMPT, generator=seeded(1), **FEW).images
    out = larger(PROMPT, small, upscale=1.5, num_inference_steps=4, generator=seeded(1))
    assert out.images[0].size == (96, 96)
    assert out.latents.shape[-2:] == (12, 12)


def test_upscaling_adds_no_color_fringes():
    """A blue disc with invisible white pixels around it stays blue at its edge."""
    rgba = to_rgba(glass())
    larger = resize_rgba(rgba, 160, 160)
    assert larger.shape == (1, 4, 160, 160)
    seen = larger[:, 3:] > 0.02
    blue = torch.tensor((30, 90, 200)).view(1, 3, 1, 1) / 255
    assert ((larger[:, :3] - blue).abs() * seen).max() < 0.03
    plain = torch.nn.functional.interpolate(rgba, 160, mode="bicubic").clamp(0, 1)
    assert ((plain[:, :3] - blue).abs() * (plain[:, 3:] > 0.02)).max() > 0.2
    torch.testing.assert_close(larger[:, 3].mean(), rgba[:, 3].mean(), atol=2e-3, rtol=0)
    assert not resize_rgba(torch.zeros(1, 4, 8, 8), 16, 16).any()


def test_fine_tuned_weights_and_a_users_lora_add_up(models, networks, tmp_path):
    """Our adapter and a LoRA loaded by the user add up, in either order."""
    preset = replace(PRESETS["sdxl"], model=models["sdxl"], image_size=64, adapter_rank=4)
    files = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        denoiser = new_denoiser(preset)
        with torch.no_grad():
            for value in denoiser.finetuned_state_dict().values():
                value.normal_(std=0.1)
        (tmp_path / str(seed)).mkdir()
        files.append(tmp_path / str(seed) / "adapter.safetensors")
        save_file(
            {name: value.contiguous() for name, value in denoiser.finetuned_state_dict().items()},
            files[-1],
        )

    ours, style = files
    pipe = without_progress(
        TransparentPipeline.from_pretrained(models["sdxl"], networks, adapter=ours)
    )
    before = pipe(PROMPT, generator=seeded(1), **FEW).latents
    plain = without_progress(TransparentPipeline.from_pretrained(models["sdxl"], networks))
    assert not torch.allclose(before, plain(PROMPT, generator=seeded(1), **FEW).latents)
    pipe.pipeline.load_lora_weights(style.parent, weight_name=style.name)
    both = pipe(PROMPT, generator=seeded(1), **FEW).latents
    assert not torch.allclose(both, before)
    pipe.pipeline.unload_lora_weights()
    torch.testing.assert_close(pipe(PROMPT, generator=seeded(1), **FEW).latents, before)

    plain.pipeline.load_lora_weights(style.parent, weight_name=style.name)
    plain.pipeline.fuse_lora()
    plain.pipeline.unload_lora_weights()
    merge_files(plain.pipeline.unet, ours)
    torch.testing.assert_close(
        plain(PROMPT, generator=seeded(1), **FEW).latents, both, atol=1e-4, rtol=1e-4
    )


def test_adapters_for_another_model_are_refused(models, networks, tmp_path):
    file = tmp_path / "offsets.safetensors"
    save_file({"conv_in.weight": torch.zeros(16, 4, 3, 3)}, file)
    with pytest.raises(Refused, match="does not fit this UNet"):
        TransparentPipeline.from_pretrained(models["sdxl"], networks, adapter=file)


def test_networks_load_from_a_part_of_a_checkpoint_and_from_released_files(
    store, networks, tmp_path, monkeypatch
):
    from curation.domain import TrainingRequest

    changed = {"latent_channels": "4"}
    request = TrainingRequest("transparency", "micro", "0" * 64, None, None, 0, changes=changed)
    sha = save_part(
        store,
        "transparency",
        networks.state_dict(),
        part_metadata("transparency", request, "test", offset_scale=7),
    )
    file = tmp_path / "part.safetensors"
    file.write_bytes(store.get(sha))
    loaded = load_transparency(file)
    assert loaded.encoder.offset_scale == 7
    assert load_transparency(str(file), offset_scale=2).encoder.offset_scale == 2
    for name, value in networks.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)

    released = tmp_path / "released"
    released.mkdir()
    monkeypatch.setitem(PRESETS, "sdxl", ROW)
    for name in ("encoder", "decoder"):
        save_file(dict(getattr(networks, name).state_dict()), released / f"{name}.safetensors")
    save_file({"conv_in.weight": torch.zeros(8, 4, 3, 3)}, released / "offsets.safetensors")
    for source in (released, [released / "decoder.safetensors", released / "encoder.safetensors"]):
        loaded = load_transparency(source, offset_scale=300)
        assert loaded.encoder.offset_scale == 300
        assert torch.equal(loaded.decoder.conv_in.weight, networks.decoder.conv_in.weight)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no safetensors files"):
        load_transparency(tmp_path / "empty")


def test_networks_of_other_latent_channels_are_refused(models):
    sixteen = Transparency(replace(ROW, latent_channels=16))
    with pytest.raises(Refused, match="16 channels, the model 4"):
        TransparentPipeline.from_pretrained(models["sdxl"], sixteen)


def test_half_precision_keeps_the_autoencoder_in_float32(models, networks):
    pipe = without_progress(
        TransparentPipeline.from_pretrained(models["sdxl"], networks, dtype=torch.bfloat16)
    ).to("cpu")
    assert (pipe.pipeline.unet.dtype, pipe.autoencoder.autoencoder.dtype) == (
        torch.bfloat16,
        torch.float32,
    )
    assert pipe.autoencoder.autoencoder is pipe.pipeline.vae
    assert pipe(PROMPT, output_type="pt", **FEW).images.dtype == torch.float32
    over = without_progress(
        TransparentImageToImagePipeline(pipe.pipeline, pipe.autoencoder, networks)
    )
    assert over(PROMPT, glass(), num_inference_steps=2).latents.isfinite().all()


def test_sizes_are_the_training_sizes_of_sdxl():
    assert len(SDXL_SIZES) == len(set(SDXL_SIZES)) == 40
    assert all(side % 64 == 0 for size in SDXL_SIZES for side in size)
    assert all(0.84 * 1024**2 < width * height <= 1.01 * 1024**2 for width, height in SDXL_SIZES)
    assert [nearest_size(aspect) for aspect in (1, 2 / 3, 16 / 9, 9)] == [
        (1024, 1024),
        (832, 1216),
        (1344, 768),
        (2048, 512),
    ]
    assert nearest_size(896 / 1152) == (896, 1152)
    assert scaled_size(1, 512) == (512, 512)
    assert scaled_size(3 / 4, 512) == (448, 576)


def test_images_of_every_kind_are_converted():
    image = glass(8)
    batch = to_rgba([Image.fromarray(image), image, image.astype(np.float32) / 255])
    assert batch.shape == (3, 4, 8, 8)
    assert torch.equal(batch[0], batch[1])
    assert torch.equal(to_rgba(batch), batch)
    opaque = to_rgba(Image.new("RGB", (4, 4), (255, 0, 0)))
    assert opaque[0, :, 0, 0].tolist() == [1, 0, 0, 1]
    assert np.array_equal(np.asarray(to_pil(batch)[0]), image)
    for wrong in (np.zeros((8, 8), np.uint8), [image, glass(9)]):
        with pytest.raises(Refused):
            to_rgba(wrong)


def test_the_autoencoder_can_be_replaced(models, networks):
    pipeline = StableDiffusionXLPipeline.from_pretrained(models["sdxl"])
    other = load_autoencoder(models["sd15"])
    assert TransparentPipeline(pipeline, other, networks).autoencoder is other
