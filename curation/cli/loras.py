"""The option --lora: register a checkpoint that loads a user's LoRAs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import ACTOR
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.domain import Checkpoint
    from curation.ports import LoraFile
    from curation.runtime.context import AppContext

Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", help="A LoRA to load, as FILE or FILE:WEIGHT; repeatable (sd15, sd21, sdxl)."
    ),
]


def parse_loras(words: Sequence[str]) -> list[LoraFile]:
    """Parse FILE or FILE:WEIGHT words. Raises Refused for a weight that is not a finite number."""
    from curation.ports import LoraFile

    loras = []
    for word in words:
        name, colon, weight = word.rpartition(":")
        if not colon or Path(word).is_file():  # a file name may contain a colon
            loras.append(LoraFile(Path(word)))
            continue
        try:
            number = float(weight)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise Refused(
                f"--lora {word!r} has no valid weight after the colon",
                "for example style.safetensors:0.8",
            )
        loras.append(LoraFile(Path(name), number))
    return loras


def register_with_loras(
    ctx: AppContext, checkpoint: Checkpoint, words: Sequence[str]
) -> Checkpoint:
    """Store LoRAs with a checkpoint and register the result as a new checkpoint; idempotent.

    Args:
        ctx: The app context.
        checkpoint: The checkpoint to extend.
        words: The values of --lora, FILE or FILE:WEIGHT.

    Raises:
        NotFound: A LoRA file does not exist.
        Refused: A weight is invalid, or a LoRA does not fit the checkpoint.
    """
    from curation.checkpoints import registry
    from curation.runtime.context import load_object

    styled: Checkpoint = load_object(ctx.settings.lora_loader)(
        checkpoint, ctx.store, parse_loras(words)
    )
    with ctx.database.transaction() as tx:
        registry.register_checkpoint(tx, styled, ACTOR)
    return styled
