"""The card of a pushed checkpoint: lineage, metrics, licences of its data, use and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curation.domain import Checkpoint
from curation.exports.cards import count_table, value_table
from curation.statistics.intervals import wilson

FRONT_MATTER = """\
---
license: other
license_name: see-card
license_link: README.md
library_name: layerloop
pipeline_tag: text-to-image
tags:
- transparency
- rgba
- layerloop
---
"""
INTENDED_USE = """\
The weights generate images with transparency, and train further. They are safetensors files; load
them with `layerloop checkpoint import hf://{repository}`, which checks every file against its hash
and keeps the id of the checkpoint.
"""
KNOWN_LIMITS = """\
- Metrics are means over the held-out samples of the snapshot, and hold for images like these.
  Their intervals are not recorded.
- Reviewers accepted what they preferred: the mix of training images is not a random sample.
- Held-out samples are imported images. Nobody checked all captions.
- The weights inherit the conditions of their data and of the model that the preset names.
"""


def model_card(
    checkpoint: Checkpoint,
    lineage: Mapping[str, Any],
    repository: str,
) -> str:
    """Return the card in Markdown with the metadata that the Hub reads.

    Args:
        checkpoint: The checkpoint.
        lineage: What it was made from, and the rounds that it generated, as `layerloop used`.
        repository: Owner and name on the Hub.
    """
    title = f"Layerloop checkpoint {checkpoint.id[:12]}"
    parts = [FRONT_MATTER, f"# {title}\n"]
    parts.append(
        f"Weights for images with transparency: recipe `{checkpoint.recipe}`, preset "
        f"`{checkpoint.preset}`, parts {', '.join(f'`{part}`' for part in checkpoint.files)}. "
        f"The id `{checkpoint.id}` is the hash of its files and of its lineage.\n"
    )
    parts.append("## Intended use\n\n" + INTENDED_USE.format(repository=repository))
    parts.append(value_table("Lineage", ("what", "value"), _lineage(checkpoint, lineage)))
    parts.append(
        value_table("Preset values that were changed", ("name", "value"), checkpoint.changes)
    )
    metrics = {name: f"{value:.5g}" for name, value in sorted(checkpoint.evaluation.items())}
    counts = lineage.get("counts") or {}
    heldout = counts.get("split", {}).get("heldout")
    parts.append(
        value_table(f"Metrics on {heldout or 'the'} held-out samples", ("metric", "mean"), metrics)
    )
    parts.append(
        value_table("Review of what it generated", ("round", "accepted"), _rounds(lineage))
    )
    licences = counts.get("licence", {})
    parts.append(count_table("Licences of the data", ("licence", "samples"), licences))
    if not licences:
        parts.append("## Licences of the data\n\nNot known here.\n")
    parts.append(f"## Known limits\n\n{KNOWN_LIMITS}")
    return "\n".join(part for part in parts if part)


def _lineage(checkpoint: Checkpoint, lineage: Mapping[str, Any]) -> dict[str, object]:
    ancestors = [f"`{row['id'][:12]}`" for row in lineage.get("ancestors", ())]
    return {
        "recipe": checkpoint.recipe,
        "preset": checkpoint.preset,
        "snapshot": f"`{checkpoint.snapshot}`" if checkpoint.snapshot else "none: imported weights",
        "samples": lineage.get("samples") or "not known here",
        "ancestors, nearest first": ", ".join(ancestors) or "none",
        "seed": checkpoint.seed,
        "code": checkpoint.code_version,
    }


def _rounds(lineage: Mapping[str, Any]) -> dict[str, str]:
    """Return the share of accepted candidates, with its 95 % interval, by round."""
    shares = {}
    for row in lineage.get("rounds", ()):
        if row["candidates"]:
            low, high = wilson(row["accepted"] / row["candidates"], row["candidates"])
            shares[str(row["id"])] = (
                f"{row['accepted']} of {row['candidates']} (95 % interval {low:.0%} to {high:.0%})"
            )
    return shares
