"""Generation of a recorded candidate again, and comparison of its pixels with the stored ones."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.id_prefixes import has_prefix
from curation.db.tables import (
    candidate_layers,
    candidates,
    generation_settings,
    prompts,
    rounds,
)
from curation.domain import GenerationRequest, LayerRole, Prompt
from curation.errors import NotFound, Refused
from curation.images.codec import pixel_hash
from curation.ports import RGBA, GenerationOptions, LayerGenerator, Layers
from curation.rounds.generation import describe_settings


@dataclass(frozen=True)
class GeneratedCandidate:
    """A generated candidate, as far as it is needed to generate it again.

    Attributes:
        id: Its id.
        request: Its prompt and seed.
        checkpoint: Id of its checkpoint.
        settings: What it was generated with; None if that was not recorded.
        layers: sha256 of the stored layers by role.
    """

    id: uuid.UUID
    request: GenerationRequest
    checkpoint: str
    settings: Mapping[str, str] | None
    layers: Mapping[LayerRole, str]


@dataclass(frozen=True)
class LayerDifference:
    """How far a layer that was generated again is from the stored one, in levels of 0..255.

    Attributes:
        stored_pixels: Hash of size and visible pixels of the stored layer.
        redrawn_pixels: The same of the layer that was generated again.
        equal: Whether both have the same bits.
        max_alpha: Largest absolute difference of alpha; None if the sizes differ.
        mean_alpha: Mean absolute difference of alpha.
        max_color: Largest absolute difference of premultiplied color.
        mean_color: Mean absolute difference of premultiplied color.
        psnr: PSNR over premultiplied color and alpha in dB; None for equal layers and other sizes.
    """

    stored_pixels: str
    redrawn_pixels: str
    equal: bool
    max_alpha: float | None = None
    mean_alpha: float | None = None
    max_color: float | None = None
    mean_color: float | None = None
    psnr: float | None = None


@dataclass(frozen=True)
class Redraw:
    """A candidate that was generated again.

    Attributes:
        layers: The layers.
        settings: What they were generated with.
        changed_settings: By name, the recorded and the present value, where these differ.
    """

    layers: Layers
    settings: Mapping[str, str]
    changed_settings: Mapping[str, tuple[str, str]]


def find_generated(tx: Transaction, name: str) -> GeneratedCandidate:
    """Return a generated candidate by its id or the first eight or more digits of it.

    Args:
        tx: The transaction.
        name: The id, or its beginning.

    Raises:
        NotFound: There is no such candidate, or there are several.
        Refused: It is an import, or it has no layers.
    """
    found = tx.execute(
        sa.select(
            candidates.c.id, candidates.c.seed, rounds.c.checkpoint_id, rounds.c.purpose,
            prompts.c.text, prompts.c.foreground, prompts.c.background,
            generation_settings.c.settings,
        )
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .join(prompts, prompts.c.id == candidates.c.prompt_id)
        .outerjoin(generation_settings, generation_settings.c.id == candidates.c.settings_id)
        .where(has_prefix(candidates.c.id, name), rounds.c.purpose != "gold")
        .limit(2)
    ).all()  # fmt: skip
    if len(found) != 1:
        raise NotFound(
            f"there is no candidate {name[:100]!r}",
            "'layerloop candidate list' shows ids; eight digits are enough",
        )
    row = found[0]
    if row.purpose != "generated":
        raise Refused(
            f"candidate {row.id.hex[:12]} was imported, not generated",
            "its file is its only source",
        )
    stored = sa.select(candidate_layers.c.role, candidate_layers.c.sha256).where(
        candidate_layers.c.candidate_id == row.id
    )
    layers = {LayerRole(one.role): one.sha256 for one in tx.execute(stored)}
    if not layers:
        raise Refused(
            f"candidate {row.id.hex[:12]} has no layers",
            "it is not generated yet, or was taken down",
        )
    request = GenerationRequest(Prompt(row.text, row.foreground, row.background), row.seed)
    return GeneratedCandidate(row.id, request, row.checkpoint_id, row.settings, layers)


def redraw(generator: LayerGenerator, candidate: GeneratedCandidate) -> Redraw:
    """Generate a candidate again with its recorded settings.

    Steps, guidance and size are those that were recorded, also where the preset has changed since.
    Precision, device, batch and versions are those of this process.

    Args:
        generator: The loaded checkpoint of the candidate.
        candidate: The candidate.

    Raises:
        Refused: The checkpoint no longer supports a recorded setting.
    """
    options = _recorded_options(generator, candidate.settings or {})
    [layers] = generator.generate([candidate.request], options)
    settings = describe_settings(generator, candidate.request.prompt, options)
    recorded = candidate.settings or settings
    changed = {
        name: (recorded.get(name, "unknown"), settings.get(name, "unknown"))
        for name in sorted({*recorded, *settings})
        if recorded.get(name) != settings.get(name)
    }
    return Redraw(layers, settings, changed)


def compare_layers(stored: Layers, redrawn: Layers) -> dict[LayerRole, LayerDifference]:
    """Compare the layers of two generations of a candidate.

    Args:
        stored: The stored layers by role.
        redrawn: The layers that were generated again.

    Returns:
        A difference for each role.

    Raises:
        Refused: The roles differ.
    """
    if set(stored) != set(redrawn):
        raise Refused(
            f"the layers {', '.join(sorted(stored))} are stored, and "
            f"{', '.join(sorted(redrawn))} were generated",
            "the checkpoint generates other layers in this version",
        )
    return {role: _difference(stored[role], redrawn[role]) for role in LayerRole if role in stored}


def _recorded_options(generator: LayerGenerator, recorded: Mapping[str, str]) -> GenerationOptions:
    """Return options for recorded settings that the generator would not choose by itself."""
    chosen = generator.describe(GenerationOptions())
    differing = {name for name in recorded if recorded[name] != chosen.get(name)}
    options: dict[str, Any] = {}
    if "steps" in differing:
        options["steps"] = int(recorded["steps"])
    if "guidance" in differing:
        options["guidance"] = float(recorded["guidance"])
    if "size" in differing:
        width, _, height = recorded["size"].partition("x")
        options["size"] = int(width), int(height)
    return GenerationOptions(**options)


def _difference(stored: RGBA, redrawn: RGBA) -> LayerDifference:
    hashes = pixel_hash(stored), pixel_hash(redrawn)
    if stored.shape != redrawn.shape:
        return LayerDifference(*hashes, equal=False)
    if np.array_equal(stored, redrawn):
        return LayerDifference(*hashes, True, 0.0, 0.0, 0.0, 0.0)
    apart = np.abs(_premultiplied(stored) - _premultiplied(redrawn))
    error = float(np.mean(apart**2))
    color, alpha = apart[..., :3], apart[..., 3]
    return LayerDifference(
        *hashes,
        equal=False,
        max_alpha=float(alpha.max()),
        mean_alpha=float(alpha.mean()),
        max_color=float(color.max()),
        mean_color=float(color.mean()),
        # Hidden colors alone may differ: then no visible pixel does.
        psnr=10 * math.log10(255**2 / error) if error else None,
    )


def _premultiplied(rgba: RGBA) -> np.ndarray:
    """Return premultiplied color and alpha as float64 in 0..255."""
    values = rgba.astype(np.float64)
    values[..., :3] *= values[..., 3:] / 255
    return values
