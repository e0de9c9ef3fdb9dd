"""Pretrained denoisers: they agree with diffusers, train the right weights, and reload."""

from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline

from curation.errors import NotFound, Refused
from tests.training.pretrained import make_unet, write_sd15, write_sd21, write_sdxl
from training.denoiser.attention_sharing import attention_names
from training.denoiser.denoiser import Conditions
from training.denoiser.factory import load_denoiser, new_denoiser
from training.denoiser.finetuned_weights import PROJECTIONS, add_adapter, finetuned_state_dict
from training.denoiser.shared_attention import SharedAttention
from training.engine.distributed import enable_checkpointing
from training.presets.presets import PRESETS

WRITERS = {"sd15": write_sd15, "sd21": write_sd21, "sdxl": write_sdxl}
TIME = torch.tensor([3, 800])
TEXTS = ["a glass bottle", ""]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: str(write(folder / name)) for name, write in WRITERS.items()}


def row(models, family, **changes):
    known = PRESETS["sdxl" if family == "sdxl" else "sd15"]
    small = {
        "family": family,
        "model": models[family],
        "image_size": 64,
        "adapter_rank": 0,
        "precision": "fp32",
    }
    return replace(known, **(small | changes))


def noisy(count=2, channels=4, side=8, seed=0):
    return torch.randn((count, channels, side, side), generator=torch.Generator().manual_seed(seed))


def stir(denoiser):
    """Change the trainable tensors at random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return denoiser


@torch.no_grad()
def predict(denoiser):
    return denoiser.predict(noisy(), TIME, denoiser.encode(TEXTS))


@pytest.mark.parametrize("family", WRITERS)
@torch.no_grad()
def test_one_step_equals_that_of_the_pipeline(models, family):
    """Compare with the input and output of the pipeline's UNet in its first step with guidance."""
    denoiser = new_denoiser(row(models, family))
    pipeline = getattr(diffusers, denoiser.family.pipeline).from_pretrained(models[family])
    pipeline.set_progress_bar_config(disable=True)
    steps = []
    pipeline.unet.register_forward_hook(
        lambda _, inputs, outputs: steps.append((*inputs, outputs[0]))
    )
    pipeline(
        "a glass bottle",
        num_inference_steps=1,
        latents=noisy(1),
        output_type="latent",
        height=64,
        width=64,
    )
    ((latent, time, theirs),) = steps
    ours = denoiser.predict(latent, time.expand(2), denoiser.encode(["", "a glass bottle"]))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_empty_prompt_is_zeros_or_encoded_as_the_model_configures(models, tmp_path):
    for zeros in (True, False):
        model = str(write_sdxl(tmp_path / str(zeros), zeros=zeros))
        conditions = new_denoiser(row({"sdxl": model}, "sdxl")).encode(["", "red"])
        pipeline = StableDiffusionXLPipeline.from_pretrained(model)
        prompted, unprompted, pooled, unpooled = pipeline.encode_prompt("red", device="cpu")
        for ours, theirs in (
            (conditions.states_BLD, torch.cat([unprompted, prompted])),
            (conditions.pooled_BP, torch.cat([unpooled, pooled])),
        ):
            torch.testing.assert_close(ours, theirs)
        assert bool(conditions.states_BLD[0].any()) is not zeros


