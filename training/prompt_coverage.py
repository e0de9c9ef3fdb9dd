"""Entry point for prompt coverage: the words of a text that a preset reads, without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curation.ports import TextCoverage
from training.presets.presets import find_stored_preset
from training.presets.tokenization import split_words


def measure_coverage(
    preset: str, changes: Mapping[str, str], texts: Sequence[str]
) -> Sequence[TextCoverage] | None:
    """Return the words of each text and how many of them are read (the port LAYERLOOP_TEXT_READER).

    Args:
        preset: The preset's name.
        changes: Overrides of the preset's columns.
        texts: The texts.

    Returns:
        One TextCoverage per text, or None for pretrained models, whose tokenizers split any text.

    Raises:
        NotFound: The preset does not exist.
        Refused: An override is invalid.
    """
    row = find_stored_preset(preset, changes)
    if row.family is not None:
        return None
    words_read = row.text_length - 1  # the first token is the start-of-text token
    return [TextCoverage(words, words_read) for words in map(split_words, texts)]
