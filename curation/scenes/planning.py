"""In which steps a scene comes about, and what each asks of a generator; made without a generator at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from curation.domain import DrawRequest, Prompt
from curation.scenes.scene import Scene, SceneLayer


class StepKind(StrEnum):
    """How a step comes by its layers."""

    given = "given"  # a file or a colour of the user's: nothing is drawn
    together = "together"  # the background and the first layer are drawn as a pair
    under = "under"  # the background is drawn to fit files that will lie on it
    over = "over"  # a layer is drawn to fit all that lies below it


@dataclass(frozen=True)
class Step:
    """One step: `places` are what it adds, 0 being the background and n the n-th layer from below.

    `given` are the places of the layers that the drawn ones are to fit; for a layer over others all below it.
    """

    way: StepKind
    places: Sequence[int]
    request: DrawRequest | None = None
    given: Sequence[int] = ()


def plan(scene: Scene) -> Sequence[Step]:
    """The steps of a scene, from below: a background, then each layer over the blend of what lies under it."""
    layers, steps = scene.layers, []
    last = _last_drawn(scene)
    if not scene.background.drawn:
        steps.append(Step(StepKind.given, [0]))
    elif layers[0].file is None:
        texts = [str(layers[0].prompt), str(scene.background.prompt)]
        whole = scene.whole if last == 1 and scene.whole else ", ".join(texts)
        steps.append(
            Step(StepKind.together, [0, 1], DrawRequest(Prompt(whole, *texts), layers[0].seed))
        )
    else:
        steps.append(_background_under(scene, last))
    for place in range(1 + len(steps[-1].places[1:]), len(layers) + 1):
        layer = layers[place - 1]
        if layer.file is not None:
            steps.append(Step(StepKind.given, [place]))
            continue
        below = _said([*reversed(layers[: place - 1])], scene.background.prompt)
        text = ", ".join(filter(None, [layer.prompt, below]))
        whole = scene.whole if place == last and scene.whole else text
        request = DrawRequest(Prompt(whole, layer.prompt, below), layer.seed)
        steps.append(Step(StepKind.over, [place], request, range(place)))
    return steps


def _background_under(scene: Scene, last: int) -> Step:
    """The background is to fit the files that lie directly on it; what is drawn above them will fit it in turn."""
    leading = next(
        (n for n, layer in enumerate(scene.layers) if layer.file is None), len(scene.layers)
    )
    above = _said([*reversed(scene.layers[:leading])], None)
    text = ", ".join(filter(None, [above, scene.background.prompt]))
    whole = scene.whole if last == 0 and scene.whole else text
    request = DrawRequest(Prompt(whole, above, scene.background.prompt), scene.seed)
    return Step(StepKind.under, [0], request, range(1, leading + 1))


def _last_drawn(scene: Scene) -> int:
    """The place of the layer that is drawn last: only then is the whole prompt true of the picture."""
    return max(
        (place for place, layer in enumerate(scene.layers, 1) if layer.file is None), default=0
    )


def _said(layers: Sequence[SceneLayer], background: str | None) -> str | None:
    """What is known of these layers, uppermost first, and of the background, as one text."""
    return ", ".join(filter(None, [*[layer.prompt for layer in layers], background])) or None
