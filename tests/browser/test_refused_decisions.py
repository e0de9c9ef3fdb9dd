"""Decisions that the server refuses: they are listed, while all others are sent."""

from __future__ import annotations

import json

from playwright.sync_api import Page, Route, expect

from curation.db.engine import Database
from tests.browser.reviewing import (
    OpenPage,
    accessibility_violations,
    active_verdicts,
    count_decisions,
    press,
    screenshot,
    shown,
    state_of,
    wait_until_sent,
    wait_until_shown,
)


def decide_with_nul(page: Page, key: str = "a") -> str:
    """Decide with a comment that contains a NUL character, as pasted text may."""
    wait_until_shown(page)
    page.evaluate("""() => {
      const comment = document.getElementById('comment');
      comment.value = 'a\\u0000b';
      comment.dispatchEvent(new Event('input'));
    }""")
    return press(page, key)


def test_an_invalid_comment_does_not_block_other_decisions(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    bad = decide_with_nul(page)
    good = [press(page, "a"), press(page, "r")]
    wait_until_sent(page)
    assert set(active_verdicts(database)) == set(good)
    refused = page.locator("#refused")
    expect(refused).to_contain_text("Accept")
    expect(refused).to_contain_text("cannot be stored")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#sync-status")).to_contain_text("1 decision not saved")
    assert accessibility_violations(page) == []
    screenshot(page, "refused")
    page.reload()
    wait_until_shown(page)
    expect(refused).to_contain_text("cannot be stored")
    refused.get_by_role("button", name="Review again").click()
    assert wait_until_shown(page) == bad
    page.locator("#comment").fill("a b")
    page.keyboard.press("Escape")
    press(page, "a")
    wait_until_sent(page)
    expect(refused).to_be_hidden()
    assert active_verdicts(database)[bad] == ("accept", [])
    undone = press(page, "a")
    page.keyboard.press("u")
    assert wait_until_shown(page) == undone
    wait_until_sent(page)
    assert set(active_verdicts(database)) == {bad, *good}


def test_unreadable_entries_do_not_block_others(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    """The browser holds a decision with a NUL character, invalid JSON, and an entry of another reviewer."""
    page = open_page()
    candidate = wait_until_shown(page)
    key = "00000000-0000-4000-8000-00000000000"
    body = {
        "candidate": candidate,
        "verdict": "accept",
        "reasons": [],
        "layers": [],
        "comment": "\0",
        "dwell_ms": 1,
    }
    entry = {"kind": "decision", "key": f"{key}1", "order": 1, "of": None, "body": body}
    other = entry | {"key": f"{key}3", "body": body | {"comment": "of Ada.Lee"}}
    page.evaluate(
        "kept => { for (const [name, value] of Object.entries(kept)) localStorage.setItem(name, value) }",
        {
            f"layerloop.outbox.Ada.{key}1": json.dumps(entry),
            f"layerloop.outbox.Ada.{key}2": "{cut short",
            f"layerloop.outbox.Ada.Lee.{key}3": json.dumps(other),
        },
    )
    page.reload()
    wait_until_shown(page)
    wait_until_sent(page)
    expect(page.locator("#refused-list li")).to_have_count(1)
    assert active_verdicts(database) == {}
    good = press(page, "r")
    wait_until_sent(page)
    assert set(active_verdicts(database)) == {good}


def test_a_decision_that_causes_server_errors_is_finally_refused(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    bad = wait_until_shown(page)

    def break_over_one(route: Route) -> None:
        if bad in (route.request.post_data or ""):
            route.fulfill(status=500, json={"error": {"message": "internal error", "hint": ""}})
        else:
            route.continue_()

    page.route("**/api/review/decisions", break_over_one)
    page.route("**/api/review/decisions/**", break_over_one)
    assert press(page, "a") == bad
    expect(page.locator("#banner")).to_contain_text("The server is not accepting decisions")
    good = [press(page, "a"), press(page, "r")]
    wait_until_sent(page)
    assert set(active_verdicts(database)) == set(good)
    expect(page.locator("#refused")).to_contain_text("failed repeatedly")
    expect(page.locator("#banner")).to_be_hidden()
    page.unroute("**/api/review/decisions")
    page.unroute("**/api/review/decisions/**")
    page.get_by_role("button", name="Send again").click()
    wait_until_sent(page)
    expect(page.locator("#refused")).to_be_hidden()
    assert set(active_verdicts(database)) == {bad, *good}
    assert sum(count_decisions(database).values()) == 3


def test_an_unavailable_server_refuses_nothing(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.route(
        "**/api/review/decisions**",
        lambda route: route.fulfill(status=503, json={"error": {"message": "away", "hint": ""}}),
    )
    candidate = press(page, "a")
    expect(page.locator("#banner")).to_contain_text(
        "The server is not accepting decisions: 1 decision waiting"
    )
    page.unroute("**/api/review/decisions**")
    wait_until_sent(page)
    expect(page.locator("#refused")).to_be_hidden()
    assert active_verdicts(database) == {candidate: ("accept", [])}


def test_refused_decisions_can_be_discarded(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    decide_with_nul(page, "a")
    decide_with_nul(page, "r")
    wait_until_sent(page)
    expect(page.locator("#refused-list li")).to_have_count(2)
    page.locator("#refused-list li").first.get_by_role("button", name="Discard").click()
    expect(page.locator("#refused-list li")).to_have_count(1)
    page.reload()
    wait_until_shown(page)
    expect(page.locator("#refused-list li")).to_have_count(1)
    page.locator("#refused-list li").get_by_role("button", name="Discard").click()
    expect(page.locator("#refused")).to_be_hidden()
    assert active_verdicts(database) == {}


def test_a_decision_undone_before_its_refusal_leaves_nothing(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.context.set_offline(True)
    bad = decide_with_nul(page)
    wait_until_shown(page)
    page.keyboard.press("u")
    assert wait_until_shown(page) == bad
    page.context.set_offline(False)
    wait_until_sent(page)
    expect(page.locator("#refused")).to_be_hidden()
    assert count_decisions(database) == {}
    assert state_of(database, bad) == "showing"


def test_drafts_of_comments_and_reasons_survive_a_reload(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    page.keyboard.press("Shift+Digit1")
    page.locator("#comment").fill("half a sen")
    page.reload()
    wait_until_shown(page)
    for _ in range(10):
        if shown(page) == candidate:
            break
        press(page, "s")
        wait_until_shown(page)
    assert shown(page) == candidate
    expect(page.locator("#comment")).to_have_value("half a sen")
    expect(page.locator("#reasons [aria-pressed=true]")).to_have_count(1)
    press(page, "r")
    wait_until_shown(page)
    expect(page.locator("#comment")).to_have_value("")
    wait_until_sent(page)
    assert active_verdicts(database)[candidate] == ("reject", ["halo"])
    assert page.evaluate("localStorage.getItem('layerloop.drafts.Ada')") == "[]"


def test_buttons_are_hidden_until_a_candidate_is_shown(open_page: OpenPage, round_id: int) -> None:
    page = open_page(path="/rounds")
    waiting: list[Route] = []
    page.route("**/api/review/claims", lambda route: waiting.append(route))  # noqa: PLW0108
    page.goto(page.url.replace("/rounds", "/review"))
    expect(page.locator("#progress")).to_be_attached()
    expect(page.locator("#reasons li")).not_to_have_count(0)
    for name in ("accept", "reject", "skip", "undo", "comment"):
        expect(page.locator(f"#{name}")).not_to_be_visible()
    waiting.pop().continue_()
    page.unroute("**/api/review/claims")
    wait_until_shown(page)
    expect(page.locator("#accept")).to_be_visible()


def test_notices_and_errors_differ_in_color_and_role(open_page: OpenPage, round_id: int) -> None:
    page = open_page(path="/snapshots")
    page.locator("#tag").fill("two words")
    page.get_by_role("button", name="Create snapshot").click()
    error = page.locator("#error")
    expect(error).to_contain_text("begins with a letter")
    expect(error).to_have_attribute("role", "alert")
    expect(page.locator("#notice")).to_have_attribute("role", "status")
    expect(page.locator("#notice")).to_be_hidden()
    assert accessibility_violations(page) == []
    color = "element => getComputedStyle(element).backgroundColor"
    page.evaluate("document.getElementById('notice').hidden = false")
    assert error.evaluate(color) != page.locator("#notice").evaluate(color)
