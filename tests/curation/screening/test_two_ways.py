"""Two methods of generation are compared: added defects count for their method, with an interval."""

from __future__ import annotations

import numpy as np
import pytest

from curation.reporting.matting_comparison import compare_methods
from curation.screening.rule_reviewer import RuleReviewer
from curation.screening.signals import SIGNALS
from curation.synthetic.dataset import sample_prompts
from curation.synthetic.shapes import SUBJECTS, draw_subject

TEXTS = ["a red circle", "a blue star", "a green square", "a yellow heart"]


@pytest.fixture(scope="module")
def rule_reviewer():
    texts = sample_prompts(60, 3)
    return RuleReviewer.fit(
        [
            (draw_subject(SUBJECTS[text], np.random.default_rng([3, k]), 64), text)
            for k, text in enumerate(texts)
        ]
    )


def layers(texts=TEXTS):
    return [
        draw_subject(SUBJECTS[text], np.random.default_rng([9, k]), 64)
        for k, text in enumerate(texts)
    ]


def test_added_defects_are_counted_for_their_method(rule_reviewer):
    clean, veiled = layers(), layers()
    veiled[0][..., 3] = np.maximum(veiled[0][..., 3], 60)
    veiled[1][..., 3] = 255
    judged = compare_methods({"ours": clean, "theirs": veiled}, TEXTS, rule_reviewer)
    ours, theirs = judged["ours"], judged["theirs"]
    assert (ours.defects, ours.only, ours.layers) == (0, 0, 4)
    assert (theirs.defects, theirs.only, theirs.layers) == (50, 2, 4)
    assert ours.low == 0 < ours.high
    assert theirs.low < 50 < theirs.high
    assert theirs.high - theirs.low > 60  # four layers give a wide interval
    assert theirs.reasons["no_transparent"] == 1
    assert theirs.reasons["residue"] == 1
    assert set(ours.signals) == set(SIGNALS)
    assert theirs.signals["coverage"] > ours.signals["coverage"]


def test_shared_defects_and_unmeasured_signals_are_not_compared(rule_reviewer):
    empty = [np.zeros((64, 64, 4), np.uint8) for _ in TEXTS]
    judged = compare_methods(
        {"ours": empty, "theirs": [*layers()[:2], *empty[2:]]}, TEXTS, rule_reviewer
    )
    assert (judged["ours"].defects, judged["ours"].only) == (100, 2)
    assert (judged["theirs"].defects, judged["theirs"].only) == (50, 0)
    assert judged["ours"].signals["contam_white"] is None
    assert judged["theirs"].signals["largest_share"] == 1.0


def test_a_layer_that_misses_its_prompt_has_a_defect(rule_reviewer):
    [one] = compare_methods({"ours": layers()}, ["a blue star", *TEXTS[1:]], rule_reviewer).values()
    assert one.reasons == {"prompt_miss": 1}
    assert one.defects == 25
