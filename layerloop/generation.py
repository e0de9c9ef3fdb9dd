"""Generate transparent images from a checkpoint of an instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from curation.checkpoints.registry import (
    find_checkpoint,
    find_promoted_checkpoint,
)
from curation.checkpoints.taint import refuse_tainted
from curation.domain import GenerationRequest, Prompt
from curation.errors import NotFound
from curation.ports import GenerationOptions, Layers
from curation.runtime.context import load_object
from layerloop.instance import open_instance


def generate(
    prompt: str | Prompt,
    *,
    count: int = 1,
    seed: int = 0,
    checkpoint: str | None = None,
    home: Path | str | None = None,
    **options: Any,
) -> list[dict[str, Image.Image]]:
    """Generate images with alpha, deterministic in prompt, seed, checkpoint and options.

    Args:
        prompt: The text; or a `curation.domain.Prompt` with texts for foreground and background,
            which gives pairs.
        count: Number of images; their seeds are `seed`, `seed + 1`, and so on.
        seed: Seed of the first image.
        checkpoint: Id of the checkpoint, or its first eight or more digits; by default the promoted
            one.
        home: Home folder of the instance; by default that of LAYERLOOP_HOME, else `.home`.
        options: Fields of `curation.ports.GenerationOptions`: steps, guidance, size, negative,
            sampler and so on.

    Returns:
        One dictionary per seed from role ("foreground"; for pairs also "background" and "blended")
        to image.

    Raises:
        NotFound: There is no such home or checkpoint.
        Refused: The checkpoint has no base model, or does not support an option.
    """
    texts = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
    requests = [GenerationRequest(texts, image_seed) for image_seed in range(seed, seed + count)]
    with open_instance(home) as instance:
        with instance.database.transaction() as tx:
            chosen = find_checkpoint(tx, checkpoint) if checkpoint else find_promoted_checkpoint(tx)
        if chosen is None:
            raise NotFound(
                "no checkpoint is promoted",
                "pass checkpoint=; 'layerloop checkpoint list' shows the ids",
            )
        with instance.database.transaction() as tx:
            refuse_tainted(tx, chosen.id)
        generator = load_object(instance.settings.generator)(chosen, instance.store)
        # Batches of the generator's own size: smaller ones are not faster, larger ones need more
        # memory.
        batches = (
            generator.generate(
                requests[start : start + generator.batch_size], GenerationOptions(**options)
            )
            for start in range(0, count, generator.batch_size)
        )
        return [_as_images(layers) for batch in batches for layers in batch]


def _as_images(layers: Layers) -> dict[str, Image.Image]:
    return {role.value: Image.fromarray(rgba) for role, rgba in layers.items()}
