"""Arms of a prompt: its attributes where a grammar knows them, otherwise its words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from curation.domain import Prompt
from curation.prompts.vocabulary import PLACES, SUBJECTS
from curation.synthetic.shapes import SUBJECTS as DRAWN_SUBJECTS

SEPARATOR: Final = "="
"""Separates the slot of an attribute from its value, as in "color=red"."""

# Words that say nothing about an image; shorter ones are left out too.
_SMALL: Final = frozenset(
    {"the", "and", "with", "for", "from", "that", "this", "its", "are", "some", "has", "was"}
)
_WORD: Final = re.compile(r"[^\W\d_]{3,}")


def arms_of(prompt: Prompt) -> frozenset[str]:
    """Return the arms of a prompt.

    A prompt of a known grammar has one arm for each slot, such as "color=red" or "place=river". Any
    other prompt has its words of three or more letters, in lower case, without the most frequent
    words of English.

    Args:
        prompt: The prompt.
    """
    drawn = DRAWN_SUBJECTS.get(prompt.text)
    if drawn is not None:
        return frozenset({f"color={drawn.color}", f"shape={drawn.shape}"})
    slots = {
        **_foreground_slots().get(prompt.foreground or "", {}),
        **_background_slots().get(prompt.background or "", {}),
    }
    if slots:
        return frozenset(f"{slot}{SEPARATOR}{value}" for slot, value in slots.items())
    return frozenset(_WORD.findall(prompt.text.lower())) - _SMALL


def is_attribute(arm: str) -> bool:
    """Return whether an arm is an attribute of a grammar; otherwise it is a word."""
    return SEPARATOR in arm


def matching_arms(name: str, arms: Iterable[str]) -> list[str]:
    """Return the arms that a coverage target names: "color=red", or "red" for any slot.

    Args:
        name: The name in the target.
        arms: The known arms.
    """
    wanted = name.strip().lower()
    return [
        arm for arm in arms if arm.lower() == wanted or arm.lower().endswith(SEPARATOR + wanted)
    ]


@cache
def _foreground_slots() -> dict[str, dict[str, str]]:
    """Return the attribute and the subject of every foreground of the grammar of pairs."""
    return {
        _with_article(
            f"{subject} {attribute}" if attribute.startswith("in ") else f"{attribute} {subject}"
        ): {"attribute": attribute, "subject": subject}
        for group in SUBJECTS
        for attribute in group.attributes
        for subject in group.subjects
    }


@cache
def _background_slots() -> dict[str, dict[str, str]]:
    """Return the place and the light of every background of the grammar of pairs."""
    return {
        f"an empty {place} {light}": {"place": place, "light": light}
        for kind in PLACES.values()
        for place in kind.places
        for light in kind.lights
    }


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
