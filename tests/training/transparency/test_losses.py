"""Losses of latent transparency, compared with their formulas and with Monte Carlo."""

import math

import pytest
import torch

from curation.images.codec import BACKGROUNDS
from training.transparency.losses import (
    ERRORS,
    NATURAL,
    SOLID,
    LossBackground,
    PatchDiscriminator,
    adaptive_weight,
    blend_loss,
    charbonnier,
    discriminator_loss,
    edge_loss,
    generator_loss,
    identity_loss,
    mean_square,
    negative_psnr,
    perceptual_loss,
    reconstruction_loss,
)


def test_identity_and_reconstruction_are_zero_on_the_truth_and_mean_squares_elsewhere():
    color, alpha = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    assert identity_loss(color, color) == 0
    assert reconstruction_loss(color, alpha, color, alpha) == 0
    assert identity_loss(color, color + 0.5) == pytest.approx(0.25)
    assert reconstruction_loss(color, alpha, color + 0.5, alpha - 0.1) == pytest.approx(0.26)


@pytest.mark.parametrize(
    "moments", [NATURAL, SOLID, LossBackground((0.0, 0.0, 0.0), (2 / 3, 2 / 3, 2 / 3))]
)
def test_the_closed_form_of_the_blend_loss_equals_monte_carlo(moments):
    rng = torch.Generator().manual_seed(3)
    color, color_hat = torch.rand(2, 2, 3, 16, 16, generator=rng)
    alpha, alpha_hat = torch.rand(2, 2, 1, 16, 16, generator=rng)
    mean, square = torch.tensor(moments.mean), torch.tensor(moments.square)
    backgrounds = mean + (square - mean**2).sqrt() * torch.randn(4_000, 3, generator=rng)

    total = 0.0
    for background in backgrounds.view(-1, 1, 3, 1, 1):
        blend = (color * 2 - 1) * alpha + background * (1 - alpha)
        blend_hat = (color_hat * 2 - 1) * alpha_hat + background * (1 - alpha_hat)
        total += float(((blend_hat - blend) ** 2).mean())
    assert blend_loss(color, alpha, color_hat, alpha_hat, moments) == pytest.approx(
        total / 4_000, rel=0.02
    )


def test_blend_loss_ignores_colors_under_alpha_0():
    color, alpha = torch.rand(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    assert blend_loss(color, alpha, 1 - color, alpha) == 0


def test_the_solid_background_has_the_moments_of_the_evaluation_colors():
    colors = torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1
    assert torch.allclose(colors.mean(0), torch.tensor(SOLID.mean), atol=0.001)  # gray is 128
    assert torch.allclose((colors**2).mean(0), torch.tensor(SOLID.square), atol=0.001)


def test_every_error_function_has_its_known_values():
    difference = torch.tensor([[0.3, -0.4], [0.0, 0.1]]).view(2, 1, 1, 2)
    assert mean_square(difference) == pytest.approx((0.09 + 0.16 + 0.01) / 4)
    assert charbonnier(difference) == pytest.approx((0.3 + 0.4 + 0.001 + 0.1) / 4, abs=1e-5)
    first, second = 10 * math.log10(0.125 + 1e-5), 10 * math.log10(0.005 + 1e-5)
    assert negative_psnr(difference) == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("error", ERRORS.values())
def test_the_gradient_of_every_error_is_finite_on_the_truth(error):
    difference = torch.zeros(2, 3, 4, 4, requires_grad=True)
    error(difference).backward()
    assert torch.isfinite(difference.grad).all()


def test_negative_psnr_depends_on_the_relative_error():
    large, small = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.05)
    assert negative_psnr(large) - negative_psnr(large / 2) == pytest.approx(
        20 * math.log10(2), rel=1e-3
    )
    assert negative_psnr(small) - negative_psnr(small / 2) == pytest.approx(
        20 * math.log10(2), rel=0.02
    )


def test_edge_loss_depends_on_steps_and_not_on_levels():
    alpha, level, step = (
        torch.zeros(1, 1, 4, 4),
        torch.full((1, 1, 4, 4), 0.3),
        torch.zeros(1, 1, 4, 4),
    )
    step[..., 2:] = 0.6
    assert edge_loss(alpha, level) == 0
    assert edge_loss(alpha, step) == pytest.approx(
        4 * 0.6 / 12
    )  # one of three differences in each row


def test_perceptual_loss_compares_on_black_and_on_white():
    color, alpha = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.5)
    seen = []

    def distance(truth, reconstructed):
        seen.append((truth[0, 0, 0, 0].item(), reconstructed[0, 0, 0, 0].item()))
        return (truth - reconstructed).abs().mean((1, 2, 3))

    loss = perceptual_loss(distance, color, alpha, color, alpha * 0)
    assert seen == [(0.25, 0.0), (0.75, 1.0)]
    assert loss == pytest.approx(0.25)


def test_the_adaptive_weight_equalizes_the_gradient_norms_at_the_last_layer():
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    others, adversarial = 3 * layer[0] + 4 * layer[1], -0.5 * layer.sum()
    weight = adaptive_weight(others, adversarial, layer)
    assert weight == pytest.approx(5 / (0.5 * 2**0.5), rel=1e-5)
    assert not weight.requires_grad
    assert adaptive_weight(others, 0 * adversarial, layer) == 1e4


def test_hinge_losses_vanish_where_the_discriminator_is_confident():
    confident, undecided = torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 2, 2)
    assert discriminator_loss(confident, -confident) == 0
    assert discriminator_loss(undecided, undecided) == 2
    assert generator_loss(confident) == -3


def test_the_discriminator_has_a_receptive_field_of_18_pixels():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    alpha, color = torch.rand(1, 1, 64, 64, requires_grad=True), torch.rand(1, 3, 64, 64)
    logits = discriminator(alpha, color)
    assert logits.shape == (1, 1, 16, 16)
    discriminator.layers[3] = (
        torch.nn.Identity()
    )  # unlike the convolutions, the normalization depends on the whole image
    discriminator(alpha, color)[0, 0, 8, 8].backward()
    rows = alpha.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 <= 18
