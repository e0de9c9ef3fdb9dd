"""Loops on the rounds page: their step, or the reason why they stopped."""

from __future__ import annotations

import sqlalchemy as sa
from playwright.sync_api import expect

from curation.db.tables import loop_turns, loops
from curation.domain import Role, content_id
from curation.loops.plan import LoopPlan, plan_to_dict
from tests.browser.reviewing import OpenPage, Site, accessibility_violations


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
    expect(items.nth(1).get_by_role("link")).to_have_attribute("href", f"/rounds/{round_id}")
    expect(items.nth(0)).to_contain_text("the budget of 7,200 GPU seconds is spent")
    assert accessibility_violations(page) == []
    annotator = open_page("Bob", role=Role.annotator, path="/rounds")
    expect(annotator.locator("#rows tr")).to_have_count(1)
    expect(annotator.locator("#loops")).to_be_hidden()
