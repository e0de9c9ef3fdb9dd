"""Prompts by a language model: requests until there are enough, without repetitions, and resumed."""

from __future__ import annotations

import json

import pytest

from curation.domain import Prompt
from curation.errors import Refused, Unreachable
from curation.prompts.llm import (
    MAX_FUTILE_REQUESTS,
    PROMPTS_PER_REQUEST,
    compose_request,
    generate_prompts,
)

SUBJECTS = ("cat", "dog", "cup", "tree", "boat", "lamp", "fox", "owl", "pear", "car")
PLACES = ("garden", "harbour", "kitchen", "forest", "street", "desert")


class ScriptedModel:
    """A text generator that returns some of sixty pair prompts, chosen by the seed, between other lines."""

    source = "author@1"

    def __init__(self, count: int = 7, chatter: int = 1) -> None:
        self.count, self.broken = count, chatter
        self.questions: list[str] = []
        self.fails_at: int | None = None

    def generate(self, question: str, tokens: int, seed: int) -> str:
        if len(self.questions) == self.fails_at:
            raise Unreachable("gone")
        self.questions.append(question)
        assert tokens > PROMPTS_PER_REQUEST * 40
        pairs = [
            (SUBJECTS[(seed + k) % 10], PLACES[(seed // 7 + k) % 6]) for k in range(self.count)
        ]
        lines = [
            json.dumps(
                {
                    "text": f"a {a} in the {b}.",
                    "foreground": f"a {a}",
                    "background": f"the {b}, empty",
                }
            )
            for a, b in pairs
        ]
        return "\n".join(["Of course:"] * self.broken + lines)


def run_generation(model, count, known=(), seed=0):
    prompts: list[Prompt] = list(known)
    stats = generate_prompts(model, list(known), count, seed, prompts.extend, lambda progress: None)
    return prompts, stats


def test_requests_go_on_until_there_are_enough_prompts():
    model = ScriptedModel()
    prompts, stats = run_generation(model, 25)
    assert len(prompts) == len(set(prompts)) == stats.kept == 25
    assert stats.asked == len(model.questions) > 3
    assert stats.refused["not a line of JSON"] == stats.asked
    assert stats.refused["a repetition"] > 0
    assert ("not a line of JSON", "Of course:") in stats.lines
    assert len(set(model.questions)) == stats.asked  # other examples each time
    assert all('{"background":"an empty ' in question for question in model.questions)


def test_equal_seeds_give_equal_prompts_and_others_give_others():
    assert (
        run_generation(ScriptedModel(), 25)[0]
        == run_generation(ScriptedModel(), 25)[0]
        != run_generation(ScriptedModel(), 25, seed=1)[0]
    )


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_interrupted_generation_resumes_to_the_same_result(stop):
    straight, _ = run_generation(ScriptedModel(), 25)
    prompts: list[Prompt] = []
    model = ScriptedModel()
    model.fails_at = stop
    with pytest.raises(Unreachable):
        generate_prompts(model, [], 25, 0, prompts.extend, lambda progress: None)
    assert 0 < len(prompts) < 25
    assert run_generation(ScriptedModel(), 25, prompts)[0] == straight


def test_no_request_is_sent_when_there_are_enough_prompts():
    prompts, _ = run_generation(ScriptedModel(), 25)
    model = ScriptedModel()
    again, stats = run_generation(model, 25, prompts)
    assert (again, model.questions, stats.kept) == (prompts, [], 0)


def test_capitals_and_full_stops_make_no_other_prompt():
    known = [
        Prompt(f"A {a} in the {b}", f"a {a}.", f"The {b}, empty") for a in SUBJECTS for b in PLACES
    ]
    with pytest.raises(
        Refused,
        match=f"nothing new in {MAX_FUTILE_REQUESTS} requests; rejected lines: a repetition",
    ):
        run_generation(ScriptedModel(chatter=0), 61, known)


def test_a_model_without_valid_lines_is_given_up():
    model = ScriptedModel(count=0)
    with pytest.raises(
        Refused, match=f"author@1 returned nothing new .* not a line of JSON {MAX_FUTILE_REQUESTS}"
    ):
        run_generation(model, 5)
    assert len(model.questions) == MAX_FUTILE_REQUESTS


def test_the_request_states_the_format_and_the_examples():
    question, seed = compose_request(0, 10, 0)
    assert all(f'"{name}"' in question for name in ("text", "foreground", "background"))
    assert str(PROMPTS_PER_REQUEST) in question
    assert (
        len(
            {
                compose_request(seed, known, vain)[1]
                for seed in range(3)
                for known in range(3)
                for vain in range(3)
            }
        )
        == 27
    )
    assert 0 <= seed < 2**32
