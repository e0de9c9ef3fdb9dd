"""The HTML of Label Studio's tasks equals a golden file, and annotations are read back as decisions."""

from __future__ import annotations

import re
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from curation.adapters.label_studio_results import VIEW_CONTROLS, build_result, parse_result
from curation.adapters.label_studio_view import (
    PAIR,
    SINGLE,
    VIEWS,
    configuration,
    parse_layer_urls,
    task_html,
)
from curation.domain import Kind, LayerRole, RejectReason, Verdict
from curation.labeling.port import Task

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@pytest.mark.parametrize("kind", Kind)
def test_the_configuration_has_not_changed(kind):
    """To accept a change on purpose: delete tests/golden/label_studio_*.xml and run this test once."""
    golden = GOLDEN / f"label_studio_{kind}.xml"
    if not golden.exists():
        golden.write_text(configuration(kind))
    assert configuration(kind) == golden.read_text()


@pytest.mark.parametrize(("kind", "groups"), [(Kind.single, SINGLE), (Kind.pair, PAIR)])
def test_every_key_and_every_choice_is_given_once(kind, groups):
    root = ET.fromstring(configuration(kind))
    keys = [one.get("hotkey") for one in root.iter("Choice")]
    views = sum(len(keys) for name, keys in VIEWS.items() if kind is Kind.pair or name != "layer")
    assert len(keys) == len(set(keys)) == 2 + views + sum(map(len, groups.values()))
    assert {one.get("alias") for one in root.iter("Choice")} - {"accept", "reject", None} <= set(
        RejectReason
    )


@pytest.mark.parametrize("kind", Kind)
def test_every_name_in_a_configuration_is_given_once(kind):
    """Label Studio searches the whole text for names, including the style sheet."""
    names = re.findall(r'name="([^"]*)"', configuration(kind))
    assert len(names) == len(set(names))


def make_task(**changed):
    layers = {role: f"http://instance/{role}?a=1&b=2" for role in LayerRole}
    fields = {
        "id": uuid.uuid4(),
        "candidate": uuid.uuid4(),
        "prompt": "a fox",
        "texts": {},
        "layers": layers,
        "score": 0.5,
    }
    return Task(**fields | changed)


def test_texts_cannot_become_markup():
    hostile = '"><img src=x onerror=alert(1)><script>'
    html = task_html(make_task(prompt=hostile, texts={LayerRole.foreground: hostile}))
    assert "<script" not in html
    assert html.count("<img") == 3
    assert "a=1&amp;b=2" in html


def test_a_single_layer_has_no_choice_of_layers():
    def names(kind: Kind) -> set[str | None]:
        return {one.get("name") for one in ET.fromstring(configuration(kind)).iter("Choices")}

    assert names(Kind.pair) & VIEW_CONTROLS == VIEW_CONTROLS
    assert names(Kind.single) & VIEW_CONTROLS == VIEW_CONTROLS - {"view_layer"}


def test_view_controls_are_not_part_of_the_answer():
    seen = [{"from_name": name, "value": {"choices": ["alpha"]}} for name in VIEW_CONTROLS]
    result = build_result(Verdict.reject, [RejectReason.halo])
    assert parse_result([*seen, *result]) == parse_result(result)
    assert "error" in parse_result(seen)


def test_the_urls_of_the_layers_are_read_from_the_html():
    one = make_task(layers={role: f"http://instance/{role}?a=1&b='\"" for role in LayerRole})
    assert parse_layer_urls(task_html(one)) == one.layers
    assert (
        parse_layer_urls(task_html(make_task(prompt='<img class="ll-foreground" alt="x" src="y">')))
        == make_task().layers
    )
    assert parse_layer_urls("<b>other content</b>") == {}


@pytest.mark.parametrize(
    ("verdict", "reasons", "layers", "comment"),
    [
        (Verdict.accept, [], [], ""),
        (Verdict.reject, [RejectReason.halo, RejectReason.holes], [], "at the left"),
        (
            Verdict.reject,
            [RejectReason.halo, RejectReason.clash],
            [LayerRole.foreground, LayerRole.blended],
            "",
        ),
    ],
)
def test_an_answer_is_read_back_unchanged(verdict, reasons, layers, comment):
    read = parse_result(build_result(verdict, reasons, layers, comment))
    assert read == {"verdict": verdict, "reasons": reasons, "layers": layers, "comment": comment}


def test_reasons_of_a_reject_that_became_an_accept_are_dropped():
    result = build_result(Verdict.reject, [RejectReason.halo])
    result[0]["value"]["choices"] = ["accept"]
    assert parse_result(result)["reasons"] == []


@pytest.mark.parametrize(
    "value",
    [None, {}, [], "accept", {"choices": "accept"}, {"choices": ["accept", "reject"]}, {"choices": [{}]}, {"choices": [["accept"]]}, {"text": [1]}],
)  # fmt: skip
def test_hostile_values_are_reported_and_never_raised(value):
    for control in ("verdict", "reasons", "comment", None, [], {}):
        assert "error" in parse_result([{"from_name": control, "value": value}])


@pytest.mark.parametrize("result", [None, {}, "accept", 1, [None], [[]], ["accept"]])
def test_a_result_of_another_form_is_reported(result):
    assert "error" in parse_result(result)


def test_a_comment_is_kept_without_what_no_database_takes():
    result = [
        *build_result(Verdict.accept),
        {"from_name": "comment", "value": {"text": ["a\0b", "c"]}},
    ]
    assert parse_result(result)["comment"] == "ab\nc"
