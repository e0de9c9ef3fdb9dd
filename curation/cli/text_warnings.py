"""Warnings about texts that a checkpoint or a preset truncates or does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from curation.cli.output import warn
from curation.datasets import text_warnings
from curation.errors import LayerloopError

if TYPE_CHECKING:
    from curation.domain import Checkpoint, Prompt
    from curation.ports import TextReader
    from curation.runtime.context import AppContext


def warn_of_prompts(ctx: AppContext, checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> str:
    """Warn on stderr about prompts that a checkpoint truncates or has words it does not know.

    Args:
        ctx: The app context.
        checkpoint: The checkpoint that generates from the prompts.
        prompts: The prompts.

    Returns:
        The warning, empty if there is none.
    """
    read = _reader(ctx)
    sentence = text_warnings.prompt_warning(read, ctx.store, checkpoint, prompts) if read else ""
    warn(sentence)
    return sentence


def warn_of_snapshot(
    ctx: AppContext, snapshot: str, preset: str, changes: Mapping[str, str]
) -> None:
    """Warn on stderr about captions of a snapshot that a preset truncates or has unknown words."""
    read = _reader(ctx)
    if read:
        warn(text_warnings.snapshot_warning(read, ctx.store, snapshot, preset, changes))


def _reader(ctx: AppContext) -> TextReader | None:
    """Return the text reader, None if the training package is not installed."""
    from curation.runtime.context import load_object

    # The tokenizers belong to the training package.
    try:
        found: TextReader = load_object(ctx.settings.text_reader)
    except LayerloopError:
        return None
    return found
