"""Arms of prompts: slots of known grammars, and words of other texts."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from curation.domain import Prompt
from curation.prompts.grammar import generate
from curation.steering.features import arms_of, is_attribute, matching_arms
from curation.synthetic.shapes import SUBJECTS


def test_drawn_shapes_have_a_color_and_a_shape():
    assert arms_of(Prompt("an orange glass ball")) == {"color=orange", "shape=glass ball"}
    assert all(len(arms_of(Prompt(text))) == 2 for text in SUBJECTS)


def test_prompts_of_the_grammar_of_pairs_have_four_slots():
    for prompt in islice(generate(3), 500):
        slots = {arm.split("=")[0] for arm in arms_of(prompt)}
        assert slots == {"attribute", "subject", "place", "light"}, prompt


def test_other_prompts_have_words():
    found = arms_of(Prompt("A red wine glass on the OLD table, 3 of them"))
    assert found == {"red", "wine", "glass", "old", "table", "them"}
    assert not any(map(is_attribute, found))
    assert arms_of(Prompt("ox")) == frozenset()


@given(st.text(max_size=80))
def test_any_text_has_arms(text):
    assert all(len(arm) >= 3 for arm in arms_of(Prompt(text)))


def test_a_target_names_an_arm_or_a_value():
    arms = ["color=red", "red", "shape=red", "color=blue"]
    assert matching_arms("Red", arms) == ["color=red", "red", "shape=red"]
    assert matching_arms("color=red", arms) == ["color=red"]
    assert matching_arms("green", arms) == []
