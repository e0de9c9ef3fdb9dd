"""Loops on their pages: step, spending, actions after a question, and changes of the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from curation.db.engine import Database
from curation.db.tables import loop_turns, loops
from curation.domain import Role, content_id
from curation.loops.plan import Budget, LoopPlan, plan_to_dict
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, screenshot
from tests.support.factories import make_checkpoint


def test_loops_that_have_not_ended_are_shown(
    open_page: OpenPage, site: Site, round_id: int
) -> None:
    plan = plan_to_dict(LoopPlan(rounds=5, quota=12, preset="micro"))
    cases = [
        ("running", "review", 2, None),
        ("paused", "train", 3, "the budget of 7,200 GPU seconds is spent"),
        ("finished", "finish", 5, None),
    ]
    with site.context.database.transaction() as tx:
        for state, step, turn, reason in cases:
            row = {"state": state, "step": step, "turn": turn, "reason": reason, "plan": plan}
            row["lease_id"] = content_id("test", state)
            loop_id = tx.scalar(sa.insert(loops).values(row).returning(loops.c.id))
            turn_row = {"loop_id": loop_id, "turn": turn}
            if state == "running":
                turn_row["round_id"] = round_id
            tx.execute(sa.insert(loop_turns), turn_row)
    page = open_page(role=Role.engineer, path="/rounds")
    items = page.locator("#loop-list li")
    expect(items).to_have_count(2)
    expect(items.nth(1)).to_contain_text("turn 2 of 5: generating and reviewing")
    expect(items.nth(1).get_by_role("link").nth(1)).to_have_attribute("href", f"/rounds/{round_id}")
    expect(items.nth(0)).to_contain_text("the budget of 7,200 GPU seconds is spent")
    assert accessibility_violations(page) == []
    annotator = open_page("Bob", role=Role.annotator, path="/rounds")
    expect(annotator.locator("#rows tr")).to_have_count(1)
    expect(annotator.locator("#loops")).to_be_hidden()


REASON = "the budget of 7,200 GPU seconds is spent"
GATE = {"condition": "alpha_mse<=last*1.05", "value": 0.0123, "bound": 0.0119, "passed": False}


@pytest.fixture
def loop_id(database: Database, round_id: int) -> int:
    """Return the running one of three loops; its second round is being reviewed."""
    plan = LoopPlan(rounds=5, quota=2_000, preset="micro", gate=("alpha_mse<=last*1.05",))
    cases = [
        ("finished", "finish", 5, None, replace(plan, quota=12)),
        ("paused", "train", 3, REASON, replace(plan, budget=Budget(gpu_seconds=7_200))),
        ("running", "review", 2, None, replace(plan, budget=Budget(accepted=400))),
    ]
    with database.transaction() as tx:
        made = make_checkpoint(tx)
        for state, step, turn, reason, planned in cases:
            row = {"state": state, "step": step, "turn": turn, "reason": reason}
            row |= {"plan": plan_to_dict(planned), "training_seconds": 7_200.0}
            row["lease_id"] = content_id("test", state)
            loop_id = int(tx.scalar(sa.insert(loops).values(row).returning(loops.c.id)))
            for number in range(1, turn + 1):
                done = {"checkpoint_id": made, "promoted": number != 1, "gate": [GATE]}
                turn_row = {"loop_id": loop_id, "turn": number} | done
                if state == "running" and number == turn:
                    turn_row["round_id"] = round_id
                tx.execute(sa.insert(loop_turns), turn_row)
    return loop_id


def test_loops_are_paused_resumed_and_cancelled_after_a_question(
    open_page: OpenPage, site: Site, loop_id: int
) -> None:
    page = open_page(role=Role.engineer, path="/loops")
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("turn 2 of 5: generating and reviewing")
    expect(rows.nth(0)).to_contain_text("Accepted samples 0 of 400")
    expect(rows.nth(1)).to_contain_text(REASON)
    expect(rows.nth(1)).to_contain_text("GPU time 2 h of 2 h")
    expect(rows.nth(2).get_by_role("button")).to_have_count(0)

    pause = page.get_by_role("button", name=f"Pause loop {loop_id}")
    pause.click()
    dialog = page.get_by_role("dialog", name=f"Pause loop {loop_id}?")
    assert accessibility_violations(page) == []
    screenshot(page, "loop-pause")
    dialog.get_by_role("button", name="Back").click()
    expect(rows.nth(0)).to_contain_text("running")
    pause.click()
    dialog.get_by_role("button", name="Pause loop").click()
    expect(rows.nth(0)).to_contain_text("paused by Ada")
    page.get_by_role("button", name=f"Resume loop {loop_id}").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume loop").click()
    expect(rows.nth(0)).to_contain_text("running")
    page.get_by_role("button", name=f"Cancel loop {loop_id}").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel loop").click()
    expect(rows.nth(0)).to_contain_text("cancelled")


def test_the_plan_of_a_loop_is_changed_on_its_page(
    open_page: OpenPage, site: Site, loop_id: int
) -> None:
    page = open_page(role=Role.engineer, path=f"/loops/{loop_id}")
    expect(page.locator("h1")).to_contain_text(f"Loop {loop_id}")
    expect(page.locator("#costs tr").nth(0)).to_contain_text("unknown")
    expect(page.locator("#costs tr").nth(2)).to_contain_text("400")
    expect(page.locator("#turns tr")).to_have_count(2)
    expect(page.locator("#turns tr").nth(0)).to_contain_text("refused")
    page.get_by_label("Rounds", exact=True).fill("8")
    page.get_by_label("Accepted samples, then finish").fill("")
    page.get_by_label("Gate of checkpoints").fill("psnr>=20, alpha_mse<=last")
    page.get_by_label("Reviewer").select_option("rules")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("#notice")).to_contain_text(f"Loop {loop_id} is changed.")
    expect(page.locator("#step")).to_contain_text("turn 2 of 8")
    expect(page.locator("#costs tr").nth(2)).to_contain_text("no limit")
    expect(page.locator("#summary")).to_contain_text("gate psnr>=20, alpha_mse<=last")
    expect(page.locator("#summary")).to_contain_text("the rule reviewer decides")
    page.get_by_label("Rounds", exact=True).fill("1")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("#error")).to_contain_text("is at round 2 already")
    annotator = open_page("Bob", role=Role.annotator, path=f"/loops/{loop_id}")
    expect(annotator.locator("#error")).to_contain_text("You don't have access to this.")
    expect(annotator.locator("#loop")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_of_loops_fit_both_themes_and_narrow_windows(
    open_page: OpenPage, site: Site, loop_id: int, scheme: str
) -> None:
    page = open_page(role=Role.engineer, path="/loops", color_scheme=scheme)
    for path, ready in (("/loops", "#rows tr"), (f"/loops/{loop_id}", "#turns tr")):
        for width in (1280, 820, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(site.address + path)
            page.wait_for_selector(ready)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                path,
                width,
            )
            assert accessibility_violations(page) == [], (path, width)
            screenshot(page, f"{path.split('/')[1]}-{len(path)}-{scheme}-{width}")
