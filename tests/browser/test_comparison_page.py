"""The comparison page in Chromium: a session by keys, linked views, undo, and the result page."""

from __future__ import annotations

import random
import uuid
from collections import Counter

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from curation.comparison_values import ComparisonSide
from curation.comparisons.votes import left_side, other_side
from curation.db.engine import Database
from curation.db.tables import comparison_votes, comparisons
from curation.domain import Kind, Role
from curation.review.reviewers import find_reviewer
from tests.browser.reviewing import accessibility_violations, screenshot, wait_until_sent
from tests.support.compared_checkpoints import open_drawn

KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "equal": "ArrowDown", "both_bad": "x"}


def wait_for_item(page: Page, before: str | None = None) -> str:
    """Wait until the next item is painted on both sides, and return its id."""
    page.wait_for_selector('#review[data-state="ready"]')
    page.wait_for_function(
        """(before) => ['left', 'right'].every((side) => {
            const shown = document.getElementById(`${side}-viewer`).dataset.candidate;
            return shown && shown !== before;
        })""",
        arg=before,
    )
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    found: str = page.evaluate("document.getElementById('left-viewer').dataset.candidate")
    return found


def standing(database: Database) -> dict[uuid.UUID, str]:
    """Return the verdicts that stand, by item."""
    undone = sa.select(comparison_votes.c.undoes).where(comparison_votes.c.undoes.is_not(None))
    query = sa.select(comparison_votes).where(
        comparison_votes.c.verdict != "undo", comparison_votes.c.id.not_in(undone)
    )
    with database.transaction() as tx:
        return {row.item_id: row.verdict for row in tx.execute(query)}


def sides_on_the_left(database: Database, name: str) -> dict[uuid.UUID, ComparisonSide]:
    """Return the side that a reviewer sees on the left, by item."""
    with database.transaction() as tx:
        key = tx.scalar(sa.select(comparisons.c.side_key))
        reviewer = find_reviewer(tx, name).id
        ids = tx.execute(sa.text("select id from comparison_items")).scalars()
        return {item: left_side(key, item, reviewer) for item in ids}


@pytest.mark.slow
def test_a_session_of_60_by_keys_agrees_with_the_database(open_page, database, store):
    """Ann prefers the clean checkpoint, with some errors, ties and undos, all by keys."""
    number = open_drawn(database, store, 60)
    page = open_page("Ann", Role.annotator, path="/comparison")
    rng = random.Random(11)
    left = sides_on_the_left(database, "Ann")
    expected: dict[uuid.UUID, str] = {}
    shown = wait_for_item(page)
    screenshot(page, "comparison")
    step = 0
    while len(expected) < 60:
        item = uuid.UUID(shown)
        # B is the clean one.
        verdict = rng.choices(["b", "a", "equal", "both_bad"], [70, 12, 12, 6])[0]
        choice = {"b": "right" if left[item] is ComparisonSide.a else "left"}.get(verdict, verdict)
        if verdict == "a":
            choice = "left" if left[item] is ComparisonSide.a else "right"
        page.keyboard.press(KEYS[choice])
        expected[item] = verdict
        step += 1
        # Now and then the last vote is undone, and given again.
        if step % 13 == 0:
            if len(expected) < 60:
                wait_for_item(page, shown)
            page.keyboard.press("u")
            del expected[item]
            page.wait_for_function(
                "(id) => document.getElementById('left-viewer').dataset.candidate === id",
                arg=shown,
            )
            wait_for_item(page)
            continue
        if len(expected) < 60:
            shown = wait_for_item(page, shown)
    wait_until_sent(page)
    page.wait_for_selector('#review[data-state="empty"]')
    assert page.locator("#progress dd").all_inner_texts() == ["0", "60"]
    screenshot(page, "comparison-done")
    assert standing(database) == expected

    # The result page shows the same figures.
    counts = Counter(expected.values())
    engineer = open_page("Eve", Role.engineer, path=f"/comparisons/{number}")
    expect(engineer.locator("#outcomes li")).to_have_count(5)
    texts = engineer.locator("#outcomes li .value").all_inner_texts()
    assert [int(text) for text in texts] == [
        *(counts[name] for name in ("a", "b", "equal", "both_bad")),
        0,
    ]
    decided = counts["a"] + counts["b"]
    expect(engineer.locator("#summary")).to_contain_text(f"of {decided} decided items")
    expect(engineer.locator("#summary")).to_contain_text("B is better")
    screenshot(engineer, "comparison-result")
    engineer.get_by_role("button", name="Close comparison").click()
    engineer.locator("#close-confirm").click()
    expect(engineer.locator("#title")).to_contain_text("closed")
    assert accessibility_violations(engineer) == []


