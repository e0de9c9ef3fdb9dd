"""The denoiser: shapes, conditioning, normalization, and a schedule that ends in pure noise."""

from dataclasses import replace

import pytest
import torch

from curation.errors import Refused
from training.denoiser.builtin import BuiltinDenoiser, ConditionalUNet, noise_schedule, unet_config
from training.denoiser.factory import load_denoiser
from training.presets.presets import PRESETS

MICRO = PRESETS["micro"]
SIDE = MICRO.image_size // MICRO.stride


def noisy(count, seed=0):
    shape = (count, MICRO.latent_channels, SIDE, SIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_denoiser(name):
    """Return a denoiser whose last layer is not zero, so that its output is not."""
    torch.manual_seed(0)
    denoiser = BuiltinDenoiser(replace(MICRO, denoiser=name)).eval()
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return denoiser


@pytest.fixture(params=["transformer", "unet"])
def denoiser(request):
    return make_denoiser(request.param)


@torch.no_grad()
def test_predictions_depend_on_prompt_and_timestep(denoiser):
    latent, time = noisy(3), torch.tensor([0, 500, 999])
    predicted = denoiser.predict(latent, time, denoiser.encode(["a red circle", "", "two words"]))
    assert predicted.shape == latent.shape
    assert predicted.isfinite().all()
    other = denoiser.predict(latent, time, denoiser.encode(["a blue circle", "", "two words"]))
    assert not torch.allclose(predicted[0], other[0])
    torch.testing.assert_close(predicted[1:], other[1:])
    same = denoiser.encode(["a red circle", "", "two words"])
    assert not torch.allclose(predicted, denoiser.predict(latent, time.flip(0), same))


@torch.no_grad()
def test_a_token_mixes_with_its_eight_neighbors():
    layer = make_denoiser("transformer").network.layers[0]
    tokens_BND = torch.zeros(1, SIDE * SIDE, MICRO.dit_width)
    baseline_BND = layer._mix_neighbors(tokens_BND)
    tokens_BND[:, SIDE + 1] = 1
    changed = (layer._mix_neighbors(tokens_BND) - baseline_BND).abs().sum((0, 2)).reshape(
        SIDE, SIDE
    ) > 0
    assert changed[:3, :3].all()
    assert changed.sum() == 9


@torch.no_grad()
def test_prompt_padding_does_not_affect_the_prediction(denoiser):
    """Masked text states do not affect the prediction."""
    latent, time = noisy(2), torch.tensor([10, 900])
    conditions = denoiser.encode(["a red circle", "a longer prompt than that"])
    states, mask = conditions.states_BLD, conditions.mask_BL
    other = replace(conditions, states_BLD=torch.where(mask[..., None], states, states + 100.0))
    first, second = (
        denoiser.predict(latent, time, conditions),
        denoiser.predict(latent, time, other),
    )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_normalized_latents_have_zero_mean_and_unit_standard_deviation(denoiser):
    scales = torch.linspace(0.01, 30, MICRO.latent_channels)[:, None, None]
    latent = noisy(64) * scales + scales
    denoiser.fit_scale(latent)
    normal = denoiser.normalize(latent)
    torch.testing.assert_close(
        normal.mean((0, 2, 3)), torch.zeros(MICRO.latent_channels), atol=1e-4, rtol=0
    )
    assert normal.std() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(
        normal[:, 0].std() / normal[:, 1].std(), latent[:, 0].std() / latent[:, 1].std()
    )
    torch.testing.assert_close(denoiser.denormalize(normal), latent, atol=1e-4, rtol=1e-4)


def test_a_constant_channel_is_normalized_to_finite_values(denoiser):
    denoiser.fit_scale(torch.zeros(4, MICRO.latent_channels, SIDE, SIDE))
    assert denoiser.normalize(noisy(1)).isfinite().all()


def test_stored_tensors_load_as_the_same_denoiser(denoiser):
    denoiser.fit_scale(noisy(8) * 3)
    name = "unet" if isinstance(denoiser.network, ConditionalUNet) else "transformer"
    loaded = load_denoiser(
        replace(MICRO, denoiser=name), denoiser.finetuned_state_dict(), denoiser.metadata()
    )
    time, texts = torch.tensor([7]), ["a heart"]
    with torch.no_grad():
        first, second = (
            model.predict(noisy(1), time, model.encode(texts)) for model in (denoiser, loaded)
        )
    assert torch.equal(first, second)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_tensors_of_another_size_are_refused():
    with pytest.raises(Refused, match="does not fit preset 'micro'"):
        load_denoiser(
            replace(MICRO, text_width=64),
            BuiltinDenoiser(MICRO).finetuned_state_dict(),
            {"kind": "own"},
        )


def test_zero_terminal_snr_ends_in_pure_noise():
    levels = noise_schedule(
        replace(MICRO, zero_terminal_snr=True, prediction="v_prediction")
    ).alphas_cumprod
    assert levels[-1].sqrt() < 1e-3
    assert (levels.diff() < 0).all()
    plain = noise_schedule(replace(MICRO, zero_terminal_snr=False)).alphas_cumprod
    assert plain[-1] == pytest.approx(0.00466, rel=1e-2)  # the value of Stable Diffusion


def test_preset_sd15_has_the_unet_of_stable_diffusion():
    """Compare with unet/config.json of Stable Diffusion 1.5."""
    config = unet_config(PRESETS["sd15"])
    assert config["block_out_channels"] == (320, 640, 1280, 1280)
    assert config["down_block_types"] == (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    assert config["up_block_types"] == ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    assert (config["cross_attention_dim"], config["in_channels"], config["sample_size"]) == (
        768,
        4,
        64,
    )
    assert config["norm_num_groups"] == 32
