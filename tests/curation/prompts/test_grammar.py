"""The grammar of pair prompts: thousands, each once and plausible, in an order that depends on the seed only."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import islice

from curation.domain import Prompt
from curation.prompts.grammar import count_prompts, generate
from curation.prompts.pair_files import write_line
from curation.prompts.parse import parse_line
from curation.prompts.vocabulary import PLACES, SUBJECTS


def test_every_pair_prompt_occurs_once():
    prompts = list(generate(0))
    assert (
        len(prompts)
        == count_prompts()
        == len(set(prompts))
        == len({prompt.text.lower() for prompt in prompts})
        > 20_000
    )
    assert set(generate(1)) == set(prompts)


def test_texts_are_a_subject_in_a_place_and_the_empty_place():
    for prompt in generate(3):
        assert prompt.foreground and prompt.background
        place = prompt.background.removeprefix("an empty ")
        assert place != prompt.background
        assert re.fullmatch(
            rf"{re.escape(prompt.foreground)} (on|in|over) an? {re.escape(place)}", prompt.text
        ), prompt
        assert isinstance(parse_line(write_line(prompt)), Prompt), (
            prompt
        )  # the rules for language models hold here too


def test_subjects_are_in_fitting_places():
    texts = [prompt.text for prompt in generate(0)]
    assert not [
        text for text in texts if "boat" in text and not re.search(r"lake|river|harbour|pond", text)
    ]
    assert not [text for text in texts if "balloon" in text and "sky" not in text]
    assert not [
        text
        for text in texts
        if re.search(r"\bcar\b", text) and re.search(r"table|forest|lake|carpet", text)
    ]
    assert not [
        text
        for text in texts
        if "glass bottle" in text and not re.search("table|desk|counter|sill", text)
    ]
    assert all(place in PLACES for group in SUBJECTS for place in group.place_kinds)


def test_articles_are_right():
    for prompt in generate(0):
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", prompt.text), prompt.text


def test_the_first_hundreds_are_of_different_subjects():
    subjects = sum(len(group.subjects) for group in SUBJECTS)
    first = list(islice(generate(5), subjects))
    names = {subject for group in SUBJECTS for subject in group.subjects}
    met = {
        name
        for name in names
        if any(re.search(rf"\b{name}\b", str(prompt.foreground)) for prompt in first)
    }
    assert met == names


def test_a_seed_gives_the_same_order_in_every_process_and_another_seed_another():
    program = "from itertools import islice; from curation.prompts.grammar import generate; print(list(islice(generate(7), 50)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (
        done.stdout.strip()
        == str(list(islice(generate(7), 50)))
        != str(list(islice(generate(8), 50)))
    )
    assert (
        next(generate(0)).text == "an old sailing boat on a reed-lined pond at golden hour"
    )  # must never change
