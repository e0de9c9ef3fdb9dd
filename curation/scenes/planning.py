"""Planning: the steps of a scene and their generation requests, without a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from curation.domain import GenerationRequest, Prompt
from curation.scenes.scene import Scene, SceneLayer


class StepKind(StrEnum):
    """How a step obtains its layers."""

    given = "given"  # the user's file or color: nothing is generated
    together = "together"  # background and first layer are generated as a pair
    under = "under"  # the background is generated to fit the files above it
    over = "over"  # a layer is generated to fit the blend below it


@dataclass(frozen=True)
class SceneStep:
    """One step of a scene.

    `places` are the indices of the layers it adds, 0 being the background and n the n-th layer from
    below. `given` are the indices of the layers that the generated ones must fit; for a layer over
    others, all below it.
    """

    way: StepKind
    places: Sequence[int]
    request: GenerationRequest | None = None
    given: Sequence[int] = ()


def plan_steps(scene: Scene) -> Sequence[SceneStep]:
    """Return the steps of a scene: a background, then each layer over the blend below it."""
    layers, steps = scene.layers, []
    last = _last_drawn(scene)
    # The background: given, generated with the first layer as a pair, or generated to fit files.
    if not scene.background.drawn:
        steps.append(SceneStep(StepKind.given, [0]))
    elif layers[0].file is None:
        texts = [str(layers[0].prompt), str(scene.background.prompt)]
        scene_prompt = scene.whole if last == 1 and scene.whole else ", ".join(texts)
        steps.append(
            SceneStep(
                StepKind.together,
                [0, 1],
                GenerationRequest(Prompt(scene_prompt, *texts), layers[0].seed),
            )
        )
    else:
        steps.append(_background_under(scene, last))
    # The layers above: each is a file, or generated over the blend of everything below it.
    for index in range(1 + len(steps[-1].places[1:]), len(layers) + 1):
        layer = layers[index - 1]
        if layer.file is not None:
            steps.append(SceneStep(StepKind.given, [index]))
            continue
        # The text for everything below conditions the layer, like the background's text of a pair.
        below = _join_prompts([*reversed(layers[: index - 1])], scene.background.prompt)
        text = ", ".join(filter(None, [layer.prompt, below]))
        scene_prompt = scene.whole if index == last and scene.whole else text
        request = GenerationRequest(Prompt(scene_prompt, layer.prompt, below), layer.seed)
        steps.append(SceneStep(StepKind.over, [index], request, range(index)))
    return steps


def _background_under(scene: Scene, last: int) -> SceneStep:
    """Return the step that generates the background to fit the files directly above it.

    Layers generated later fit the background in turn.
    """
    file_count = next(
        (n for n, layer in enumerate(scene.layers) if layer.file is None), len(scene.layers)
    )
    above = _join_prompts([*reversed(scene.layers[:file_count])], None)
    text = ", ".join(filter(None, [above, scene.background.prompt]))
    scene_prompt = scene.whole if last == 0 and scene.whole else text
    request = GenerationRequest(Prompt(scene_prompt, above, scene.background.prompt), scene.seed)
    return SceneStep(StepKind.under, [0], request, range(1, file_count + 1))


def _last_drawn(scene: Scene) -> int:
    """Return the index of the layer generated last.

    Only then does the prompt of the whole scene describe the image.
    """
    return max(
        (index for index, layer in enumerate(scene.layers, 1) if layer.file is None), default=0
    )


def _join_prompts(layers: Sequence[SceneLayer], background: str | None) -> str | None:
    """Return the prompts of these layers, uppermost first, and of the background as one text."""
    return ", ".join(filter(None, [*[layer.prompt for layer in layers], background])) or None
