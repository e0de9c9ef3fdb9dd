"""Recipes of trainings that learn from decisions, as far as loops have to know them."""

from __future__ import annotations

from collections.abc import Mapping

DECISION_RECIPES: Mapping[str, str] = {
    "kto": "whole",
    "dpo": "whole",
    "whole-kto": "whole",
    "layers-kto": "pairs",
    "layers-dpo": "pairs",
    "pairs-kto": "pairs",
}
"""Recipes that learn from decisions, each with the recipe of the same parts that does not."""


def are_compatible_recipes(first: str, second: str) -> bool:
    """Return whether checkpoints of two recipes have the same parts."""
    return DECISION_RECIPES.get(first, first) == DECISION_RECIPES.get(second, second)
