"""Label Studio's page in a real browser: accept, reject with reasons, edit and view controls."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from playwright.sync_api import Locator, Page

from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.api.app import create_app
from curation.labeling import projects
from curation.labeling.previews import PreviewUrls
from curation.labeling.sync import LabelingSync
from curation.runtime.context import AppContext
from curation.runtime.label_studio_server import OWNER
from tests.support.factories import make_candidates, make_pairs, make_round, scenes
from tests.support.label_studio import LabeledRound
from tests.support.servers import free_port, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def labeled_rounds(
    studio, database, store, settings
) -> Iterator[tuple[LabeledRound, LabeledRound]]:
    """Push a round of single layers and one of pairs, with previews of the real API."""
    from curation.adapters.label_studio import LabelStudioBackend

    port = free_port()
    settings = settings.model_copy(update={"port": port})
    context = AppContext(
        settings, database, store, CeleryQueue(make_app(settings, settings.database))
    )
    server = uvicorn.Server(
        uvicorn.Config(create_app(context), host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for("the application", lambda: server.started)
    backend = LabelStudioBackend(studio.server.address, studio.server.token)
    previews = PreviewUrls(context.signing_secret(), settings.public_address)
    sync = LabelingSync(database, backend, "test", previews.sign_url, max_tasks=100, pause=0)
    with database.transaction() as tx:
        single, pair = make_round(tx), make_round(tx, kind="pair")
        ids = make_candidates(tx, store, single, 3), make_pairs(tx, store, pair, scenes(2, 128))
    for round_id in (single, pair):
        sync.push(round_id)
    yield tuple(
        LabeledRound(studio, database, sync, *both)
        for both in zip((single, pair), ids, strict=True)
    )
    backend.close()
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def page(studio, browser) -> Iterator[Page]:
    """Open a page on which the owner is signed in."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(40_000)
    page.goto(f"{studio.server.address}/user/login")
    page.fill("input[name=email]", OWNER)
    page.fill("input[name=password]", studio.server.password)
    page.click("button[type=submit]")
    page.wait_for_url("**/")
    yield page
    page.close()


def open_task(page: Page, labeled: LabeledRound, index: int) -> None:
    """Open a candidate's task and wait until all its images are loaded."""
    with labeled.database.transaction() as tx:
        [project] = projects.open_projects(tx, labeled.sync.backend.url, labeled.round)
    page.goto(
        f"{labeled.studio.server.address}/projects/{project.remote_id}/data?task={labeled.task(index)}"
    )
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.ll-stage img')];"
        " return all.length && all.every((one) => one.complete && one.naturalWidth > 0); }"
    )


def choose(page: Page, name: str) -> None:
    """Click a view control."""
    page.locator(f".ll-views label:has([name='{name}'])").click()


def press(page: Page, verdict: str, *keys: str) -> None:
    """Press a verdict's key until the page reacts, which takes a while, then other keys."""
    chosen = page.locator(
        f".ant-radio-wrapper-checked:has-text('{'Accept' if verdict == 'a' else 'Reject'}')"
    )
    for _ in range(40):
        page.keyboard.press(verdict)
        page.wait_for_timeout(400)
        if chosen.count():
            break
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(150)


def until(page: Page, key: str, seen: Callable[[], bool]) -> None:
    """Press a key once and wait for its effect."""
    page.keyboard.press(key)
    wait_for(f"what {key!r} does", seen)


def button(page: Page, text: str) -> Locator:
    """Return a button of Label Studio by its text, which differs from its accessible name."""
    return page.locator("button", has_text=re.compile(f"^{text}$"))


def send(page: Page, name: str) -> None:
    with page.expect_response(
        lambda one: "/annotations" in one.url and one.request.method in {"POST", "PATCH"}
    ):
        button(page, name).click()


def test_a_user_annotates_singles_and_pairs(labeled_rounds, page):
    single, pair = labeled_rounds
    open_task(page, single, 0)
    press(page, "a")
    send(page, "Submit")
    open_task(page, single, 1)
    press(page, "r", "1", "3")
    page.get_by_placeholder("Press Enter to add it").fill("at the left")
    page.keyboard.press("Enter")
    send(page, "Submit")
    open_task(page, pair, 0)
    assert "a " in page.locator(".ll-prompt").inner_text()
    page.locator(".ll-blended").wait_for(state="visible")
    seen = [
        page.locator(f".ll-{role}").is_visible() for role in ("blended", "foreground", "background")
    ]
    assert seen == [True, False, False]
    choose(page, "foreground")
    assert page.locator("img.ll-foreground").is_visible()
    assert not page.locator("img.ll-blended").is_visible()
    until(page, "g", lambda: page.locator("img.ll-background").is_visible())
    assert not page.locator("img.ll-foreground").is_visible()
    until(page, "b", lambda: page.locator("img.ll-blended").is_visible())
    until(page, "f", lambda: page.locator("img.ll-foreground").is_visible())
    stage = page.locator(".ll-stage").evaluate("one => one.clientWidth")
    for key, width in (
        ("x", 128),
        ("d", 2 * 128),
        ("x", 128),
        ("e", stage),
    ):  # what is small is enlarged to fit
        until(
            page,
            key,
            lambda width=width: page.locator("img.ll-foreground").bounding_box()["width"] == width,
        )
    for ground, color in (
        ("black", "rgb(0, 0, 0)"),
        ("white", "rgb(255, 255, 255)"),
        ("grey", "rgb(128, 128, 128)"),
    ):
        choose(page, ground)
        assert (
            page.locator(".ll-stage").evaluate("one => getComputedStyle(one).backgroundColor")
            == color
        )
    choose(page, "alpha")  # and the keys still work
    assert "invert" in page.locator("img.ll-foreground").evaluate(
        "one => getComputedStyle(one).filter"
    )
    press(page, "r", "1", "Alt+0")
    send(page, "Submit")
    assert single.sync.pull() == {"decided": 3}
    assert [single.state(index) for index in range(3)] == ["accepted", "rejected", "waiting"]
    assert single.decision_content(1) == (["halo", "holes"], [], "at the left")
    assert pair.decision_content(0) == (["clash", "halo"], ["blended", "foreground"], "")


def test_a_user_updates_an_annotation(labeled_rounds, page):
    single, _ = labeled_rounds
    open_task(page, single, 0)
    press(page, "a")
    send(page, "Submit")
    assert single.sync.pull() == {"decided": 1}
    open_task_again(page, single, 0)
    press(page, "r", "2")
    send(page, "Update")
    assert single.sync.pull() == {"decided": 1}
    assert [verdict for verdict, _ in single.decisions(0)] == ["accept", "undo", "reject"]


def open_task_again(page: Page, labeled: LabeledRound, index: int) -> None:
    """Open an annotated task, which still shows its images and its annotation."""
    open_task(page, labeled, index)
    button(page, "Update").wait_for()
