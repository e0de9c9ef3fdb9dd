"""The steps of a scene: layers generated together, behind files or over others, and their texts."""

from __future__ import annotations

from pathlib import Path

from curation.domain import GenerationRequest, Prompt
from curation.scenes.planning import SceneStep, StepKind, plan_steps
from curation.scenes.scene import Background, Scene, SceneLayer

FOX, OWL = SceneLayer("fox", "a fox", seed=3), SceneLayer("owl", "an owl", seed=4)
LAMP, MOON = (
    SceneLayer("lamp", "a lamp", Path("lamp.png")),
    SceneLayer("moon", None, Path("moon.png")),
)
FOREST = Background("a forest")


def asked(
    whole: str, foreground: str | None, background: str | None, seed: int
) -> GenerationRequest:
    return GenerationRequest(Prompt(whole, foreground, background), seed)


def test_a_background_is_generated_with_the_first_layer() -> None:
    assert plan_steps(Scene(FOREST, [FOX, OWL])) == [
        SceneStep(StepKind.together, [0, 1], asked("a fox, a forest", "a fox", "a forest", 3)),
        SceneStep(
            StepKind.over,
            [2],
            asked("an owl, a fox, a forest", "an owl", "a fox, a forest", 4),
            range(2),
        ),
    ]


def test_the_whole_text_is_used_for_the_last_layer() -> None:
    drawn = [
        step.request.prompt.text for step in plan_steps(Scene(FOREST, [FOX, OWL], "the whole"))
    ]
    assert drawn == ["a fox, a forest", "the whole"]
    assert plan_steps(Scene(FOREST, [FOX, MOON], "the whole"))[0].request.prompt.text == "the whole"
    assert plan_steps(Scene(FOREST, [LAMP], "the whole"))[0].request.prompt.text == "the whole"


def test_a_background_is_drawn_to_fit_the_files_on_it() -> None:
    assert plan_steps(Scene(FOREST, [LAMP, MOON, FOX, LAMP], seed=9)) == [
        SceneStep(
            StepKind.under, [0], asked("a lamp, a forest", "a lamp", "a forest", 9), range(1, 3)
        ),
        SceneStep(StepKind.given, [1]),
        SceneStep(StepKind.given, [2]),
        SceneStep(
            StepKind.over,
            [3],
            asked("a fox, a lamp, a forest", "a fox", "a lamp, a forest", 3),
            range(3),
        ),
        SceneStep(StepKind.given, [4]),
    ]
    [under, _] = plan_steps(Scene(FOREST, [MOON]))
    assert under.request == asked("a forest", None, "a forest", 0)


def test_on_a_users_background_every_layer_fits_those_below() -> None:
    [given, fox] = plan_steps(Scene(Background(colour=(1, 2, 3)), [FOX]))
    assert given == SceneStep(StepKind.given, [0])
    assert fox == SceneStep(StepKind.over, [1], asked("a fox", "a fox", None, 3), range(1))
    assert [step.way for step in plan_steps(Scene(Background(file=Path("a.jpg")), [LAMP]))] == [
        StepKind.given,
        StepKind.given,
    ]
