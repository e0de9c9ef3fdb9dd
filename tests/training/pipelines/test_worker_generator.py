"""Generation by a checkpoint over a pretrained model, through the pipelines, repeatably."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import PNDMScheduler, UNet2DConditionModel
from peft import LoraConfig
from typer.testing import CliRunner

from curation.checkpoints.registry import register_checkpoint
from curation.cli.main import app
from curation.domain import Checkpoint, GenerationRequest, LayerRole, Prompt
from curation.errors import NotFound, Refused
from curation.images.codec import encode_layer
from curation.images.provenance import read_image, read_provenance
from curation.ports import GenerationOptions
from curation.runtime.context import open_store
from tests.training.pretrained import BETAS, write_sd15, write_sd21, write_sdxl
from training.checkpoint import load_checkpoint
from training.denoiser.factory import new_denoiser
from training.denoiser.sampling import generate_layers
from training.generate import load_generator
from training.pipelines import TransparentPipeline
from training.pipelines.loading import merge_weights
from training.pipelines.worker_generator import SCHEDULERS, open_pipeline
from training.presets.presets import find_preset
from training.safetensors_io import save_part
from training.transparency.autoencoder import load_autoencoder
from training.transparency.networks import Transparency

CHANGES = {
    "image_size": "64",
    "adapter_rank": "4",
    "draw_steps": "2",
    "encoder_widths": "16,32",
    "decoder_widths": "16,32",
    "decoder_layers": "1",
    "decoder_attention": "0",
    "fold": "4",
    "decoder_views": "1",
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_sdxl(tmp_path_factory.mktemp("models") / "sdxl"))


def make_checkpoint(store, model, name="sdxl", **changes):
    """Return a checkpoint with random weights, stored as by a training."""
    changed = CHANGES | {"model": model} | changes
    preset = find_preset(name, changed)
    torch.manual_seed(0)
    denoiser, autoencoder, networks = (
        new_denoiser(preset),
        load_autoencoder(model),
        Transparency(preset),
    )
    with torch.no_grad():
        for value in denoiser.finetuned_state_dict().values():
            value.add_(0.05 * torch.randn(value.shape))
        networks.decoder.latent_conv_in.weight.normal_(std=0.1)
    files = {
        "backbone": save_part(store, "backbone", autoencoder.state_dict(), autoencoder.metadata()),
        "transparency": save_part(
            store, "transparency", networks.state_dict(), {"offset_scale": "1"}
        ),
        "base": save_part(store, "base", denoiser.finetuned_state_dict(), denoiser.metadata()),
    }
    return Checkpoint(files, "whole", name, None, None, 0, "test", changes=changed)


@pytest.fixture
def checkpoint(store, model):
    return make_checkpoint(store, model)


def request(seed=1):
    return GenerationRequest(Prompt("a glass bottle"), seed)


def generate_one(generator, **options):
    [layers] = generator.generate([request()], GenerationOptions(**options))
    return layers[LayerRole.foreground]


def pixels(layers):
    return [layer[LayerRole.foreground] for layer in layers]


def test_a_request_does_not_depend_on_its_batch(checkpoint, store):
    generator = load_generator(checkpoint, store)
    requests = [request(seed=k) for k in range(3)]
    together = pixels(generator.generate(requests))
    assert {(layer.shape, layer.dtype) for layer in together} == {((64, 64, 4), np.dtype(np.uint8))}
    assert len({layer.tobytes() for layer in together}) == 3
    for layer in together:
        assert not layer[layer[..., 3] == 0].any()
    again = load_generator(checkpoint, store)
    for k in (2, 0, 1):
        assert np.array_equal(pixels(again.generate([requests[k]]))[0], together[k])
    assert generator.generate([]) == []


def test_batches_are_padded_so_that_a_result_is_bit_identical(store, model):
    generator = load_generator(make_checkpoint(store, model, draw_batch="2"), store)
    requests = [request(seed=k) for k in range(3)]
    together = pixels(generator.generate(requests))
    for k, one in enumerate(requests):
        assert np.array_equal(pixels(generator.generate([one]))[0], together[k])


def test_results_equal_those_of_the_public_pipeline(checkpoint, store):
    parts = load_checkpoint(checkpoint, store)
    pipe = open_pipeline(parts)
    assert isinstance(pipe, TransparentPipeline)
    generator = torch.Generator().manual_seed(1)
    image = pipe(
        "a glass bottle",
        num_inference_steps=2,
        guidance_scale=7.0,
        height=64,
        width=64,
        generator=generator,
    ).images[0]
    drawn = pixels(load_generator(checkpoint, store).generate([request()]))[0]
    seen = drawn[..., 3] > 0
    assert np.array_equal(np.asarray(image)[seen], drawn[seen])


@torch.no_grad()
def test_the_trained_weights_generate(checkpoint, store):
    """The UNet of the merged pipeline equals the denoiser with its adapter."""
    parts = load_checkpoint(checkpoint, store)
    from training.denoiser.factory import load_denoiser

    denoiser, pipe = load_denoiser(parts.preset, *parts.base), open_pipeline(parts)
    conditions = denoiser.encode(["a glass bottle"])
    latent, time = (
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500]),
    )
    added = {"text_embeds": conditions.pooled_BP, "time_ids": conditions.sizes_B6}
    merged = pipe.pipeline.unet(latent, time, conditions.states_BLD, added_cond_kwargs=added).sample
    torch.testing.assert_close(
        merged, denoiser.predict(latent, time, conditions), atol=1e-5, rtol=1e-4
    )
    assert not any(".lora_" in name for name, _ in pipe.pipeline.unet.named_parameters())
    [expected] = generate_layers(
        denoiser,
        parts.autoencoder,
        parts.transparency.decoder,
        parts.preset,
        ["a glass bottle"],
        [1],
    )
    assert expected.shape == (64, 64, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"negative": "bad, ugly"}, {"steps": 3}, {"guidance": 1.5}, {"size": (72, 48)}, {"upscale": 1.5},
        *({"sampler": name, "steps": 3} for name in SCHEDULERS),
    ],
    ids=str,
)  # fmt: skip
def test_options_have_an_effect_and_are_described(checkpoint, store, options):
    generator = load_generator(checkpoint, store)
    plain, other = generate_one(generator), generate_one(generator, **options)
    assert plain.shape != other.shape or not np.array_equal(plain, other)
    width, height = options.get("size", (64, 64))
    times = options.get("upscale", 1)
    assert other.shape == (round(height * times), round(width * times), 4)
    assert np.array_equal(generate_one(generator), plain), "options of one call reach no other"
    description = generator.describe(GenerationOptions(**options))
    assert description["model"] == "sdxl", "the folder's name alone"
    assert description["steps"] == str(options.get("steps", 2))
    assert description["guidance"] == str(options.get("guidance", 7.0))
    assert description["sampler"] == options.get("sampler", "EulerDiscrete")
    assert description["size"] == f"{width}x{height}"
    assert description.get("upscale") == (str(times) if times != 1 else None)


@pytest.mark.parametrize(
    ("side", "aspect", "size"),
    [(1024, 2 / 3, "832x1216"), (64, 1.0, "64x64"), (256, 2.0, "384x192")],
)
def test_an_aspect_ratio_selects_a_training_size(store, model, side, aspect, size):
    generator = load_generator(make_checkpoint(store, model, image_size=str(side)), store)
    assert generator.describe(GenerationOptions(aspect=aspect))["size"] == size


def test_image_to_image_starts_from_a_stored_layer(checkpoint, store):
    rgba = np.zeros((40, 56, 4), np.uint8)
    rgba[10:30, 10:30] = (200, 30, 30, 128)
    sha = store.put(encode_layer(rgba))
    generator = load_generator(checkpoint, store)
    weak, strong = (generate_one(generator, image=sha, strength=s, steps=4) for s in (0.3, 1.0))
    assert weak.shape == strong.shape == rgba.shape
    assert not np.array_equal(weak, strong)
    description = generator.describe(GenerationOptions(image=sha, strength=0.3))
    assert (description["image"], description["strength"]) == (sha, "0.3")
    with pytest.raises(NotFound):
        generate_one(generator, image="0" * 64)


def test_unknown_samplers_and_checkpoints_without_a_base_are_refused(checkpoint, store):
    with pytest.raises(NotFound, match="no sampler"):
        generate_one(load_generator(checkpoint, store), sampler="magic")
    files = {name: file for name, file in checkpoint.files.items() if name != "base"}
    with pytest.raises(Refused, match="no base model"):
        load_generator(replace(checkpoint, files=files), store)
    gone = replace(checkpoint, changes={**checkpoint.changes, "model": "/nowhere"})
    with pytest.raises(NotFound, match="there is no folder"):
        load_generator(gone, store)


def test_full_fine_tuning_and_v_prediction_work(store, tmp_path):
    model = str(write_sd21(tmp_path / "sd21"))
    generator = load_generator(make_checkpoint(store, model, "sd21", adapter_rank="0"), store)
    assert generator.scheduler.config.prediction_type == "v_prediction"
    assert generate_one(generator).shape == (64, 64, 4)


def test_a_schedule_that_the_preset_overrides_is_used(store, model):
    changed = {"prediction": "v_prediction", "zero_terminal_snr": "true"}
    generator = load_generator(make_checkpoint(store, model, **changed), store)
    config = generator.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr, config.timestep_spacing) == (
        "v_prediction",
        True,
        "trailing",
    )
    assert generate_one(generator).shape == (64, 64, 4)


@pytest.mark.gpu
def test_generation_on_a_gpu_has_the_precision_of_the_preset(store, model):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    generator = load_generator(make_checkpoint(store, model, precision="bf16"), store)
    pipeline = generator.pipe.pipeline
    assert (pipeline.unet.device.type, pipeline.unet.dtype) == ("cuda", torch.bfloat16)
    assert generator.pipe.autoencoder.autoencoder.dtype == torch.float32
    first, second = (generate_one(generator) for _ in range(2))
    assert first.shape == (64, 64, 4)
    assert np.array_equal(first, second)


def test_the_command_generates_from_text_and_images(
    settings, database, model, tmp_path, monkeypatch
):
    """`layerloop generate` from text, and then from its result, changed and upscaled."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and not name.startswith("LAYERLOOP_TEST_"):
            monkeypatch.setenv(name, value)
    kept = make_checkpoint(open_store(settings), model)
    with database.transaction() as tx:
        register_checkpoint(tx, kept, "test")
    first, second = tmp_path / "first.png", tmp_path / "second.webp"
    call = ["generate", "a glass bottle", "--checkpoint", kept.id[:12]]
    drawing = CliRunner().invoke(
        app, [*call, "--out", str(first), "--size", "72x48"], catch_exceptions=False
    )
    assert drawing.stdout == f"{first}\n"
    metadata = read_provenance(first)
    assert (metadata["size"], metadata["steps"], metadata["sampler"]) == (
        "72x48",
        "2",
        "EulerDiscrete",
    )
    more = ["--image", str(first), "--upscale", "1.5", "--steps", "4", "--out", str(second)]
    CliRunner().invoke(app, [*call, *more], catch_exceptions=False)
    assert read_image(second).shape == (72, 108, 4)
    assert read_provenance(second)["upscale"] == "1.5"


