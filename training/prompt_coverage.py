"""Entry point for texts: which words of a text a preset reads, without loading weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curation.ports import TextRead
from training.presets.presets import find_preset
from training.presets.tokenization import words_of


def read_texts(
    preset: str, changes: Mapping[str, str], texts: Sequence[str]
) -> Sequence[TextRead] | None:
    """Return the words of each text and how many of them are seen (the door LAYERLOOP_READER).

    None for presets of pretrained models, whose tokenizers split any text into known parts. Raises NotFound for a
    preset that there is not, Refused for numbers that it cannot have.
    """
    row = find_preset(preset, changes)
    if row.family is not None:
        return None
    seen = row.text_length - 1  # one place is taken by the mark that every prompt begins with
    return [TextRead(words, seen) for words in map(words_of, texts)]
