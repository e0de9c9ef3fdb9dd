"""The linear backbone against PCA's own facts, and diffusers' autoencoder through the same door."""

from dataclasses import replace

import pytest
import torch

from curation.errors import Refused
from training.backbone import fit_backbone, open_backbone
from training.presets import PRESETS

MICRO = PRESETS["micro"]


def _images(count=24):
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=rng) * 2 - 1
    fine = 0.1 * torch.randn(count, 3, 32, 32, generator=rng)
    return (torch.nn.functional.interpolate(coarse, 32, mode="bilinear") + fine).clamp(-1, 1)


def test_with_all_components_nothing_is_lost():
    images = _images()
    backbone = fit_backbone(replace(MICRO, stride=4, latent_channels=48), images)
    mean, _ = backbone.encode(images)
    assert mean.shape == (24, 48, 8, 8)
    assert torch.allclose(backbone.decode(mean), images, atol=1e-4)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_latents_have_unit_variance_once_scaled_and_decode_to_the_best_linear_image(whitening):
    images = _images()
    backbone = fit_backbone(replace(MICRO, whitening=whitening), images)
    latent, std = backbone.encode(images)
    scaled = latent * backbone.scale
    channels = scaled.var(dim=(0, 2, 3), unbiased=False) + scaled.mean(dim=(0, 2, 3)) ** 2
    assert channels.mean() == pytest.approx(1.0, rel=1e-3)
    if whitening == 1.0:
        assert torch.allclose(channels, torch.ones(16), rtol=1e-3)
    # What is lost is the variance that the model says it leaves out: sigma^2 in each of the remaining directions.
    lost = ((backbone.decode(latent) - images) ** 2).sum() / (24 * 16)
    assert lost == pytest.approx(float(backbone.sigma**2) * (192 - 16), rel=1e-3)
    assert torch.allclose(std[0, :, 0, 0] * backbone.gain, backbone.sigma.expand(16))


def test_an_offset_of_one_posterior_deviation_costs_the_same_in_every_channel():
    images = _images()
    backbone = fit_backbone(MICRO, images)
    latent, std = backbone.encode(images[:1])
    costs = []
    for channel in range(MICRO.latent_channels):
        moved = latent.clone()
        moved[:, channel] += std[:, channel]
        costs.append(float(((backbone.decode(moved) - backbone.decode(latent)) ** 2).mean()))
    assert max(costs) == pytest.approx(min(costs), rel=1e-3)


def test_fitting_is_deterministic_and_a_stored_backbone_is_the_same():
    images = _images()
    one, two = fit_backbone(MICRO, images), fit_backbone(MICRO, images)
    again = open_backbone(one.state_dict(), one.facts())
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
        assert torch.equal(tensor, again.state_dict()[name])
    assert torch.equal(one.encode(images)[0], again.encode(images)[0])
    assert again.scale == one.scale
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_an_autoencoder_of_diffusers_loads_from_its_folder_and_from_its_own_file(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    kind = ["DownEncoderBlock2D"] * 2, ["UpDecoderBlock2D"] * 2
    small = AutoencoderKL(
        down_block_types=kind[0],
        up_block_types=kind[1],
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=3,
    )
    small.save_pretrained(tmp_path / "pipeline" / "vae")
    preset = replace(MICRO, model=str(tmp_path / "pipeline"), stride=2, latent_channels=3)
    backbone = fit_backbone(preset, torch.empty(0))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = backbone.encode(images)
    assert mean.shape == std.shape == (2, 3, 8, 8)
    assert (backbone.latent_channels, backbone.stride) == (3, 2)
    assert backbone.scale == pytest.approx(small.config.scaling_factor)
    assert torch.equal(mean, small.encode(images).latent_dist.mean)
    assert backbone.decode(mean).shape == images.shape
    again = open_backbone(backbone.state_dict(), backbone.facts())
    assert torch.equal(again.encode(images)[0], mean)


def test_an_unknown_kind_is_refused():
    with pytest.raises(Refused, match="no backbone of kind"):
        open_backbone({}, {"kind": "wavelet"})
