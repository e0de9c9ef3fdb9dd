"""Fixtures: Chromium, the application on a free loopback port, and a database per test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.api.app import create_app
from curation.db.engine import Database
from curation.domain import Role
from curation.object_store import FolderStore
from curation.runtime.context import AppContext
from curation.settings import Settings
from tests.browser.reviewing import Site
from tests.support.factories import make_candidates, make_pairs, make_round, scenes
from tests.support.servers import free_port, wait_for


@pytest.fixture
def site(database: Database, store: FolderStore, settings: Settings) -> Iterator[Site]:
    """Serve the application in a thread, on a free port."""
    port = free_port()
    context = AppContext(
        settings.model_copy(update={"port": port}),
        database,
        store,
        CeleryQueue(make_app(settings, settings.database)),
    )
    with serve_site(context, create_app(context)) as served:
        yield served


@contextmanager
def serve_site(context: AppContext, app: FastAPI) -> Iterator[Site]:
    """Serve an application in a thread, on the port of its settings."""
    port = context.settings.port
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for("the application", lambda: server.started)
    yield Site(context, f"http://127.0.0.1:{port}")
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Open a page in a new browser profile; console errors and warnings fail the test at teardown."""
    contexts: list[BrowserContext] = []
    console_errors: list[str] = []

    def open_(
        name: str | None = "Ada", role: Role = Role.admin, path: str = "/review", **options: object
    ) -> Page:
        browser_context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, **options}
        )
        browser_context.set_default_timeout(15_000)
        contexts.append(browser_context)
        page = browser_context.new_page()
        page.on("pageerror", lambda error: console_errors.append(str(error)))
        page.on("console", lambda message: _collect(console_errors, message.type, message.text))
        if name is not None:
            page.goto(site.sign_in_url(name, role))
            page.wait_for_url("**/review")
        if path != "/review":
            page.goto(site.address + path)
        return page

    yield open_
    for browser_context in contexts:
        browser_context.close()
    assert console_errors == []


@pytest.fixture
def round_id(database: Database, store: FolderStore) -> int:
    """Return a round with 40 waiting candidates."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 40)
    return round_id


@pytest.fixture
def pair_round(database: Database, store: FolderStore) -> int:
    """Return a round with eight waiting pairs."""
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        make_pairs(tx, store, round_id, scenes(8, 128))
    return round_id


def _collect(console_errors: list[str], kind: str, text: str) -> None:
    """Collect errors and warnings, except the browser's own message about a failed request."""
    if kind in {"error", "warning"} and "Failed to load resource" not in text:
        console_errors.append(text)
