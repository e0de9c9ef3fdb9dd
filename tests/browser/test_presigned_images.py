"""Images that Chromium reads in the S3 store (radosgw) by presigned URLs, behind a proxy that hides write times."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from playwright.sync_api import Page, Response, expect

from annotator_ui.app import page_headers
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.adapters.s3 import S3Store
from curation.api.app import create_app
from curation.db.engine import Database
from curation.db.tables import decisions
from curation.runtime.context import AppContext
from curation.settings import Settings
from tests.browser.conftest import serve_site
from tests.browser.reviewing import OpenPage, Site, press, wait_until_shown
from tests.browser.test_viewing_aids import disc, fill_round, seen
from tests.support.s3_proxy import S3Proxy, s3_proxy
from tests.support.servers import S3Server, free_port, wait_for


@pytest.fixture
def proxy(s3_credentials: S3Server) -> Iterator[S3Proxy]:
    """The store's public endpoint: what nginx does in docs/guides/deploying.md."""
    with s3_proxy(s3_credentials.endpoint) as proxy:
        proxy.hidden = frozenset({"last-modified"})
        yield proxy


@pytest.fixture
def store(s3_credentials: S3Server, proxy: S3Proxy) -> S3Store:
    """A store whose objects browsers read through the proxy."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    store = S3Store(bucket, "layers", s3_credentials.endpoint, proxy.endpoint)
    store.create_bucket()
    return store


@pytest.fixture
def context(database: Database, store: S3Store, settings: Settings, proxy: S3Proxy) -> AppContext:
    port = free_port()
    updates = {
        "port": port,
        "public_url": f"http://127.0.0.1:{port}",
        "storage_public_endpoint": proxy.endpoint,
    }
    queue = CeleryQueue(make_app(settings, settings.database))
    return AppContext(settings.model_copy(update=updates), database, store, queue)


@pytest.fixture
def app(context: AppContext) -> FastAPI:
    """The application, once it has found that browsers can read the store."""
    app = create_app(context)
    endpoint = str(context.settings.storage_public_endpoint)
    wait_for("the delivery", lambda: app.state.images.layer("0" * 64).startswith(endpoint))
    return app


@pytest.fixture
def site(context: AppContext, app: FastAPI) -> Iterator[Site]:
    with serve_site(context, app) as served:
        yield served


def watch_images(page: Page) -> list[Response]:
    """Return a list to which every response with an image of a layer is added."""
    seen_responses: list[Response] = []
    page.on(
        "response",
        lambda response: (
            seen_responses.append(response)
            if "/layers/" in response.url and not response.from_service_worker
            else None
        ),
    )
    return seen_responses


def test_the_review_page_reads_images_in_the_store(
    open_page: OpenPage, database: Database, store: S3Store, proxy: S3Proxy
) -> None:
    fill_round(database, store, [disc((255, 255, 255), at=40 + turn) for turn in range(6)])
    page = open_page(path="/rounds")
    loaded = watch_images(page)
    page.goto(page.url.replace("/rounds", "/review"))
    wait_until_shown(page)
    # Background compositing: the colour shows through the transparent corner, the disc covers it.
    page.locator("#custom-color").fill("#12ab34")
    pixels = seen(page)
    assert list(pixels[20, 20]) == [0x12, 0xAB, 0x34]
    middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]
    assert np.abs(middle - (40, 120, 60)).max() <= 3
    # The worker of the edges view reads the pixels of the image.
    page.keyboard.press("Shift+v")
    expect(page.locator("#edge-legend")).to_contain_text("semi-transparent")
    page.keyboard.press("Shift+v")
    # Keys decide.
    for key in ("a", "r", "a"):
        press(page, key)
    wait_until_shown(page)
    wait_for("the decisions", lambda: count_decisions(database) == 3)
    # No image came through the API, none twice, and none tells when it was written.
    assert loaded
    assert all(response.url.startswith(proxy.endpoint) for response in loaded)
    assert all("last-modified" not in response.headers for response in loaded)
    assert max(proxy.read.values()) == 1, "the edges view finds the image in the browser's cache"


def test_a_second_visit_reads_nothing_again(
    open_page: OpenPage, database: Database, store: S3Store, proxy: S3Proxy
) -> None:
    fill_round(database, store, [disc((255, 255, 255), at=40 + turn) for turn in range(4)])
    page = open_page()
    wait_until_shown(page)
    page.wait_for_load_state("networkidle")
    page.reload()
    wait_until_shown(page)
    page.wait_for_load_state("networkidle")
    assert len(proxy.read) >= 4
    assert set(proxy.read.values()) == {1}


def test_the_grid_works_with_presigned_images(
    open_page: OpenPage, database: Database, store: S3Store, proxy: S3Proxy
) -> None:
    fill_round(database, store, [disc((255, 255, 255), at=40 + turn) for turn in range(6)])
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("t")
    page.wait_for_selector("#grid .grid-item img")
    sizes = page.locator("#grid .grid-item img").evaluate_all(
        "images => Promise.all(images.map((one) => one.decode().then(() => one.naturalWidth)))"
    )
    assert set(sizes) == {96}


def test_an_expired_or_forged_url_shows_nothing(
    app: FastAPI, open_page: OpenPage, database: Database, store: S3Store, proxy: S3Proxy
) -> None:
    fill_round(database, store, [disc((255, 255, 255))])
    page = open_page()
    loaded = watch_images(page)
    page.reload()
    wait_until_shown(page)
    url = loaded[0].url
    query = parse_qs(urlsplit(url).query)
    assert int(query["X-Amz-Expires"][0]) == 1_260
    for wrong in (
        url.replace("X-Amz-Expires=1260", "X-Amz-Expires=9999"),
        f"{url[:-4]}{'0000' if url[-4:] != '0000' else '1111'}",
        url.replace("X-Amz-Algorithm", "X-Amz-Nothing"),
    ):
        assert page.request.get(wrong).status in {400, 403}
    sha = "".join(urlsplit(url).path.split("/")[-2:])
    expired = store.address(sha, "image/webp", app.state.links.window()[0] - 4_000, 1_260)
    assert page.request.get(str(expired)).status == 403


def test_pages_may_load_images_of_exactly_the_store(
    open_page: OpenPage, round_id: int, proxy: S3Proxy
) -> None:
    page = open_page()
    answer = page.request.get(page.url)
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["img-src"] == policy["connect-src"] == f"'self' {proxy.endpoint}"
    usual = dict(
        part.split(" ", 1) for part in page_headers()["Content-Security-Policy"].split("; ")
    )
    assert {name for name in usual if usual[name] != policy[name]} == {"img-src", "connect-src"}


def count_decisions(database: Database) -> int:
    with database.transaction() as tx:
        return int(tx.scalar(sa.select(sa.func.count()).select_from(decisions)) or 0)
