"""Screening signals of pairs: what foreground, background and blended image say of one another (curation.images.pairs).

The foreground's own signals are those of single layers; these stand beside them under names of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from curation.domain import LayerRole, Prompt
from curation.images import pairs
from curation.ports import RGBA, Layers
from curation.synthetic.pair_dataset import shows_pair


@dataclass(frozen=True)
class PairDefinition:
    """What one signal of pairs is: its name, what it measures, and in which unit."""

    name: str
    definition: str
    unit: str
    measure: Callable[[RGBA, RGBA, RGBA], float]  # foreground, background, blended, all of one size


PAIR_SIGNALS: Final[dict[str, PairDefinition]] = {
    one.name: one
    for one in (
        PairDefinition(
            "background_alpha", "the smallest alpha of the background", "0..1", lambda _f, b, _c: b[..., 3].min() / 255
        ),
        PairDefinition(
            "blended_error", "root mean square of foreground over background from the blended image", "levels",
            pairs.blended_error,
        ),
        PairDefinition(
            "leakage", "how surely and strongly the background still shows the subject", "0..1",
            lambda f, b, _c: pairs.leakage(f, b),
        ),
        PairDefinition(
            "seam_energy", "steps of the background along the mask that stand out of those beside it", "ratio",
            pairs.seam_energy,
        ),
        PairDefinition(
            "harmony", "disagreement of the layers in luminance, colour temperature and saturation", "units",
            lambda f, b, _c: pairs.harmony(f, b),
        ),
    )
}  # fmt: skip
"""Every signal of pairs by its name, in the order in which they are shown."""

SIZE_GAP: Final = "size_gap"
"""How far the layers' sizes differ, in pixels; where they do, nothing else can be measured of the pair."""

AGREEMENT: Final = ("shows_colour", "shows_shape", "shows_ground", "light_gap", "foot_gap")
"""Signals of pairs whose texts are of the procedural grammar alone (intake.procedural_pairs)."""


def measure_pair(layers: Layers) -> dict[str, float | None]:
    """Every signal of a pair, its three layers each H x W x 4; all but the first are None where the sizes differ."""
    foreground, background, blended = (layers[role] for role in LayerRole)
    sides = [[layer.shape[axis] for layer in (foreground, background, blended)] for axis in (0, 1)]
    gap = max(max(side) - min(side) for side in sides)
    found: dict[str, float | None] = {SIZE_GAP: float(gap)}
    for name, one in PAIR_SIGNALS.items():
        found[name] = None if gap else round(float(one.measure(foreground, background, blended)), 6)
    return found


def measure_agreement(layers: Layers, prompt: Prompt) -> dict[str, float | None]:
    """How a pair shows its texts and itself, where they are of the procedural grammar; nothing where they are not."""
    said = shows_pair(layers[LayerRole.foreground], layers[LayerRole.background], prompt)
    if said is None:
        return {}
    values: Mapping[str, float | None] = {
        "shows_colour": said.colour,
        "shows_shape": said.shape,
        "shows_ground": said.ground,
        "light_gap": said.light_gap,
        "foot_gap": said.foot_gap,
    }
    return {
        name: None if value is None else round(float(value), 6) for name, value in values.items()
    }
