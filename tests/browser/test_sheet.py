"""The contact sheet: the few good ones marked by keys, one submission for all, nothing lost or doubled, undone as a whole."""

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
    count_decisions,
    image,
    press,
    shown,
    standing,
    state_of,
    wait_until_sent,
    wait_until_shown,
)
from tests.making import make_candidates, make_pairs, make_round, scenes

READ = """() => [...document.querySelectorAll('#contact .cell')]
  .map((cell) => [cell.dataset.candidate, cell.dataset.mark, cell.getAttribute('aria-selected')])"""


def open_sheet(open_page: OpenPage, size: int = 12, **options: object) -> Page:
    """The page as a contact sheet of so many, all of which have come."""
    page = open_page(path="/rounds", **options)
    page.evaluate("size => localStorage.setItem('layerloop.sheet.size', String(size))", size)
    page.goto(page.url.replace("/rounds", "/review?view=sheet"))
    wait_for_sheet(page)
    return page


def wait_for_sheet(page: Page, gone: str = "") -> None:
    """Wait for a sheet that can be judged, and on which a candidate that was decided is no more."""
    page.wait_for_function(
        """(gone) => {
          const cells = [...document.querySelectorAll('#contact .cell')];
          return cells.length && cells.every((cell) => cell.dataset.candidate !== gone && !cell.dataset.mark.match(/waiting|decoding/));
        }""",
        arg=gone,
    )
    page.wait_for_timeout(
        450
    )  # a key that follows sooner is taken for one that meant the sheet before


def cells(page: Page) -> list[str]:
    return [candidate for candidate, *_ in page.evaluate(READ)]


def marked(page: Page) -> list[str]:
    return [
        candidate
        for candidate, mark, selected in page.evaluate(READ)
        if mark == "good" and selected == "true"
    ]


def keys(page: Page, *names: str) -> None:
    for name in names:
        page.keyboard.press(name)


def test_the_good_ones_are_accepted_and_the_others_rejected_in_one_request(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_sheet(open_page)
    on_sheet = cells(page)
    assert len(on_sheet) == 12
    asked: list[Request] = []
    page.on(
        "request", lambda request: asked.append(request) if "/decisions" in request.url else None
    )
    keys(page, "Space", "ArrowRight", "ArrowRight", "Space")
    assert marked(page) == [on_sheet[0], on_sheet[2]]
    keys(page, "ArrowRight", "2")
    expect(page.locator("#submit")).to_contain_text("Accept 2, reject 10")
    image(page, "sheet")
    page.keyboard.press("Enter")
    wait_for_sheet(page, on_sheet[0])
    wait_until_sent(page)
    assert [request.url.rsplit("/", 1)[1] for request in asked] == ["several"], (
        "one submission for the whole sheet"
    )
    expected = {candidate: ("reject", []) for candidate in on_sheet}
    expected |= {
        on_sheet[0]: ("accept", []),
        on_sheet[2]: ("accept", []),
        on_sheet[3]: ("reject", ["residue"]),
    }
    assert standing(database) == expected
    assert not set(cells(page)) & set(on_sheet)
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == 2
        dwells = tx.execute(sa.select(decisions.c.dwell_ms)).scalars().all()
    assert len(set(dwells)) == 1, "the time at the sheet is shared evenly"


def test_the_others_are_left_if_so_chosen(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_sheet(open_page)
    on_sheet = cells(page)
    keys(page, "w", "ArrowRight", "Space", "ArrowRight", "1")
    expect(page.locator("#submit")).to_contain_text("Accept 1, reject 1, leave 10")
    expect(page.locator('#others [aria-pressed="true"]')).to_have_text("left for later")
    page.keyboard.press("Enter")
    wait_for_sheet(page, on_sheet[0])
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 1, "reject": 1, "skip": 10}
    assert state_of(database, on_sheet[1]) == "accepted"
    page.reload()
    wait_for_sheet(page)
    (
        expect(page.locator('#others [aria-pressed="true"]')).to_have_text("left for later"),
        "the choice is remembered",
    )


def test_ranges_all_and_none(open_page: OpenPage, round_id: int) -> None:
    page = open_sheet(open_page)
    on_sheet = cells(page)
    keys(page, "ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight")
    assert marked(page) == on_sheet[1:5]
    keys(page, "Shift+ArrowLeft")
    assert marked(page) == on_sheet[1:4], "a range gives back what it took"
    columns = page.evaluate(
        "getComputedStyle(document.getElementById('contact')).gridTemplateColumns.split(' ').length"
    )
    keys(page, "Home", "Shift+ArrowDown")
    assert marked(page) == on_sheet[: max(columns + 1, 4)]
    page.keyboard.press("n")
    assert marked(page) == []
    keys(page, "5", "a")
    assert marked(page) == on_sheet
    keys(page, "End", "Space")
    assert marked(page) == on_sheet[:-1]
    page.locator(".cell").nth(0).click()
    assert marked(page) == on_sheet[1:-1]
    page.locator(".cell").nth(1).click()
    page.locator(".cell").nth(4).click(modifiers=["Shift"])
    assert marked(page) == on_sheet[1:-1]


def test_a_sheet_is_undone_as_a_whole_with_its_marks(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_sheet(open_page)
    on_sheet = cells(page)
    keys(page, "Space", "ArrowRight", "3", "ArrowRight", "Space", "Enter")
    wait_for_sheet(page, on_sheet[0])
    wait_until_sent(page)
    expect(page.locator("#trail button").first).to_have_attribute(
        "title", "Undo – a sheet of 12 candidates: 2 accepted, 10 rejected"
    )
    page.keyboard.press("Backspace")
    wait_until_sent(page)
    assert cells(page) == on_sheet
    assert marked(page) == [on_sheet[0], on_sheet[2]]
    assert page.locator('.cell[data-mark="bad"]').count() == 1
    assert standing(database) == {}
    assert count_decisions(database)["undo"] == 12
    with database.transaction() as tx:
        states = (
            tx.execute(sa.select(candidates.c.state).where(candidates.c.id.in_(on_sheet)))
            .scalars()
            .all()
        )
        assert set(states) == {"showing"}
        assert tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None))) == 0
    page.wait_for_timeout(450)
    page.keyboard.press("Enter")
    wait_for_sheet(page, on_sheet[0])
    wait_until_sent(page)
    assert sum(verdict == "accept" for verdict, _ in standing(database).values()) == 2


