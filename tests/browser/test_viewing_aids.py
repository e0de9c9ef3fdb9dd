"""Viewing aids: backgrounds, the edges view, the magnifier, zoom, and the nearest accepted sample."""

from __future__ import annotations

import io
import uuid

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import Page, Worker, expect

from curation.datasets.duplicates import add_to_index
from curation.db.engine import Database
from curation.db.tables import layers
from curation.domain import LayerRole, Prompt, Verdict
from curation.images.codec import decode_layer
from curation.images.perceptual_hash import fingerprint
from curation.object_store import FolderStore
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from tests.browser.reviewing import OpenPage, press, screenshot, wait_until_shown
from tests.support.factories import make_pairs, make_round

SIDE = 96


def disc(
    rim: tuple[int, int, int], middle: tuple[int, int, int] = (40, 120, 60), at: int = 48
) -> np.ndarray:
    """Return a disc whose semi-transparent band has the color `rim`."""
    y, x = np.mgrid[:SIDE, :SIDE]
    alpha = np.clip((36 - np.hypot(x - at, y - 48)) / 4, 0, 1)
    rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
    rgba[alpha == 1, :3] = middle
    rgba[(alpha > 0) & (alpha < 1), :3] = rim
    rgba[..., 3] = np.rint(alpha * 255)
    return rgba


def fill_round(database: Database, store: FolderStore, images: list[np.ndarray]) -> list[uuid.UUID]:
    """Create a round of these layers, with their hashes in the duplicate index."""
    drawn = [
        (Prompt(f"a disc, number {turn}"), {LayerRole.foreground: rgba})
        for turn, rgba in enumerate(images)
    ]
    with database.transaction() as tx:
        made = make_pairs(tx, store, make_round(tx), drawn)
        names = tx.execute(sa.select(layers.c.sha256)).scalars().all()
        add_to_index(tx, {sha: fingerprint(decode_layer(store.get(sha))) for sha in names})
    return list(made)


