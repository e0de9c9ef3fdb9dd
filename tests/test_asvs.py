"""The list of security requirements: every one has an answer, evidence that exists, and is counted."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "concepts" / "asvs.md").read_text("utf-8")
ROW = re.compile(r"^\| ([\d.]+) \| ([12]) \| ([a-z ]+) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
ANSWERS = ("met", "not applicable", "deployment", "not met")


def test_each_requirement_has_one_answer():
    rows = ROW.findall(PAGE)
    assert len(rows) == len({row[0] for row in rows}) == 253
    assert Counter(row[1] for row in rows) == {"1": 70, "2": 183}
    assert {row[2] for row in rows} == set(ANSWERS)
    for number, _, answer, _, evidence in rows:
        assert evidence or answer != "met", number
        for path in re.findall(r"`([^`]+)`", evidence):
            assert (ROOT / path).is_file(), (number, path)


def test_the_summary_counts_the_rows():
    counts = Counter((row[1], row[2]) for row in ROW.findall(PAGE))
    for level in "12":
        numbers = [counts[level, answer] for answer in ANSWERS]
        listed = " | ".join(map(str, [level, sum(numbers), *numbers]))
        assert f"| {listed} |" in PAGE
    assert counts["1", "not met"] == 0
    assert counts["2", "not met"] <= 18, "at least 90 % of level 2"


def test_the_gaps_of_the_threat_model_are_those_of_the_list():
    gaps = (ROOT / "docs" / "concepts" / "threat-model.md").read_text("utf-8")
    named = set(re.findall(r"\d+\.\d+\.\d+", gaps.partition("## Known gaps")[2]))
    assert named == {row[0] for row in ROW.findall(PAGE) if row[2] == "not met"}
