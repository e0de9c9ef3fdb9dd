"""Losses of preference training: Diffusion-KTO and Diffusion-DPO, as their papers state them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def implicit_reward(error_B: Tensor, reference_error_B: Tensor) -> Tensor:
    """Return g = log pi(x_{t-1} | x_t) / pi_ref(x_{t-1} | x_t), up to a factor that beta absorbs.

    Both are Gaussians of the same variance around their predictions, so that g is the reference's
    squared error less the policy's (Wallace et al., 2023, arXiv 2311.12908, equation 14).

    Args:
        error_B: Squared errors of the policy, means over the values of a latent, weighted by noise
            level.
        reference_error_B: Those of the reference, at the same noise and timesteps.
    """
    return reference_error_B.detach() - error_B


def kto_losses(
    reward_B: Tensor, desirable_B: Tensor, beta: float, reference_point: Tensor | float
) -> Tensor:
    """Return 1 - sigmoid(w beta (g - Q)) of each image, with w = 1 for accepts and -1 for rejects.

    Diffusion-KTO (Li et al., 2024, arXiv 2404.04465, equation 8) with the utility of Kahneman and
    Tversky, a sigmoid. The utility U is maximized by minimizing 1 - U, as in KTO (Ethayarajh et
    al., 2024, arXiv 2402.01306). Q is the divergence from the reference, which is never negative
    and takes no gradient.

    Args:
        reward_B: g of each image (`implicit_reward`).
        desirable_B: Whether each image was accepted, bool.
        beta: Strength of the bond to the reference.
        reference_point: Estimate of the mean of g; negative values count as 0.
    """
    point = torch.as_tensor(reference_point, dtype=reward_B.dtype, device=reward_B.device)
    sign_B = torch.where(desirable_B, 1.0, -1.0)
    return 1 - torch.sigmoid(sign_B * beta * (reward_B - point.detach().clamp_min(0)))


def dpo_losses(chosen_reward_B: Tensor, rejected_reward_B: Tensor, beta: float) -> Tensor:
    """Return -log sigmoid(beta (g_w - g_l)) of each pair of an accepted and a rejected image.

    Diffusion-DPO (Wallace et al., 2023, arXiv 2311.12908, equation 14); beta stands for the
    paper's beta times T omega(lambda_t), a constant in its released code.

    Args:
        chosen_reward_B: g of the accepted images (`implicit_reward`).
        rejected_reward_B: g of the rejected images, at the same noise and timesteps.
        beta: Strength of the bond to the reference.
    """
    return -logsigmoid(beta * (chosen_reward_B - rejected_reward_B))
