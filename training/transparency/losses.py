"""The losses of latent transparency, each written as its formula; means over pixels and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


def mean_square(difference_BCHW: Tensor) -> Tensor:
    """Return the mean square error (paper, section 3.1)."""
    return (difference_BCHW**2).mean()


def charbonnier(difference_BCHW: Tensor) -> Tensor:
    """Return the mean of sqrt(d^2 + 1e-6), a smooth L1 (Lai et al., 2017, arXiv 1704.03915)."""
    return (difference_BCHW**2 + 1e-6).sqrt().mean()


def negative_psnr(difference_BCHW: Tensor) -> Tensor:
    """Return 10 log10 of each image's mean square, averaged: -PSNR (Chen et al., 2021, 2105.06086).

    The gradient depends on the relative error of an image, so that images that are almost right
    still count, and one weight means the same for every term, preset and stage. 1e-5 is the lower
    bound, 50 dB.
    """
    return (10 * torch.log10((difference_BCHW**2).flatten(1).mean(1) + 1e-5)).mean()


ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": mean_square,
    "charbonnier": charbonnier,
    "decibel": negative_psnr,
}
"""Error functions by their names in presets."""

Error = Callable[[Tensor], Tensor]


def identity_loss(image_B3HW: Tensor, decoded_B3HW: Tensor, error: Error = mean_square) -> Tensor:
    """Return L_identity = || I - D_sd(E_sd(I) + x_eps) ||_2 (section 3.1).

    It keeps the offset from disturbing the frozen decoder.

    Args:
        image_B3HW: The frozen encoder's input I in [-1, 1].
        decoded_B3HW: The frozen decoder's image of the adjusted latent.
        error: The error function.
    """
    return error(decoded_B3HW - image_B3HW)


def reconstruction_loss(
    color_B3HW: Tensor,
    alpha_B1HW: Tensor,
    color_hat_B3HW: Tensor,
    alpha_hat_B1HW: Tensor,
    error: Error = mean_square,
) -> Tensor:
    """Return L_recon = || I_c - I_c_hat ||_2 + || I_a - I_a_hat ||_2 (section 3.1).

    Args:
        color_B3HW: True padded color I_c in [0, 1].
        alpha_B1HW: True alpha I_a in [0, 1].
        color_hat_B3HW: Reconstructed color.
        alpha_hat_B1HW: Reconstructed alpha.
        error: The error function.
    """
    return error(color_hat_B3HW - color_B3HW) + error(alpha_hat_B1HW - alpha_B1HW)


def edge_loss(alpha_B1HW: Tensor, alpha_hat_B1HW: Tensor) -> Tensor:
    """Return the L1 of alpha's gradient, by forward differences (arXiv 2003.07711)."""
    d_B1HW = alpha_hat_B1HW - alpha_B1HW
    return d_B1HW.diff(dim=2).abs().mean() + d_B1HW.diff(dim=3).abs().mean()


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017, section 3.2.2) on alpha and padded color.

    Its three convolutions have a receptive field of 18 x 18 pixels and one output per 4 x 4.
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

    def forward(self, alpha_B1HW: Tensor, color_B3HW: Tensor) -> Tensor:
        """Return logits, positive where a patch looks real: B x 1 x H/4 x W/4."""
        logits: Tensor = self.layers(torch.cat([alpha_B1HW, color_B3HW], dim=1))
        return logits


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's hinge loss (Lim and Ye, 2017).

    It is E[(1 - D(real))+] + E[(1 + D(fake))+].

    Args:
        real: Logits of true images.
        fake: Logits of reconstructed images.
    """
    return relu(1 - real).mean() + relu(1 + fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return L_disc, the generator's hinge loss: -E[D(fake)].

    It is added to L_vae with the weight lambda_disc = 0.01.
    """
    return -fake.mean()


