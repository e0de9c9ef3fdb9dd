"""The losses against what their formulas say, by hand and by Monte Carlo."""

import pytest
import torch

from training.losses import (
    NATURAL,
    Background,
    PatchDiscriminator,
    blend_loss,
    discriminator_loss,
    fooling_loss,
    identity_loss,
    reconstruction_loss,
)


def test_identity_and_reconstruction_are_zero_on_the_truth_and_mean_squares_elsewhere():
    colour, alpha = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    assert identity_loss(colour, colour) == 0
    assert reconstruction_loss(colour, alpha, colour, alpha) == 0
    assert identity_loss(colour, colour + 0.5) == pytest.approx(0.25)
    assert reconstruction_loss(colour, alpha, colour + 0.5, alpha - 0.1) == pytest.approx(0.26)


@pytest.mark.parametrize("moments", [NATURAL, Background((0.0, 0.0, 0.0), (2 / 3, 2 / 3, 2 / 3))])
def test_the_closed_form_of_the_blend_loss_equals_monte_carlo(moments):
    rng = torch.Generator().manual_seed(3)
    colour, colour_hat = torch.rand(2, 2, 3, 16, 16, generator=rng)
    alpha, alpha_hat = torch.rand(2, 2, 1, 16, 16, generator=rng)
    mean, square = torch.tensor(moments.mean), torch.tensor(moments.square)
    backgrounds = mean + (square - mean**2).sqrt() * torch.randn(4_000, 3, generator=rng)

    total = 0.0
    for below in backgrounds.view(-1, 1, 3, 1, 1):
        blend = (colour * 2 - 1) * alpha + below * (1 - alpha)
        blend_hat = (colour_hat * 2 - 1) * alpha_hat + below * (1 - alpha_hat)
        total += float(((blend_hat - blend) ** 2).mean())
    assert blend_loss(colour, alpha, colour_hat, alpha_hat, moments) == pytest.approx(total / 4_000, rel=0.02)


def test_blend_loss_does_not_see_colours_under_alpha_0():
    colour, alpha = torch.rand(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    assert blend_loss(colour, alpha, 1 - colour, alpha) == 0


def test_hinge_losses_stop_where_the_discriminator_is_sure():
    sure, unsure = torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 2, 2)
    assert discriminator_loss(sure, -sure) == 0
    assert discriminator_loss(unsure, unsure) == 2
    assert fooling_loss(sure) == -3


def test_the_discriminator_judges_patches_of_sixteen_pixels():
    torch.manual_seed(0)
    judge = PatchDiscriminator(8)
    alpha, colour = torch.rand(1, 1, 64, 64, requires_grad=True), torch.rand(1, 3, 64, 64)
    judged = judge(alpha, colour)
    assert judged.shape == (1, 1, 16, 16)
    judge.layers[3] = torch.nn.Identity()  # the normalisation looks at the whole picture; the convolutions do not
    judge(alpha, colour)[0, 0, 8, 8].backward()
    rows = alpha.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 <= 18
