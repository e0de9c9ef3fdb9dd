"""The objective of latent transparency: L_vae of a batch, and the discriminator trained with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.metrics.perceptual import load_lpips
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import adjust
from training.transparency.losses import (
    BACKGROUNDS,
    ERRORS,
    PatchDiscriminator,
    adaptive_weight,
    blend_loss,
    edge_loss,
    generator_loss,
    identity_loss,
    perceptual_loss,
    reconstruction_loss,
)
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray


@dataclass(frozen=True)
class Loss:
    """The loss of a batch: weighted sum, terms by name, and true and reconstructed images."""

    total: Tensor
    terms: dict[str, Tensor]
    truth: tuple[Tensor, Tensor]  # alpha_B1HW and color_B3HW
    drawn: tuple[Tensor, Tensor]


class TransparencyObjective:
    """The objective L_vae = L_recon + L_identity + 0.01 L_disc (paper, section 3.1).

    The preset may add further terms. `discriminator` is trained with the networks, on their output,
    by `discriminator_loss`. The constructor raises NotFound or Refused if the preset's LPIPS
    weights cannot be used.
    """

    def __init__(self, preset: Preset, autoencoder: Autoencoder) -> None:
        self.preset, self.autoencoder = preset, autoencoder
        self.error, self.background = ERRORS[preset.error], BACKGROUNDS[preset.blend_background]
        self.discriminator = PatchDiscriminator(preset.discriminator_width)
        self.perception = load_lpips(Path(preset.perceptual)) if preset.perceptual else None

    def frozen_modules(self) -> list[nn.Module]:
        """Return the networks that are used but not trained."""
        return [self.autoencoder, *([] if self.perception is None else [self.perception])]

    def loss(
        self,
        networks: Transparency,
        alpha_B1HW: Tensor,
        padded_B3HW: Tensor,
        keep_B: Tensor,
        images_seen: int,
    ) -> Loss:
        """Compute the loss of a batch. Deterministic.

        Args:
            networks: The two networks of latent transparency.
            alpha_B1HW: Alpha in [0, 1].
            padded_B3HW: Padded color in [0, 1].
            keep_B: 0 drops an image's offset, 1 keeps it.
            images_seen: The number of images trained on so far.
        """
        # Encode with the offset, decode with the frozen decoder, and recover alpha.
        latent_BCHW = adjust(self.autoencoder, networks.encoder, alpha_B1HW, padded_B3HW, keep_B)
        decoded_B3HW = self.autoencoder.decode(latent_BCHW)
        alpha_hat_B1HW, color_hat_B3HW = networks.decoder(decoded_B3HW, latent_BCHW)

        terms = self._terms(padded_B3HW, alpha_B1HW, color_hat_B3HW, alpha_hat_B1HW)
        terms["identity"] = identity_loss(
            over_gray(padded_B3HW, alpha_B1HW), decoded_B3HW, self.error
        )
        # Weight every term by its column of the preset.
        total = torch.stack(
            [getattr(self.preset, f"{name}_weight") * term for name, term in terms.items()]
        ).sum()
        # The adversarial term starts after discriminator_start images.
        if self.preset.discriminator_weight > 0 and images_seen >= self.preset.discriminator_start:
            terms["fooling"] = generator_loss(self.discriminator(alpha_hat_B1HW, color_hat_B3HW))
            adversarial = self.preset.discriminator_weight * terms["fooling"]
            if self.preset.discriminator_adaptive:
                adversarial = adversarial * adaptive_weight(
                    total, terms["fooling"], networks.decoder.conv_out.weight
                )
            total = total + adversarial
        return Loss(
            total,
            terms,
            (alpha_B1HW, padded_B3HW),
            (alpha_hat_B1HW.detach(), color_hat_B3HW.detach()),
        )

    def _terms(
        self,
        color_B3HW: Tensor,
        alpha_B1HW: Tensor,
        color_hat_B3HW: Tensor,
        alpha_hat_B1HW: Tensor,
    ) -> dict[str, Tensor]:
        """Return the unweighted terms with a weight in the preset, by the names of the weights."""
        images = (color_B3HW, alpha_B1HW, color_hat_B3HW, alpha_hat_B1HW)
        terms = {"reconstruction": reconstruction_loss(*images, self.error)}
        if self.preset.blend_weight:
            terms["blend"] = blend_loss(*images, self.background, self.error)
        if self.preset.edge_weight:
            terms["edge"] = edge_loss(alpha_B1HW, alpha_hat_B1HW)
        if self.perception is not None:
            terms["perceptual"] = perceptual_loss(self.perception, *images)
        return terms


def blend_on_solid_colors(
    alpha_B1HW: Tensor, color_B3HW: Tensor, chosen_B: Tensor, below_B3: Tensor
) -> tuple[Tensor, Tensor]:
    """Blend the chosen images on a solid color each and make them opaque (AlphaVAE).

    Args:
        alpha_B1HW: Alpha in [0, 1].
        color_B3HW: Color in [0, 1].
        chosen_B: Which images to blend.
        below_B3: The solid colors in [0, 1].

    Returns:
        Alpha and color of all images; those not chosen are unchanged.
    """
    chosen_B111 = chosen_B[:, None, None, None]
    blended_B3HW = color_B3HW * alpha_B1HW + below_B3[..., None, None] * (1 - alpha_B1HW)
    return (
        torch.where(chosen_B111, torch.ones_like(alpha_B1HW), alpha_B1HW),
        torch.where(chosen_B111, blended_B3HW, color_B3HW),
    )
