"""Key presses on the review page, and queries of the database, for the browser tests."""

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

# Records each key with the candidate on display, before the page handles the key.
RECORD = """() => {
  window.pressedKeys = [];
  window.addEventListener('keydown', (event) => {
    window.pressedKeys.push([event.key, document.getElementById('viewer').dataset.candidate ?? null]);
  }, {capture: true});
}"""

AXE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
"""Axe's default rules (WCAG A and AA, best practices), and target size of WCAG 2.2, off by default."""

OpenPage = Callable[..., Page]
"""The fixture `open_page`: signs a reviewer in and opens a page in a new browser profile."""


@dataclass(frozen=True)
class Site:
    """A running application, with sign-in links for its reviewers."""

    context: AppContext
    address: str

    def sign_in_url(self, name: str, role: Role = Role.annotator) -> str:
        """Return a sign-in link with a one-time token; add the reviewer if missing."""
        with self.context.database.transaction() as tx:
            try:
                reviewer = find_reviewer(tx, name)
            except NotFound:
                reviewer = add_reviewer(tx, name, role)
            return f"{self.address}/sign-in?token={issue_token(tx, reviewer, 10)}&next=/review"


def record_keys(page: Page) -> None:
    """Record each key with the candidate on display from now on."""
    page.evaluate(RECORD)


def pressed_keys(page: Page) -> list[tuple[str, str | None]]:
    """Return the recorded keys and the candidates on display at the time."""
    return [(key, shown) for key, shown in page.evaluate("window.pressedKeys")]


def shown(page: Page) -> str | None:
    """Return the candidate in the viewer."""
    found: str | None = page.evaluate("document.getElementById('viewer').dataset.candidate ?? null")
    return found


def wait_until_shown(page: Page) -> str:
    """Wait until a candidate is visible, and return it."""
    while True:
        page.wait_for_selector('#review[data-state="ready"]')
        page.wait_for_selector("#viewer[data-candidate] img", state="attached")
        page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        # A refused decision empties the viewer before it shows the next candidate.
        found = shown(page)
        if found is not None:
            return found


def press(page: Page, key: str) -> str:
    """Wait until a candidate is visible, press a key, and return the candidate."""
    before = wait_until_shown(page)
    page.keyboard.press(key)
    return before


def settle(page: Page) -> None:
    """Wait longer than any CSS transition takes."""
    page.wait_for_timeout(260)


def screenshot(page: Page, name: str) -> None:
    """Save a screenshot if LAYERLOOP_TEST_PICTURES names a folder."""
    folder = os.environ.get("LAYERLOOP_TEST_PICTURES")
    if folder:
        settle(page)
        page.screenshot(path=Path(folder) / f"{name}.png")


def accessibility_violations(page: Page) -> list[str]:
    """Return the accessibility violations found by axe: rule, element and reason of each."""
    settle(page)  # contrast is undefined during a color transition
    found = Axe().run(page, options=AXE).response["violations"]
    return [
        f"{rule['id']}: {node['target'][0]}: {' '.join(node['failureSummary'].split())}"
        for rule in found
        for node in rule["nodes"]
    ]


def wait_until_sent(page: Page) -> None:
    """Wait until every decision is sent."""
    page.wait_for_selector('html[data-outbox="0"]', timeout=30_000)


def active_verdicts(database: Database) -> dict[str, tuple[str, list[str]]]:
    """Return the latest verdict that was not undone, with its reasons, by candidate."""
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
    """Return the state of a candidate."""
    with database.transaction() as tx:
        return str(
            tx.scalar(sa.select(candidates.c.state).where(candidates.c.id == uuid.UUID(candidate)))
        )


def count_decisions(database: Database) -> dict[str, int]:
    """Return the number of decisions per verdict."""
    query = sa.select(decisions.c.verdict, sa.func.count().label("number")).group_by(
        decisions.c.verdict
    )
    with database.transaction() as tx:
        return {row.verdict: row.number for row in tx.execute(query)}
