"""Take the pictures of the documentation from a real instance; `make screenshots` calls this.

Two instances are started in temporary homes with `layerloop demo`, one of single images and one of
pairs. The preset `tiny` gives images that can be recognized, and takes about half an hour on two
cores; `--preset micro` takes two minutes and shows blurs. Chromium visits the pages at a fixed
viewport. Pages are found by their addresses and modes by their keys, so that the script does not
depend on the ids and classes of the front end.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
VIEWPORT = {"width": 1280, "height": 800}
MAX_BYTES = 250_000
"""Largest size of an image in bytes; a larger one is reduced to a palette of 256 colors."""
KEYS = {
    "accept": "a",
    "reject": "r",
    "grid": "t",
    "view": "v",
    "mark": "Space",
    "next": "ArrowRight",
    "apart": "e",
}
"""The keys of the review page that are used here; the list that `?` opens names them all."""
EDGES = 3
"""Views from the image to its edges: alpha, faint alpha, edges."""
SOLID = re.compile(
    r"\b(red|orange|green|blue|purple|yellow) (heart|star|triangle|square|circle|ring)$"
)
"""Prompts whose candidates show well on a checkerboard."""
API = "/api/checkpoints"
SEED_ROUND, ROUND = 1, 2
"""The round of imported images that need a person, and the round of generated ones."""


@contextmanager
def demo(home: Path, preset: str, images: int, quota: int, *, pairs: bool = False) -> Iterator[str]:
    """Start a demo, wait for candidates to review, and yield the sign-in address."""
    log = home.with_suffix(".log")
    command = [
        str(Path(sys.executable).parent / "layerloop"), "demo", "--home", str(home),
        "--preset", preset, "--images", str(images), "--seeds", "300", "--quota", str(quota),
        "--rounds", "2", "--port", "0",
        *(["--pairs"] if pairs else []),
    ]  # fmt: skip
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 3600
        while "review:" not in (text := log.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the demo did not reach its review:\n{text[-2000:]}")
            time.sleep(0.5)
        yield re.findall(r"http://\S+/sign-in\S+", text)[0]
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def sign_in(browser: Browser, address: str) -> Page:
    """Open a new profile in light colors and sign in."""
    context = browser.new_context(viewport=VIEWPORT, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.goto(address)
    page.wait_for_url(re.compile(r"/(review|rounds)$"))
    return page


def open_path(page: Page, path: str) -> None:
    """Go to a page of the same instance and wait until nothing is loaded any more."""
    page.goto(re.sub(r"(https?://[^/]+).*", r"\1", page.url) + path)
    settle(page)


def settle(page: Page) -> None:
    """Wait for the network, for images, and for two frames after them.

    Images that load lazily wait until they are scrolled to.
    """
    page.wait_for_load_state("networkidle")
    page.wait_for_function(
        "[...document.images].every(image => image.complete || image.loading === 'lazy')"
    )
    page.wait_for_timeout(700)


def save(page: Page, file: Path) -> None:
    """Take the viewport and write it as a small PNG without metadata."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(file, optimize=True)
    if file.stat().st_size > MAX_BYTES:
        image.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1000} kB")


def decide(page: Page, count: int) -> None:
    """Decide candidates by key, two of three accepted."""
    for number in range(count):
        page.keyboard.press(KEYS["reject"] if number % 3 == 2 else KEYS["accept"])
        page.wait_for_timeout(250)


def finish_seeds(page: Page) -> None:
    """Accept the imported images that wait for a person, until generated candidates are shown."""
    for _ in range(80):
        if not page.get_by_text(f"Round {SEED_ROUND}", exact=True).first.is_visible():
            break
        decide(page, 1)
    settle(page)


def find_solid(page: Page) -> None:
    """Decide until the candidate that is shown is a solid shape."""
    for _ in range(12):
        settle(page)
        if SOLID.search(page.get_by_role("heading", level=1).first.inner_text()):
            break
        decide(page, 1)


def take_single(browser: Browser, address: str, home: Path, out: Path) -> None:
    """Take the pages of an instance of single images."""
    page = sign_in(browser, address)
    open_path(page, "/review")
    finish_seeds(page)
    decide(page, 6)
    find_solid(page)
    save(page, out / "review.png")
    for _ in range(EDGES):
        page.keyboard.press(KEYS["view"])
    settle(page)
    save(page, out / "edges.png")
    page.keyboard.press(KEYS["view"])
    decide(page, 6)
    page.keyboard.press(KEYS["grid"])
    settle(page)
    for number in range(5):
        page.keyboard.press(KEYS["next"])
        if number % 2:
            page.keyboard.press(KEYS["mark"])
    settle(page)
    save(page, out / "grid.png")
    open_path(page, f"/rounds/{ROUND}")
    save(page, out / "round.png")
    open_path(page, "/checkpoints")
    save(page, out / "checkpoints.png")
    take_snapshot(page, out)
    take_comparison(page, home, out)


def take_snapshot(page: Page, out: Path) -> None:
    """Create a snapshot of the samples that are accepted by now, and take its changes."""
    open_path(page, "/snapshots")
    page.get_by_role("button", name="Create snapshot").click()
    settle(page)
    page.locator("tbody th a").first.click()
    settle(page)
    # The sections of commands, distributions and changes begin where the counts end.
    heading = page.get_by_role("heading", name="Pull", exact=True)
    heading.evaluate("heading => scrollTo(0, heading.getBoundingClientRect().top - 24)")
    settle(page)
    save(page, out / "snapshot.png")


def take_comparison(page: Page, home: Path, out: Path) -> None:
    """Compare a checkpoint with its opaque images cut out, and take the comparison page."""
    checkpoint = page.request.get(re.sub(r"(https?://[^/]+).*", r"\1", page.url) + API).json()
    name = checkpoint[0]["id"]
    command = [str(Path(sys.executable).parent / "layerloop"), "--home", str(home)]
    opened = ["comparison", "open", f"matting:{name}", name, "--count", "12"]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, *opened], check=True, env=environment)
    open_path(page, "/comparison")
    page.locator('[data-state="ready"]').wait_for(timeout=300_000)
    settle(page)
    save(page, out / "comparison.png")


def take_pair(browser: Browser, address: str, home: Path, out: Path) -> None:
    """Take the review page of a pair, its layers moved apart."""
    del home
    page = sign_in(browser, address)
    open_path(page, "/review")
    finish_seeds(page)
    page.keyboard.press(KEYS["apart"])
    settle(page)
    save(page, out / "pair.png")


def main() -> None:
    """Take all screenshots, or those of one instance."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="tiny", help="the preset that the instances train")
    parser.add_argument(
        "--images", type=int, default=0, help="train on so many images; 0 is the preset's count"
    )
    parser.add_argument("--quota", type=int, default=48, help="candidates of the first round")
    parser.add_argument("--only", choices=["single", "pair"], help="one of the two instances")
    parser.add_argument(
        "--keep", type=Path, help="a folder for the instances, so that the next run need not train"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    # The instances are processes of their own, which must end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for needed in filter(None, (given.out, given.keep)):
        needed.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="layerloop-screenshots-") as folder,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        for name, take in (("single", take_single), ("pair", take_pair)):
            if given.only in (None, name):
                size = (given.preset, given.images, given.quota)
                home = (given.keep or Path(folder)).resolve() / name
                with demo(home, *size, pairs=name == "pair") as address:
                    take(browser, address, home, given.out.resolve())
        browser.close()


if __name__ == "__main__":
    main()
