"""Deciding with keys alone: every verdict reaches the candidate that was seen, whatever happens on the way."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import Page, Route, expect

from curation.database import Database
from curation.domain import Access
from curation.objects import FolderStore
from curation.tables import decisions, leases
from tests.browser.conftest import Site
from tests.browser.reviewing import (
    count_decisions,
    press,
    pressed,
    record_keys,
    shown,
    standing,
    state_of,
    wait_until_sent,
    wait_until_shown,
)
from tests.making import make_candidates, make_round

OpenPage = Callable[..., Page]


@pytest.fixture
def round_id(database: Database, store: FolderStore) -> int:
    """A round with 40 candidates that wait."""
    with database.transaction() as tx:
        number = make_round(tx)
        make_candidates(tx, store, number, 40)
    return number


def test_a_token_signs_in_once(site: Site, open_page: OpenPage, round_id: int) -> None:
    address = site.sign_in_address("Ada")
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


def test_thirty_decisions_by_keys_alone(open_page: OpenPage, database: Database, round_id: int) -> None:
    page = open_page()
    said: dict[str, tuple[str, list[str]]] = {}
    for key in itertools.islice(itertools.cycle(["a", "r", "j", "2", "ArrowRight", "ArrowLeft", "9"]), 30):
        reasons = {"2": ["residue"], "9": ["other"]}.get(key, [])
        said[press(page, key)] = ("accept" if key in {"a", "j", "ArrowRight"} else "reject", reasons)
    assert len(said) == 30
    undone = list(said)[-1]
    press(page, "Backspace")
    assert wait_until_shown(page) == undone, "what was undone is shown again at once"
    wait_until_sent(page)
    assert state_of(database, undone) == "showing"
    del said[undone]
    assert standing(database) == said
    assert {candidate: state_of(database, candidate) for candidate in said} == {
        candidate: f"{verdict}ed" for candidate, (verdict, _) in said.items()
    }
    assert count_decisions(database)["undo"] == 1
    with database.transaction() as tx:
        dwells = tx.execute(sa.select(decisions.c.dwell_ms).where(decisions.c.verdict != "undo")).scalars().all()
    assert all(0 <= dwell < 60_000 for dwell in dwells)


def test_collected_reasons_and_a_comment(open_page: OpenPage, database: Database, round_id: int) -> None:
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
    assert standing(database) == {candidate: ("reject", ["halo", "holes"])}
    with database.transaction() as tx:
        assert tx.scalar(sa.select(decisions.c.comment)) == "a rat is in it; j k a r are letters here"
    assert page.locator('#reasons [aria-pressed="true"]').count() == 0, "reasons are not carried to the next candidate"


@pytest.mark.parametrize("pause_ms", [0, 15, 60])
def test_typing_ahead_never_reaches_another_candidate(
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
    for key, candidate in pressed(page):
        if candidate is not None:
            keys_of.setdefault(candidate, []).append(key)
    still_shown = shown(page)
    # A key that came before its candidate was painted is ignored, so the last key of a candidate is the one that
    # decided it: exactly that verdict stands, for every candidate that was shown and is gone.
    expected = {candidate: meant[keys[-1]] for candidate, keys in keys_of.items() if candidate != still_shown}
    assert standing(database) == expected
    assert sum(count_decisions(database).values()) == len(expected), "no candidate was decided twice"


def test_a_skipped_candidate_waits_again(open_page: OpenPage, database: Database, round_id: int) -> None:
    page = open_page()
    candidate = press(page, "s")
    assert wait_until_shown(page) != candidate
    wait_until_sent(page)
    assert count_decisions(database) == {"skip": 1}
    assert state_of(database, candidate) == "waiting"


def test_a_key_held_down_decides_once(open_page: OpenPage, database: Database, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    for _ in range(10):
        page.keyboard.down("a")
        page.wait_for_timeout(30)
    page.keyboard.up("a")
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 1}


def test_offline_loses_none_and_doubles_none(open_page: OpenPage, database: Database, round_id: int) -> None:
    page = open_page()
    said = {press(page, "a"): ("accept", [])}
    wait_until_sent(page)
    page.context.set_offline(True)
    for _ in range(3):
        said[press(page, "a")] = ("accept", [])
    changed = press(page, "r")
    wait_until_shown(page)
    page.keyboard.press("u")
    assert wait_until_shown(page) == changed
    said[press(page, "a")] = ("accept", [])
    expect(page.locator("#banner")).to_contain_text("Offline: 6 decisions waiting")
    expect(page.locator("#trail .pending")).to_have_count(4)
    page.context.set_offline(False)
    wait_until_sent(page)
    expect(page.locator("#banner")).to_be_hidden()
    assert standing(database) == said
    assert count_decisions(database) == {"accept": 5, "reject": 1, "undo": 1}


def test_an_answer_that_is_lost_is_not_a_second_decision(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    answers = itertools.count()

    def lose_the_first(route: Route) -> None:
        route.fetch()  # the server keeps the decision, and the browser never hears of it
        if next(answers) == 0:
            route.abort()
        else:
            route.continue_()

    page.route("**/api/review/decisions", lose_the_first)
    candidate = press(page, "a")
    wait_until_sent(page)
    page.unroute("**/api/review/decisions")
    assert next(answers) >= 2
    assert standing(database) == {candidate: ("accept", [])}
    assert count_decisions(database) == {"accept": 1}


def test_a_reload_keeps_the_tray_and_the_outbox(open_page: OpenPage, database: Database, round_id: int) -> None:
    page = open_page()
    said = {press(page, "a"): ("accept", [])}
    wait_until_sent(page)
    page.route("**/api/review/decisions", lambda route: route.abort())
    said[press(page, "r")] = ("reject", [])
    said[press(page, "a")] = ("accept", [])
    next_one = wait_until_shown(page)
    with database.transaction() as tx:
        held = {str(row) for row in tx.execute(sa.select(leases.c.subject)).scalars()}
    page.unroute("**/api/review/decisions")
    page.reload()
    assert wait_until_shown(page) not in said
    wait_until_sent(page)
    assert standing(database) == said
    with database.transaction() as tx:
        after = {str(row) for row in tx.execute(sa.select(leases.c.subject)).scalars()}
    assert next_one in after
    assert held - set(said) <= after, "what the page held before is held again"
    undone = list(said)[-1]
    page.keyboard.press("u")
    page.wait_for_selector(f'#stage[data-candidate="{undone}"]')
    wait_until_sent(page)
    assert state_of(database, undone) == "showing"


def test_a_conflict_is_told_and_the_page_goes_on(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    with database.transaction() as tx:
        tx.execute(sa.delete(leases))
        tx.execute(sa.text("update candidates set state = 'waiting' where state = 'showing'"))
    other = open_page(name="Grace", access=Access.annotator)
    wait_until_shown(other)
    for _ in range(40):
        if state_of(database, candidate) in {"accepted", "rejected"}:
            break
        press(other, "r")
        wait_until_sent(other)
    page.keyboard.press("a")
    expect(page.locator("#toast")).to_contain_text("was not taken")
    assert wait_until_shown(page) != candidate
    wait_until_sent(page)
    assert standing(database)[candidate][0] == "reject"


def test_the_next_candidates_are_decoded_before_they_are_needed(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.wait_for_load_state("networkidle")
    page.route("**/api/**", lambda route: route.abort())  # from here on, only what is already in the page can be shown
    for _ in range(6):
        press(page, "a")
        assert page.locator("#stage img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert wait_until_shown(page)
    page.unroute("**/api/**")
    wait_until_sent(page)


def test_the_help_lists_every_key(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("?")
    listed = " ".join(page.locator("#help-keys dt").evaluate_all("all => all.map((dt) => dt.dataset.keys)")).split()
    expected = {*"ajrksubvzcifgmo0?", "ArrowLeft", "ArrowRight", "Backspace", "Shift+b", "Shift+z"}
    expected |= {str(digit) for digit in range(1, 10)} | {f"Shift+{digit}" for digit in range(1, 10)}
    assert set(listed) == expected
    assert len(listed) == len(expected)
    assert all(text.strip() for text in page.locator("#help-keys dd").all_inner_texts())
    before = shown(page)
    page.keyboard.press("a")
    assert shown(page) == before, "nobody decides through the help"
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_hidden()


def test_looking_by_keys(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    stage = page.locator("#stage")
    seen = []
    for _ in range(5):
        seen.append((stage.get_attribute("data-background"), stage.evaluate("e => getComputedStyle(e).background")))
        page.keyboard.press("b")
    assert [name for name, _ in seen] == ["checker", "black", "white", "grey", "colour"]
    assert len({paint for _, paint in seen}) == 5
    page.keyboard.press("b")
    page.emulate_media(color_scheme="dark")
    assert stage.evaluate("e => getComputedStyle(e).background") == seen[1][1], "the stage does not follow the theme"
    for zoom in ("1", "2", "4", "8"):
        page.keyboard.press("z")
        assert stage.get_attribute("data-zoom") == zoom
        width = page.locator("#stage img").evaluate("e => e.getBoundingClientRect().width / e.naturalWidth")
        assert width == pytest.approx(float(zoom))
    page.keyboard.press("v")
    assert "alpha-as-grey" in page.locator("#stage img").evaluate("e => getComputedStyle(e).filter")
    press(page, "a")
    wait_until_shown(page)
    assert stage.get_attribute("data-view") == "picture", "the next candidate is seen as a picture first"
    assert stage.get_attribute("data-background") == "black", "on the background that was chosen"
    page.reload()
    wait_until_shown(page)
    assert stage.get_attribute("data-background") == "black"


def test_the_alpha_view_shows_alpha_exactly(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("z")  # one screen pixel for each of the layer's
    page.keyboard.press("v")
    alpha = page.locator("#stage img").evaluate("""(image) => {
      const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
      const context = canvas.getContext('2d');
      context.drawImage(image, 0, 0);
      return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data).filter((_, i) => i % 4 === 3);
    }""")
    box = page.locator("#stage img").bounding_box()
    assert box is not None
    clip = {"x": round(box["x"]), "y": round(box["y"]), "width": round(box["width"]), "height": round(box["height"])}
    grey = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")).astype(int)
    expected = np.array(alpha).reshape(grey.shape[:2])
    inside = (slice(2, -2), slice(2, -2))  # without the dashed outline
    assert np.abs(grey[inside] - expected[inside][..., None]).max() <= 1


def test_when_nothing_waits_it_says_what_goes_on(open_page: OpenPage, database: Database, store: FolderStore) -> None:
    page = open_page()
    expect(page.locator(".quiet-page")).to_be_visible()
    with database.transaction() as tx:
        number = make_round(tx)
        make_candidates(tx, store, number, 3, state="requested")
    expect(page.locator("#goings-on")).to_contain_text(f"Round {number} is being drawn")
    with database.transaction() as tx:
        make_candidates(tx, store, make_round(tx), 2)
    wait_until_shown(page)
    expect(page.locator(".quiet-page")).to_be_hidden()


def test_a_lost_session_keeps_the_decisions(open_page: OpenPage, site: Site, database: Database, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.context.clear_cookies()
    candidate = press(page, "a")
    expect(page.locator("#banner")).to_contain_text("Signed out: 1 decision waiting")
    page.goto(site.sign_in_address("Ada"))
    page.wait_for_url("**/review")
    wait_until_shown(page)
    wait_until_sent(page)
    assert standing(database) == {candidate: ("accept", [])}


def test_buttons_do_on_a_tablet_what_keys_do(open_page: OpenPage, database: Database, round_id: int) -> None:
    page = open_page(viewport={"width": 820, "height": 1180}, has_touch=True)
    accepted = wait_until_shown(page)
    page.locator("#accept").tap()
    rejected = wait_until_shown(page)
    page.locator("#reasons button", has_text="halo").tap()
    page.locator("#reject").tap()
    wait_until_sent(page)
    assert standing(database) == {accepted: ("accept", []), rejected: ("reject", ["halo"])}
    for name in ("#accept", "#reject"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["height"] >= 48
        assert box["y"] + box["height"] <= 1180, "within reach without scrolling"
