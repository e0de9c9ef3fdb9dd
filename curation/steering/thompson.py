"""Thompson sampling: how often each prompt is among the best, over draws of the arms' acceptance.

The acceptance of an arm has a Beta distribution: a prior around the acceptance of all prompts, and
the arm's accepts and rejects. A draw gives every arm an acceptance; a prompt's log odds are those
of all prompts plus the mean shift of its arms times the square root of their number, since the
words of a prompt repeat each other in part. A prompt with decisions of its own draws from a second
Beta distribution around that value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.steering.evidence import Evidence
from curation.steering.settings import Goal

Array = NDArray[np.float64]

DRAWS: Final = 500
"""Number of draws; the standard error of a prompt's share is at most 7 % of the largest share."""
PRIOR_STRENGTH: Final = 4.0
"""Decisions that the prior of an arm, or of a prompt, counts as."""
_TIES: Final = 1e-9
_SMALLEST: Final = 1e-3
"""Shares are kept this far from 0 and 1, so that their log odds are finite."""


@dataclass(frozen=True)
class PromptArms:
    """Distinct prompts with their arms.

    Attributes:
        arms: The indices of each prompt's arms.
        shares: The natural share of each prompt; they add up to 1.
        accepts: Effective accepts of each prompt itself.
        rejects: Effective rejects of each prompt itself.
    """

    arms: Sequence[Sequence[int]]
    shares: Array
    accepts: Array
    rejects: Array


def steered_shares(
    prompts: PromptArms,
    arms: Sequence[Evidence],
    total: Evidence,
    *,
    goal: Goal,
    concentration: float,
    seed: int,
    draws: int = DRAWS,
) -> Array:
    """Return the probability with which a steered candidate gets each prompt.

    In each draw the best prompts that have together 1 / `concentration` of the natural shares are
    taken, in proportion to these. The result is the mean over the draws, so that no prompt gets
    more than `concentration` times its natural share.

    Args:
        prompts: The prompts.
        arms: The evidence of each arm.
        total: The evidence of all prompts.
        goal: What prompts are chosen for.
        concentration: The largest multiple of its natural share that a prompt gets.
        seed: RNG seed of the draws.
        draws: The number of draws.
    """
    rng = np.random.default_rng(seed)
    base = (total.accepts + 1) / (total.size + 2)
    alpha = np.array([one.accepts for one in arms]) + PRIOR_STRENGTH * base
    beta = np.array([one.rejects for one in arms]) + PRIOR_STRENGTH * (1 - base)
    # Each prompt has an extra arm without effect, so that no prompt is without arms.
    flat = np.fromiter((i for own in prompts.arms for i in (*own, len(arms))), np.intp)
    sizes = np.array([len(own) for own in prompts.arms])
    starts = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]])
    damping = 1 / np.sqrt(np.maximum(sizes, 1))
    own = np.flatnonzero(prompts.accepts + prompts.rejects)
    shares = np.zeros(len(prompts.arms))
    for _ in range(draws):
        shift = np.append(_log_odds(rng.beta(alpha, beta)) - _log_odds(base), 0.0)
        summed = np.add.reduceat(shift[flat], starts) * damping
        chance = 1 / (1 + np.exp(-(_log_odds(base) + summed)))
        if len(own):
            center = np.clip(chance[own], _SMALLEST, 1 - _SMALLEST)
            chance[own] = rng.beta(
                PRIOR_STRENGTH * center + prompts.accepts[own],
                PRIOR_STRENGTH * (1 - center) + prompts.rejects[own],
            )
        value = chance if goal is Goal.accepts else chance * (1 - chance)
        shares += _best(value, prompts.shares, concentration, rng)
    return np.asarray(shares / shares.sum())


def _best(value: Array, shares: Array, concentration: float, rng: np.random.Generator) -> Array:
    """Return the shares of the best prompts that make up 1 / `concentration` of all."""
    # Equal prompts are in random order.
    order = np.argsort(_TIES * rng.random(len(value)) - value)
    before = np.cumsum(shares[order]) - shares[order]
    taken = np.empty_like(shares)
    taken[order] = np.clip(1 / concentration - before, 0.0, shares[order])
    return taken * concentration


def _log_odds(share: Array | float) -> Array:
    clipped = np.clip(share, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))
