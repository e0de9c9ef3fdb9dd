"""Axe finds no accessibility violations on the review page, in every state and in both themes."""

from __future__ import annotations

import pytest

from tests.browser.reviewing import OpenPage, accessibility_violations, screenshot, wait_until_shown

STATES = {
    "i": "signals",
    "e": "separate-layers",
    "Shift+v": "edges",
    "s": "after-skip",
    "?": "shortcuts",
}
"""A key, and the state that it opens."""


def test_a_violation_is_found(open_page: OpenPage, pair_round: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.evaluate("document.getElementById('prompt').style.color = '#bbb'")
    assert [one.split(": ")[:2] for one in accessibility_violations(page)] == [
        ["color-contrast", "#prompt"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_review_page_has_no_violations(
    open_page: OpenPage, pair_round: int, scheme: str
) -> None:
    page = open_page(color_scheme=scheme)
    wait_until_shown(page)
    assert accessibility_violations(page) == []
    for key, state in STATES.items():
        page.keyboard.press(key)
        assert accessibility_violations(page) == [], state
        screenshot(page, f"accessibility-{scheme}-{state}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_grid_has_no_violations(open_page: OpenPage, round_id: int, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    wait_until_shown(page)
    page.keyboard.press("t")
    page.wait_for_selector("#grid .grid-item")
    assert accessibility_violations(page) == []
    for key in ("Space", "Shift+ArrowRight", "ArrowDown", "1"):
        page.keyboard.press(key)
    page.wait_for_selector("#grid .grid-item[aria-selected=true]")
    assert accessibility_violations(page) == [], "with marks and a reason"
    screenshot(page, f"accessibility-{scheme}-grid")
