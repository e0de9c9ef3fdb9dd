"""What the browser tests do and look at: pressing keys at the review page, and what the database knows then."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from curation.db.engine import Database
from curation.db.tables import candidates, decisions
from curation.domain import Role
from curation.errors import NotFound
from curation.review.reviewers import add_reviewer, find_reviewer, issue_token
from curation.runtime.context import AppContext

# Notes, before the page itself hears of a key, which candidate was on the stage when it went down.
RECORD = """() => {
  window.pressed = [];
  window.addEventListener('keydown', (event) => {
    window.pressed.push([event.key, document.getElementById('stage').dataset.candidate ?? null]);
  }, {capture: true});
}"""

AXE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
"""Axe's rules for WCAG A and AA, contrast in numbers, its best practices, and 2.2's target size, which it leaves off."""

OpenPage = Callable[..., Page]
"""The fixture `open_page`: signs somebody in and opens a page of a new browser profile."""


@dataclass(frozen=True)
class Site:
    """A running instance, and its people by the address that signs them in."""

    context: AppContext
    address: str

    def sign_in_url(self, name: str, role: Role = Role.annotator) -> str:
        """An address with a token that works once, for somebody who is added when new."""
        with self.context.database.transaction() as tx:
            try:
                reviewer = find_reviewer(tx, name)
            except NotFound:
                reviewer = add_reviewer(tx, name, role)
            return f"{self.address}/sign-in?token={issue_token(tx, reviewer, 10)}&next=/review"


def record_keys(page: Page) -> None:
    """From now on, remember each key with the candidate that was shown."""
    page.evaluate(RECORD)


def pressed(page: Page) -> list[tuple[str, str | None]]:
    """The keys pressed so far and the candidates shown when they went down."""
    return [(key, shown) for key, shown in page.evaluate("window.pressed")]


def shown(page: Page) -> str | None:
    """The candidate on the stage."""
    found: str | None = page.evaluate("document.getElementById('stage').dataset.candidate ?? null")
    return found


def wait_until_shown(page: Page) -> str:
    """Wait for a candidate that can be judged."""
    page.wait_for_selector('#review[data-state="ready"]')
    page.wait_for_selector("#stage[data-candidate] img", state="attached")
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    found = shown(page)
    assert found is not None
    return found


def press(page: Page, key: str) -> str:
    """Press a key for the candidate that is shown, once it is; returns the candidate."""
    before = wait_until_shown(page)
    page.keyboard.press(key)
    return before


def settle(page: Page) -> None:
    """Wait for longer than any transition takes, so that nothing moves."""
    page.wait_for_timeout(260)


def image(page: Page, name: str) -> None:
    """Keep what is seen once nothing moves, where somebody wants to look at it."""
    folder = os.environ.get("LAYERLOOP_TEST_PICTURES")
    if folder:
        settle(page)
        page.screenshot(path=Path(folder) / f"{name}.png")


def barriers(page: Page) -> list[str]:
    """What axe finds in the way of people who see, hear or move otherwise: rule, place and reason of each."""
    settle(page)  # a colour in transition has no contrast of its own
    found = Axe().run(page, options=AXE).response["violations"]
    return [
        f"{rule['id']}: {node['target'][0]}: {' '.join(node['failureSummary'].split())}"
        for rule in found
        for node in rule["nodes"]
    ]


def wait_until_sent(page: Page) -> None:
    """Wait until every decision has been answered."""
    page.wait_for_selector('html[data-outbox="0"]', timeout=30_000)


def standing(database: Database) -> dict[str, tuple[str, list[str]]]:
    """Candidate: its last verdict that was not undone, with the reasons, by decisions alone."""
    undone = sa.select(decisions.c.undoes).where(decisions.c.undoes.is_not(None))
    query = (
        sa.select(decisions)
        .where(decisions.c.verdict != "undo", decisions.c.id.not_in(undone))
        .order_by(decisions.c.id)
    )
    with database.transaction() as tx:
        return {
            str(row.candidate_id): (row.verdict, list(row.reasons)) for row in tx.execute(query)
        }


def state_of(database: Database, candidate: str) -> str:
    """Where a candidate stands."""
    with database.transaction() as tx:
        return str(
            tx.scalar(sa.select(candidates.c.state).where(candidates.c.id == uuid.UUID(candidate)))
        )


def count_decisions(database: Database) -> dict[str, int]:
    """How many rows of each verdict there are."""
    query = sa.select(decisions.c.verdict, sa.func.count().label("number")).group_by(
        decisions.c.verdict
    )
    with database.transaction() as tx:
        return {row.verdict: row.number for row in tx.execute(query)}
