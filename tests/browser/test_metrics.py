"""The checkpoints page with all metrics: the main ones in the table, the others collapsed."""

from __future__ import annotations

from playwright.sync_api import expect

from curation.checkpoints.registry import record_metrics
from curation.db.engine import Database
from curation.domain import Role
from tests.browser.reviewing import OpenPage, Site
from tests.support.factories import make_checkpoint
from training.evaluation.heldout import HIGHER_IS_BETTER

MAIN = 8


def test_main_metrics_are_in_the_table_and_others_are_collapsed(
    open_page: OpenPage, site: Site, database: Database
) -> None:
    with database.transaction() as tx:
        name = make_checkpoint(tx)
        record_metrics(tx, name, dict.fromkeys(HIGHER_IS_BETTER, 0.5) | {"taste": 0.7}, "test")
    page = open_page(path="/checkpoints", name="Ada", role=Role.trainer)
    columns = page.locator("#metric-names th")
    expect(columns).to_have_count(1 + MAIN + 1)
    expect(columns.last).to_have_text("taste")
    more = page.locator(".more-metrics")
    expect(more.locator("summary")).to_have_text(f"{len(HIGHER_IS_BETTER) - MAIN} more metrics")
    expect(more.locator("tr").first).to_be_hidden()
    more.locator("summary").click()
    expect(more.locator("tr")).to_have_count(len(HIGHER_IS_BETTER) - MAIN)
    labels = more.locator("th").all_inner_texts()
    assert len(set(labels)) == len(labels)
    assert any(label.startswith("PSNR (JPEG)") for label in labels)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
