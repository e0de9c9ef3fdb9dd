"""Arguments of a call of a layers pipeline: counts, sizes and one row per layer of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from curation.domain import LayerRole
from curation.errors import Refused
from training.interop.modes import Mode


def stop_share(mode: Mode, given: float | None) -> float:
    """Return the share of noise levels with the mode's weights. Raises Refused."""
    share = given if given is not None else 0.5 if mode.name == "fgble2bg" else 1.0
    if not 0 < share <= 1:
        raise Refused(f"invalid stop_at {share}", "choose a value above 0 and up to 1 (never)")
    return share


def count_images(rows: Sequence[Any]) -> int:
    """Return the number of images, from inputs of one or of a common length. Raises Refused."""
    lengths = {len(row) for row in rows if row is not None and not isinstance(row, str)} - {1}
    if len(lengths) > 1:
        raise Refused(
            f"there are {' and '.join(map(str, sorted(lengths)))} texts and images",
            "give the same number of each",
        )
    return lengths.pop() if lengths else 1


EMBEDDED_TEXTS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
"""The arguments with encoded texts, one row each."""


def spread_conditions(arguments: Mapping[str, Any], count: int, frames: int) -> dict[str, Tensor]:
    """Repeat encoded texts for every layer of every image, and check the count of initial noise.

    Raises Refused.
    """
    latents = arguments.get("latents")
    if latents is not None and len(latents) != count * frames:
        hint = f"give {count * frames}: {frames} per image, image after image"
        raise Refused(
            f"there are {len(latents)} initial latents for {count} images of {frames} layers",
            hint,
        )
    spread = {}
    for name in EMBEDDED_TEXTS:
        rows = arguments.get(name)
        if rows is not None:
            if len(rows) % frames or count % (len(rows) // frames):
                hint = f"give one for each of the {frames} layers of an image, image after image"
                raise Refused(f"there are {len(rows)} {name} for {count} images", hint)
            by_image = rows.unflatten(0, (-1, frames)).repeat_interleave(
                count * frames // len(rows), dim=0
            )
            spread[name] = by_image.flatten(0, 1)
    return spread


def layer_prompts(texts: Sequence[str | Sequence[str] | None], count: int) -> list[str] | None:
    """Return a text for every layer of every image, image after image; None if they are encoded."""
    written = [rows_per_image(text, count) for text in texts if text is not None]
    return [text for row in zip(*written, strict=True) for text in row] or None


def rows_per_image(given: str | Sequence[Any], count: int) -> list[Any]:
    """Repeat items in place to one per image."""
    rows = [given] if isinstance(given, str) else list(given)
    if count % len(rows):
        raise Refused(
            f"there are {len(rows)} items for {count} images", "give one, or one per image"
        )
    return [row for row in rows for _ in range(count // len(rows))]


def common_size(
    images: Mapping[LayerRole, Tensor], height: int | None, width: int | None
) -> tuple[int, int] | None:
    """Return height and width: as passed, or of the given layers, or None for the model's own."""
    sizes = {tuple(rgba.shape[-2:]) for rgba in images.values()}
    if height and width:
        return height, width
    if height or width:
        raise Refused(
            "a size needs both height and width",
            "pass both, or neither for the size of the given images",
        )
    if len(sizes) > 1:
        raise Refused(
            "the given layers differ in size", "pass height and width, to which they are resized"
        )
    return next(iter(sizes), None)  # type: ignore[return-value]
