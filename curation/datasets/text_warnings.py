"""What a checkpoint or preset will not understand of texts: cut, empty or unknown words, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from curation.datasets.manifest import read_samples
from curation.domain import CaptionSource, Checkpoint, Prompt, Sample
from curation.errors import LayerloopError, NotFound
from curation.ports import ObjectStore, ReadTexts, TextRead

SHOWN = 60
"""Characters of a text that are shown as an example."""


def warn_of_prompts(
    read: ReadTexts, store: ObjectStore, checkpoint: Checkpoint, prompts: Sequence[Prompt]
) -> str:
    """Return what a checkpoint cuts or has never learnt of prompts; empty where there is nothing to say.

    Unknown are the words that no caption of the checkpoint's own snapshot holds.
    """
    texts = list(dict.fromkeys(text for one in prompts for text in (one.text, *one.texts.values())))
    found = _try(read, checkpoint.preset, checkpoint.changes, texts)
    if found is None:
        return ""
    learnt = _learnt(read, store, checkpoint)
    unknown = [
        (text, fresh)
        for text, read in zip(texts, found, strict=True)
        if learnt and (fresh := [word for word in read.words[: read.seen] if word not in learnt])
    ]
    told = _cut_or_empty("texts", texts, found)
    if unknown:
        words = list(dict.fromkeys(word for _, fresh in unknown for word in fresh))
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        named = ", ".join(map(_short, words[:3]))
        told.append(
            f"{len(unknown)} of {len(texts)} hold words that no caption of its training has: {named}{more}"
        )
    return _sentence(checkpoint.preset, told)


def warn_of_snapshot(
    read: ReadTexts, store: ObjectStore, snapshot: str, preset: str, changes: Mapping[str, str]
) -> str:
    """Return what a preset cuts of a snapshot's captions, and how many say nothing; empty where all is well."""
    samples = list(read_samples(store, snapshot))
    texts = [sample.text_of(role) for sample in samples for role in (None, *sample.texts)]
    named = sum(one.caption_source is CaptionSource.file_name for one in samples)
    said = [text for text in texts if text]
    found = _try(read, preset, changes, said)
    told = _cut_or_empty("captions", said, found) if found is not None else []
    if named:
        told.append(
            f"{named} of {len(samples)} samples have no caption but their file name and are learnt without text"
        )
    return _sentence(preset, told)


def _cut_or_empty(what: str, texts: Sequence[str], found: Sequence[TextRead]) -> list[str]:
    told = []
    cut = [
        (text, read) for text, read in zip(texts, found, strict=True) if len(read.words) > read.seen
    ]
    empty = [text for text, read in zip(texts, found, strict=True) if not read.words]
    if cut:
        text, read = cut[0]
        told.append(
            f"{len(cut)} of {len(texts)} {what} are cut after {read.seen} words, as {_short(text)}"
        )
    if empty:
        told.append(
            f"{len(empty)} of {len(texts)} {what} hold no word it can read, as {_short(empty[0])}"
        )
    return told


def _sentence(preset: str, told: Sequence[str]) -> str:
    return f"preset {preset}: {'; '.join(told)}" if told else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def _try(
    read: ReadTexts, preset: str, changes: Mapping[str, str], texts: Sequence[str]
) -> Sequence[TextRead] | None:
    """Return how a preset reads texts; None where there is no such preset, which is told by whoever uses it."""
    try:
        return read(preset, changes, texts)
    except LayerloopError:
        return None


def _learnt(read: ReadTexts, store: ObjectStore, checkpoint: Checkpoint) -> set[str]:
    """Return every word of the captions that a checkpoint was trained on; empty where they cannot be had."""
    if checkpoint.snapshot is None:
        return set()
    try:
        samples: Iterable[Sample] = list(read_samples(store, checkpoint.snapshot))
    except NotFound:
        return set()
    texts = list({sample.text_of(role) for sample in samples for role in (None, *sample.texts)})
    found = _try(read, checkpoint.preset, checkpoint.changes, texts)
    return {word for read in found or () for word in read.words}
