"""The grid: marks by keyboard, one submission for all candidates, undo as a whole."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, Request, Route, expect

from curation.db.engine import Database
from curation.db.tables import candidates, decisions, leases, samples
from curation.domain import Role
from curation.object_store import FolderStore
from tests.browser.reviewing import (
    OpenPage,
    Site,
    active_verdicts,
    count_decisions,
    press,
    screenshot,
    shown,
    state_of,
    wait_until_sent,
    wait_until_shown,
)
from tests.support.factories import make_candidates, make_pairs, make_round, scenes

READ_GRID = """() => [...document.querySelectorAll('#grid .grid-item')]
  .map((item) => [item.dataset.candidate, item.dataset.mark, item.getAttribute('aria-selected')])"""


def open_grid(open_page: OpenPage, size: int = 12, **options: object) -> Page:
    """Open the grid with this page size, and wait until its images are loaded."""
    page = open_page(path="/rounds", **options)
    page.evaluate("size => localStorage.setItem('layerloop.grid.size', String(size))", size)
    page.goto(page.url.replace("/rounds", "/review?view=grid"))
    wait_for_grid(page)
    return page


def wait_for_grid(page: Page, gone: str = "") -> None:
    """Wait until the images of the grid are loaded and a decided candidate is gone."""
    page.wait_for_function(
        """(gone) => {
          const items = [...document.querySelectorAll('#grid .grid-item')];
          return items.length
            && items.every((item) => item.dataset.candidate !== gone && !item.dataset.mark.match(/waiting|decoding/));
        }""",
        arg=gone,
    )
    page.wait_for_timeout(450)  # an earlier key counts as too early


def item_ids(page: Page) -> list[str]:
    return [candidate for candidate, *_ in page.evaluate(READ_GRID)]


def marked_ids(page: Page) -> list[str]:
    return [
        candidate
        for candidate, mark, selected in page.evaluate(READ_GRID)
        if mark == "good" and selected == "true"
    ]


def press_keys(page: Page, *names: str) -> None:
    for name in names:
        page.keyboard.press(name)


def test_a_grid_is_submitted_in_one_request(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_grid(open_page)
    on_page = item_ids(page)
    assert len(on_page) == 12
    requested: list[Request] = []
    page.on(
        "request",
        lambda request: requested.append(request) if "/decisions" in request.url else None,
    )
    press_keys(page, "Space", "ArrowRight", "ArrowRight", "Space")
    assert marked_ids(page) == [on_page[0], on_page[2]]
    press_keys(page, "ArrowRight", "2")
    expect(page.locator("#submit")).to_contain_text("Accept 2, reject 10")
    screenshot(page, "grid")
    page.keyboard.press("Enter")
    wait_for_grid(page, on_page[0])
    wait_until_sent(page)
    assert [request.url.rsplit("/", 1)[1] for request in requested] == ["batch"], (
        "one request for the whole grid"
    )
    expected = {candidate: ("reject", []) for candidate in on_page}
    expected |= {
        on_page[0]: ("accept", []),
        on_page[2]: ("accept", []),
        on_page[3]: ("reject", ["residue"]),
    }
    assert active_verdicts(database) == expected
    assert not set(item_ids(page)) & set(on_page)
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == 2
        dwells = tx.execute(sa.select(decisions.c.dwell_ms)).scalars().all()
    assert len(set(dwells)) == 1, "dwell time is divided evenly"


def test_unmarked_candidates_can_be_left_for_later(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_grid(open_page)
    on_page = item_ids(page)
    press_keys(page, "w", "ArrowRight", "Space", "ArrowRight", "1")
    expect(page.locator("#submit")).to_contain_text("Accept 1, reject 1, leave 10")
    expect(page.locator('#unmarked [aria-pressed="true"]')).to_have_text("Leave for later")
    page.keyboard.press("Enter")
    wait_for_grid(page, on_page[0])
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 1, "reject": 1, "skip": 10}
    assert state_of(database, on_page[1]) == "accepted"
    page.reload()
    wait_for_grid(page)
    (
        expect(page.locator('#unmarked [aria-pressed="true"]')).to_have_text("Leave for later"),
        "the setting is saved",
    )


def test_mark_ranges_all_and_none(open_page: OpenPage, round_id: int) -> None:
    page = open_grid(open_page)
    on_page = item_ids(page)
    press_keys(page, "ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight")
    assert marked_ids(page) == on_page[1:5]
    press_keys(page, "Shift+ArrowLeft")
    assert marked_ids(page) == on_page[1:4], "a shrinking range restores the marks"
    columns = page.evaluate(
        "getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length"
    )
    press_keys(page, "Home", "Shift+ArrowDown")
    assert marked_ids(page) == on_page[: max(columns + 1, 4)]
    page.keyboard.press("n")
    assert marked_ids(page) == []
    press_keys(page, "5", "a")
    assert marked_ids(page) == on_page
    press_keys(page, "End", "Space")
    assert marked_ids(page) == on_page[:-1]
    page.locator(".grid-item").nth(0).click()
    assert marked_ids(page) == on_page[1:-1]
    page.locator(".grid-item").nth(1).click()
    page.locator(".grid-item").nth(4).click(modifiers=["Shift"])
    assert marked_ids(page) == on_page[1:-1]


def test_a_grid_is_undone_as_a_whole_with_its_marks(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_grid(open_page)
    on_page = item_ids(page)
    press_keys(page, "Space", "ArrowRight", "3", "ArrowRight", "Space", "Enter")
    wait_for_grid(page, on_page[0])
    wait_until_sent(page)
    expect(page.locator("#recent button").first).to_have_attribute(
        "title", "Undo: grid of 12 candidates: 2 accepted, 10 rejected"
    )
    page.keyboard.press("Backspace")
    wait_until_sent(page)
    assert item_ids(page) == on_page
    assert marked_ids(page) == [on_page[0], on_page[2]]
    assert page.locator('.grid-item[data-mark="bad"]').count() == 1
    assert active_verdicts(database) == {}
    assert count_decisions(database)["undo"] == 12
    with database.transaction() as tx:
        states = (
            tx.execute(sa.select(candidates.c.state).where(candidates.c.id.in_(on_page)))
            .scalars()
            .all()
        )
        assert set(states) == {"showing"}
        assert tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None))) == 0
    page.wait_for_timeout(450)
    page.keyboard.press("Enter")
    wait_for_grid(page, on_page[0])
    wait_until_sent(page)
    assert sum(verdict == "accept" for verdict, _ in active_verdicts(database).values()) == 2


def test_a_lost_response_does_not_duplicate_decisions(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_grid(open_page)
    on_page = item_ids(page)
    answers = itertools.count()

    def lose_the_first(route: Route) -> None:
        route.fetch()
        if next(answers) == 0:
            route.abort()
        else:
            route.continue_()

    page.route("**/api/review/decisions/batch", lose_the_first)
    press_keys(page, "Space", "Enter")
    wait_until_sent(page)
    page.unroute("**/api/review/decisions/batch")
    assert next(answers) >= 2
    assert set(active_verdicts(database)) == set(on_page)
    assert count_decisions(database) == {"accept": 1, "reject": 11}


def test_a_conflict_in_a_grid_is_reported_and_the_others_are_saved(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_grid(open_page)
    on_page = item_ids(page)
    with database.transaction() as tx:
        tx.execute(sa.delete(leases).where(leases.c.subject == on_page[3]))
        tx.execute(
            sa.update(candidates)
            .where(candidates.c.id == on_page[3])
            .values(state="waiting", priority=9)
        )
    other = open_page(name="Grace", role=Role.annotator)
    assert press(other, "a") == on_page[3]
    wait_until_sent(other)
    press_keys(page, "a", "Enter")
    expect(page.locator("#toast")).to_contain_text(
        "Decision not saved: This candidate is already decided"
    )
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 12}
    expect(page.locator("#recent button").first).to_have_attribute(
        "title", "Undo: grid of 12 candidates: 11 accepted, 1 not saved"
    )


def test_a_second_submission_too_early_is_ignored(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_grid(open_page)
    press_keys(page, "Enter", "Enter")
    expect(page.locator("#toast")).to_contain_text("Too fast")
    wait_until_sent(page)
    assert count_decisions(database) == {"reject": 12}


def test_one_candidate_of_a_grid_in_the_lightbox_and_in_the_single_view(
    open_page: OpenPage, round_id: int
) -> None:
    page = open_grid(open_page)
    on_page = item_ids(page)
    press_keys(page, "ArrowRight", "ArrowRight")
    page.keyboard.down("l")
    expect(page.locator("#lightbox")).to_be_visible()
    screenshot(page, "lightbox")
    assert (
        page.locator("#lightbox img").last.evaluate(
            "image => image.decode().then(() => image.naturalWidth)"
        )
        == 32
    )
    page.keyboard.up("l")
    expect(page.locator("#lightbox")).to_be_hidden()
    page.keyboard.press("t")
    assert wait_until_shown(page) == on_page[2], "the focused candidate comes first"
    assert "view=grid" not in page.url
    page.keyboard.press("t")
    wait_for_grid(page)
    assert "view=grid" in page.url
    assert item_ids(page)[0] == on_page[2]
    assert set(item_ids(page)) == set(on_page), "switching the view keeps every candidate"


def test_a_grid_of_forty_eight(open_page: OpenPage, database: Database, store: FolderStore) -> None:
    with database.transaction() as tx:
        make_candidates(tx, store, make_round(tx), 70)
    page = open_grid(open_page, 48)
    first = item_ids(page)
    assert len(first) == 48
    box = page.locator("#grid").bounding_box()
    last = page.locator(".grid-item").last.bounding_box()
    assert last["y"] + last["height"] <= box["y"] + box["height"] + 1, "no scrolling is needed"
    press_keys(page, "Space", "Enter")
    wait_for_grid(page, first[0])
    wait_until_sent(page)
    page.wait_for_function("() => document.querySelectorAll('#grid .grid-item').length === 22")
    assert not set(item_ids(page)) & set(first)
    assert count_decisions(database) == {"accept": 1, "reject": 47}
    wait_for_grid(page)
    page.keyboard.press("Enter")
    expect(page.locator(".empty-state")).to_be_visible()
    wait_until_sent(page)
    assert sum(count_decisions(database).values()) == 70


def test_a_pair_is_one_image(open_page: OpenPage, database: Database, pair_round: int) -> None:
    page = open_grid(open_page)
    expect(page.locator(".grid-item")).to_have_count(8)
    roles = page.locator(".grid-item img").evaluate_all(
        "images => images.map((image) => image.dataset.role)"
    )
    assert roles == ["blended"] * 8
    first = item_ids(page)[0]
    press_keys(page, "0", "ArrowRight", "Space", "Enter")
    wait_until_sent(page)
    assert active_verdicts(database)[first] == ("reject", ["clash"])
    with database.transaction() as tx:
        reason_layers = tx.scalar(
            sa.select(decisions.c.layers).where(decisions.c.candidate_id == first)
        )
    assert reason_layers == ["blended"]


def test_the_grid_for_screen_readers(open_page: OpenPage, round_id: int) -> None:
    page = open_grid(open_page)
    grid = page.get_by_role("listbox", name="Grid of 12 candidates")
    expect(grid.get_by_role("option")).to_have_count(12)
    assert page.evaluate("document.activeElement.getAttribute('role')") == "option", (
        "the grid has the initial focus"
    )
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith(", good")
    press_keys(page, "ArrowRight", "7")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith(
        "rejected: prompt miss"
    )
    assert grid.locator('[tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    expect(page.locator("#announcement")).to_have_text("grid: 1 accepted, 11 rejected")


@pytest.mark.parametrize(
    "viewport", [{"width": 820, "height": 1180}, {"width": 1024, "height": 768}]
)
def test_a_grid_by_touch(
    open_page: OpenPage, database: Database, round_id: int, viewport: dict[str, int]
) -> None:
    page = open_grid(open_page, viewport=viewport, has_touch=True)
    on_page = item_ids(page)
    page.locator(".grid-item").nth(1).tap()
    page.get_by_role("button", name="Leave for later").tap()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#submit").tap()
    wait_for_grid(page, on_page[0])
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 1, "skip": 11}
    assert state_of(database, on_page[1]) == "accepted"


def test_the_grid_shows_thumbnails_and_the_lightbox_full_images(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        make_pairs(tx, store, make_round(tx, kind="pair"), scenes(6, 512))
    page = open_grid(open_page)
    assert set(
        page.locator(".grid-item img").evaluate_all(
            "images => images.map((image) => image.naturalWidth)"
        )
    ) == {320}
    page.keyboard.down("l")
    page.wait_for_function(
        "() => document.querySelector('#lightbox img:only-of-type')?.naturalWidth === 512"
    )
    page.keyboard.up("l")
    page.keyboard.press("t")
    wait_until_shown(page)
    assert (
        page.locator('#viewer img[data-role="blended"]').evaluate("image => image.naturalWidth")
        == 512
    )
    assert shown(page) is not None