def perceptual_loss(
    distance: Callable[[Tensor, Tensor], Tensor],
    color_B3HW: Tensor,
    alpha_B1HW: Tensor,
    color_hat_B3HW: Tensor,
    alpha_hat_B1HW: Tensor,
) -> Tensor:
    """Return the mean perceptual distance of the blends on black and on white (arXiv 2507.09308).

    Args:
        distance: A distance of images in [0, 1], such as LPIPS.
        color_B3HW: True color in [0, 1].
        alpha_B1HW: True alpha in [0, 1].
        color_hat_B3HW: Reconstructed color.
        alpha_hat_B1HW: Reconstructed alpha.
    """
    truth_B3HW, reconstructed_B3HW = color_B3HW * alpha_B1HW, color_hat_B3HW * alpha_hat_B1HW
    on_black = distance(truth_B3HW, reconstructed_B3HW)
    on_white = distance(truth_B3HW + 1 - alpha_B1HW, reconstructed_B3HW + 1 - alpha_hat_B1HW)
    return (on_black + on_white).mean() / 2


def adaptive_weight(others: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Return VQGAN's adversarial weight (arXiv 2012.09841, equation 7).

    It is |grad_G L_rec| / (|grad_G L_GAN| + 1e-6), bounded by 1e4 as in the authors' code, so that
    an inactive discriminator does not dominate.

    Args:
        others: The sum of the other losses.
        adversarial: The generator's adversarial loss.
        last_layer: The weight G of the generator's last layer.
    """
    reconstruction_norm, adversarial_norm = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (others, adversarial)
    )
    weight: Tensor = (reconstruction_norm / (adversarial_norm + 1e-6)).clamp(max=1e4).detach()
    return weight


@dataclass(frozen=True)
class LossBackground:
    """First and second moments of a background's color per channel, in [-1, 1]."""

    mean: tuple[float, float, float]
    square: tuple[float, float, float]


NATURAL = LossBackground(mean=(-0.0357, -0.0811, -0.1797), square=(0.3163, 0.3060, 0.3634))
"""ImageNet's moments, as AlphaVAE uses them (arXiv 2507.09308)."""


SOLID = LossBackground(mean=(0.0, 0.0, 0.0), square=(8 / 9, 8 / 9, 8 / 9))
"""Moments of the evaluation's nine solid colors: a channel is -1 or 1 in four each, 0 in gray."""

BACKGROUNDS: dict[str, LossBackground] = {"natural": NATURAL, "solid": SOLID}
"""Background moments by their names in presets."""


def blend_loss(
    color_B3HW: Tensor,
    alpha_B1HW: Tensor,
    color_hat_B3HW: Tensor,
    alpha_hat_B1HW: Tensor,
    background: LossBackground = NATURAL,
    error: Error = mean_square,
) -> Tensor:
    """Return ABMSE = E_b || A(x_hat, b) - A(x, b) ||^2 in closed form (arXiv 2507.09308).

    A(x, b) = x_c x_a + b (1 - x_a). With dp the difference of premultiplied colors in [-1, 1] and
    da that of alphas, A differs by dp - b da, hence

    E[(dp - b da)^2] = dp^2 - 2 E[b] dp da + E[b^2] da^2
                     = (dp - E[b] da)^2 + Var[b] da^2,

    where the second form is a sum of squares, whose roots are the input of `error`.

    Args:
        color_B3HW: True color in [0, 1].
        alpha_B1HW: True alpha in [0, 1].
        color_hat_B3HW: Reconstructed color.
        alpha_hat_B1HW: Reconstructed alpha.
        background: The moments of the background b.
        error: The error function.
    """
    mean_131 = color_B3HW.new_tensor(background.mean).view(3, 1, 1)
    std_131 = (color_B3HW.new_tensor(background.square).view(3, 1, 1) - mean_131**2).sqrt()
    dp_B3HW = (color_hat_B3HW * 2 - 1) * alpha_hat_B1HW - (color_B3HW * 2 - 1) * alpha_B1HW
    da_B1HW = alpha_hat_B1HW - alpha_B1HW
    roots_B6HW = torch.cat([dp_B3HW - mean_131 * da_B1HW, std_131 * da_B1HW], dim=1)
    return error(2**0.5 * roots_B6HW)  # a mean over six channels in place of three
