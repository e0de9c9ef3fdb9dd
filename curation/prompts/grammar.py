"""Grammar of pair prompts: a subject in a place, the subject alone, and the empty place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain, zip_longest

from curation.domain import Prompt
from curation.prompts.vocabulary import PLACES, SUBJECTS, SubjectGroup


def generate(seed: int) -> Iterator[Prompt]:
    """Generate every pair prompt of the grammar once, in an order that depends only on the seed.

    Prompts alternate between subjects, so the first few hundred differ in their subjects. They
    follow the paper's section 3.4: "a cute cat", "cat in garden", "nothing in garden". The order is
    by hashes, so it does not depend on the version of any library.

    Args:
        seed: Seed of the order.
    """
    subjects = [(group, subject) for group in SUBJECTS for subject in group.subjects]
    ordered = sorted(subjects, key=lambda pair: _sort_key(seed, pair[1]))
    # Take the first prompt of every subject, then the second, and so on.
    turns = zip_longest(*(_shuffled(seed, group, subject) for group, subject in ordered))
    return (prompt for prompt in chain.from_iterable(turns) if prompt is not None)


def count_prompts() -> int:
    """Return the number of pair prompts in the grammar."""
    # The product over attributes, subjects, places and lights, without generating the prompts.
    places = {name: len(kind.places) * len(kind.lights) for name, kind in PLACES.items()}
    return sum(
        len(group.subjects)
        * len(group.attributes)
        * sum(places[name] for name in group.place_kinds)
        for group in SUBJECTS
    )


def _shuffled(seed: int, group: SubjectGroup, subject: str) -> list[Prompt]:
    return sorted(_prompts_of(group, subject), key=lambda prompt: _sort_key(seed, prompt.text))


def _prompts_of(group: SubjectGroup, subject: str) -> Iterator[Prompt]:
    """Generate all pair prompts of one subject."""
    for attribute in group.attributes:
        # "a young woman in a red coat", but "a red car".
        foreground = _with_article(
            f"{subject} {attribute}" if attribute.startswith("in ") else f"{attribute} {subject}"
        )
        for kind in (PLACES[name] for name in group.place_kinds):
            for place in kind.places:
                for light in kind.lights:
                    text = f"{foreground} {kind.preposition} {_with_article(place)} {light}"
                    yield Prompt(text, foreground, f"an empty {place} {light}")


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _sort_key(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()