def test_a_lost_answer_about_a_sheet_doubles_nothing(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_sheet(open_page)
    on_sheet = cells(page)
    answers = itertools.count()

    def lose_the_first(route: Route) -> None:
        route.fetch()
        if next(answers) == 0:
            route.abort()
        else:
            route.continue_()

    page.route("**/api/review/decisions/batch", lose_the_first)
    keys(page, "Space", "Enter")
    wait_until_sent(page)
    page.unroute("**/api/review/decisions/batch")
    assert next(answers) >= 2
    assert set(standing(database)) == set(on_sheet)
    assert count_decisions(database) == {"accept": 1, "reject": 11}


def test_a_conflict_on_a_sheet_is_told_and_the_others_are_kept(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_sheet(open_page)
    on_sheet = cells(page)
    with database.transaction() as tx:
        tx.execute(sa.delete(leases).where(leases.c.subject == on_sheet[3]))
        tx.execute(
            sa.update(candidates)
            .where(candidates.c.id == on_sheet[3])
            .values(state="waiting", priority=9)
        )
    other = open_page(name="Grace", role=Role.annotator)
    assert press(other, "a") == on_sheet[3]
    wait_until_sent(other)
    keys(page, "a", "Enter")
    expect(page.locator("#toast")).to_contain_text(
        "was not taken: this candidate is already decided"
    )
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 12}
    expect(page.locator("#trail button").first).to_have_attribute(
        "title", "Undo – a sheet of 12 candidates: 11 accepted, 1 not counted"
    )


def test_too_fast_a_second_submission_is_ignored(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_sheet(open_page)
    keys(page, "Enter", "Enter")
    expect(page.locator("#toast")).to_contain_text("Too fast")
    wait_until_sent(page)
    assert count_decisions(database) == {"reject": 12}


def test_one_of_a_sheet_is_looked_at_closely_and_alone(open_page: OpenPage, round_id: int) -> None:
    page = open_sheet(open_page)
    on_sheet = cells(page)
    keys(page, "ArrowRight", "ArrowRight")
    page.keyboard.down("l")
    expect(page.locator("#closer")).to_be_visible()
    image(page, "closer")
    assert (
        page.locator("#closer img").last.evaluate(
            "image => image.decode().then(() => image.naturalWidth)"
        )
        == 32
    )
    page.keyboard.up("l")
    expect(page.locator("#closer")).to_be_hidden()
    page.keyboard.press("t")
    assert wait_until_shown(page) == on_sheet[2], "the one with the cursor comes first"
    assert "view=sheet" not in page.url
    page.keyboard.press("t")
    wait_for_sheet(page)
    assert "view=sheet" in page.url
    assert cells(page)[0] == on_sheet[2]
    assert set(cells(page)) == set(on_sheet), "nothing is let go of by a change of view"


def test_forty_eight_at_once(open_page: OpenPage, database: Database, store: FolderStore) -> None:
    with database.transaction() as tx:
        make_candidates(tx, store, make_round(tx), 70)
    page = open_sheet(open_page, 48)
    first = cells(page)
    assert len(first) == 48
    box = page.locator("#contact").bounding_box()
    last = page.locator(".cell").last.bounding_box()
    assert last["y"] + last["height"] <= box["y"] + box["height"] + 1, (
        "all can be seen without scrolling"
    )
    keys(page, "Space", "Enter")
    wait_for_sheet(page, first[0])
    wait_until_sent(page)
    page.wait_for_function("() => document.querySelectorAll('#contact .cell').length === 22")
    assert not set(cells(page)) & set(first)
    assert count_decisions(database) == {"accept": 1, "reject": 47}
    wait_for_sheet(page)
    page.keyboard.press("Enter")
    expect(page.locator(".quiet-page")).to_be_visible()
    wait_until_sent(page)
    assert sum(count_decisions(database).values()) == 70


def test_pairs_are_one_print_each(open_page: OpenPage, database: Database, pair_round: int) -> None:
    page = open_sheet(open_page)
    expect(page.locator(".cell")).to_have_count(8)
    roles = page.locator(".cell img").evaluate_all(
        "images => images.map((image) => image.dataset.role)"
    )
    assert roles == ["blended"] * 8
    first = cells(page)[0]
    keys(page, "0", "ArrowRight", "Space", "Enter")
    wait_until_sent(page)
    assert standing(database)[first] == ("reject", ["clash"])
    with database.transaction() as tx:
        concerned = tx.scalar(
            sa.select(decisions.c.layers).where(decisions.c.candidate_id == first)
        )
    assert concerned == ["blended"]


def test_a_screen_reader_hears_the_sheet(open_page: OpenPage, round_id: int) -> None:
    page = open_sheet(open_page)
    sheet = page.get_by_role("listbox", name="Contact sheet of 12 candidates")
    expect(sheet.get_by_role("option")).to_have_count(12)
    assert page.evaluate("document.activeElement.getAttribute('role')") == "option", (
        "the keyboard begins at the sheet"
    )
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith(", good")
    keys(page, "ArrowRight", "7")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith(
        "rejected: prompt miss"
    )
    assert sheet.locator('[tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    expect(page.locator("#spoken")).to_have_text("sheet: 1 accepted, 11 rejected")


@pytest.mark.parametrize(
    "viewport", [{"width": 820, "height": 1180}, {"width": 1024, "height": 768}]
)
def test_buttons_do_on_a_sheet_what_keys_do(
    open_page: OpenPage, database: Database, round_id: int, viewport: dict[str, int]
) -> None:
    page = open_sheet(open_page, viewport=viewport, has_touch=True)
    on_sheet = cells(page)
    page.locator(".cell").nth(1).tap()
    page.get_by_role("button", name="left for later").tap()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#submit").tap()
    wait_for_sheet(page, on_sheet[0])
    wait_until_sent(page)
    assert count_decisions(database) == {"accept": 1, "skip": 11}
    assert state_of(database, on_sheet[1]) == "accepted"


def test_large_layers_come_small_and_are_seen_whole_when_looked_at(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        make_pairs(tx, store, make_round(tx, kind="pair"), scenes(6, 512))
    page = open_sheet(open_page)
    assert set(
        page.locator(".cell img").evaluate_all(
            "images => images.map((image) => image.naturalWidth)"
        )
    ) == {320}
    page.keyboard.down("l")
    page.wait_for_function(
        "() => document.querySelector('#closer img:only-of-type')?.naturalWidth === 512"
    )
    page.keyboard.up("l")
    page.keyboard.press("t")
    wait_until_shown(page)
    assert (
        page.locator('#stage img[data-role="blended"]').evaluate("image => image.naturalWidth")
        == 512
    )
    assert shown(page) is not None
