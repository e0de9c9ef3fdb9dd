"""Decisions through trouble: offline, lost answers, reloads, conflicts, lost sessions, pictures that fail to load."""

from __future__ import annotations

import itertools

import sqlalchemy as sa
from playwright.sync_api import Page, Route, expect
from servers import wait_for

from curation.db.engine import Database
from curation.db.tables import decisions, leases, reviewers
from curation.domain import Role
from tests.browser.reviewing import (
    OpenPage,
    Site,
    count_decisions,
    press,
    shown,
    standing,
    state_of,
    wait_until_sent,
    wait_until_shown,
)

FILLS_AFTER = 3
"""Decisions after which the page asks for more candidates (static/tray.js: AHEAD, REFILL_BELOW)."""


def test_offline_loses_none_and_doubles_none(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    said = {press(page, "a"): ("accept", [])}
    wait_until_sent(page)
    page.context.set_offline(True)
    for _ in range(3):
        said[press(page, "a")] = ("accept", [])
    changed = press(page, "r")
    wait_until_shown(page)
    page.keyboard.press("u")
    assert wait_until_shown(page) == changed
    said[press(page, "a")] = ("accept", [])
    expect(page.locator("#banner")).to_contain_text("Offline: 6 decisions waiting")
    expect(page.locator("#trail .pending")).to_have_count(4)
    page.context.set_offline(False)
    wait_until_sent(page)
    expect(page.locator("#banner")).to_be_hidden()
    assert standing(database) == said
    assert count_decisions(database) == {"accept": 5, "reject": 1, "undo": 1}


def test_an_answer_that_is_lost_is_not_a_second_decision(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    answers = itertools.count()

    def lose_the_first(route: Route) -> None:
        route.fetch()  # the server keeps the decision, and the browser never hears of it
        if next(answers) == 0:
            route.abort()
        else:
            route.continue_()

    page.route("**/api/review/decisions", lose_the_first)
    candidate = press(page, "a")
    wait_until_sent(page)
    page.unroute("**/api/review/decisions")
    assert next(answers) >= 2
    assert standing(database) == {candidate: ("accept", [])}
    assert count_decisions(database) == {"accept": 1}


def test_a_reload_keeps_the_tray_and_the_outbox(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    said = {press(page, "a"): ("accept", [])}
    wait_until_sent(page)
    page.route("**/api/review/decisions", lambda route: route.abort())
    said[press(page, "r")] = ("reject", [])
    said[press(page, "a")] = ("accept", [])
    next_one = wait_until_shown(page)
    with database.transaction() as tx:
        held = {str(row) for row in tx.execute(sa.select(leases.c.subject)).scalars()}
    page.unroute("**/api/review/decisions")
    page.reload()
    assert wait_until_shown(page) not in said
    wait_until_sent(page)
    assert standing(database) == said
    with database.transaction() as tx:
        after = {str(row) for row in tx.execute(sa.select(leases.c.subject)).scalars()}
    assert next_one in after
    assert after - set(said) <= held, "what the page holds is what it held before"
    undone = list(said)[-1]
    page.keyboard.press("u")
    page.wait_for_selector(f'#stage[data-candidate="{undone}"]')
    wait_until_sent(page)
    assert state_of(database, undone) == "showing"


def test_what_was_on_its_way_at_a_reload_is_the_latest_whenever_the_server_told_of_its_own(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    """The server reads the latest decisions before it takes those on their way, and is heard after it has taken them."""
    page = open_page()
    first = press(page, "a")
    wait_until_sent(page)
    page.route("**/api/review/decisions", lambda route: route.abort())
    second, third = press(page, "r"), press(page, "a")
    wait_until_shown(page)
    waiting = hold_back(page, "**/api/review/latest")
    page.route("**/api/review/decisions/batch", lambda route: route.abort())
    page.reload()
    wait_for_route(page, waiting)
    answer = waiting[0].fetch()
    assert [row["candidate"]["id"] for row in answer.json()] == [first]
    page.unroute("**/api/review/decisions")
    page.unroute("**/api/review/decisions/batch")
    wait_until_sent(page)
    waiting[0].fulfill(response=answer)
    expect(page.locator("#trail li")).to_have_count(3)
    page.keyboard.press("u")
    page.wait_for_selector(f'#stage[data-candidate="{third}"]')
    page.keyboard.press("u")
    page.wait_for_selector(f'#stage[data-candidate="{second}"]')
    wait_until_sent(page)
    assert set(standing(database)) == {first}


def test_an_undo_that_only_the_server_could_name_is_not_offered_again(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    first, second = press(page, "a"), press(page, "a")
    wait_until_sent(page)
    waiting = hold_back(page, "**/api/review/latest")
    page.reload()
    wait_for_route(page, waiting)
    answer = waiting[0].fetch()
    wait_until_shown(page)
    page.keyboard.press("u")
    page.wait_for_selector(f'#stage[data-candidate="{second}"]')
    wait_until_sent(page)
    waiting[0].fulfill(response=answer)
    expect(page.locator("#trail li")).to_have_count(1)
    assert set(standing(database)) == {first}


def test_a_conflict_is_told_and_the_page_goes_on(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    with database.transaction() as tx:
        tx.execute(sa.delete(leases))
        tx.execute(sa.text("update candidates set state = 'waiting' where state = 'showing'"))
    other = open_page(name="Grace", role=Role.annotator)
    wait_until_shown(other)
    for _ in range(40):
        if state_of(database, candidate) in {"accepted", "rejected"}:
            break
        press(other, "r")
        wait_until_sent(other)
    page.keyboard.press("a")
    expect(page.locator("#toast")).to_contain_text("was not taken")
    assert wait_until_shown(page) != candidate
    wait_until_sent(page)
    assert standing(database)[candidate][0] == "reject"


def test_an_undo_outlives_a_slower_answer_about_the_tray(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    """The server says "decided, so not yours" of a candidate that the page has taken back since it asked."""
    page = open_page()
    wait_until_shown(page)
    fill_up(page, database)
    waiting = hold_back(page, "**/api/review/claims")
    page.context.set_offline(True)
    for _ in range(FILLS_AFTER):
        undone = press(page, "a")
    wait_until_shown(page)
    wait_for_route(
        page, waiting
    )  # asked while the decisions were still on their way, so it names them as held
    page.context.set_offline(False)
    wait_until_sent(page)
    answer = waiting[0].fetch()
    assert undone in answer.json()["lost"]
    page.keyboard.press("u")
    assert wait_until_shown(page) == undone
    waiting[0].fulfill(response=answer)
    page.unroute("**/api/review/claims")
    wait_until_sent(page)
    page.wait_for_load_state("networkidle")
    assert shown(page) == undone
    assert state_of(database, undone) == "showing"


def test_twenty_decisions_offline_survive_a_reload(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    """Reloaded where the page comes from the cache and nothing of the API answers; then online again."""
    page = open_page()
    wait_until_shown(page)
    fill_up(page, database)
    page.route("**/api/review/**", lambda route: route.abort())
    said: dict[str, tuple[str, list[str]]] = {}
    for key in itertools.islice(itertools.cycle(["a", "r", "3"]), 20):
        said[press(page, key)] = (
            "accept" if key == "a" else "reject",
            ["holes"] if key == "3" else [],
        )
    undone = list(said)[4]
    expect(page.locator("#trail li")).to_have_count(20)
    page.locator("#trail button").nth(15).click()
    assert wait_until_shown(page) == undone
    del said[undone]
    expect(page.locator("#banner")).to_contain_text("Offline: 21 decisions waiting")
    page.unroute("**/api/review/**")
    page.route("**/api/review/decisions**", lambda route: route.abort())
    page.route("**/api/review/decisions/**", lambda route: route.abort())
    page.reload()
    wait_until_shown(page)
    expect(page.locator("#banner")).to_contain_text("Offline: 21 decisions waiting")
    expect(page.locator("#trail .pending")).to_have_count(19)
    also_undone = list(said)[-1]
    page.keyboard.press("u")
    assert wait_until_shown(page) == also_undone, (
        "what is still on its way can be undone after a reload"
    )
    del said[also_undone]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition("/api/review/")[2]))
    page.unroute("**/api/review/decisions**")
    page.unroute("**/api/review/decisions/**")
    wait_until_sent(page)
    assert standing(database) == said
    assert sum(count_decisions(database).values()) == 22
    assert asked.count("decisions/several") == 1, "a backlog goes out in one request"


def test_any_of_the_latest_decisions_can_be_undone(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    made = [press(page, key) for key in "aaraa"]
    wait_until_sent(page)
    page.get_by_role("button", name="Undo – rejected").click()
    assert wait_until_shown(page) == made[2]
    press(page, "a")
    wait_until_sent(page)
    assert {
        candidate: verdict for candidate, (verdict, _) in standing(database).items()
    } == dict.fromkeys(made, "accept")
    page.reload()
    wait_until_shown(page)
    expect(page.locator("#trail li")).to_have_count(5)
    page.locator("#trail button").last.click()
    page.wait_for_selector(f'#stage[data-candidate="{made[0]}"]')
    wait_until_sent(page)
    assert state_of(database, made[0]) == "showing"
    assert set(standing(database)) == set(made[1:])
    expect(page.locator("#trail li")).to_have_count(4)


def fill_up(page: Page, database: Database) -> None:
    """Act on the page, so that it takes as many candidates as it needs, and wait until it has them."""

    def is_full() -> bool:
        with database.transaction() as tx:
            return int(tx.scalar(sa.select(sa.func.count()).select_from(leases))) >= 24

    page.keyboard.press("b")
    wait_for("the page to be full", is_full)
    page.wait_for_load_state("networkidle")


def hold_back(page: Page, address: str) -> list[Route]:
    """What the page asks of an address from now on: it hears nothing until the test answers."""
    waiting: list[Route] = []
    page.route(address, lambda route: waiting.append(route))  # noqa: PLW0108  # a name of its own for Playwright
    return waiting


def wait_for_route(page: Page, waiting: list[Route]) -> None:
    """Wait until the page has asked for something that a route holds back."""
    for _ in range(300):
        if waiting:
            return
        page.wait_for_timeout(20)
    raise AssertionError("the page has not asked")


def test_a_lost_session_keeps_the_decisions(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.context.clear_cookies()
    candidate = press(page, "a")
    expect(page.locator("#banner")).to_contain_text("Signed out: 1 decision waiting")
    page.goto(site.sign_in_url("Ada"))
    page.wait_for_url("**/review")
    wait_until_shown(page)
    wait_until_sent(page)
    assert standing(database) == {candidate: ("accept", [])}


def test_decisions_go_out_under_the_name_of_who_made_them(
    open_page: OpenPage, site: Site, database: Database, round_id: int
) -> None:
    page = open_page()
    page.route("**/api/review/decisions", lambda route: route.abort())
    candidate = press(page, "a")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in**")
    page.unroute("**/api/review/decisions")
    page.goto(site.sign_in_url("Grace", Role.annotator))
    page.wait_for_url("**/review")
    wait_until_shown(page)
    wait_until_sent(page)
    assert standing(database) == {}, "Grace's session does not send what Ada decided"
    page.goto(site.sign_in_url("Ada"))
    page.get_by_role("button", name="Switch accounts").click()
    page.wait_for_url("**/review")
    wait_until_shown(page)
    wait_until_sent(page)
    assert standing(database) == {candidate: ("accept", [])}
    query = sa.select(reviewers.c.name).join_from(
        decisions, reviewers, decisions.c.reviewer_id == reviewers.c.id
    )
    with database.transaction() as tx:
        assert tx.execute(query).scalars().all() == ["Ada"]


def test_a_picture_that_fails_is_fetched_again(open_page: OpenPage, round_id: int) -> None:
    page = open_page(path="/rounds")
    failures = itertools.count()

    def fail_at_first(route: Route) -> None:
        if next(failures) < 5:
            route.abort()
        else:
            route.continue_()

    page.route("**/api/layers/**", fail_at_first)
    page.goto(page.url.replace("/rounds", "/review"))
    assert wait_until_shown(page)
    assert page.locator("#stage img").evaluate("image => image.complete && image.naturalWidth > 0")


def test_what_cannot_be_shown_can_only_be_skipped(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page(path="/rounds")
    page.route("**/api/layers/**", lambda route: route.abort())
    page.goto(page.url.replace("/rounds", "/review"))
    page.wait_for_selector('#review[data-state="broken"]')
    page.keyboard.press("a")
    expect(page.locator("#toast")).to_contain_text("can only be skipped")
    page.keyboard.press("s")
    wait_until_sent(page)
    assert count_decisions(database) == {"skip": 1}


def test_the_next_candidates_are_decoded_before_they_are_needed(
    open_page: OpenPage, round_id: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.wait_for_load_state("networkidle")
    page.route(
        "**/api/**", lambda route: route.abort()
    )  # from here on, only what is already in the page can be shown
    for _ in range(6):
        press(page, "a")
        assert page.locator("#stage img").evaluate(
            "image => image.complete && image.naturalWidth > 0"
        )
    assert wait_until_shown(page)
    page.unroute("**/api/**")
    wait_until_sent(page)
