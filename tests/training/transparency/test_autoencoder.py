"""The linear autoencoder compared with PCA, and autoencoders of diffusers."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL

from curation.errors import NotFound, Refused
from tests.training.pretrained import make_vae, write_vae
from training.presets.presets import PRESETS
from training.transparency.autoencoder import fit_autoencoder, load_autoencoder, open_autoencoder

MICRO = PRESETS["micro"]


def _images(count=24):
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=rng) * 2 - 1
    fine = 0.1 * torch.randn(count, 3, 32, 32, generator=rng)
    return (torch.nn.functional.interpolate(coarse, 32, mode="bilinear") + fine).clamp(-1, 1)


def test_with_all_components_images_are_reconstructed_exactly():
    images = _images()
    autoencoder = fit_autoencoder(replace(MICRO, stride=4, latent_channels=48), images)
    mean, _ = autoencoder.encode(images)
    assert mean.shape == (24, 48, 8, 8)
    assert torch.allclose(autoencoder.decode(mean), images, atol=1e-4)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_scaled_latents_have_unit_variance_and_decode_to_the_best_linear_image(whitening):
    images = _images()
    autoencoder = fit_autoencoder(replace(MICRO, whitening=whitening), images)
    latent, std = autoencoder.encode(images)
    scaled = latent * autoencoder.scale
    channels = scaled.var(dim=(0, 2, 3), unbiased=False) + scaled.mean(dim=(0, 2, 3)) ** 2
    assert channels.mean() == pytest.approx(1.0, rel=1e-3)
    if whitening == 1.0:
        assert torch.allclose(channels, torch.ones(16), rtol=1e-3)
    # The error is the variance of the components left out: sigma^2 in each remaining direction.
    error = ((autoencoder.decode(latent) - images) ** 2).sum() / (24 * 16)
    assert error == pytest.approx(float(autoencoder.sigma**2) * (192 - 16), rel=1e-3)
    assert torch.allclose(std[0, :, 0, 0] * autoencoder.gain, autoencoder.sigma.expand(16))


def test_an_offset_of_one_posterior_deviation_has_the_same_error_in_every_channel():
    images = _images()
    autoencoder = fit_autoencoder(MICRO, images)
    latent, std = autoencoder.encode(images[:1])
    costs = []
    for channel in range(MICRO.latent_channels):
        shifted = latent.clone()
        shifted[:, channel] += std[:, channel]
        costs.append(
            float(((autoencoder.decode(shifted) - autoencoder.decode(latent)) ** 2).mean())
        )
    assert max(costs) == pytest.approx(min(costs), rel=1e-3)


def test_fitting_is_deterministic_and_a_stored_autoencoder_is_the_same():
    images = _images()
    first, second = fit_autoencoder(MICRO, images), fit_autoencoder(MICRO, images)
    loaded = open_autoencoder(first.state_dict(), first.metadata())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert torch.equal(first.encode(images)[0], loaded.encode(images)[0])
    assert loaded.scale == first.scale
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("folder_name", ["vae", "alone"])
def test_an_autoencoder_of_diffusers_loads_from_a_model_or_its_own_folder(
    tmp_path, channels, folder_name
):
    """Four channels as in Stable Diffusion, and 16 with a shift as in SD 3 and Flux."""
    write_vae(tmp_path / folder_name, channels)
    model = str(tmp_path if folder_name == "vae" else tmp_path / folder_name)
    preset = replace(PRESETS["sd3" if channels == 16 else "sdxl"], model=model)
    autoencoder = fit_autoencoder(preset, torch.empty(0))
    reference = AutoencoderKL.from_pretrained(tmp_path / folder_name)
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    mean, std = autoencoder.encode(images)
    assert mean.shape == std.shape == (2, channels, 8, 6)
    assert (autoencoder.latent_channels, autoencoder.stride) == (
        preset.latent_channels,
        preset.stride,
    )
    assert (autoencoder.scale, autoencoder.shift) == (
        reference.config.scaling_factor,
        reference.config.shift_factor or 0,
    )
    torch.testing.assert_close(mean, reference.encode(images).latent_dist.mean)
    torch.testing.assert_close(autoencoder.decode(mean), reference.decode(mean).sample)
    loaded = open_autoencoder(autoencoder.state_dict(), autoencoder.metadata())
    assert torch.equal(loaded.encode(images)[0], mean)
    assert (loaded.scale, loaded.shift) == (autoencoder.scale, autoencoder.shift)


def test_gradients_reach_the_latent_and_no_weight(tmp_path):
    autoencoder = load_autoencoder(str(write_vae(tmp_path / "vae")))
    latent = torch.randn(1, 4, 8, 8, requires_grad=True)
    autoencoder.decode(latent).square().mean().backward()
    assert latent.grad.abs().min() > 0
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())


@pytest.mark.parametrize("overflows", [True, False])
def test_an_autoencoder_with_force_upcast_stays_in_float32(tmp_path, overflows):
    """With features beyond the range of float16, as SDXL has, `force_upcast` keeps float32."""
    vae = make_vae(force_upcast=overflows)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name == "decoder.conv_in.weight":
                parameter.mul_(2e5)
    vae.save_pretrained(tmp_path / "vae")
    autoencoder = load_autoencoder(str(tmp_path / "vae")).half()
    image = autoencoder.decode(torch.randn(1, 4, 8, 8).half())
    assert image.dtype == torch.float16
    assert bool(image.isfinite().all()) is overflows
    assert autoencoder.autoencoder.dtype == (torch.float32 if overflows else torch.float16)


def test_autocast_does_not_change_the_autoencoder(tmp_path):
    autoencoder = load_autoencoder(str(write_vae(tmp_path / "vae", 16)))
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    plain = autoencoder.encode(images)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(autoencoder.encode(images)[0], plain)
        assert torch.equal(autoencoder.decode(plain), autoencoder.decode(plain.clone()))
        assert autoencoder.decode(plain).dtype == torch.float32


@torch.no_grad()
def test_only_images_larger_than_a_tile_are_tiled(tmp_path):
    autoencoder = load_autoencoder(str(write_vae(tmp_path / "vae")))
    images = torch.rand(1, 3, 128, 96) * 2 - 1
    latent = autoencoder.encode(images)[0]
    assert torch.equal(autoencoder.encode(images, tile=128)[0], latent)
    tiled = autoencoder.encode(images, tile=64)[0]
    assert tiled.shape == latent.shape
    assert not torch.equal(tiled, latent)
    assert autoencoder.decode(latent, tile=64).shape == images.shape
    assert torch.equal(autoencoder.decode(latent), autoencoder.decode(latent, tile=128))


def test_a_missing_or_broken_autoencoder_is_refused(tmp_path):
    with pytest.raises(NotFound, match="there is no folder"):
        load_autoencoder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="not a complete diffusers model"):
        load_autoencoder(str(tmp_path / "empty"))
    write_vae(tmp_path / "broken")
    weights = tmp_path / "broken" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Refused, match="not a complete diffusers model"):
        load_autoencoder(str(tmp_path / "broken"))


def test_an_unknown_kind_is_refused():
    with pytest.raises(Refused, match="unknown kind of autoencoder"):
        open_autoencoder({}, {"kind": "wavelet"})
