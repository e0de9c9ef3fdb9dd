"""The grammar of triples: a subject in a place, the subject alone, and the place with nothing in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain, zip_longest

from curation.domain import Prompt
from curation.prompts.vocabulary import GROUNDS, GROUPS, Group


def speak(seed: int) -> Iterator[Prompt]:
    """Every triple of the grammar once, in an order that the seed alone decides.

    Subjects take turns, so that the first hundreds are of different subjects however many looks and places each has
    (the paper's form, section 3.4: "a cute cat", "cat in garden", "nothing in garden"). The shuffle is by hashes, which
    no library's next version changes.
    """
    subjects = [(group, subject) for group in GROUPS for subject in group.subjects]
    ordered = sorted(subjects, key=lambda one: _place_of(seed, one[1]))
    turns = zip_longest(*(_shuffled(seed, group, subject) for group, subject in ordered))
    return (prompt for prompt in chain.from_iterable(turns) if prompt is not None)


def size() -> int:
    """How many triples the grammar has."""
    places = {name: len(ground.places) * len(ground.lights) for name, ground in GROUNDS.items()}
    return sum(
        len(g.subjects) * len(g.looks) * sum(places[name] for name in g.grounds) for g in GROUPS
    )


def _shuffled(seed: int, group: Group, subject: str) -> list[Prompt]:
    return sorted(_spoken(group, subject), key=lambda prompt: _place_of(seed, prompt.text))


def _spoken(group: Group, subject: str) -> Iterator[Prompt]:
    """All triples of one subject."""
    for look in group.looks:
        foreground = _a(f"{subject} {look}" if look.startswith("in ") else f"{look} {subject}")
        for ground in (GROUNDS[name] for name in group.grounds):
            for place in ground.places:
                for light in ground.lights:
                    whole = f"{foreground} {ground.at} {_a(place)} {light}"
                    yield Prompt(whole, foreground, f"an empty {place} {light}")


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _place_of(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()
