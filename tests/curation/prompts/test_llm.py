"""Asking a language model: until there are enough, repetitions left out, and on from where it was."""

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

THINGS = ("cat", "dog", "cup", "tree", "boat", "lamp", "fox", "owl", "pear", "car")
PLACES = ("garden", "harbour", "kitchen", "forest", "street", "desert")


class Author:
    """A Writer that knows sixty triples and says some of them, by its seed, between lines of other things."""

    source = "author@1"

    def __init__(self, count: int = 7, broken: int = 1) -> None:
        self.count, self.broken = count, broken
        self.questions: list[str] = []
        self.fails_at: int | None = None

    def generate(self, question: str, tokens: int, seed: int) -> str:
        if len(self.questions) == self.fails_at:
            raise Unreachable("gone")
        self.questions.append(question)
        assert tokens > PROMPTS_PER_REQUEST * 40
        pairs = [(THINGS[(seed + k) % 10], PLACES[(seed // 7 + k) % 6]) for k in range(self.count)]
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


def made(author, count, known=(), seed=0):
    kept: list[Prompt] = list(known)
    tally = generate_prompts(author, list(known), count, seed, kept.extend, lambda progress: None)
    return kept, tally


def test_requests_go_on_until_there_are_enough_prompts():
    author = Author()
    kept, tally = made(author, 25)
    assert len(kept) == len(set(kept)) == tally.kept == 25
    assert tally.asked == len(author.questions) > 3
    assert tally.refused["not a line of JSON"] == tally.asked
    assert tally.refused["a repetition"] > 0
    assert ("not a line of JSON", "Of course:") in tally.lines
    assert len(set(author.questions)) == tally.asked  # other examples each time
    assert all('{"background":"an empty ' in question for question in author.questions)


def test_equal_seeds_give_equal_prompts_and_others_give_others():
    assert made(Author(), 25)[0] == made(Author(), 25)[0] != made(Author(), 25, seed=1)[0]


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_interrupted_generation_resumes_to_the_same_result(stop):
    straight, _ = made(Author(), 25)
    kept: list[Prompt] = []
    author = Author()
    author.fails_at = stop
    with pytest.raises(Unreachable):
        generate_prompts(author, [], 25, 0, kept.extend, lambda progress: None)
    assert 0 < len(kept) < 25
    assert made(Author(), 25, kept)[0] == straight


def test_no_request_is_sent_when_there_are_enough_prompts():
    kept, _ = made(Author(), 25)
    author = Author()
    again, tally = made(author, 25, kept)
    assert (again, author.questions, tally.kept) == (kept, [], 0)


def test_capitals_and_full_stops_make_no_other_prompt():
    known = [
        Prompt(f"A {a} in the {b}", f"a {a}.", f"The {b}, empty") for a in THINGS for b in PLACES
    ]
    with pytest.raises(
        Refused,
        match=f"nothing new in {MAX_FUTILE_REQUESTS} requests; rejected lines: a repetition",
    ):
        made(Author(broken=0), 61, known)


def test_a_model_without_valid_lines_is_given_up():
    author = Author(count=0)
    with pytest.raises(
        Refused, match=f"author@1 returned nothing new .* not a line of JSON {MAX_FUTILE_REQUESTS}"
    ):
        made(author, 5)
    assert len(author.questions) == MAX_FUTILE_REQUESTS


def test_the_request_states_the_format_and_the_examples():
    question, number = compose_request(0, 10, 0)
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
    assert 0 <= number < 2**32
