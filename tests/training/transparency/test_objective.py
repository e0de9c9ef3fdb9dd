"""The objective of latent transparency, compared with its separate terms."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from curation.errors import NotFound
from training.metrics.perceptual import LPIPS
from training.presets.presets import PRESETS
from training.transparency.autoencoder import LinearAutoencoder
from training.transparency.codec import adjust
from training.transparency.losses import (
    SOLID,
    blend_loss,
    identity_loss,
    negative_psnr,
    reconstruction_loss,
)
from training.transparency.networks import Transparency
from training.transparency.objective import TransparencyObjective, blend_on_solid_colors
from training.transparency.padding import over_gray

PAPER_VALUES = {
    "error": "square",
    "blend_weight": 0.0,
    "blend_background": "natural",
    "discriminator_weight": 0.01,
}
PRESET = replace(PRESETS["micro"], **PAPER_VALUES, discriminator_start=100)


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    autoencoder = LinearAutoencoder(PRESET.stride, PRESET.latent_channels)
    axes = torch.linalg.qr(torch.randn(3 * PRESET.stride**2, PRESET.latent_channels)).Q
    autoencoder.basis.copy_(axes.T)
    autoencoder.sigma.fill_(0.1)
    return autoencoder.eval().requires_grad_(False)


def batch(count=2):
    rng = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 32, 32, generator=rng), torch.rand(count, 3, 32, 32, generator=rng)


def compute_loss(preset, autoencoder, networks, images_seen=0, keep=None):
    objective = TransparencyObjective(preset, autoencoder)
    keep_B = torch.ones(2) if keep is None else keep
    return objective, objective.loss(networks, *batch(), keep_B, images_seen)


def test_the_total_is_the_weighted_sum_of_the_terms_of_the_paper(autoencoder):
    networks = Transparency(PRESET)
    preset = replace(PRESET, reconstruction_weight=2.0, identity_weight=3.0, blend_weight=0.0)
    alpha, padded = batch()
    latent = adjust(autoencoder, networks.encoder, alpha, padded)
    decoded = autoencoder.decode(latent)
    alpha_hat, color_hat = networks.decoder(decoded, latent)
    expected = 2 * reconstruction_loss(padded, alpha, color_hat, alpha_hat)
    expected = expected + 3 * identity_loss(over_gray(padded, alpha), decoded)

    _, loss = compute_loss(preset, autoencoder, networks)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(loss.terms) == {"reconstruction", "identity"}
    _, blended = compute_loss(replace(preset, blend_weight=0.5), autoencoder, networks)
    blend_term = 0.5 * blend_loss(padded, alpha, color_hat, alpha_hat)
    assert blended.total.item() == pytest.approx((expected + blend_term).item(), rel=1e-6)


def test_every_other_term_has_its_weight(autoencoder):
    networks = Transparency(PRESET)
    preset = replace(
        PRESET, blend_weight=0.5, blend_background="solid", error="decibel", edge_weight=0.25
    )
    _, loss = compute_loss(preset, autoencoder, networks)
    weighted = [
        getattr(preset, f"{name}_weight") * term.item() for name, term in loss.terms.items()
    ]
    assert set(loss.terms) == {"reconstruction", "identity", "blend", "edge"}
    assert loss.total.item() == pytest.approx(sum(weighted), rel=1e-5)
    latent = adjust(autoencoder, networks.encoder, *batch())
    alpha_hat, color_hat = networks.decoder(autoencoder.decode(latent), latent)
    alpha, padded = batch()
    expected = blend_loss(padded, alpha, color_hat, alpha_hat, SOLID, negative_psnr)
    assert loss.terms["blend"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_discriminator_is_used_from_discriminator_start_on(autoencoder):
    networks = Transparency(PRESET)
    _, early = compute_loss(PRESET, autoencoder, networks, images_seen=99)
    assert "fooling" not in early.terms
    objective, loss = compute_loss(PRESET, autoencoder, networks, images_seen=100)
    without = loss.total.item() - 0.01 * loss.terms["fooling"].item()
    assert without == pytest.approx(early.total.item(), rel=1e-5)
    assert loss.terms["fooling"].item() == pytest.approx(
        -objective.discriminator(*loss.drawn).mean().item(), rel=1e-5
    )
    assert not any(tensor.requires_grad for tensor in (*loss.truth, *loss.drawn))


def test_an_adaptive_discriminator_has_a_fixed_share_of_the_gradient(autoencoder):
    torch.manual_seed(0)
    networks = Transparency(PRESET)
    preset = replace(PRESET, discriminator_weight=0.1, discriminator_adaptive=True)
    last = networks.decoder.conv_out.weight
    torch.nn.init.normal_(last, std=0.1)
    _, early = compute_loss(preset, autoencoder, networks, images_seen=0)
    (others,) = torch.autograd.grad(early.total, last)
    torch.manual_seed(0)
    objective, loss = compute_loss(preset, autoencoder, networks, images_seen=100)
    (all_terms,) = torch.autograd.grad(loss.total, last)
    assert (all_terms - others).norm() == pytest.approx(0.1 * others.norm().item(), rel=1e-3)
    assert objective.frozen_modules() == [autoencoder]


def test_solid_colors_make_the_chosen_images_opaque_only():
    alpha, color = batch(8)
    chosen, backgrounds = torch.arange(8) % 3 == 0, torch.rand(8, 3)
    solid_alpha, solid_color = blend_on_solid_colors(alpha, color, chosen, backgrounds)
    assert (solid_alpha[chosen] == 1).all()
    assert torch.equal(solid_alpha[~chosen], alpha[~chosen])
    assert torch.equal(solid_color[~chosen], color[~chosen])
    blended = color * alpha + backgrounds[..., None, None] * (1 - alpha)
    assert torch.equal(solid_color[chosen], blended[chosen])


def test_lpips_weights_of_the_user_add_a_perceptual_term(autoencoder, tmp_path):
    torch.manual_seed(0)
    save_file(LPIPS("alex").state_dict(), tmp_path / "lpips.safetensors")
    preset = replace(PRESET, perceptual=str(tmp_path / "lpips.safetensors"), perceptual_weight=2.0)
    networks = Transparency(PRESET)
    objective, loss = compute_loss(preset, autoencoder, networks)
    _, without = compute_loss(PRESET, autoencoder, networks)
    assert loss.total.item() - without.total.item() == pytest.approx(
        2 * loss.terms["perceptual"].item(), rel=1e-4
    )
    loss.total.backward()
    assert all(
        torch.isfinite(weight.grad).all()
        for weight in networks.parameters()
        if weight.grad is not None
    )
    assert objective.frozen_modules()[1] is objective.perception
    with pytest.raises(NotFound):
        TransparencyObjective(
            replace(preset, perceptual=str(tmp_path / "none.safetensors")), autoencoder
        )


def test_a_dropped_offset_gives_the_encoder_no_gradient(autoencoder):
    networks = Transparency(PRESET)
    torch.nn.init.normal_(networks.encoder.blocks[-1].weight)
    _, loss = compute_loss(PRESET, autoencoder, networks, keep=torch.zeros(2))
    loss.total.backward()
    assert all(
        not weight.grad.any() for weight in networks.encoder.parameters() if weight.grad is not None
    )
