"""The page of a snapshot: changes as pictures, distributions, and commands that can be copied."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from curation.datasets.samples import add_samples, samples_from_candidates
from curation.datasets.snapshot_history import add_note
from curation.datasets.snapshots import freeze_snapshot
from curation.db.engine import Database
from curation.db.tables import samples, screenings
from curation.domain import CandidateState, Role, canonical_json
from curation.object_store import FolderStore
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, screenshot
from tests.support.factories import make_candidates, make_round

WIDE = """() => [...document.querySelectorAll('main *')]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 200)).slice(0, 8).join('\\n')"""
"""The elements that reach beyond the window."""
HOSTILE = "<b>another</b> caption"


@pytest.fixture
def versions(database: Database, store: FolderStore) -> tuple[str, str]:
    """Return two snapshots: 30 samples, and 28 more, less one, with one changed caption."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        ids = make_candidates(tx, store, round_id, 58, CandidateState.accepted)
        for number, candidate in enumerate(ids):
            signals = {"alpha_coverage": (number % 9) / 9, "edge_sharpness": number**0.5}
            tx.execute(sa.insert(screenings), {"candidate_id": candidate, "signals": signals})
        add_samples(tx, samples_from_candidates(tx, ids[:30]))
    first = freeze_snapshot(database, store, tag="v1", actor="test").id
    with database.transaction() as tx:
        rows = tx.execute(sa.select(samples.c.id, samples.c.line).order_by(samples.c.id)).all()
        line = json.loads(rows[0].line) | {"caption": HOSTILE}
        changing = sa.update(samples).where(samples.c.id == rows[0].id)
        tx.execute(changing.values(line=canonical_json(line)))
        removing = sa.update(samples).where(samples.c.id == rows[1].id)
        tx.execute(removing.values(withdrawn_at=sa.func.now()))
        add_samples(tx, samples_from_candidates(tx, ids[30:]))
    second = freeze_snapshot(database, store, tag="v2", actor="test").id
    with database.transaction() as tx:
        add_note(tx, second, "Second delivery of the vases", "Ada")
    return first, second


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_what_changed_and_what_it_holds(
    open_page: OpenPage, site: Site, versions: tuple[str, str], scheme: str
) -> None:
    first, second = versions
    page = open_page(path="/snapshots", role=Role.trainer, color_scheme=scheme)
    rows = page.locator("#rows tr")
    expect(rows.first).to_contain_text("Second delivery of the vases")
    expect(rows.first.locator("td").nth(1)).to_have_text("57+27")
    expect(rows.first.locator("th")).to_contain_text(f"follows {first[:10]}")
    screenshot(page, f"snapshots-{scheme}")
    rows.first.get_by_role("link").first.click()
    page.wait_for_url(f"**/snapshots/{second}")
    expect(page.locator("#notes")).to_have_text("Second delivery of the vases")
    expect(page.locator("#query")).to_contain_text("all samples")
    expect(page.locator("#change-summary")).to_contain_text("+27 single")
    expect(page.get_by_role("img", name="alpha coverage: 0 to 0.889, median")).to_be_visible()
    expect(page.locator("#words li").first).to_contain_text("prompt")
    # Changes come in pages, and are the same as those of `snapshot diff`.
    changes = page.locator("#changes li")
    expect(changes).to_have_count(24)
    page.get_by_role("button", name="Show more changes").click()
    expect(changes).to_have_count(30)
    expect(page.locator("#changes-shown")).to_have_text("30 samples")
    page.get_by_role("button", name="Removed").click()
    expect(changes).to_have_count(1)
    page.get_by_role("button", name="Changed", exact=True).click()
    expect(changes.locator(".caption")).to_have_text(HOSTILE)
    expect(changes.locator("del")).to_contain_text("prompt")
    page.get_by_role("button", name="All", exact=True).click()
    expect(changes).to_have_count(24)
    assert accessibility_violations(page) == []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, page.evaluate(WIDE)
        assert accessibility_violations(page) == []
        screenshot(page, f"snapshot-{scheme}-{width}")
        page.locator("#distributions-title").scroll_into_view_if_needed()
        screenshot(page, f"snapshot-{scheme}-{width}-distributions")
        page.locator("#changes-title").scroll_into_view_if_needed()
        screenshot(page, f"snapshot-{scheme}-{width}-changes")
        page.evaluate("scrollTo(0, 0)")


def test_commands_are_copied_for_every_reader(
    open_page: OpenPage, site: Site, versions: tuple[str, str]
) -> None:
    first, _ = versions
    page = open_page(
        path="/snapshots/v1",
        role=Role.trainer,
        permissions=["clipboard-read", "clipboard-write"],
    )
    expect(page.locator("#changes-section")).to_be_hidden()
    page.get_by_label("For").select_option("kohya")
    page.get_by_role("button", name="Copy: pull").click()
    expect(page.locator("#commands")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == (
        f"layerloop snapshot pull {first[:16]} v1 --from {site.address} --format kohya"
    )
    page.get_by_role("button", name="Copy: verify").click()
    page.wait_for_function(
        "navigator.clipboard.readText().then(text => text === 'layerloop snapshot verify v1')"
    )
