"""Warnings about texts that a checkpoint or preset cannot read: cut, empty or unknown words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from curation.datasets.manifest import read_samples
from curation.domain import CaptionSource, Checkpoint, Prompt, Sample
from curation.errors import LayerloopError, NotFound
from curation.ports import ObjectStore, TextCoverage, TextReader

MAX_READ_TEXTS = 10_000
"""Largest number of prompts that are read for a warning."""

MAX_SHOWN_CHARACTERS = 60
"""Longest text that is shown as an example, in characters."""


def prompt_warning(
    read: TextReader, store: ObjectStore, checkpoint: Checkpoint, prompts: Sequence[Prompt]
) -> str:
    """Return a warning about prompts that a checkpoint truncates or has unknown words of.

    Unknown words are in no caption of the snapshot that the checkpoint was trained on.

    Args:
        read: Reader of a preset's text input.
        store: Store of the snapshot.
        checkpoint: The checkpoint.
        prompts: The prompts.

    Returns:
        One sentence, or an empty string.
    """
    # Reading a million texts would take longer than opening the round.
    distinct = dict.fromkeys(
        text for prompt in prompts for text in (prompt.text, *prompt.texts.values())
    )
    texts = list(islice(distinct, MAX_READ_TEXTS))
    noun = "texts" if len(texts) == len(distinct) else "texts (the first ones)"
    found = _try(read, checkpoint.preset, checkpoint.changes, texts)
    if found is None:
        return ""
    # Compare with the words of the training captions, if they are known.
    trained = _trained_words(read, store, checkpoint)
    unknown = [
        [word for word in result.words[: result.seen] if word not in trained]
        for result in found
        if trained
    ]
    unknown = [words for words in unknown if words]
    warnings = _cut_or_empty(noun, texts, found)
    if unknown:
        words = list(dict.fromkeys(word for fresh in unknown for word in fresh))
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        named = ", ".join(map(_short, words[:3]))
        warnings.append(
            f"{len(unknown)} of {len(texts)} have words that are in no training caption: "
            f"{named}{more}"
        )
    return _sentence(checkpoint.preset, warnings)


def snapshot_warning(
    read: TextReader, store: ObjectStore, snapshot: str, preset: str, changes: Mapping[str, str]
) -> str:
    """Return a warning about a snapshot's captions that a preset truncates or cannot read.

    Args:
        read: Reader of a preset's text input.
        store: Store of the snapshot.
        snapshot: Id of the snapshot.
        preset: Name of the preset.
        changes: Overrides of the preset, as text.

    Returns:
        One sentence, or an empty string.
    """
    samples = list(read_samples(store, snapshot))
    texts = [sample.caption_for(role) for sample in samples for role in (None, *sample.texts)]
    captions = [text for text in texts if text]
    found = _try(read, preset, changes, captions)
    warnings = _cut_or_empty("captions", captions, found) if found is not None else []
    # Captions made from file names are not used in training.
    unnamed = sum(sample.caption_source is CaptionSource.file_name for sample in samples)
    if unnamed:
        warnings.append(
            f"{unnamed} of {len(samples)} samples have only a file name as caption and are "
            "trained on without text"
        )
    return _sentence(preset, warnings)


def _cut_or_empty(noun: str, texts: Sequence[str], found: Sequence[TextCoverage]) -> list[str]:
    warnings = []
    cut = [
        (text, read) for text, read in zip(texts, found, strict=True) if len(read.words) > read.seen
    ]
    empty = [text for text, read in zip(texts, found, strict=True) if not read.words]
    if cut:
        text, read = cut[0]
        warnings.append(
            f"{len(cut)} of {len(texts)} {noun} are cut after {read.seen} words, such as "
            f"{_short(text)}"
        )
    if empty:
        warnings.append(
            f"{len(empty)} of {len(texts)} {noun} have no known word, such as {_short(empty[0])}"
        )
    return warnings


def _sentence(preset: str, warnings: Sequence[str]) -> str:
    return f"preset {preset}: {'; '.join(warnings)}" if warnings else ""


def _short(text: str) -> str:
    return repr(
        text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"
    )


def _try(
    read: TextReader, preset: str, changes: Mapping[str, str], texts: Sequence[str]
) -> Sequence[TextCoverage] | None:
    """Return how a preset reads texts; None if that is not known."""
    # An unknown preset is reported by the code that uses it.
    try:
        return read(preset, changes, texts)
    except LayerloopError:
        return None


def _trained_words(read: TextReader, store: ObjectStore, checkpoint: Checkpoint) -> set[str]:
    """Return all words of the captions that a checkpoint was trained on; empty if not available."""
    if checkpoint.snapshot is None:
        return set()
    try:
        samples: Iterable[Sample] = list(read_samples(store, checkpoint.snapshot))
    except NotFound:
        return set()
    texts = list({sample.caption_for(role) for sample in samples for role in (None, *sample.texts)})
    found = _try(read, checkpoint.preset, checkpoint.changes, texts)
    return {word for result in found or () for word in result.words}
