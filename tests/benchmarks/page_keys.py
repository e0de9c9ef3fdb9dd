"""Measure review pages in Chromium: from a key press to the next image, grids, and the edges view.

    python -m tests.benchmarks.page_keys [--sides 512 1024] [--decisions 100] [--alone] [--chromium PATH]

For each size of layers, as heavy as photographs: p50 and p95 of the milliseconds from a key going down to the frame that
shows the next candidate (Event Timing: until that frame is presented, in steps of 8 ms; what the browser does not report
took less than 16 and counts as 16), over decisions with keys, one every 300 ms; the same of Label Studio's own page with
the same pictures, from its verdict's key, which Ctrl+Enter submits as soon as the page shows it, to the second frame with
the next picture; then the seconds from the address of a grid of 48 until all of its images are decoded and
painted, first with nothing shrunk yet and then again for another browser; and the milliseconds from the key to the edges
of a layer, which the page finds ahead once they have been looked at. The instance is a real one (PostgreSQL,
`layerloop api`, a folder of objects), and so is Label Studio, with tasks pushed by our synchronization; `--alone` leaves it out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, sync_playwright

from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import reviewers
from curation.domain import LayerRole, Prompt, Role
from curation.labeling.previews import PreviewUrls
from curation.object_store import FolderStore
from curation.ports import RGBA
from curation.review.reviewers import add_reviewer, issue_token, lease_holder_name
from curation.settings import Settings
from curation.synthetic.shapes import SUBJECTS, draw_subject
from tests.benchmarks.label_studio_page import Site, decide_there, open_studio
from tests.benchmarks.review_queue import _api, _database, _server
from tests.support.factories import make_pairs, make_round

ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
GRID_SIZE = 48
BETWEEN_MS = 300
OBSERVE = """() => {
  window.paints = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (entry.name === 'keydown') window.paints.push(entry.duration);
  }).observe({ type: 'event', durationThreshold: 16, buffered: false });
}"""
SHOWN = """(count) => {
  const items = [...document.querySelectorAll('#grid .grid-item')];
  return items.length === count && items.every((item) => !/waiting|decoding/.test(item.dataset.mark));
}"""


def main() -> None:
    """Print a line for each size."""
    options = _options()
    print(
        "  side | key to next picture, ms: p50   p95   max | Label Studio's page: p50   p95   max | "
        " grid of 48, s: first  again | edges, ms: p50   p95"
    )
    with ExitStack() as open_until_the_end:
        server = open_until_the_end.enter_context(_server(None))
        driver = open_until_the_end.enter_context(sync_playwright())
        studio = None if options.alone else open_until_the_end.enter_context(open_studio())
        browser = driver.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        for side in options.sides:
            with _site(server, side, options.decisions + GRID_SIZE + 20) as site:
                keys = _percentiles(
                    _decide(browser, site.url, next(site.people), options.decisions)
                )
                reference = "not asked for"
                if studio is not None:
                    p50, p95, longest = _percentiles(
                        decide_there(browser, studio, site, options.decisions)
                    )
                    reference = f"{p50:>24.0f} {p95:>5.0f} {longest:>5.0f}"
                grids = [_open_grid(browser, site.url, next(site.people)) for _ in range(2)]
                edges = _percentiles(_edges(browser, site.url, next(site.people)))
            print(
                f"{side:>6} | {keys[0]:>28.0f} {keys[1]:>5.0f} {keys[2]:>5.0f} | {reference:>36} | {grids[0]:>21.2f} "
                f"{grids[1]:>6.2f} | {edges[0]:>14.0f} {edges[1]:>5.0f}",
                flush=True,
            )
        browser.close()


def _decide(browser: Browser, url: str, token: str, decisions: int) -> list[float]:
    """Milliseconds from each key to the frame with the next candidate."""
    page = _sign_in(browser, url, token)
    page.wait_for_selector('#review[data-state="ready"]')
    page.wait_for_load_state("networkidle")
    page.evaluate(OBSERVE)
    for turn in range(decisions):
        page.wait_for_selector('#review[data-state="ready"]')
        page.keyboard.press("a" if turn % 10 == 0 else "r")
        page.wait_for_timeout(BETWEEN_MS)
    decided = page.locator("#progress dd").first.inner_text()
    if decided != str(decisions):
        raise SystemExit(f"{decided} of {decisions} keys decided")
    taken = _measured(page, decisions)
    page.context.close()
    return taken


def _open_grid(browser: Browser, url: str, token: str) -> float:
    """Seconds from the address of a grid to its last image."""
    page = _sign_in(browser, url, token)
    page.goto(f"{url}/rounds")
    page.evaluate("size => localStorage.setItem('layerloop.grid.size', String(size))", GRID_SIZE)
    began = time.perf_counter()
    page.goto(f"{url}/review?view=grid", wait_until="commit")
    page.wait_for_function(SHOWN, arg=GRID_SIZE, polling="raf")
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    took = time.perf_counter() - began
    page.context.close()
    return took


def _edges(browser: Browser, url: str, token: str, times: int = 20) -> list[float]:
    """Milliseconds from the key to the edges, each of another candidate."""
    page = _sign_in(browser, url, token)
    page.wait_for_selector('#review[data-state="ready"]')
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Shift+V")
    page.wait_for_function(
        "() => document.querySelector('#edge-legend').textContent.includes('semi-transparent')"
    )
    page.keyboard.press("s")
    taken: list[float] = []
    for _ in range(times):
        page.wait_for_selector('#review[data-state="ready"]')
        page.wait_for_timeout(BETWEEN_MS)
        page.evaluate(OBSERVE)
        page.keyboard.press("Shift+V")
        page.wait_for_timeout(BETWEEN_MS)
        taken.append(max(_measured(page, 1)))
        page.keyboard.press("s")
    page.context.close()
    return taken


def _sign_in(browser: Browser, url: str, token: str) -> Page:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{url}/sign-in?token={token}")
    page.wait_for_url("**/review")
    return page


def _measured(page: Page, expected: int) -> list[float]:
    found = [float(duration) for duration in page.evaluate("window.paints")]
    return found + [16.0] * (expected - len(found))


@contextmanager
def _site(server: str, side: int, singles: int) -> Iterator[Site]:
    """Yield an instance with a round of that many layers of that size; its people come in turn, by their sign-in tokens."""
    with _database(server) as address, tempfile.TemporaryDirectory() as home:
        database = Database(address)
        store = FolderStore(Path(home) / "objects")
        drawn = [
            (Prompt(f"number {turn}"), {LayerRole.foreground: _layer(side, turn)})
            for turn in range(singles)
        ]
        with database.transaction() as tx:
            make_pairs(tx, store, make_round(tx), drawn)
        with _api(address, home) as (url, _):
            secret = Settings(home=Path(home)).signing_secret()
            yield Site(url, _people(database), database, store, drawn, PreviewUrls(secret, url))
        database.close()


def _people(database: Database) -> Iterator[str]:
    """Yield a sign-in token of somebody new each time, to whom all that waits is free again."""
    for name in ("Ada", "Bea", "Cid", "Dan"):
        with database.transaction() as tx:
            for number in tx.execute(sa.select(reviewers.c.id)).scalars().all():
                leases.release_holder(tx, lease_holder_name(number))
            token = issue_token(tx, add_reviewer(tx, name, Role.annotator), 60)
        yield token


def _layer(side: int, seed: int) -> RGBA:
    """Return a drawn figure with the grain and the soft colors of a photograph, so that its file is as large as one."""
    rng = np.random.default_rng(seed)
    subject = list(SUBJECTS.values())[seed % len(SUBJECTS)]
    rgba = draw_subject(subject, rng, side).copy()
    clouds = cv2.resize(
        rng.normal(0, 40, (8, 8, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )
    grain = rng.normal(0, 3, (side, side, 3))
    rgba[..., :3] = np.clip(rgba[..., :3] + clouds + grain, 0, 255) * (rgba[..., 3:] > 0)
    return rgba


def _percentiles(taken: list[float]) -> tuple[float, float, float]:
    cuts = statistics.quantiles(taken, n=20)
    return cuts[9], cuts[18], max(taken)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The review page under a hand.")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--decisions", type=int, default=100)
    parser.add_argument("--alone", action="store_true", help="without Label Studio")
    parser.add_argument(
        "--chromium", default=shutil.which("chromium") or shutil.which("google-chrome")
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