def test_size_conditions_are_used_by_sdxl_only(models):
    for family, matters in (("sdxl", True), ("sd15", False)):
        denoiser = new_denoiser(row(models, family))
        sizes = torch.tensor([[64, 64, 0, 0, 64, 64], [512, 64, 7, 0, 64, 64]])
        plain, text_conditions = denoiser.encode(TEXTS), denoiser.encode(TEXTS, sizes)
        assert (plain.sizes_B6 is not None) is matters
        with torch.no_grad():
            first, second = (
                denoiser.predict(noisy(), TIME, conditions)
                for conditions in (plain, text_conditions)
            )
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1]) is not matters


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("rank", [0, 4])
def test_finetuned_weights_reload(models, family, rank):
    preset = row(models, family, adapter_rank=rank)
    denoiser = stir(new_denoiser(preset))
    assert denoiser.metadata()["kind"] == ("adapter" if rank else "weights")
    again = load_denoiser(preset, denoiser.finetuned_state_dict(), denoiser.metadata())
    assert torch.equal(predict(denoiser), predict(again))
    assert again.metadata() == denoiser.metadata()
    assert not torch.allclose(predict(denoiser), predict(new_denoiser(preset)))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_only_trainable_parameters_are_trained(models):
    for rank in (0, 4):
        denoiser = new_denoiser(row(models, "sdxl", adapter_rank=rank)).train()
        before = {name: value.clone() for name, value in denoiser.state_dict().items()}
        assert not any(text.training for text in denoiser.texts)
        optimizer = torch.optim.AdamW(denoiser.trainable_parameters(), lr=1e-2)
        for _ in range(2):  # an adapter's second matrix is trained first
            optimizer.zero_grad()
            denoiser.predict(noisy(), TIME, denoiser.encode(TEXTS)).square().mean().backward()
            optimizer.step()
        moved = {
            name
            for name, value in denoiser.state_dict().items()
            if not torch.equal(value, before[name])
        }
        assert moved
        assert all(name.startswith("unet.") for name in moved)
        assert all((".lora_" in name) is bool(rank) for name in moved)
        trained = {id(parameter) for parameter in denoiser.trainable_parameters()}
        assert {id(p) for p in denoiser.parameters() if p.requires_grad} == trained
        assert sum(p.numel() for p in denoiser.trainable_parameters()) == sum(
            v.numel() for v in denoiser.finetuned_state_dict().values()
        )


def test_a_new_adapter_changes_nothing_and_has_names_of_diffusers(models, tmp_path):
    from safetensors.torch import save_file

    preset = row(models, "sdxl", adapter_rank=4)
    denoiser = new_denoiser(preset)
    torch.testing.assert_close(
        predict(denoiser), predict(new_denoiser(replace(preset, adapter_rank=0)))
    )
    names = set(denoiser.finetuned_state_dict())
    attentions = [name for name, _ in make_named(denoiser) if name.endswith(PROJECTIONS)]
    assert names == {f"unet.{name}.lora_{side}.weight" for name in attentions for side in "AB"}

    stir(denoiser)
    save_file(
        {name: value.contiguous() for name, value in denoiser.finetuned_state_dict().items()},
        tmp_path / "adapter.safetensors",
    )
    pipeline = StableDiffusionXLPipeline.from_pretrained(models["sdxl"])
    pipeline.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    conditions = denoiser.encode(TEXTS)
    with torch.no_grad():
        added = {"text_embeds": conditions.pooled_BP, "time_ids": conditions.sizes_B6}
        theirs = pipeline.unet(noisy(), TIME, conditions.states_BLD, added_cond_kwargs=added).sample
    torch.testing.assert_close(theirs, predict(denoiser), atol=1e-6, rtol=1e-5)


def make_named(denoiser):
    return [
        (name, module)
        for name, module in denoiser.pipeline.unet.named_modules()
        if hasattr(module, "lora_A")
    ]


def test_differences_are_added_and_trained_further_as_weights(models):
    preset = row(models, "sd15")
    plain, fitted = new_denoiser(preset), stir(new_denoiser(preset))
    names = [name for name in plain.finetuned_state_dict() if ".attn" in name]
    differences = {
        name: (fitted.finetuned_state_dict()[name] - plain.finetuned_state_dict()[name]).half()
        for name in names
    }
    opened = load_denoiser(preset, differences, {"kind": "difference"})
    for name, value in opened.finetuned_state_dict().items():
        expected = plain.finetuned_state_dict()[name] + (
            differences[name].float() if name in names else 0
        )
        assert torch.equal(value, expected)
    assert opened.metadata()["kind"] == "weights"
    with pytest.raises(Refused, match="does not fit"):
        load_denoiser(preset, {"conv_in.weigth": torch.zeros(1)}, {"kind": "difference"})


def test_released_attention_sharing_can_be_trained_further(models):
    """SD 1.5 as in layerdiffusion-v1: attention processors under the names of the released file."""
    preset = row(models, "sd15")
    plain = new_denoiser(preset)
    torch.manual_seed(0)
    tensors = {}
    for index, name in enumerate(attention_names(plain.unet)):
        attn = plain.unet.get_submodule(name)
        shared = SharedAttention(
            attn.to_q.in_features, attn.to_k.in_features, attn.heads, frames=1, rank=2
        )
        tensors |= {
            f"hookers.layers.{index}.{key}": value for key, value in shared.state_dict().items()
        }
    opened = load_denoiser(preset, tensors, {"kind": "sharing"})
    trained = opened.finetuned_state_dict()
    assert trained.keys() == tensors.keys()
    assert all(torch.equal(trained[name], tensors[name]) for name in tensors)
    assert not torch.allclose(predict(opened), predict(plain))
    assert {p.numel() for p in opened.trainable_parameters()} == {
        value.numel() for value in tensors.values()
    }
    again = load_denoiser(preset, stir(opened).finetuned_state_dict(), opened.metadata())
    assert torch.equal(predict(again), predict(opened))


