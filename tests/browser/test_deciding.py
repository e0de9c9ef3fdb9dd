"""Decisions by keyboard: every verdict applies to the visible candidate, however fast the keys are."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from curation.db.engine import Database
from curation.db.tables import decisions
from tests.browser.reviewing import (
    OpenPage,
    Site,
    active_verdicts,
    count_decisions,
    press,
    pressed_keys,
    record_keys,
    shown,
    state_of,
    wait_until_sent,
    wait_until_shown,
)


def test_a_token_signs_in_once(site: Site, open_page: OpenPage, round_id: int) -> None:
    address = site.sign_in_url("Ada")
    first = open_page(name=None, path="/sign-in")
    first.goto(address)
    first.wait_for_url("**/review")
    expect(first.locator("#me")).to_contain_text("Ada")
    second = open_page(name=None, path="/sign-in")
    second.goto(address)
    expect(second.locator("#problem")).to_be_visible()
    assert "token=" not in second.url
    second.goto(site.address + "/review")
    second.wait_for_url("**/sign-in**")


def test_thirty_decisions_by_keyboard(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    verdicts: dict[str, tuple[str, list[str]]] = {}
    for key in itertools.islice(
        itertools.cycle(["a", "r", "j", "2", "ArrowRight", "ArrowLeft", "9"]), 30
    ):
        reasons = {"2": ["residue"], "9": ["other"]}.get(key, [])
        verdicts[press(page, key)] = (
            "accept" if key in {"a", "j", "ArrowRight"} else "reject",
            reasons,
        )
    assert len(verdicts) == 30
    undone = list(verdicts)[-1]
    press(page, "Backspace")
    assert wait_until_shown(page) == undone, "an undone candidate is shown again immediately"
    wait_until_sent(page)
    assert state_of(database, undone) == "showing"
    del verdicts[undone]
    assert active_verdicts(database) == verdicts
    assert {candidate: state_of(database, candidate) for candidate in verdicts} == {
        candidate: f"{verdict}ed" for candidate, (verdict, _) in verdicts.items()
    }
    assert count_decisions(database)["undo"] == 1
    with database.transaction() as tx:
        dwells = (
            tx.execute(sa.select(decisions.c.dwell_ms).where(decisions.c.verdict != "undo"))
            .scalars()
            .all()
        )
    assert all(0 <= dwell < 60_000 for dwell in dwells)


def test_selected_reasons_and_a_comment(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    page.keyboard.press("Shift+Digit1")
    page.keyboard.press("Shift+Digit3")
    page.keyboard.press("Shift+Digit4")
    page.keyboard.press("Shift+Digit4")
    expect(page.locator('#reasons [aria-pressed="true"]')).to_have_count(2)
    page.keyboard.press("c")
    page.keyboard.type("a rat is in it; j k a r are letters here")
    page.keyboard.press("Enter")
    assert shown(page) == candidate
    page.keyboard.press("r")
    wait_until_sent(page)
    assert active_verdicts(database) == {candidate: ("reject", ["halo", "holes"])}
    with database.transaction() as tx:
        assert (
            tx.scalar(sa.select(decisions.c.comment)) == "a rat is in it; j k a r are letters here"
        )
    assert page.locator('#reasons [aria-pressed="true"]').count() == 0, (
        "reasons do not carry over to the next candidate"
    )


@pytest.mark.parametrize("pause_ms", [0, 15, 60])
def test_typing_ahead_never_decides_another_candidate(
    open_page: OpenPage, database: Database, round_id: int, pause_ms: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    record_keys(page)
    for key in itertools.islice(itertools.cycle("arraar1"), 30):
        page.keyboard.press(key)
        page.wait_for_timeout(pause_ms)
    wait_until_sent(page)
    meant = {"a": ("accept", []), "r": ("reject", []), "1": ("reject", ["halo"])}
    keys_of: dict[str, list[str]] = {}
    for key, candidate in pressed_keys(page):
        if candidate is not None:
            keys_of.setdefault(candidate, []).append(key)
    still_shown = shown(page)
    # A key pressed before its candidate was painted is ignored, so the last key of a candidate decided it: that
    # verdict is active for every candidate that was shown and is no longer visible.
    expected = {
        candidate: meant[keys[-1]]
        for candidate, keys in keys_of.items()
        if candidate != still_shown
    }
    assert active_verdicts(database) == expected
    assert sum(count_decisions(database).values()) == len(expected), (
        "no candidate was decided twice"
    )


def test_a_skipped_candidate_returns_to_the_queue(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    candidate = press(page, "s")
    assert wait_until_shown(page) != candidate
    wait_until_sent(page)
    assert count_decisions(database) == {"skip": 1}
    assert state_of(database, candidate) in {
        "waiting",
        "showing",
    }  # the page may have claimed it again


def test_a_key_held_down_decides_once(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    for key in ("a", "Enter"):
        page.locator("#reject").focus()
        for _ in range(10):
            page.keyboard.down(key)
            page.wait_for_timeout(30)
        page.keyboard.up(key)
        wait_until_shown(page)
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 1, "reject": 1}


def test_two_keys_in_one_frame_are_one_decision(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    # The second key is pressed when the next candidate is displayed but not painted, so it cannot refer to it.
    page.evaluate("""() => {
      for (const code of ['KeyA', 'KeyR']) {
        const key = code.slice(-1).toLowerCase();
        document.body.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true, cancelable: true}));
      }
    }""")
    expect(page.locator("#toast")).to_contain_text("Too fast")
    wait_until_sent(page)
    assert active_verdicts(database) == {candidate: ("accept", [])}


def test_dwell_time_excludes_time_with_the_page_hidden(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    press(page, "a")
    wait_until_shown(page)
    for hidden, wait in ((True, 3_000), (False, 300)):
        page.evaluate(
            """(hidden) => {
              Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
              document.dispatchEvent(new Event('visibilitychange'));
            }""",
            hidden,
        )
        page.wait_for_timeout(wait)
    page.keyboard.press("a")
    wait_until_sent(page)
    with database.transaction() as tx:
        dwell = (
            tx.execute(sa.select(decisions.c.dwell_ms).order_by(decisions.c.id)).scalars().all()[-1]
        )
    assert 300 <= dwell < 3_000
