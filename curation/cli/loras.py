"""The option --lora: a user's own LoRAs make a checkpoint of their own, which then draws."""

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
        "--lora", help="A style's LoRA, as FILE or FILE:WEIGHT; again for more (sd15, sd21, sdxl)."
    ),
]


def read_styles(words: Sequence[str]) -> list[LoraFile]:
    """Read FILE or FILE:WEIGHT. Raises Refused for a weight that is no finite number."""
    from curation.ports import LoraFile

    styles = []
    for word in words:
        name, colon, weight = word.rpartition(":")
        if not colon or Path(word).is_file():  # a file's own name may have a colon
            styles.append(LoraFile(Path(word)))
            continue
        try:
            number = float(weight)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise Refused(
                f"--lora {word!r} has no weight after its colon",
                "write it like style.safetensors:0.8",
            )
        styles.append(LoraFile(Path(name), number))
    return styles


def register_styled(ctx: AppContext, checkpoint: Checkpoint, words: Sequence[str]) -> Checkpoint:
    """Store LoRAs beside a checkpoint and register the result; doing it twice is doing it once.

    Raises NotFound, Refused.
    """
    from curation.checkpoints import registry
    from curation.runtime.context import load

    styled: Checkpoint = load(ctx.settings.styler)(checkpoint, ctx.store, read_styles(words))
    with ctx.database.transaction() as tx:
        registry.register_checkpoint(tx, styled, ACTOR)
    return styled
