"""Decisions despite problems: offline, lost responses, reloads, conflicts, expired sessions, image errors."""

from __future__ import annotations

import itertools

import sqlalchemy as sa
from playwright.sync_api import Page, Route, expect

from curation.db.engine import Database
from curation.db.tables import decisions, leases, reviewers
from curation.domain import Role
from tests.browser.reviewing import (
    OpenPage,
    Site,
    active_verdicts,
    count_decisions,
    press,
    shown,
    state_of,
    wait_until_sent,
    wait_until_shown,
)
from tests.support.servers import wait_for

REFILL_AFTER = 3
"""Number of decisions after which the page claims more candidates (SINGLE_PLAN in static/review/queue.js)."""


def test_offline_decisions_are_neither_lost_nor_duplicated(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    verdicts = {press(page, "a"): ("accept", [])}
    wait_until_sent(page)
    page.context.set_offline(True)
    for _ in range(3):
        verdicts[press(page, "a")] = ("accept", [])
    changed = press(page, "r")
    wait_until_shown(page)
    page.keyboard.press("u")
    assert wait_until_shown(page) == changed
    verdicts[press(page, "a")] = ("accept", [])
    expect(page.locator("#banner")).to_contain_text("Offline: 6 decisions waiting")
    expect(page.locator("#recent .pending")).to_have_count(4)
    page.context.set_offline(False)
    wait_until_sent(page)
    expect(page.locator("#banner")).to_be_hidden()
    assert active_verdicts(database) == verdicts
    assert count_decisions(database) == {"accept": 5, "reject": 1, "undo": 1}


def test_a_lost_response_does_not_duplicate_the_decision(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    attempts = itertools.count()

    def lose_first_response(route: Route) -> None:
        route.fetch()  # the server saves the decision, but the response is lost
        if next(attempts) == 0:
            route.abort()
        else:
            route.continue_()

    page.route("**/api/review/decisions", lose_first_response)
    candidate = press(page, "a")
    wait_until_sent(page)
    page.unroute("**/api/review/decisions")
    assert next(attempts) >= 2
    assert active_verdicts(database) == {candidate: ("accept", [])}
    assert count_decisions(database) == {"accept": 1}


def test_a_reload_keeps_the_queue_and_the_outbox(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    verdicts = {press(page, "a"): ("accept", [])}
    wait_until_sent(page)
    page.route("**/api/review/decisions", lambda route: route.abort())
    verdicts[press(page, "r")] = ("reject", [])
    verdicts[press(page, "a")] = ("accept", [])
    next_candidate = wait_until_shown(page)
    with database.transaction() as tx:
        held = {str(row) for row in tx.execute(sa.select(leases.c.subject)).scalars()}
    page.unroute("**/api/review/decisions")
    page.reload()
    assert wait_until_shown(page) not in verdicts
    wait_until_sent(page)
    assert active_verdicts(database) == verdicts
    with database.transaction() as tx:
        after = {str(row) for row in tx.execute(sa.select(leases.c.subject)).scalars()}
    assert next_candidate in after
    assert after - set(verdicts) <= held, "the page claims no other candidates"
    undone = list(verdicts)[-1]
    page.keyboard.press("u")
    page.wait_for_selector(f'#viewer[data-candidate="{undone}"]')
    wait_until_sent(page)
    assert state_of(database, undone) == "showing"


def test_unsent_decisions_are_the_latest_after_a_reload(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    """The server lists its decisions before the unsent ones arrive, but its response arrives after them."""
    page = open_page()
    first = press(page, "a")
    wait_until_sent(page)
    # Both before the keys: a failed decision is sent again in a batch after a while.
    page.route("**/api/review/decisions", lambda route: route.abort())
    page.route("**/api/review/decisions/batch", lambda route: route.abort())
    second, third = press(page, "r"), press(page, "a")
    wait_until_shown(page)
    waiting = hold_back(page, "**/api/review/latest")
    page.reload()
    wait_for_route(page, waiting)
    response = waiting[0].fetch()
    assert [row["candidate"]["id"] for row in response.json()] == [first]
    page.unroute("**/api/review/decisions")
    page.unroute("**/api/review/decisions/batch")
    wait_until_sent(page)
    waiting[0].fulfill(response=response)
    expect(page.locator("#recent li")).to_have_count(3)
    page.keyboard.press("u")
    page.wait_for_selector(f'#viewer[data-candidate="{third}"]')
    page.keyboard.press("u")
    page.wait_for_selector(f'#viewer[data-candidate="{second}"]')
    wait_until_sent(page)
    assert set(active_verdicts(database)) == {first}


def test_an_undo_by_the_server_is_not_offered_again(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    first, second = press(page, "a"), press(page, "a")
    wait_until_sent(page)
    waiting = hold_back(page, "**/api/review/latest")
    page.reload()
    wait_for_route(page, waiting)
    response = waiting[0].fetch()
    wait_until_shown(page)
    page.keyboard.press("u")
    page.wait_for_selector(f'#viewer[data-candidate="{second}"]')
    wait_until_sent(page)
    waiting[0].fulfill(response=response)
    expect(page.locator("#recent li")).to_have_count(1)
    assert set(active_verdicts(database)) == {first}


def test_a_conflict_is_reported_and_review_continues(
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
    expect(page.locator("#toast")).to_contain_text("Decision not saved")
    assert wait_until_shown(page) != candidate
    wait_until_sent(page)
    assert active_verdicts(database)[candidate][0] == "reject"


def test_an_undo_survives_an_outdated_claim_response(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    """The response reports a candidate as lost that the page has restored in the meantime."""
    page = open_page()
    wait_until_shown(page)
    fill_queue(page, database)
    waiting = hold_back(page, "**/api/review/claims")
    page.context.set_offline(True)
    for _ in range(REFILL_AFTER):
        undone = press(page, "a")
    wait_until_shown(page)
    wait_for_route(page, waiting)  # sent before the decisions, so it lists their candidates as held
    page.context.set_offline(False)
    wait_until_sent(page)
    response = waiting[0].fetch()
    assert undone in response.json()["lost"]
    page.keyboard.press("u")
    assert wait_until_shown(page) == undone
    waiting[0].fulfill(response=response)
    page.unroute("**/api/review/claims")
    wait_until_sent(page)
    page.wait_for_load_state("networkidle")
    assert shown(page) == undone
    assert state_of(database, undone) == "showing"


def test_twenty_decisions_offline_survive_a_reload(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    """Reload with the page cached and the API unreachable, then go online again."""
    page = open_page()
    wait_until_shown(page)
    fill_queue(page, database)
    page.route("**/api/review/**", lambda route: route.abort())
    verdicts: dict[str, tuple[str, list[str]]] = {}
    for key in itertools.islice(itertools.cycle(["a", "r", "3"]), 20):
        verdicts[press(page, key)] = (
            "accept" if key == "a" else "reject",
            ["holes"] if key == "3" else [],
        )
    undone = list(verdicts)[4]
    expect(page.locator("#recent li")).to_have_count(20)
    page.locator("#recent button").nth(15).click()
    assert wait_until_shown(page) == undone
    del verdicts[undone]
    expect(page.locator("#banner")).to_contain_text("Offline: 21 decisions waiting")
    page.unroute("**/api/review/**")
    page.route("**/api/review/decisions**", lambda route: route.abort())
    page.route("**/api/review/decisions/**", lambda route: route.abort())
    page.reload()
    wait_until_shown(page)
    expect(page.locator("#banner")).to_contain_text("Offline: 21 decisions waiting")
    expect(page.locator("#recent .pending")).to_have_count(19)
    also_undone = list(verdicts)[-1]
    page.keyboard.press("u")
    assert wait_until_shown(page) == also_undone, "unsent decisions can be undone after a reload"
    del verdicts[also_undone]
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url.partition("/api/review/")[2]))
    page.unroute("**/api/review/decisions**")
    page.unroute("**/api/review/decisions/**")
    wait_until_sent(page)
    assert active_verdicts(database) == verdicts
    assert sum(count_decisions(database).values()) == 22
    assert requested.count("decisions/batch") == 1, "the backlog is sent in one request"


def test_any_recent_decision_can_be_undone(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    page = open_page()
    decided = [press(page, key) for key in "aaraa"]
    wait_until_sent(page)
    page.get_by_role("button", name="Undo: rejected").click()
    assert wait_until_shown(page) == decided[2]
    press(page, "a")
    wait_until_sent(page)
    assert {
        candidate: verdict for candidate, (verdict, _) in active_verdicts(database).items()
    } == dict.fromkeys(decided, "accept")
    page.reload()
    wait_until_shown(page)
    expect(page.locator("#recent li")).to_have_count(5)
    page.locator("#recent button").last.click()
    page.wait_for_selector(f'#viewer[data-candidate="{decided[0]}"]')
    wait_until_sent(page)
    assert state_of(database, decided[0]) == "showing"
    assert set(active_verdicts(database)) == set(decided[1:])
    expect(page.locator("#recent li")).to_have_count(4)


def fill_queue(page: Page, database: Database) -> None:
    """Press a key, so that the page claims its full number of candidates, and wait for them."""

    def is_full() -> bool:
        with database.transaction() as tx:
            return int(tx.scalar(sa.select(sa.func.count()).select_from(leases))) >= 24

    page.keyboard.press("b")
    wait_for("the queue to be full", is_full)
    page.wait_for_load_state("networkidle")


def hold_back(page: Page, address: str) -> list[Route]:
    """Hold back all requests to a path until the test responds."""
    waiting: list[Route] = []
    page.route(address, lambda route: waiting.append(route))  # noqa: PLW0108  # Playwright needs a new function
    return waiting


def wait_for_route(page: Page, waiting: list[Route]) -> None:
    """Wait until a request is held back."""
    for _ in range(300):
        if waiting:
            return
        page.wait_for_timeout(20)
    raise AssertionError("no request was sent")


def test_an_expired_session_keeps_the_decisions(
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
    assert active_verdicts(database) == {candidate: ("accept", [])}


def test_decisions_are_sent_by_the_reviewer_who_made_them(
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
    assert active_verdicts(database) == {}, "Grace's session does not send Ada's decisions"
    page.goto(site.sign_in_url("Ada"))
    page.get_by_role("button", name="Switch accounts").click()
    page.wait_for_url("**/review")
    wait_until_shown(page)
    wait_until_sent(page)
    assert active_verdicts(database) == {candidate: ("accept", [])}
    query = sa.select(reviewers.c.name).join_from(
        decisions, reviewers, decisions.c.reviewer_id == reviewers.c.id
    )
    with database.transaction() as tx:
        assert tx.execute(query).scalars().all() == ["Ada"]


def test_a_failed_image_is_loaded_again(open_page: OpenPage, round_id: int) -> None:
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
    assert page.locator("#viewer img").evaluate("image => image.complete && image.naturalWidth > 0")


def test_a_broken_image_can_only_be_skipped(
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


def test_the_next_candidates_are_decoded_in_advance(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.wait_for_load_state("networkidle")
    page.route(
        "**/api/**", lambda route: route.abort()
    )  # only candidates that are already loaded can be shown
    for _ in range(6):
        press(page, "a")
        assert page.locator("#viewer img").evaluate(
            "image => image.complete && image.naturalWidth > 0"
        )
    assert wait_until_shown(page)
    page.unroute("**/api/**")
    wait_until_sent(page)
