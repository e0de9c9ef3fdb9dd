"""The trend over rounds on the page of all rounds, and a round beside earlier ones on its own."""

from __future__ import annotations

import sqlalchemy as sa
from playwright.sync_api import expect

from curation.db.tables import kept_reports
from curation.domain import Role
from curation.review.reviewers import add_rule_reviewer
from curation.selection.diversity_measurement import REPORT
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, screenshot
from tests.support.round_outcomes import add_round

WIDE = {"width": 1280, "height": 1400}
FIGURES = {"vendi": [6.1, 0.12], "distance": [2.0, 0.04], "recall": [0.91, 0.02]}


def test_rounds_are_compared_with_intervals(open_page: OpenPage, site: Site) -> None:
    with site.context.database.transaction() as tx:
        rules = add_rule_reviewer(tx)
        first = add_round(tx, rules, 26, 20, refused=4, shown=31, vendi=6.0)
        second = add_round(tx, rules, 34, 13, refused=3, shown=33, vendi=5.9)
        last = add_round(tx, rules, 40, 8, refused=2, shown=35, vendi=4.4)
        # All figures of the first and the last round.
        for number, scale in ((first, 1.0), (last, 0.75)):
            own = kept_reports.c.subject == number
            report = dict(tx.scalar(sa.select(kept_reports.c.report).where(own)))
            scaled = {name: [scale * value for value in pair] for name, pair in FIGURES.items()}
            report |= {"estimates": {"48": scaled}, "seed_estimates": {"48": FIGURES}}
            changed = {"report": report, "name": REPORT}
            tx.execute(sa.update(kept_reports).where(own).values(changed))
    page = open_page(role=Role.engineer, path="/rounds", viewport=WIDE)
    charts = page.locator("#trend figure")
    expect(charts).to_have_count(4)
    expect(charts.nth(1)).to_contain_text(f"Beside round {first}: better")
    expect(charts.nth(1)).to_contain_text(f"Beside round {second}: within chance")
    expect(charts.nth(3)).to_contain_text(f"Beside round {first}: worse (p < 0.001)")
    expect(charts.nth(0).locator(".interval")).to_have_count(3)
    assert accessibility_violations(page) == []
    screenshot(page, "rounds-trend")

    page = open_page(role=Role.engineer, path=f"/rounds/{last}", viewport=WIDE)
    rows = page.locator("#comparisons tr")
    expect(rows).to_have_count(8)
    expect(rows.nth(1)).to_contain_text("Defects per 100")
    expect(rows.nth(1)).to_contain_text("better")
    expect(page.locator("#diversity tr")).to_have_count(3)
    expect(page.locator("#diversity tr").nth(0)).to_contain_text("0.75")
    expect(page.locator("#diversity-lost")).to_contain_text("Diversity is lost")
    expect(page.locator("#diversity-first")).to_have_text(f"Times round {first}")
    assert accessibility_violations(page) == []
    screenshot(page, "round-diversity")
    # In the dark, and on a narrow screen.
    narrow = {"width": 390, "height": 2200}
    for number, path in enumerate(("/rounds", f"/rounds/{last}")):
        page = open_page(role=Role.engineer, path=path, color_scheme="dark", viewport=narrow)
        expect(page.locator("#trend figure, #comparisons tr")).to_have_count((4, 8)[number])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        screenshot(page, f"trend-narrow-{number}")
    # Nothing of it is shown to annotators.
    annotator = open_page("Bob", role=Role.annotator, path="/rounds")
    expect(annotator.locator("#rows tr")).to_have_count(3)
    expect(annotator.locator("#trend")).to_be_hidden()
