"""Every page in both themes and two widths: no console errors, no accessibility violations, no overflow."""

from __future__ import annotations

import re
import uuid

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from curation.checkpoints.registry import register_checkpoint
from curation.datasets.snapshots import freeze_snapshot
from curation.db.engine import Database
from curation.db.tables import prompts, rounds, takedown_items, takedowns
from curation.domain import Checkpoint, Role, Verdict
from curation.object_store import FolderStore
from curation.review.decisions import decide
from curation.review.queue import claim_items
from curation.review.reviewers import add_reviewer
from tests.browser.reviewing import OpenPage, Site, accessibility_violations, screenshot
from tests.support.factories import make_candidates, make_round

HOSTILE = '<img src=x onerror="window.stolen = 1"><script>window.stolen = 2</script>'
READY = {
    "/review": '#review[data-state="ready"]',
    "/rounds": "#rows tr",
    "/rounds/{round}": "#funnel li",
    "/snapshots": "#rows tr",
    "/snapshots/first": "#samples img",
    "/checkpoints": "#metrics tr",
    "/reviewers": "#rows tr",
    "/me": ".properties dd",
    "/sign-in": "#token",
}
"""Every page, and a selector that matches once its data is loaded."""


@pytest.fixture
def round_id(database: Database, store: FolderStore) -> int:
    """Return a round of 12 with 8 decisions by Grace, and a snapshot of her accepts; the prompts are hostile."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 12)
        tx.execute(sa.update(prompts).values(text=HOSTILE))
        grace = add_reviewer(tx, "Grace")
    with database.transaction() as tx:
        for turn, item in enumerate(claim_items(tx, grace.id, round_id, 8, (), 300)):
            verdict = Verdict.accept if turn % 2 else Verdict.reject
            decide(tx, grace.id, item.id, verdict, key=uuid.uuid4(), dwell_ms=1_000)
    freeze_snapshot(database, store, tag="first", actor="test")
    return round_id


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820])
def test_every_page_renders(
    open_page: OpenPage, site: Site, round_id: int, scheme: str, width: int
) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    background_colors = set()
    for path, ready in READY.items():
        page.goto(site.address + path.format(round=round_id))
        page.wait_for_selector(ready)
        assert page.locator("h1").first.is_visible(), path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (
            f"{path} is wider than the window"
        )
        assert accessibility_violations(page) == [], path
        assert page.evaluate("window.stolen ?? null") is None, path
        background_colors.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert background_colors == {"rgb(19, 20, 18)" if scheme == "dark" else "rgb(247, 247, 245)"}


def test_hostile_captions_are_text(open_page: OpenPage, site: Site, round_id: int) -> None:
    page = open_page()
    expect(page.locator("#prompt")).to_have_text(HOSTILE)
    page.goto(f"{site.address}/snapshots/first")
    expect(page.locator(".caption").first).to_have_text(HOSTILE)
    assert page.locator("main script").count() == 0


def test_the_round_page_shows_the_report_and_its_actions(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_page(path=f"/rounds/{round_id}")
    expect(page.locator("#tiles")).to_contain_text("50% of 8 decided")
    expect(page.locator("#funnel li").first).to_contain_text("12")
    expect(page.locator("#reviewers")).to_contain_text("Grace")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert round_state(database, round_id) == "paused"
    page.get_by_role("button", name="Close…").click()
    page.get_by_role("button", name="Close round").click()
    expect(page.locator("#title")).to_contain_text("closed")
    assert round_state(database, round_id) == "closed"
    expect(page.locator("#actions button")).to_have_count(0)


def round_state(database: Database, round_id: int) -> str:
    """Return the state of a round: open, paused or closed."""
    with database.transaction() as tx:
        return str(tx.scalar(sa.select(rounds.c.state).where(rounds.c.id == round_id)))


def test_annotators_see_only_what_they_may_read(
    open_page: OpenPage, site: Site, round_id: int
) -> None:
    page = open_page(name="Grace", role=Role.annotator)
    expect(page.locator("#me")).to_contain_text("annotator")
    assert page.locator("nav a:visible").all_inner_texts() == ["Review", "Compare", "Rounds"]
    page.goto(f"{site.address}/rounds")
    expect(page.locator("#rows tr")).not_to_have_count(0)
    expect(page.locator("#rows a")).to_have_count(0)
    page.goto(f"{site.address}/checkpoints")
    expect(page.locator("#error")).to_contain_text("don't have access")


def test_a_sample_leads_to_its_origin_and_a_checkpoint_to_its_uses(
    open_page: OpenPage, site: Site, round_id: int
) -> None:
    page = open_page(path="/snapshots/first", role=Role.trainer)
    page.get_by_role("link", name="Why is it here?").first.click()
    page.wait_for_url("**/samples/*")
    expect(page.locator("#caption")).to_have_text(HOSTILE)
    expect(page.locator("#decisions")).to_contain_text("accept by Grace")
    expect(page.locator("#snapshots li")).to_have_count(1)
    expect(page.locator("#snapshots")).to_contain_text("first")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert accessibility_violations(page) == []
        screenshot(page, f"sample-{width}")
    page.locator("#origin").get_by_role("link", name=re.compile("^[0-9a-f]{10}$")).click()
    page.wait_for_url("**/checkpoints#*")
    page.get_by_text("Used for").first.click()
    expect(page.locator("#cards")).to_contain_text("round 1: 12 candidates, 4 accepted")
    assert accessibility_violations(page) == []
    screenshot(page, "checkpoint-lineage")
    annotator = open_page(name="Grace", role=Role.annotator)
    annotator.goto(page.url.partition("/checkpoints")[0] + f"/samples/{'0' * 32}")
    expect(annotator.locator("#error")).to_contain_text("don't have access")


def test_the_page_of_a_sample_that_was_taken_down_says_so(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    gone, id_ = uuid.uuid4().hex, uuid.uuid4()
    row = {"id": id_, "selector": "sample", "selector_hash": "a" * 64, "actor": "test"}
    row |= {"state": "finished", "record": "b" * 64, "signature": "c" * 64}
    with database.transaction() as tx:
        tx.execute(sa.insert(takedowns), row)
        tx.execute(sa.insert(takedown_items), {"takedown_id": id_, "kind": "sample", "name": gone})
    page = open_page(path=f"/samples/{gone}", role=Role.trainer)
    expect(page.locator("#error")).to_contain_text(f"Sample {gone[:12]} was taken down on 20")
    expect(page.locator("#error")).to_contain_text("b" * 64)
    expect(page.locator("#sample")).to_be_hidden()


def test_creating_a_snapshot(open_page: OpenPage, site: Site, round_id: int) -> None:
    page = open_page(path="/snapshots")
    page.get_by_placeholder("Tag (optional)").fill("second")
    page.get_by_role("button", name="Create snapshot").click()
    expect(page.locator("#notice")).to_contain_text("4 samples")
    expect(page.locator("#rows")).to_contain_text("second")
    page.goto(f"{site.address}/checkpoints")
    expect(page.locator("#metrics tr")).to_have_count(1)
    expect(page.locator("#tiny-note")).to_contain_text("sd15 and sdxl")


def test_imported_weights_have_no_snapshot(
    open_page: OpenPage, site: Site, round_id: int, database: Database
) -> None:
    changes = {"offset_scale": "300.0"}
    with database.transaction() as tx:
        register_checkpoint(
            tx, Checkpoint({}, "imported", "sdxl", None, None, 0, "test", changes=changes), "test"
        )
    page = open_page(path="/checkpoints")
    item = page.locator("article", has_text="imported")
    expect(item).to_contain_text("preset sdxl with offset_scale 300.0")
    expect(item).to_contain_text("none (imported weights)")
    expect(item).to_contain_text("imported from files")


def test_the_theme_is_saved(open_page: OpenPage, site: Site, round_id: int) -> None:
    page = open_page(path="/rounds", color_scheme="light")
    page.get_by_role("button", name="Toggle dark mode").click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 18)"


def test_signing_out(open_page: OpenPage, site: Site, round_id: int) -> None:
    page = open_page(path="/rounds")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in**")
    page.goto(f"{site.address}/rounds/{round_id}")
    page.wait_for_url(lambda url: url.endswith(f"/sign-in?next=/rounds/{round_id}"))
    page.goto(f"{site.sign_in_url('Ada')}&next=//evil.example/x")
    page.wait_for_url(f"{site.address}/review")
