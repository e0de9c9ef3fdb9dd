"""Warnings of commands about texts that a checkpoint or a preset cuts or does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from curation.cli.output import warn
from curation.datasets import text_warnings
from curation.errors import LayerloopError

if TYPE_CHECKING:
    from curation.domain import Checkpoint, Prompt
    from curation.ports import ReadTexts
    from curation.runtime.context import AppContext


def warn_of_prompts(ctx: AppContext, checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> str:
    """Say on stderr what a checkpoint does not understand of prompts; returns the sentence, empty where all is well."""
    read = _reader(ctx)
    told = text_warnings.warn_of_prompts(read, ctx.store, checkpoint, prompts) if read else ""
    warn(told)
    return told


def warn_of_snapshot(
    ctx: AppContext, snapshot: str, preset: str, changes: Mapping[str, str]
) -> None:
    """Say on stderr what a preset will not learn of a snapshot's captions."""
    read = _reader(ctx)
    if read:
        warn(text_warnings.warn_of_snapshot(read, ctx.store, snapshot, preset, changes))


def _reader(ctx: AppContext) -> ReadTexts | None:
    """Return what tells the words of texts; None where the training part is not installed."""
    from curation.runtime.context import load

    try:
        found: ReadTexts = load(ctx.settings.reader)
    except LayerloopError:
        return None
    return found
