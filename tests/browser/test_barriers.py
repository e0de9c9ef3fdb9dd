"""The review page in each of its states keeps nobody out: axe finds no barrier, in either theme."""

from __future__ import annotations

import pytest

from tests.browser.reviewing import OpenPage, barriers, image, wait_until_shown

STATES = {
    "i": "its measurements",
    "e": "layers apart",
    "Shift+v": "its edges",
    "s": "after a skip",
    "?": "the keys",
}
"""A key, and what is seen then."""


def test_a_barrier_is_found(open_page: OpenPage, pair_round: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.evaluate("document.getElementById('prompt').style.color = '#bbb'")
    assert [one.split(": ")[:2] for one in barriers(page)] == [["color-contrast", "#prompt"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_state_of_the_review_page_has_one(
    open_page: OpenPage, pair_round: int, scheme: str
) -> None:
    page = open_page(color_scheme=scheme)
    wait_until_shown(page)
    assert barriers(page) == []
    for key, then in STATES.items():
        page.keyboard.press(key)
        assert barriers(page) == [], then
        image(page, f"barriers-{scheme}-{then}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nor_has_the_sheet(open_page: OpenPage, round_id: int, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    wait_until_shown(page)
    page.keyboard.press("t")
    page.wait_for_selector("#contact .cell")
    assert barriers(page) == []
    for key in ("Space", "Shift+ArrowRight", "ArrowDown", "1"):
        page.keyboard.press(key)
    page.wait_for_selector("#contact .cell[aria-selected=true]")
    assert barriers(page) == [], "with marks and a reason"
    image(page, f"barriers-{scheme}-sheet")
