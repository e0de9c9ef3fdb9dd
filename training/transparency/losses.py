"""The losses of latent transparency, each as its formula reads; all are means over pixels and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


def squares(difference_BCHW: Tensor) -> Tensor:
    """The mean square: the error of the paper (section 3.1)."""
    return (difference_BCHW**2).mean()


def charbonnier(difference_BCHW: Tensor) -> Tensor:
    """The mean of sqrt(d^2 + 1e-6), an L1 that is smooth at 0 (Lai et al., 2017, arXiv 1704.03915)."""
    return (difference_BCHW**2 + 1e-6).sqrt().mean()


def decibels(difference_BCHW: Tensor) -> Tensor:
    """10 log10 of each picture's mean square, averaged: minus PSNR (Chen et al., 2021, arXiv 2105.06086).

    A picture counts by the share of its error that goes away, so that those that are nearly right are heard as well;
    and one weight means the same for every term, preset and stage: dB for dB. 1e-5 (50 dB) bounds it below.
    """
    return (10 * torch.log10((difference_BCHW**2).flatten(1).mean(1) + 1e-5)).mean()


ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": squares,
    "charbonnier": charbonnier,
    "decibel": decibels,
}
"""What a difference counts for, by the preset's word."""

Error = Callable[[Tensor], Tensor]


def identity_loss(image_B3HW: Tensor, decoded_B3HW: Tensor, error: Error = squares) -> Tensor:
    """L_identity = || I - D_sd(E_sd(I) + x_eps) ||_2: the offset does no harm to the frozen decoder (section 3.1)."""
    return error(decoded_B3HW - image_B3HW)


def reconstruction_loss(
    colour_B3HW: Tensor,
    alpha_B1HW: Tensor,
    colour_hat_B3HW: Tensor,
    alpha_hat_B1HW: Tensor,
    error: Error = squares,
) -> Tensor:
    """L_recon = || I_c - I_c_hat ||_2 + || I_a - I_a_hat ||_2, with I_c the padded colour (section 3.1)."""
    return error(colour_hat_B3HW - colour_B3HW) + error(alpha_hat_B1HW - alpha_B1HW)


def edge_loss(alpha_B1HW: Tensor, alpha_hat_B1HW: Tensor) -> Tensor:
    """The L1 of the gradient of alpha, by forward differences (Forte and Pitie, 2020, arXiv 2003.07711)."""
    d_B1HW = alpha_hat_B1HW - alpha_B1HW
    return d_B1HW.diff(dim=2).abs().mean() + d_B1HW.diff(dim=3).abs().mean()


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017, section 3.2.2) on alpha and padded colour.

    Three convolutions see 18 x 18 pixels; there is one judgement for every 4 x 4 of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, alpha_B1HW: Tensor, colour_B3HW: Tensor) -> Tensor:
        """Positive where a neighbourhood looks real: B x 1 x H/4 x W/4."""
        judged: Tensor = self.layers(torch.cat([alpha_B1HW, colour_B3HW], dim=1))
        return judged


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """The hinge loss that the discriminator minimises (Lim and Ye, 2017): E[(1 - D(real))+] + E[(1 + D(drawn))+]."""
    return relu(1 - real).mean() + relu(1 + drawn).mean()


def fooling_loss(drawn: Tensor) -> Tensor:
    """L_disc, the other side of the hinge: -E[D(drawn)], added to L_vae with weight lambda_disc = 0.01."""
    return -drawn.mean()


def perceptual_loss(
    distance: Callable[[Tensor, Tensor], Tensor],
    colour_B3HW: Tensor,
    alpha_B1HW: Tensor,
    colour_hat_B3HW: Tensor,
    alpha_hat_B1HW: Tensor,
) -> Tensor:
    """The mean of a distance of images in [0, 1], LPIPS, over the blends on black and on white (arXiv 2507.09308)."""
    truth_B3HW, drawn_B3HW = colour_B3HW * alpha_B1HW, colour_hat_B3HW * alpha_hat_B1HW
    on_black = distance(truth_B3HW, drawn_B3HW)
    on_white = distance(truth_B3HW + 1 - alpha_B1HW, drawn_B3HW + 1 - alpha_hat_B1HW)
    return (on_black + on_white).mean() / 2


def adaptive_weight(others: Tensor, fooling: Tensor, last_layer: Tensor) -> Tensor:
    """VQGAN's lambda = |grad_G L_rec| / (|grad_G L_GAN| + 1e-6) at the last layer G (arXiv 2012.09841, equation 7).

    Bounded by 1e4, as in its authors' code, so that a discriminator that is asleep does not take over.
    """
    mine, its = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (others, fooling)
    )
    weight: Tensor = (mine / (its + 1e-6)).clamp(max=1e4).detach()
    return weight


@dataclass(frozen=True)
class Background:
    """The first two moments of a background's colour per channel, in [-1, 1]."""

    mean: tuple[float, float, float]
    square: tuple[float, float, float]


NATURAL = Background(mean=(-0.0357, -0.0811, -0.1797), square=(0.3163, 0.3060, 0.3634))
"""ImageNet's moments, as AlphaVAE uses them (arXiv 2507.09308)."""


SOLID = Background(mean=(0.0, 0.0, 0.0), square=(8 / 9, 8 / 9, 8 / 9))
"""Those of the nine solid colours that layers are evaluated on: each channel is -1 or 1 in four of them, 0 in grey."""

BACKGROUNDS: dict[str, Background] = {"natural": NATURAL, "solid": SOLID}
"""Moments by the preset's word."""


def blend_loss(
    colour_B3HW: Tensor,
    alpha_B1HW: Tensor,
    colour_hat_B3HW: Tensor,
    alpha_hat_B1HW: Tensor,
    background: Background = NATURAL,
    error: Error = squares,
) -> Tensor:
    """ABMSE = E_b || A(x_hat, b) - A(x, b) ||^2 in closed form, A(x, b) = x_c x_a + b (1 - x_a) (arXiv 2507.09308).

    With dp = difference of premultiplied colours in [-1, 1] and da of alphas, A differs by dp - b da, hence
    E[(dp - b da)^2] = dp^2 - 2 E[b] dp da + E[b^2] da^2
                     = (dp - E[b] da)^2 + Var[b] da^2,
    the second form being a sum of squares whose roots any `error` takes.
    """
    mean_131 = colour_B3HW.new_tensor(background.mean).view(3, 1, 1)
    spread_131 = (colour_B3HW.new_tensor(background.square).view(3, 1, 1) - mean_131**2).sqrt()
    dp_B3HW = (colour_hat_B3HW * 2 - 1) * alpha_hat_B1HW - (colour_B3HW * 2 - 1) * alpha_B1HW
    da_B1HW = alpha_hat_B1HW - alpha_B1HW
    roots_B6HW = torch.cat([dp_B3HW - mean_131 * da_B1HW, spread_131 * da_B1HW], dim=1)
    return error(2**0.5 * roots_B6HW)  # six channels stand for three
