"""Recipes: the stages of each, which of them a snapshot allows, and what they report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from curation.domain import Progress, TrainingRequest
from curation.errors import Refused
from curation.object_store import ObjectReader
from curation.ports import ProgressCallback
from training.preference.labels import pair_labels, read_labels
from training.presets.preset import Preset

logger = logging.getLogger("layerloop.training")

RECIPES: dict[str, tuple[str, ...]] = {
    "transparency": ("transparency",),
    "base": ("base",),
    "layers": ("layers",),
    "whole": ("transparency", "base"),  # the recipe of a round
    "pairs": ("transparency", "base", "layers"),  # the recipe of a round of pairs
    "kto": ("kto",),  # the base, from decisions on single layers
    "dpo": ("dpo",),  # the base, from pairs of decisions on one prompt
    "layers-kto": ("layers-kto",),  # the same for layer adapters, from decisions on pairs
    "layers-dpo": ("layers-dpo",),
    "whole-kto": ("transparency", "base", "kto"),
    "pairs-kto": ("transparency", "base", "layers", "layers-kto"),
}
"""The stages of a recipe, in order; parts that none of them trains are the parent's."""

DECISION_STAGES = {"kto": "base", "dpo": "base", "layers-kto": "layers", "layers-dpo": "layers"}
"""Stages that learn from decisions, and the part that each of them trains further."""


def choose_stages(request: TrainingRequest, preset: Preset, store: ObjectReader) -> list[str]:
    """Return the stages to train: those of the recipe, as far as there are decisions.

    Before the first round there are none, so that a recipe with other stages leaves them out.

    Args:
        request: The training request.
        preset: Its preset.
        store: Where the snapshot is stored.

    Raises:
        Refused: The recipe only learns from decisions, and there are none that can be used.
    """
    stages = []
    for stage in RECIPES[request.recipe]:
        if stage in DECISION_STAGES:
            try:
                labels = read_labels(store, request.snapshot, DECISION_STAGES[stage], preset)
                if stage.endswith("dpo"):
                    pair_labels(labels)
            except Refused as error:
                if len(RECIPES[request.recipe]) == 1:
                    raise
                logger.warning("stage %s is left out: %s (%s)", stage, error.message, error.hint)
                continue
        stages.append(stage)
    return stages


def reported_stages(
    stages: Sequence[str], preset: Preset, files: Mapping[str, str], *, heldout: bool
) -> list[str]:
    """Return the stages that a training will report, in order.

    Args:
        stages: The stages to train.
        preset: The preset.
        files: The parts of the parent.
        heldout: Whether the snapshot has held-out samples.
    """
    reported = [] if files.get("backbone") else ["backbone"]
    for stage in stages:
        if stage != "transparency":
            reported += ["latents", "texts"] if preset.family else ["latents"]
        reported.append(stage)
    return [*reported, *(["evaluate"] if heldout else []), "sheet"]


def number_reports(report: ProgressCallback, stages: Sequence[str]) -> ProgressCallback:
    """Return a callback that adds stage numbers to reports.

    A report of a stage that is not among those to come counts as the current stage.

    Args:
        report: The callback.
        stages: The stages in order.
    """
    current = 0

    def numbered(progress: Progress) -> None:
        nonlocal current
        current = next(
            (index for index in range(current, len(stages)) if stages[index] == progress.stage),
            current,
        )
        report(replace(progress, stage_number=current + 1, stage_count=len(stages)))

    return numbered
