"""Leases: an unused page claims few candidates, and a closed or idle page releases them."""

from __future__ import annotations

import sqlalchemy as sa
from playwright.sync_api import expect

from curation.db.engine import Database
from curation.db.tables import leases
from curation.domain import Role
from curation.object_store import FolderStore
from curation.review.reviewers import find_reviewer
from tests.browser.reviewing import OpenPage, Site, press, shown, wait_until_sent, wait_until_shown
from tests.support.factories import make_candidates, make_round
from tests.support.servers import wait_for


def held_by(database: Database, name: str) -> int:
    """Return the number of candidates that a reviewer has leased."""
    with database.transaction() as tx:
        holder = find_reviewer(tx, name).holder
        query = sa.select(sa.func.count()).select_from(leases).where(leases.c.holder == holder)
        return int(tx.scalar(query))


def wait_until_held(database: Database, name: str, count: int) -> None:
    wait_for(f"{name} to hold {count}", lambda: held_by(database, name) == count)


def test_an_unused_page_claims_few_candidates(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page("Ada", Role.annotator)
    wait_until_shown(page)
    page.wait_for_load_state("networkidle")
    assert held_by(database, "Ada") == 8
    page.mouse.move(300, 300)
    page.wait_for_load_state("networkidle")
    assert held_by(database, "Ada") == 8, "moving the pointer does not count as use"
    page.keyboard.press("b")
    wait_until_held(database, "Ada", 24)


def test_leaving_the_page_releases_its_candidates(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    ada, grace = open_page("Ada", Role.annotator), open_page("Grace", Role.annotator)
    press(ada, "a")
    wait_until_sent(ada)
    wait_until_held(database, "Ada", 24)
    grace_sees = wait_until_shown(grace)
    grace.keyboard.press("b")
    wait_until_held(database, "Grace", 15)
    ada.goto(ada.url.replace("/review", "/me"))
    wait_until_held(database, "Ada", 0)
    for _ in range(39):
        press(grace, "r")
    wait_until_sent(grace)
    assert grace_sees
    expect(grace.locator("#empty-title")).to_have_text("You are all caught up")


def test_closing_a_tab_releases_only_its_own_candidates(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    first = open_page("Ada", Role.annotator)
    seen = wait_until_shown(first)
    second = first.context.new_page()
    second.goto(first.url)
    assert wait_until_shown(second) != seen, "each tab has its own candidates"
    wait_until_held(database, "Ada", 16)
    second.close(run_before_unload=True)
    wait_until_held(database, "Ada", 8)
    assert shown(first) == seen
    press(first, "a")
    wait_until_sent(first)
    expect(first.locator("#toast")).to_be_hidden()


def test_switching_to_another_round_releases_the_first(
    open_page: OpenPage, database: Database, store: FolderStore, round_id: int
) -> None:
    with database.transaction() as tx:
        other = make_round(tx)
        make_candidates(tx, store, other, 3)
    page = open_page("Ada", Role.annotator)
    press(page, "a")
    wait_until_sent(page)
    wait_until_held(database, "Ada", 24)
    page.goto(f"{page.url}?round={other}")
    wait_until_shown(page)
    wait_until_held(database, "Ada", 3)


def test_an_idle_page_releases_its_candidates_and_claims_them_again_on_activity(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_page("Ada", Role.annotator, path="/me")
    page.clock.install()
    page.goto(f"{site.address}/review")
    first = wait_until_shown(page)
    wait_until_held(database, "Ada", 8)
    page.clock.fast_forward(3 * 60_000)
    wait_until_held(database, "Ada", 0)
    page.mouse.move(200, 200)
    wait_until_held(database, "Ada", 8)
    assert shown(page) == first


def test_the_start_page_depends_on_the_role(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    for name, access, lands in (
        ("Ada", Role.annotator, "/review"),
        ("Eve", Role.engineer, "/rounds"),
        ("Tom", Role.trainer, "/rounds"),
        ("Amy", Role.admin, "/rounds"),
    ):
        page = open_page(None, path="/sign-in")
        page.goto(site.sign_in_url(name, access).replace("&next=/review", ""))
        page.wait_for_url(f"{site.address}{lands}")
        page.goto(site.address)
        page.wait_for_url(f"{site.address}{lands}")
        page.context.close()
        if access is not Role.annotator:
            assert held_by(database, name) == 0


def test_candidates_of_other_rounds_are_linked(
    open_page: OpenPage, database: Database, store: FolderStore, round_id: int
) -> None:
    with database.transaction() as tx:
        empty = make_round(tx)
    page = open_page("Ada", Role.annotator, path=f"/review?round={empty}")
    expect(page.locator("#empty-title")).to_have_text(f"You are all caught up in round {empty}")
    expect(page.locator("#activity")).to_contain_text("40 to review")
