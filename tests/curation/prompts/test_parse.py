"""Answers of language models: every line is a pair prompt, or refused with its reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.domain import Prompt
from curation.prompts.parse import MAX_TEXT_LENGTH, parse_completion, parse_line

GOOD = {
    "text": "a cute cat in a garden",
    "foreground": "a cute cat",
    "background": "a garden with nothing in it",
}


def line(**changed):
    return json.dumps(GOOD | changed)


def test_json_lines_between_other_text_are_read_in_order():
    completion = (
        f"Sure!\n```json\n{line()}\n\n{line(text='cats at play', foreground='two cats')}\n```\n"
    )
    answer = parse_completion(completion)
    assert [one.text for one in answer.prompts] == ["a cute cat in a garden", "cats at play"]
    assert answer.prompts[0] == Prompt(GOOD["text"], GOOD["foreground"], GOOD["background"])
    assert answer.refused == [("not a line of JSON", "Sure!")]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("1. a cat", "not a line of JSON"),
        (line()[:-5], "not a line of JSON"),  # cut off by the limit of tokens
        (line() + ",", "not a line of JSON"),
        ("[" * 100_000, "not a line of JSON"),
        ("[]", "not a JSON object"),
        ('"a cat"', "not a JSON object"),
        (
            json.dumps({"text": "a", "foreground": "b"}),
            "other keys than text, foreground and background",
        ),
        (line(mood="sunny"), "other keys than text, foreground and background"),
        (line(text=""), "a text is empty, too long or not a string"),
        (line(text=["a cat"]), "a text is empty, too long or not a string"),
        (line(text=None), "a text is empty, too long or not a string"),
        (line(text="a cat\nin a garden"), "a text is empty, too long or not a string"),
        (line(text="a cat \x1b[31m"), "a text is empty, too long or not a string"),
        (line(text="a cat " * MAX_TEXT_LENGTH), "a text is empty, too long or not a string"),
        (line(background="A cute cat in a garden"), "two texts are the same"),
        (line(text="a dog in a garden"), "the text does not mention the foreground"),
        (
            line(background="a garden with a cute cat in it"),
            "the background mentions the foreground",
        ),
    ],
)
def test_other_lines_are_refused_by_name(given, reason):
    assert parse_line(given) == reason
    answer = parse_completion(f"{given}\n{line()}")
    assert len(answer.prompts) == 1
    assert answer.refused == [(reason, given[:80])]


def test_texts_are_cleaned_of_blanks_alone():
    read = parse_line(line(text="  a cute   cat in a garden "))
    assert isinstance(read, Prompt)
    assert read.text == "a cute cat in a garden"
    assert isinstance(
        parse_line(line(foreground="die niedliche Käthe", text="Käthe im Garten")), Prompt
    )


def test_an_empty_answer_is_counted():
    assert (
        parse_completion("").refused
        == parse_completion("```\n```").refused
        == [("an empty completion", "")]
    )


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_no_answer_raises(completion):
    answer = parse_completion(completion)
    assert answer.prompts or answer.refused
