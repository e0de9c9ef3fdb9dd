"""The round page: what was steered and why, and the acceptance of random and steered prompts."""

from __future__ import annotations

from playwright.sync_api import expect

from curation.db.engine import Database
from curation.domain import Role
from curation.steering.settings import SteeringSettings
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, screenshot
from tests.support.steered_rounds import captions, decide_all, open_steered, planted_acceptance


def test_the_round_page_shows_what_was_steered_and_why(
    open_page: OpenPage, site: Site, database: Database
) -> None:
    pool, acceptance = captions(400), planted_acceptance(5)
    settings = SteeringSettings(targets={"heart": 0.2})
    with database.transaction() as tx:
        first, _ = open_steered(tx, pool, 200, 1, settings)
        decide_all(tx, first, acceptance, 1, rules=True)
        second, _ = open_steered(tx, pool, 200, 2, settings)
    page = open_page(path=f"/rounds/{second}", name="Ada", role=Role.engineer)
    summary = page.locator("#steering-summary")
    expect(summary).to_contain_text("150 of 200 prompts were steered for more accepted samples")
    expect(summary).to_contain_text(f"by 200 decisions of round {first} (200 by the rule reviewer)")
    expect(page.locator("#steering-undecided")).to_be_visible()
    expect(page.locator("#steering-arms tr")).to_have_count(10)
    # The target is first, and says so.
    expect(page.locator("#steering-arms tr").first).to_contain_text("shape: hearttarget 20%")
    expect(page.locator("#steering-arms")).to_contain_text("halo")
    more = page.locator("#steering-more")
    more.locator("summary").click()
    with database.transaction() as tx:
        decide_all(tx, second, acceptance, 2)
    outcomes = page.locator("#steering-outcomes tr")
    expect(outcomes).to_have_count(2)
    expect(outcomes.first).to_contain_text("chosen at random")
    expect(outcomes.first.locator("td").last).to_have_text("50")
    expect(outcomes.last.locator("td").last).to_have_text("150")
    # A refresh leaves the list of all arms open.
    expect(more).to_have_attribute("open", "")
    page.locator("#steering-card").scroll_into_view_if_needed()
    screenshot(page, "steering")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert accessibility_violations(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#steering-reasons").scroll_into_view_if_needed()
    screenshot(page, "steering-narrow")

    # The first round had nothing to steer by; other rounds have no such section.
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{site.address}/rounds/{first}")
    expect(page.locator("#steering-summary")).to_contain_text("were chosen at random, since")
    expect(page.locator("#steering-reasons")).to_be_hidden()
