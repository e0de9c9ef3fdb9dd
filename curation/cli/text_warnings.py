"""Warnings of commands about texts that a checkpoint or a preset cuts or does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from curation import text_warnings
from curation.cli.show import warn
from curation.errors import LayerloopError

if TYPE_CHECKING:
    from curation.domain import Checkpoint, Prompt
    from curation.house import House
    from curation.ports import ReadTexts


def warn_of_prompts(opened: House, checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> str:
    """Say on stderr what a checkpoint does not understand of prompts; returns the sentence, empty where all is well."""
    read = _reader(opened)
    told = text_warnings.warn_of_prompts(read, opened.store, checkpoint, prompts) if read else ""
    warn(told)
    return told


def warn_of_snapshot(opened: House, snapshot: str, preset: str, changes: Mapping[str, str]) -> None:
    """Say on stderr what a preset will not learn of a snapshot's captions."""
    read = _reader(opened)
    if read:
        warn(text_warnings.warn_of_snapshot(read, opened.store, snapshot, preset, changes))


def _reader(opened: House) -> ReadTexts | None:
    """Return what tells the words of texts; None where the training part is not installed."""
    from curation.house import load

    try:
        found: ReadTexts = load(opened.settings.reader)
    except LayerloopError:
        return None
    return found
