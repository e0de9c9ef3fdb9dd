"""Screening signals of pairs: how foreground, background and blended image fit together.

They are computed by curation.images.pairs and stored beside the foreground's own signals, under
different names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from curation.domain import LayerRole, Prompt
from curation.images import pairs
from curation.ports import RGBA, Layers
from curation.synthetic.pair_dataset import check_pair


@dataclass(frozen=True)
class PairSignalDefinition:
    """The definition of one pair signal."""

    name: str
    definition: str
    unit: str
    measure: Callable[[RGBA, RGBA, RGBA], float]  # foreground, background, blended, all of one size


PAIR_SIGNALS: Final[dict[str, PairSignalDefinition]] = {
    definition.name: definition
    for definition in (
        PairSignalDefinition(
            "background_alpha",
            "the smallest alpha of the background",
            "0..1",
            lambda _f, b, _c: b[..., 3].min() / 255,
        ),
        PairSignalDefinition(
            "blended_error",
            "root mean square of foreground over background from the blended image",
            "levels",
            pairs.blended_error,
        ),
        PairSignalDefinition(
            "leakage",
            "how certainly and strongly the background still shows the subject",
            "0..1",
            lambda f, b, _c: pairs.leakage(f, b),
        ),
        PairSignalDefinition(
            "seam_energy",
            "steps of the background along the mask, relative to those beside it",
            "ratio",
            pairs.seam_energy,
        ),
        PairSignalDefinition(
            "harmony",
            "disagreement of the layers in luminance, color temperature and saturation",
            "units",
            lambda f, b, _c: pairs.harmony(f, b),
        ),
    )
}
"""Pair signals by name, in display order."""

SIZE_GAP: Final = "size_gap"
"""The difference of the layers' sizes in pixels; if it is not 0, no other signal is computed."""

AGREEMENT_SIGNALS: Final = ("shows_colour", "shows_shape", "shows_ground", "light_gap", "foot_gap")
"""Signals that exist only for texts of the synthetic grammar (curation.synthetic.pair_dataset)."""


def compute_pair_signals(layers: Layers) -> dict[str, float | None]:
    """Return every signal of a pair; all but the first are None if the sizes differ.

    Args:
        layers: The three layers, each H x W x 4.
    """
    foreground, background, blended = (layers[role] for role in LayerRole)
    # The gap is the larger of the differences in height and in width.
    extents = [
        [layer.shape[axis] for layer in (foreground, background, blended)] for axis in (0, 1)
    ]
    size_gap = max(max(extent) - min(extent) for extent in extents)
    found: dict[str, float | None] = {SIZE_GAP: float(size_gap)}
    for name, signal in PAIR_SIGNALS.items():
        found[name] = (
            None if size_gap else round(float(signal.measure(foreground, background, blended)), 6)
        )
    return found


def compute_agreement_signals(layers: Layers, prompt: Prompt) -> dict[str, float | None]:
    """Return how a pair agrees with its texts and within itself.

    Empty if the texts are not of the synthetic grammar.

    Args:
        layers: The three layers.
        prompt: The three texts.
    """
    agreement = check_pair(layers[LayerRole.foreground], layers[LayerRole.background], prompt)
    if agreement is None:
        return {}
    # Booleans become 0 and 1, so that rules and models can read them as signals.
    values: Mapping[str, float | None] = {
        "shows_colour": agreement.color,
        "shows_shape": agreement.shape,
        "shows_ground": agreement.ground,
        "light_gap": agreement.light_gap,
        "foot_gap": agreement.foot_gap,
    }
    return {
        name: None if value is None else round(float(value), 6) for name, value in values.items()
    }
