"""The losses of latent transparency, each as its formula reads; all are means over pixels and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu


def identity_loss(image_B3HW: Tensor, decoded_B3HW: Tensor) -> Tensor:
    """L_identity = || I - D_sd(E_sd(I) + x_eps) ||_2: the offset does no harm to the frozen decoder (section 3.1)."""
    return mse_loss(decoded_B3HW, image_B3HW)


def reconstruction_loss(
    colour_B3HW: Tensor, alpha_B1HW: Tensor, colour_hat_B3HW: Tensor, alpha_hat_B1HW: Tensor
) -> Tensor:
    """L_recon = || I_c - I_c_hat ||_2 + || I_a - I_a_hat ||_2, with I_c the padded colour (section 3.1)."""
    return mse_loss(colour_hat_B3HW, colour_B3HW) + mse_loss(alpha_hat_B1HW, alpha_B1HW)


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017, section 3.2.2) on alpha and padded colour: a judgement per 16 x 16 patch."""

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


@dataclass(frozen=True)
class Background:
    """The first two moments of a background's colour per channel, in [-1, 1]."""

    mean: tuple[float, float, float]
    square: tuple[float, float, float]


NATURAL = Background(mean=(-0.0357, -0.0811, -0.1797), square=(0.3163, 0.3060, 0.3634))
"""ImageNet's moments, as AlphaVAE uses them (arXiv 2507.09308)."""


def blend_loss(
    colour_B3HW: Tensor,
    alpha_B1HW: Tensor,
    colour_hat_B3HW: Tensor,
    alpha_hat_B1HW: Tensor,
    background: Background = NATURAL,
) -> Tensor:
    """ABMSE = E_b || A(x_hat, b) - A(x, b) ||^2 in closed form, A(x, b) = x_c x_a + b (1 - x_a) (arXiv 2507.09308).

    With dp = difference of premultiplied colours in [-1, 1] and da of alphas, A differs by dp - b da, hence
    E[(dp - b da)^2] = dp^2 - 2 E[b] dp da + E[b^2] da^2.
    """
    b_131 = colour_B3HW.new_tensor(background.mean).view(3, 1, 1)
    b2_131 = colour_B3HW.new_tensor(background.square).view(3, 1, 1)
    dp_B3HW = (colour_hat_B3HW * 2 - 1) * alpha_hat_B1HW - (colour_B3HW * 2 - 1) * alpha_B1HW
    da_B1HW = alpha_hat_B1HW - alpha_B1HW
    return (dp_B3HW**2 - 2 * b_131 * dp_B3HW * da_B1HW + b2_131 * da_B1HW**2).mean()