def test_a_scheduler_without_zero_terminal_snr_is_replaced(store, tmp_path):
    model = write_sd15(tmp_path / "sd15")
    PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1).save_pretrained(model / "scheduler")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(
        json.dumps(index | {"scheduler": ["diffusers", "PNDMScheduler"]})
    )
    changed = {"prediction": "v_prediction", "zero_terminal_snr": "true"}
    generator = load_generator(make_checkpoint(store, str(model), "sd15", **changed), store)
    assert float(generator.scheduler.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-7)
    plain = load_generator(make_checkpoint(store, str(model), "sd15"), store)
    assert type(plain.scheduler).__name__ == "PNDMScheduler"


def test_an_offloaded_pipeline_generates_the_same(checkpoint, store):
    home = load_generator(checkpoint, store)
    away = load_generator(checkpoint, store)
    for part in (away.pipe.pipeline.vae, away.pipe.pipeline.unet):
        cpu_offload(part, execution_device="cpu")  # weights are on "meta" until they are needed
    assert np.array_equal(generate_one(home), generate_one(away))


def test_an_adapter_of_the_user_may_be_loaded_before(store, model, checkpoint):
    parts = load_checkpoint(checkpoint, store)
    first, second = (
        UNet2DConditionModel.from_pretrained(model, subfolder="unet") for _ in range(2)
    )
    first.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    for unet in (first, second):
        merge_weights(unet, *parts.base)
    fitted = first.state_dict()
    for name, value in second.state_dict().items():
        leaf = name if name in fitted else ".base_layer.".join(name.rsplit(".", 1))
        assert torch.equal(fitted[leaf], value), name
