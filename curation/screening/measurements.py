"""Measurements of candidates that screening rules, gold and rule reviewers share."""

from __future__ import annotations

from curation.domain import LayerRole, Prompt
from curation.ports import RGBA, Layers
from curation.screening.pairs.signals import compute_agreement_signals, compute_pair_signals
from curation.screening.signals import compute_signals
from curation.synthetic.dataset import check_prompt


def measure_single(rgba: RGBA, prompt: str) -> dict[str, float | None]:
    """Return all measurements of a single layer: its signals and its prompt agreement.

    `shows_colour` and `shows_shape` are 1 or 0, and missing for prompts outside the synthetic
    grammar.

    Args:
        rgba: The layer, H x W x 4 uint8.
        prompt: Its prompt.
    """
    shown = check_prompt(rgba, prompt)
    agreement = (
        {}
        if shown is None
        else {"shows_colour": float(shown.color), "shows_shape": float(shown.shape)}
    )
    return compute_signals(rgba) | agreement


def measure_pair_candidate(layers: Layers, prompt: Prompt) -> dict[str, float | None]:
    """Return all measurements of a pair: its foreground's signals, its own and text agreement.

    Args:
        layers: The three layers.
        prompt: The three texts.
    """
    return (
        compute_signals(layers[LayerRole.foreground])
        | compute_pair_signals(layers)
        | compute_agreement_signals(layers, prompt)
    )
