"""Label Studio's page for `page_keys`, with the same images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page

from curation.adapters.label_studio import LabelStudioBackend
from curation.db.engine import Database
from curation.domain import Prompt
from curation.labeling import projects
from curation.labeling.previews import PreviewUrls
from curation.labeling.sync import LabelingSync
from curation.ports import Layers, ObjectStore
from curation.rounds.lifecycle import close_round
from curation.runtime.label_studio_server import CACHE, OWNER, LabelStudioServer, run_label_studio
from tests.support.factories import make_pairs, make_round

BETWEEN_MS = 300
SHOWN = "() => { const one = document.querySelector('.ll-stage img'); return one && one.complete && one.naturalWidth > 0; }"

WATCH = """() => {
  window.taken = [];
  let pressed = null, seen = null;
  addEventListener('keydown', (event) => { if (event.key === 'a' || event.key === 'r') pressed = performance.now(); }, true);
  const look = () => {
    const image = document.querySelector('.ll-stage img');
    if (image && image.complete && image.naturalWidth && image.src !== seen) {
      const since = pressed;
      if (seen && since !== null) requestAnimationFrame(() => window.taken.push(performance.now() - since));
      [seen, pressed] = [image.src, null];
    }
    requestAnimationFrame(look);
  };
  look();
}"""
"""The milliseconds from the last verdict's key before each new picture to the frame after the one that had it decoded."""


@dataclass(frozen=True)
class Site:
    """A running instance: its address, sign-in tokens of its people in turn, its records, and what was drawn for it."""

    url: str
    people: Iterator[str]
    database: Database
    store: ObjectStore
    drawn: Sequence[tuple[Prompt, Layers]]
    previews: PreviewUrls


@contextmanager
def open_studio() -> Iterator[LabelStudioServer]:
    """Yield a Label Studio as it is installed, with data of its own."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(os.environ.get("LAYERLOOP_TEST_LABEL_STUDIO") or CACHE)
        with run_label_studio(cache, Path(folder) / "data") as studio:
            yield studio


def decide_there(
    browser: Browser, studio: LabelStudioServer, site: Site, decisions: int
) -> list[float]:
    """Milliseconds from each verdict's key to the next picture, of as many decisions at Label Studio's page."""
    round_id, project = _push_round(studio, site)
    page = _sign_in(browser, studio)
    page.goto(f"{studio.address}/projects/{project}/data?labeling=1")
    page.wait_for_function(SHOWN)
    page.evaluate(WATCH)
    for turn in range(decisions):
        key, verdict = ("a", "Accept") if turn % 10 == 0 else ("r", "Reject")
        _choose(page, key, verdict)
        page.keyboard.press("Control+Enter")
        page.wait_for_function(
            "count => window.taken.length === count", arg=turn + 1, polling="raf"
        )
        page.wait_for_timeout(BETWEEN_MS)
    taken = [float(one) for one in page.evaluate("window.taken")]
    page.context.close()
    with site.database.transaction() as tx:
        close_round(tx, round_id, "bench")
    return taken


def _push_round(studio: LabelStudioServer, site: Site) -> tuple[int, int]:
    """Create and push a second round of the same layers; return its ID and that of its project."""
    with site.database.transaction() as tx:
        round_id = make_round(tx)
        make_pairs(tx, site.store, round_id, site.drawn)
    backend = LabelStudioBackend(studio.address, studio.token)
    sync = LabelingSync(
        site.database, backend, "bench", site.previews.sign_url, len(site.drawn), pause=0
    )
    while sync.push(round_id):
        pass
    with site.database.transaction() as tx:
        [project] = projects.open_projects(tx, backend.url, round_id)
    backend.close()
    return round_id, int(project.remote_id or 0)


def _sign_in(browser: Browser, studio: LabelStudioServer) -> Page:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{studio.address}/user/login")
    page.fill("input[name=email]", OWNER)
    page.fill("input[name=password]", studio.password)
    page.click("button[type=submit]")
    page.wait_for_url("**/")
    return page


def _choose(page: Page, key: str, verdict: str) -> None:
    """Press a verdict's key until the page shows it: what is pressed before it listens is lost."""
    chosen = page.locator(f".ant-radio-wrapper-checked:has-text('{verdict}')")
    for _ in range(40):
        page.keyboard.press(key)
        for _ in range(10):
            if chosen.count():
                return
            page.wait_for_timeout(20)
    raise SystemExit(f"Label Studio's page does not hear {key!r}")
