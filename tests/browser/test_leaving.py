"""Leases follow use: a page that nobody acts on takes few, and one that is left or idle returns what it had."""

from __future__ import annotations

import sqlalchemy as sa
from playwright.sync_api import expect
from servers import wait_for

from curation.db.engine import Database
from curation.db.tables import leases
from curation.domain import Role
from curation.object_store import FolderStore
from curation.review.reviewers import find_reviewer
from tests.browser.reviewing import OpenPage, Site, press, shown, wait_until_sent, wait_until_shown
from tests.making import make_candidates, make_round


def held_by(database: Database, name: str) -> int:
    """How many candidates somebody has leased."""
    with database.transaction() as tx:
        holder = find_reviewer(tx, name).holder
        query = sa.select(sa.func.count()).select_from(leases).where(leases.c.holder == holder)
        return int(tx.scalar(query))


def wait_until_held(database: Database, name: str, count: int) -> None:
    wait_for(f"{name} to hold {count}", lambda: held_by(database, name) == count)


def test_a_page_that_nobody_acts_on_takes_few(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page("Ada", Role.annotator)
    wait_until_shown(page)
    page.wait_for_load_state("networkidle")
    assert held_by(database, "Ada") == 8
    page.mouse.move(300, 300)
    page.wait_for_load_state("networkidle")
    assert held_by(database, "Ada") == 8, "a pointer that passes by is no act"
    page.keyboard.press("b")
    wait_until_held(database, "Ada", 24)


def test_a_page_that_is_left_returns_what_it_had(
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
    expect(grace.locator("#quiet-title")).to_have_text("Nothing waits for you")


def test_closing_a_tab_returns_its_own_and_not_the_other_tabs(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    first = open_page("Ada", Role.annotator)
    seen = wait_until_shown(first)
    second = first.context.new_page()
    second.goto(first.url)
    assert wait_until_shown(second) != seen, "each tab has candidates of its own"
    wait_until_held(database, "Ada", 16)
    second.close(run_before_unload=True)
    wait_until_held(database, "Ada", 8)
    assert shown(first) == seen
    press(first, "a")
    wait_until_sent(first)
    expect(first.locator("#toast")).to_be_hidden()


def test_another_round_on_the_same_page_frees_the_first(
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


def test_an_idle_page_returns_what_it_had_and_goes_on_when_somebody_is_back(
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


def test_engineers_land_on_the_rounds(
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


def test_what_waits_elsewhere_is_told(
    open_page: OpenPage, database: Database, store: FolderStore, round_id: int
) -> None:
    with database.transaction() as tx:
        empty = make_round(tx)
    page = open_page("Ada", Role.annotator, path=f"/review?round={empty}")
    expect(page.locator("#quiet-title")).to_have_text(f"Nothing waits for you in round {empty}")
    expect(page.locator("#goings-on")).to_contain_text("40 wait for you")