def test_views_zoom_and_position_are_the_same_on_both_sides(open_page, database, store):
    open_drawn(database, store, 3, kind=Kind.pair)
    page = open_page("Ann", Role.annotator, path="/comparison")
    wait_for_item(page)

    def both(attribute: str) -> list[str]:
        return [
            page.locator(f"#{side}-viewer").get_attribute(f"data-{attribute}")
            for side in ("left", "right")
        ]

    def transforms() -> list[str]:
        return [
            page.locator(f"#{side}-layers").evaluate("one => one.style.cssText")
            for side in ("left", "right")
        ]

    assert both("layer") == ["blended", "blended"]
    screenshot(page, "comparison-pair")
    for key, attribute, value in (
        ("f", "layer", "foreground"),
        ("v", "view", "alpha"),
        ("z", "zoom", "1"),
        ("b", "background", "black"),
    ):
        page.keyboard.press(key)
        assert both(attribute) == [value, value]
    # By wheel and by drag over either side.
    for side in ("left", "right"):
        box = page.locator(f"#{side}-viewer").bounding_box()
        page.mouse.move(box["x"] + 40, box["y"] + 60)
        before = transforms()[0]
        page.mouse.wheel(0, -200)
        page.wait_for_function(
            "(before) => document.getElementById('left-layers').style.cssText !== before",
            arg=before,
        )
        page.mouse.down()
        page.mouse.move(box["x"] + 90, box["y"] + 100, steps=3)
        page.mouse.up()
        one, other = transforms()
        assert one == other != before
    screenshot(page, "comparison-zoomed")
    assert accessibility_violations(page) == []


def test_a_vote_is_undone_after_a_reload(open_page, database, store):
    open_drawn(database, store, 2)
    page = open_page("Ann", Role.annotator, path="/comparison")
    first = wait_for_item(page)
    page.keyboard.press("x")
    wait_for_item(page, first)
    wait_until_sent(page)
    page.reload()
    second = wait_for_item(page)
    assert second != first
    page.keyboard.press("u")
    page.wait_for_function(
        "(id) => document.getElementById('left-viewer').dataset.candidate === id", arg=first
    )
    assert standing(database) == {}
    wait_for_item(page)
    page.get_by_role("button", name="Left").click()
    wait_until_sent(page)
    left = sides_on_the_left(database, "Ann")
    assert standing(database) == {uuid.UUID(first): left[uuid.UUID(first)]}
    assert other_side(left[uuid.UUID(first)]) not in standing(database).values()


def test_nothing_to_compare(open_page, database, store):
    page = open_page("Ann", Role.annotator, path="/comparison")
    page.wait_for_selector('#review[data-state="empty"]')
    expect(page.get_by_role("heading", name="Nothing to compare")).to_be_visible()
    screenshot(page, "comparison-empty")
    assert accessibility_violations(page) == []
    # What is drawn later appears by itself.
    open_drawn(database, store, 1)
    wait_for_item(page)


def test_the_page_on_a_phone_and_in_the_dark(open_page, database, store):
    open_drawn(database, store, 2)
    for name, options in (
        ("phone", {"viewport": {"width": 375, "height": 740}}),
        ("dark", {"color_scheme": "dark"}),
    ):
        page = open_page(f"Ann {name}", Role.annotator, path="/comparison", **options)
        wait_for_item(page)
        boxes = [page.locator(f"#{side}-viewer").bounding_box() for side in ("left", "right")]
        assert boxes[0]["width"] == boxes[1]["width"]
        assert boxes[0]["y"] == boxes[1]["y"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        screenshot(page, f"comparison-{name}")
        page.close()


def test_the_checkpoints_page_lists_comparisons(open_page, database, store):
    number = open_drawn(database, store, 1)
    page = open_page("Eve", Role.engineer, path="/checkpoints")
    page.get_by_role("link", name=f"Comparison {number}").click()
    page.wait_for_url(f"**/comparisons/{number}")
    expect(page.locator("#summary")).to_contain_text("No item is decided")
    screenshot(page, "comparison-open")