def test_additional_input_channels_widen_the_first_convolution(models):
    """As in the released two-step models: 8 input channels, of which 4 are initially unused."""
    preset = row(models, "sdxl")
    plain = new_denoiser(preset)
    wide = torch.zeros(32, 8, 3, 3)
    opened = load_denoiser(preset, {"conv_in.weight": wide}, {"kind": "difference"})
    doubled = torch.cat([noisy(), noisy(seed=5)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(
            opened.predict(doubled, TIME, opened.encode(TEXTS)), predict(plain)
        )
    assert opened.unet.config.in_channels == 8
    again = load_denoiser(preset, opened.finetuned_state_dict(), opened.metadata())
    assert again.finetuned_state_dict()["conv_in.weight"].shape[1] == 8


def test_other_sizes_and_kinds_are_refused(models):
    preset = row(models, "sd15", adapter_rank=4)
    denoiser = new_denoiser(preset)
    with pytest.raises(Refused, match="does not fit"):
        load_denoiser(
            preset,
            new_denoiser(row(models, "sdxl", adapter_rank=4)).finetuned_state_dict(),
            denoiser.metadata(),
        )
    with pytest.raises(Refused, match="does not fit"):
        load_denoiser(
            preset, denoiser.finetuned_state_dict(), {**denoiser.metadata(), "kind": "weights"}
        )
    with pytest.raises(Refused, match="unknown kind of base: 'hypernetwork'"):
        load_denoiser(preset, {}, {"kind": "hypernetwork"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_works_in_the_given_dtype(models, dtype):
    denoiser = new_denoiser(row(models, "sdxl", adapter_rank=4))
    exact = predict(denoiser)
    half = predict(denoiser.to(dtype))
    assert half.dtype == noisy().dtype
    assert (half - exact).abs().mean() < 0.02
    assert all(value.dtype == dtype for value in denoiser.finetuned_state_dict().values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_frozen_unet_has_the_precision_of_the_preset_and_its_adapter_float32(models, precision):
    exact = stir(new_denoiser(row(models, "sdxl", adapter_rank=4)))
    denoiser = new_denoiser(row(models, "sdxl", adapter_rank=4, precision=precision))
    denoiser.load_finetuned(exact.finetuned_state_dict())
    types = {name: parameter.dtype for name, parameter in denoiser.unet.named_parameters()}
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert all(
        dtype == (torch.float32 if ".lora_" in name else half) for name, dtype in types.items()
    )
    assert {value.dtype for value in denoiser.finetuned_state_dict().values()} == {torch.float32}
    assert (predict(denoiser) - predict(exact)).abs().mean() < 0.02
    with torch.autocast("cpu", half):
        denoiser.predict(noisy(), TIME, denoiser.encode(TEXTS)).square().mean().backward()
    assert all(
        parameter.grad.dtype == torch.float32 for parameter in denoiser.trainable_parameters()
    )
    whole = new_denoiser(row(models, "sdxl", precision=precision))
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}


def test_an_adapter_of_sdxl_has_the_released_parameter_count():
    """Rank 256 on 560 projections: the 371,589,120 parameters of layer_xl_transparent_attn."""
    with torch.device("meta"):
        unet = make_unet(
            (320, 640, 1280),
            layers_per_block=2,
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            use_linear_projection=True,
            norm_num_groups=32,
        )
        add_adapter(unet, 256, 256)
    tensors = finetuned_state_dict(unet, "adapter")
    assert (len(tensors) // 2, sum(value.numel() for value in tensors.values())) == (
        560,
        371_589_120,
    )


def test_checkpointing_gives_the_same_gradients(models):
    gradients = []
    for saves in (False, True):
        denoiser = new_denoiser(row(models, "sdxl")).train()
        if saves:
            enable_checkpointing(denoiser.unet)
        denoiser.predict(noisy(), TIME, denoiser.encode(TEXTS)).square().mean().backward()
        gradients.append([parameter.grad for parameter in denoiser.trainable_parameters()])
    assert denoiser.unet.is_gradient_checkpointing
    for plain, saved in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saved)


def test_scale_and_schedule_are_those_of_the_model(models):
    xl, v = new_denoiser(row(models, "sdxl")), new_denoiser(row(models, "sd21"))
    latent = noisy()
    torch.testing.assert_close(xl.normalize(latent), latent * 0.13025)
    torch.testing.assert_close(xl.denormalize(xl.normalize(latent)), latent)
    assert (xl.schedule().config.prediction_type, v.schedule().config.prediction_type) == (
        "epsilon",
        "v_prediction",
    )
    reference = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert torch.equal(xl.schedule().alphas_cumprod, reference.alphas_cumprod)


def test_the_preset_overrides_the_schedule(models):
    changed = new_denoiser(
        row(models, "sd15", prediction="v_prediction", zero_terminal_snr=True)
    ).schedule()
    assert changed.config.prediction_type == "v_prediction"
    assert changed.alphas_cumprod[-1].sqrt() < 1e-3
    with pytest.raises(Refused, match="zero terminal SNR"):
        new_denoiser(row(models, "sd15", zero_terminal_snr=True)).schedule()


def test_conditions_are_sliced_and_concatenated(models):
    denoiser = new_denoiser(row(models, "sdxl"))
    together, apart = denoiser.encode(TEXTS), [denoiser.encode([text]) for text in TEXTS]
    joined = Conditions.join(apart)
    for name in ("states_BLD", "pooled_BP", "sizes_B6"):
        torch.testing.assert_close(getattr(joined, name), getattr(together, name))
        torch.testing.assert_close(getattr(together.take([1]), name), getattr(apart[1], name))
    assert joined.mask_BL is None
    assert joined.to("cpu", torch.bfloat16).pooled_BP.dtype == torch.bfloat16


def test_a_missing_model_or_file_is_refused(models, tmp_path):
    preset = row(models, "sd15")
    with pytest.raises(NotFound, match="there is no folder"):
        new_denoiser(replace(preset, model=str(tmp_path / "nowhere")))
    with pytest.raises(Refused, match="two text encoders"):
        new_denoiser(replace(preset, model=models["sdxl"]))
    with pytest.raises(Refused, match="training of latent transparency only"):
        new_denoiser(replace(preset, family="sd3"))
    with pytest.raises(Refused, match="not a complete diffusers model") as refused:
        new_denoiser(replace(preset, variant="fp16"))
    assert "--set variant=none" in refused.value.hint
    with pytest.raises(NotFound, match="unknown model family"):
        new_denoiser(replace(preset, family="dalle"))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_truncated_file_is_refused(tmp_path, part):
    model = write_sd15(tmp_path / "short")
    [weights] = (model / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(Refused, match="not a complete diffusers model"):
        new_denoiser(row({"sd15": str(model)}, "sd15"))


def test_a_variant_loads_and_is_named_in_the_hint(tmp_path):
    model = write_sd15(tmp_path / "half", variant="fp16")
    with pytest.raises(Refused, match="not a complete diffusers model") as refused:
        new_denoiser(row({"sd15": str(model)}, "sd15"))
    assert "--set variant=fp16" in refused.value.hint
    denoiser = new_denoiser(row({"sd15": str(model)}, "sd15", variant="fp16"))
    assert predict(denoiser).isfinite().all()
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}


def test_pickled_weights_are_refused(tmp_path):
    model = write_sd15(tmp_path / "pickled")
    for path in [*model.rglob("*.safetensors")]:
        torch.save({}, path.with_suffix(".bin"))
        path.unlink()
    with pytest.raises(Refused, match="only pickled weights") as refused:
        new_denoiser(row({"sd15": str(model)}, "sd15"))
    assert "safetensors" in refused.value.hint


@pytest.mark.filterwarnings(
    "ignore:The `local_dir_use_symlinks`:UserWarning"
)  # diffusers still logs it
def test_a_model_that_cannot_be_downloaded_raises_not_found(monkeypatch, models):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match="cannot be downloaded") as missing:
        new_denoiser(replace(row(models, "sd15"), model="somebody/something"))
    assert "hf download" in missing.value.hint
