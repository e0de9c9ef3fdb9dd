"""The page of a training run: curves that grow, the log, and the actions of trainers."""

from __future__ import annotations

import math

from playwright.sync_api import expect

from curation.checkpoints import registry, run_history
from curation.db.engine import Database
from curation.domain import Progress, Role
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, screenshot
from tests.curation.checkpoints.test_checkpoints import make_request


def test_curves_and_log_of_a_run_grow_while_it_trains(
    open_page: OpenPage, site: Site, database: Database
) -> None:
    wanted = make_request(database)
    with database.transaction() as tx:
        run = registry.request_training(tx, wanted, "test")
        registry.claim_run(tx, run, "w1", 600)
        registry.record_progress(tx, run, "w1", Progress("transparency", 6_400, 9_000, {}), 600)
        for stage, count in (("transparency", 200), ("base", 3)):
            points = [(32 * n, metrics(n)) for n in range(1, count + 1)]
            run_history.append_metrics(tx, run, "w1", stage, points)
        run_history.append_log(tx, run, "w1", ["2026-11-30T12:00:00Z INFO claimed by w1"])
    page = open_page(path="/checkpoints", name="Ada", role=Role.trainer)
    page.locator("#runs a[href^='/runs/']").first.click()
    expect(page.locator("h1")).to_have_text(f"Run {str(run)[:10]}")
    charts = page.locator("[data-stage=transparency] figure")
    expect(charts).to_have_count(3)
    expect(page.get_by_role("img", name="loss: ")).to_have_count(2)
    curve = charts.filter(has_text="loss").locator("polyline")
    assert len(str(curve.get_attribute("points")).split()) == 200
    expect(page.locator("#log")).to_contain_text("INFO claimed by w1")
    assert accessibility_violations(page) == []
    screenshot(page, "training_run")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    # New points and lines appear by themselves.
    with database.transaction() as tx:
        more = [(32 * n, metrics(n)) for n in range(201, 211)]
        run_history.append_metrics(tx, run, "w1", "transparency", more)
        run_history.append_log(tx, run, "w1", ["2026-11-30T12:00:09Z WARNING the disk is slow"])
    expect(page.locator("#log")).to_contain_text("WARNING the disk is slow")
    expect(charts.first).to_contain_text("6,720 images")


def metrics(step: int) -> dict[str, float]:
    """Return metrics like those of a training."""
    loss = 0.4 * math.exp(-step / 60) + 0.03 * math.sin(step) ** 2
    return {"loss": loss, "gradient": 1 / step, "rate": 1e-4}


def test_trainers_pause_and_resume_a_run_and_annotators_see_no_actions(
    open_page: OpenPage, site: Site, database: Database
) -> None:
    wanted = make_request(database)
    with database.transaction() as tx:
        run = registry.request_training(tx, wanted, "test")
    page = open_page(path=f"/runs/{run}", name="Ada", role=Role.trainer)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state")).to_contain_text("paused")
    expect(page.locator("#reason")).to_have_text("paused by Ada")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state")).to_contain_text("requested")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_contain_text("cancelled")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    other = open_page(path=f"/runs/{run}", name="Ben", role=Role.annotator)
    expect(other.locator("#state")).to_contain_text("cancelled")
    expect(other.locator("#actions")).to_be_hidden()
    expect(other.locator("#log-section")).to_be_hidden()
