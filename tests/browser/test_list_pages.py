"""Pages of a long list: older rows by link and by keyboard, and the place in the address."""

from __future__ import annotations

from playwright.sync_api import expect

from curation.domain import Role
from tests.browser.reviewing import OpenPage, Site, accessibility_violations
from tests.support.factories import make_round

PAGE_SIZE = 50


def test_rounds_on_three_pages(open_page: OpenPage, site: Site, round_id: int) -> None:
    with site.context.database.transaction() as tx:
        numbers = [round_id, *(make_round(tx) for _ in range(2 * PAGE_SIZE + 4))][::-1]
    page = open_page(role=Role.engineer, path="/rounds")
    rows, older = page.locator("#rows tr"), page.get_by_role("link", name="Older")
    newest = page.get_by_role("link", name="Newest")

    # From page to page, the second time by keyboard.
    expect(rows).to_have_count(PAGE_SIZE)
    expect(rows.first).to_contain_text(f"Round {numbers[0]}")
    expect(newest).to_have_count(0)
    assert accessibility_violations(page) == []
    older.click()
    expect(rows.first).to_contain_text(f"Round {numbers[PAGE_SIZE]}")
    assert page.url.endswith(f"/rounds?after={numbers[PAGE_SIZE - 1]}")
    older.focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(5)
    expect(rows.last).to_contain_text(f"Round {round_id}")
    expect(older).to_have_count(0)

    # A reload stays, going back returns, and a refresh keeps the focus.
    page.reload()
    expect(rows).to_have_count(5)
    page.go_back()
    expect(rows.first).to_contain_text(f"Round {numbers[PAGE_SIZE]}")
    older.focus()
    with page.expect_response(lambda answer: "/api/rounds?" in answer.url):
        pass
    page.wait_for_function("document.activeElement?.textContent === 'Older'")
    newest.click()
    expect(rows.first).to_contain_text(f"Round {numbers[0]}")
    assert page.url.endswith("/rounds")


def test_one_page_shows_no_links(open_page: OpenPage, round_id: int) -> None:
    page = open_page(role=Role.engineer, path="/rounds")
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#pages")).to_be_hidden()
