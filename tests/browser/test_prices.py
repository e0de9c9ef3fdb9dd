"""A round's page says what accepts cost by slice, what the next hour is worth, what the machine did, and when to stop."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import expect

from curation.database import Database
from curation.domain import Access, Verdict
from curation.selection.choosing import select_candidates
from curation.selection.machine import decide_all
from tests.browser.reviewing import OpenPage, Site
from tests.streams import SOURCE, accepts, arrive, judge_waiting, open_stream, taught


def test_the_price_of_accepts_stands_on_the_rounds_page(open_page: OpenPage, site: Site, database: Database) -> None:
    with database.transaction() as tx:
        taught(tx)
        policy = {"kind": "mixed", "share": 0.5, "likely": 0.5, "uncertain": 0.2, "random": 0.3, "wanted": 20}
        number = open_stream(tx, policy, 10**6)
        quality = np.random.default_rng(1).standard_normal(400)
        ids = arrive(tx, number, 1, quality)
        select_candidates(tx, number, SOURCE)
        judge_waiting(tx, number, dict(zip(ids, accepts(1, quality).tolist(), strict=True)), most=100)
        assert decide_all(tx, ids, Verdict.reject, "by gate 1") > 100
    page = open_page(path=f"/rounds/{number}", name="Ada", access=Access.engineer)
    expect(page.locator("#price tr th")).to_have_text(["likely", "random", "uncertain"])
    expect(page.locator("#next-hour")).to_contain_text("An hour of review now: about")
    expect(page.locator("#stop")).to_contain_text("20 were wanted")
    expect(page.locator("#tiles")).to_contain_text("that nobody was shown")
    expect(page.locator("#about")).to_contain_text("people see 50 % of what passes (mixed)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
