"""The trend over rounds: figures with intervals, and differences that are more than chance."""

from __future__ import annotations

import uuid

import pytest
from scipy.stats import chi2_contingency

from curation.db.engine import Database
from curation.reporting import round_report, trend
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.statistics.intervals import difference_p, wilson
from tests.support.factories import make_round
from tests.support.round_outcomes import add_round


def test_the_test_of_two_shares_is_pearsons():
    table = [[30, 70], [48, 52]]
    expected = chi2_contingency(table, correction=False).pvalue
    assert difference_p(0.30, 100, 0.48, 100) == pytest.approx(expected, rel=1e-9)
    assert difference_p(0.0, 10, 0.0, 20) == 1.0


def test_rounds_are_better_worse_or_within_chance(database: Database) -> None:
    with database.transaction() as tx:
        assert trend.as_text(trend.rounds_trend(tx)) == "no round is generated yet"
        rules = add_rule_reviewer(tx)
        first = add_round(tx, rules, 40, 50, refused=10, shown=60, vendi=6.0)
        second = add_round(tx, rules, 66, 24, refused=10, shown=64, vendi=5.9)
        last = add_round(tx, rules, 70, 24, refused=6, shown=70, vendi=5.0)
        found = trend.rounds_trend(tx)
        report = round_report.round_report(tx, last)
        text = trend.as_text(found)
    assert [row["round"] for row in found["rounds"]] == [first, second, last]
    figures = found["rounds"][0]["figures"]
    assert figures["acceptance"]["value"] == pytest.approx(0.40)
    assert figures["acceptance"]["low"] == pytest.approx(wilson(0.4, 100)[0])
    assert figures["defects_per_100"]["value"] == pytest.approx(100 * 50 / 90)
    assert figures["shape_and_color"]["value"] == pytest.approx(0.6)
    assert figures["vendi"]["low"] == pytest.approx(6 * (1 - 1.96 * 0.02), rel=1e-3)
    verdicts = {(item["earlier"], item["figure"]): item["verdict"] for item in found["comparisons"]}
    assert verdicts == {
        (first, "acceptance"): "better",
        (first, "defects_per_100"): "better",
        (first, "shape_and_color"): "within chance",
        (first, "vendi"): "worse",
        (second, "acceptance"): "within chance",
        (second, "defects_per_100"): "within chance",
        (second, "shape_and_color"): "within chance",
        (second, "vendi"): "worse",
    }
    assert report["comparisons"] == found["comparisons"]
    assert f"round {last} beside round {first}: accepted of drawn 40% -> 70%: better (p = " in text
    assert "  round 1: accepted of drawn 40% (31% to 50%); defects per 100 55.6" in text.replace(
        f"round {first}:", "round 1:"
    )


def test_verdicts_of_different_reviewers_are_not_compared(database: Database) -> None:
    with database.transaction() as tx:
        first = add_round(tx, add_rule_reviewer(tx), 40, 50, shown=60)
        last = add_round(tx, add_reviewer(tx, f"ann {uuid.uuid4()}").id, 80, 10, shown=20)
        empty = make_round(tx)
        comparisons = trend.compare_round(tx, last)
        assert trend.compare_round(tx, first) == trend.compare_round(tx, empty) == []
        pair = make_round(tx, kind="pair")
        assert trend.compare_round(tx, pair) == []
        rows = trend.rounds_trend(tx)["rounds"]
    assert [item["figure"] for item in comparisons] == ["shape_and_color"]
    assert comparisons[0]["verdict"] == "worse"
    assert [row["reviewer"] for row in rows] == ["rule_reviewer", "person", None, None]
    assert rows[3]["figures"] == dict.fromkeys(trend.IS_HIGHER_BETTER)