def seen(page: Page) -> np.ndarray:
    """Return a screenshot of the viewer as RGB, without the texts over it."""
    page.evaluate(
        "document.querySelectorAll('.overlay-text').forEach((text) => (text.style.opacity = 0))"
    )
    shot = page.locator("#viewer").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def test_a_custom_color_is_saved(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.locator("#custom-color").fill("#12ab34")
    assert page.locator("#viewer").get_attribute("data-background") == "color"
    assert list(seen(page)[20, 20]) == [0x12, 0xAB, 0x34]
    page.keyboard.press("t")
    page.wait_for_selector("#grid .grid-item")
    assert (
        page.locator(".grid-item").first.evaluate("item => getComputedStyle(item).backgroundColor")
        == "rgb(18, 171, 52)"
    )
    page.reload()
    expect(page.locator("#viewer")).to_have_attribute("data-background", "color")
    expect(page.locator("#custom-color")).to_have_value("#12ab34")


def test_a_background_photo_is_never_uploaded(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    page.on("filechooser", lambda _: None)  # Playwright listens before the key is pressed
    wait_until_shown(page)
    requested: list[str] = []
    page.on(
        "request",
        lambda request: requested.append(request.url) if request.method != "GET" else None,
    )
    out = io.BytesIO()
    Image.new("RGB", (3000, 2000), (200, 30, 90)).save(out, "PNG")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("p")
    chooser.value.set_files(
        {"name": "garden.png", "mimeType": "image/png", "buffer": out.getvalue()}
    )
    page.wait_for_selector('#viewer[data-background="photo"]')
    assert np.abs(seen(page)[20, 20] - (200, 30, 90)).max() <= 3
    assert {url.rpartition("/")[2] for url in requested} <= {"claims", "release"}, (
        "the photo is not uploaded"
    )
    page.reload()
    wait_until_shown(page)
    page.wait_for_selector('#viewer[data-background="photo"]')
    assert np.abs(seen(page)[20, 20] - (200, 30, 90)).max() <= 3
    page.keyboard.press("b")
    assert page.locator("#viewer").get_attribute("data-background") == "checker"


def test_an_invalid_photo_changes_nothing(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    page.on("filechooser", lambda _: None)
    wait_until_shown(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="your photo").click()
    chooser.value.set_files(
        {"name": "evil.png", "mimeType": "image/png", "buffer": b"<svg onload=alert(1)>"}
    )
    expect(page.locator("#toast")).to_contain_text("not an image")
    assert page.locator("#viewer").get_attribute("data-background") == "checker"


def test_the_scene_is_the_same_for_every_reviewer(open_page: OpenPage, round_id: int) -> None:
    scenes = []
    for name, scheme in (("Ada", "light"), ("Grace", "dark")):
        page = open_page(name=name, color_scheme=scheme)
        wait_until_shown(page)
        page.get_by_role("button", name="sample scene").click()
        scenes.append(seen(page)[8:-8, 8:60])  # beside the candidate
    assert (scenes[0] == scenes[1]).all()
    assert len(np.unique(scenes[0].reshape(-1, 3), axis=0)) > 500, "smooth and textured areas"


def test_the_edges_view_shows_a_fringe_bright_and_a_clean_edge_dark(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    fill_round(database, store, [disc((40, 120, 60)), disc((255, 255, 255))])
    page = open_page()
    brightness, legends = {}, {}
    for _ in range(2):
        wait_until_shown(page)
        prompt = page.locator("#prompt").inner_text()
        page.keyboard.press("Shift+v")
        expect(page.locator("#edge-legend")).to_contain_text("semi-transparent")
        screenshot(page, f"edges-{prompt[-1]}")
        legends[prompt[-1]] = page.locator("#edge-legend").inner_text()
        brightness[prompt[-1]] = page.locator('canvas[data-role="edges"]').evaluate("""(canvas) => {
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d');
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          const row = Array.from({length: 48}, (_, x) => data[4 * (48 * canvas.width + x)]);
          return { rim: Math.max(...row.slice(10, 18)), clear: row[4], inside: row[47] };
        }""")
        press(page, "r")
    assert brightness["0"]["rim"] < 60
    assert brightness["1"]["rim"] > 200
    assert brightness["0"]["clear"] == brightness["1"]["clear"] == 0
    assert 0 < brightness["1"]["inside"] < 60
    gaps = {name: float(text.split("interior: ")[1].split()[0]) for name, text in legends.items()}
    assert gaps["0"] < 2
    assert gaps["1"] > 100


def test_edges_are_prefetched_in_a_worker(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    fill_round(database, store, [disc((255, 255, 255), at=30 + 3 * turn) for turn in range(8)])
    page = open_page()
    workers: list[Worker] = []
    wait_until_shown(page)
    page.wait_for_timeout(400)
    assert page.workers == [], "the edges view has not been used in this browser"
    page.keyboard.press("Shift+v")
    expect(page.locator("#edge-legend")).to_contain_text("semi-transparent")
    press(page, "s")
    for turn in range(6):
        wait_until_shown(page)
        page.wait_for_timeout(400)
        # The result is there within the key event itself, not some frames later.
        found = page.evaluate("""() => {
          document.dispatchEvent(new KeyboardEvent('keydown', { key: 'V', code: 'KeyV', shiftKey: true }));
          return [document.querySelector('#edge-legend').textContent, document.querySelector('#layer-stack canvas').width];
        }""")
        assert "semi-transparent" in found[0]
        assert found[1] == SIDE
        workers = page.workers
        press(page, "r" if turn % 2 else "s")
    assert [worker.url.rpartition("/")[2] for worker in workers] == ["edge_worker.js"]


def test_missing_edges_are_reported(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    fill_round(database, store, [disc((255, 255, 255)), disc((0, 0, 0))])
    page = open_page()
    page.route("**/edge_worker.js", lambda route: route.abort())
    page.reload()
    wait_until_shown(page)
    page.keyboard.press("Shift+v")
    expect(page.locator("#edge-legend")).to_have_text("Edges are not available.")
    press(page, "r")
    wait_until_shown(page)
    expect(page.locator("#viewer")).to_have_attribute("data-view", "image")


def test_a_layer_without_an_interior_has_edges(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    haze = disc((90, 90, 90))
    haze[..., 3] //= 3
    thin = np.zeros((SIDE, SIDE, 4), np.uint8)
    thin[::7, ::5] = (200, 10, 10, 255)
    fill_round(database, store, [haze, thin, np.zeros((9, 13, 4), np.uint8)])
    page = open_page()
    legends = {}
    for _ in range(3):
        wait_until_shown(page)
        page.keyboard.press("Shift+v")
        expect(page.locator("#edge-legend")).to_contain_text("semi-transparent")
        legends[page.locator("#prompt").inner_text()[-1]] = page.locator(
            "#edge-legend"
        ).inner_text()
        press(page, "s")
    assert "100% semi-transparent." in legends["0"], (
        "without opaque pixels there is no color difference"
    )
    assert "0% semi-transparent." in legends["1"]
    assert "0% semi-transparent." in legends["2"]


def test_the_magnifier_shows_the_pixels_under_the_pointer(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    halves = np.full((SIDE, SIDE, 4), 255, np.uint8)
    halves[:, : SIDE // 2, :3], halves[:, SIDE // 2 :, :3] = (255, 0, 0), (0, 0, 255)
    fill_round(database, store, [halves])
    page = open_page()
    wait_until_shown(page)
    box = page.locator('#viewer img[data-role="foreground"]').bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)
    page.keyboard.down("l")
    expect(page.locator(".magnifier")).to_be_visible()
    screenshot(page, "magnifier")
    lens = page.locator(".magnifier").bounding_box()
    frame = page.locator("#viewer").bounding_box()
    row = seen(page)[round(lens["y"] - frame["y"] + lens["height"] / 2)]
    left = round(lens["x"] - frame["x"])
    middle = left + round(lens["width"] / 2)
    assert list(row[middle]) == [255, 0, 0], (
        "the center of the lens shows the pixel under the pointer"
    )
    inside = row[left + 4 : left + round(lens["width"]) - 4]
    border = left + 4 + int(np.argmax(inside[:, 2] > 128))
    assert border - middle == pytest.approx(0.05 * box["width"] * 4, abs=4), "magnified four times"
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    assert page.locator(".magnifier").bounding_box() != lens
    page.keyboard.up("l")
    expect(page.locator(".magnifier")).to_have_count(0)


def test_zoom_and_pan_with_keys(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    image = page.locator("#viewer img")
    page.keyboard.press("z")
    before = image.bounding_box()
    for _ in range(4):
        page.keyboard.press("+")
    larger = image.bounding_box()
    assert larger["width"] == pytest.approx(4 * before["width"], rel=0.01)
    middle = before["x"] + before["width"] / 2
    assert larger["x"] + larger["width"] / 2 == pytest.approx(middle, abs=1.5), "around the center"
    page.keyboard.press("Shift+ArrowRight")
    assert image.bounding_box()["x"] < larger["x"]
    assert page.locator("#viewer").get_attribute("data-candidate") == candidate, (
        "Shift and an arrow key decide nothing"
    )
    for _ in range(4):
        page.keyboard.press("-")
    assert image.bounding_box()["width"] == pytest.approx(before["width"], rel=0.01)


def test_the_nearest_accepted_sample_as_swap_and_as_overlay(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    made = fill_round(
        database,
        store,
        [
            disc((40, 120, 60)),
            disc((40, 120, 60), at=52),
            disc((250, 240, 20), (250, 240, 20), at=30),
        ],
    )
    page = open_page()
    wait_until_shown(page)
    page.keyboard.down("n")
    expect(page.locator("#nearest")).to_have_text("No accepted samples yet.")
    page.keyboard.up("n")
    with database.transaction() as tx:
        grace = add_reviewer(tx, "Grace")
        tx.execute(sa.text("delete from leases"))
        for one in made[1:]:
            decide(tx, grace.id, one, Verdict.accept, key=uuid.uuid4())
        tx.execute(sa.text("update candidates set state = 'waiting' where state = 'showing'"))
    page.reload()
    assert wait_until_shown(page) == str(made[0])
    own = page.locator('#viewer img[data-role="foreground"]')
    page.keyboard.down("n")
    nearest = page.locator('#viewer img[data-role="nearest"]')
    expect(nearest).to_be_visible()
    expect(own).to_be_hidden()
    expect(page.locator("#nearest")).to_contain_text("of 192 apart): a disc, number 1")
    page.keyboard.up("n")
    expect(nearest).to_be_hidden()
    expect(own).to_be_visible()
    page.keyboard.press("Shift+n")
    expect(nearest).to_be_visible()
    expect(own).to_be_visible()
    assert nearest.evaluate("image => getComputedStyle(image).opacity") == "0.5"
    expect(page.locator("#overlay")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Shift+n")
    expect(nearest).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reduced_motion_and_high_contrast_are_respected(
    open_page: OpenPage, round_id: int, scheme: str
) -> None:
    page = open_page(color_scheme=scheme, reduced_motion="reduce", contrast="more")
    wait_until_shown(page)
    moving = page.evaluate("""() => [...document.querySelectorAll('*')].filter((element) => {
      const { transitionDuration, animationName } = getComputedStyle(element);
      return animationName !== 'none' || parseFloat(transitionDuration) > 0;
    }).length""")
    assert moving == 0
    colors = page.evaluate(
        "['--muted', '--ink'].map((name) => getComputedStyle(document.body).getPropertyValue(name))"
    )
    assert colors[0] == colors[1]
    page.keyboard.press("Tab")
    for _ in range(30):
        page.keyboard.press("Tab")
        width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 2 or page.evaluate("document.activeElement === document.body"), (
            "the focused element has an outline"
        )
