"""The operations page: workers, waiting work, webhooks and labeling, in both themes and narrow windows."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from curation.db.engine import Database
from curation.domain import Role
from curation.object_store import FolderStore
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, screenshot
from tests.curation.api.test_operations import TOKEN, fill


def test_the_page_shows_what_an_operator_watches(
    open_page: OpenPage, site: Site, database: Database, store: FolderStore
) -> None:
    page = open_page(role=Role.engineer, path="/operations")
    expect(page.locator("#workers-empty")).to_be_visible()
    expect(page.locator("#webhooks-empty")).to_be_visible()
    assert accessibility_violations(page) == []
    round_id, _ = fill(database, store)
    page.reload()
    workers = page.locator("#workers tr")
    expect(workers).to_have_count(2)
    expect(workers.nth(0)).to_contain_text("2 screen")
    expect(workers.nth(1)).to_contain_text("generate pauses for 8 s: ")
    expect(page.locator("#queues tr")).to_contain_text("screen")
    expect(page.locator("#webhooks tr")).to_contain_text("the receiver answered 500, 10 attempts")
    expect(page.locator("#webhooks tr")).not_to_contain_text(TOKEN)
    expect(page.locator("#replay")).to_be_visible()
    expect(page.locator("#projects tr")).to_contain_text("it does not answer")
    expect(page.locator("#trouble")).to_contain_text("Worker two is paused")
    expect(page.locator("#rounds a").first).to_have_attribute("href", f"/rounds/{round_id}")
    annotator = open_page("Bob", role=Role.annotator, path="/operations")
    expect(annotator.locator("#error")).to_contain_text("You don't have access to this.")
    expect(annotator.locator("#operations")).to_be_hidden()
    expect(annotator.get_by_role("link", name="Operations")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_both_themes_and_narrow_windows(
    open_page: OpenPage, site: Site, database: Database, store: FolderStore, scheme: str
) -> None:
    fill(database, store)
    page = open_page(role=Role.engineer, path="/operations", color_scheme=scheme)
    for width in (1280, 820, 390):
        page.set_viewport_size({"width": width, "height": 1600})
        page.wait_for_selector("#workers tr")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        assert accessibility_violations(page) == [], width
        screenshot(page, f"operations-{scheme}-{width}")
