"""What helps to judge: backgrounds of any kind, the edges, the magnifier, zoom by keys, the sample to compare with."""

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
from tests.browser.reviewing import OpenPage, image, press, wait_until_shown
from tests.making import make_pairs, make_round

SIDE = 96


def disc(
    rim: tuple[int, int, int], middle: tuple[int, int, int] = (40, 120, 60), at: int = 48
) -> np.ndarray:
    """A disc whose half clear band has the colour `rim`."""
    y, x = np.mgrid[:SIDE, :SIDE]
    alpha = np.clip((36 - np.hypot(x - at, y - 48)) / 4, 0, 1)
    rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
    rgba[alpha == 1, :3] = middle
    rgba[(alpha > 0) & (alpha < 1), :3] = rim
    rgba[..., 3] = np.rint(alpha * 255)
    return rgba


def fill_round(database: Database, store: FolderStore, images: list[np.ndarray]) -> list[uuid.UUID]:
    """A round of these layers, with their fingerprints in the index."""
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
    """What can be seen of the stage, without what is laid over it."""
    page.evaluate(
        "document.querySelectorAll('.stage-word').forEach((word) => (word.style.opacity = 0))"
    )
    shot = page.locator("#stage").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def test_any_colour_is_remembered(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.locator("#own-colour").fill("#12ab34")
    assert page.locator("#stage").get_attribute("data-background") == "colour"
    assert list(seen(page)[20, 20]) == [0x12, 0xAB, 0x34]
    page.keyboard.press("t")
    page.wait_for_selector("#contact .cell")
    assert (
        page.locator(".cell").first.evaluate("cell => getComputedStyle(cell).backgroundColor")
        == "rgb(18, 171, 52)"
    )
    page.reload()
    expect(page.locator("#stage")).to_have_attribute("data-background", "colour")
    expect(page.locator("#own-colour")).to_have_value("#12ab34")


def test_a_photograph_stays_in_the_browser(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    page.on(
        "filechooser", lambda _: None
    )  # so that Playwright stands ready well before the key is pressed
    wait_until_shown(page)
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if request.method != "GET" else None
    )
    out = io.BytesIO()
    Image.new("RGB", (3000, 2000), (200, 30, 90)).save(out, "PNG")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("p")
    chooser.value.set_files(
        {"name": "garden.png", "mimeType": "image/png", "buffer": out.getvalue()}
    )
    page.wait_for_selector('#stage[data-background="photo"]')
    assert np.abs(seen(page)[20, 20] - (200, 30, 90)).max() <= 3
    assert {url.rpartition("/")[2] for url in asked} <= {"tray", "release"}, "nothing of it is sent"
    page.reload()
    wait_until_shown(page)
    page.wait_for_selector('#stage[data-background="photo"]')
    assert np.abs(seen(page)[20, 20] - (200, 30, 90)).max() <= 3
    page.keyboard.press("b")
    assert page.locator("#stage").get_attribute("data-background") == "checker"


def test_what_is_no_photograph_changes_nothing(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    page.on("filechooser", lambda _: None)
    wait_until_shown(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="a photograph of yours").click()
    chooser.value.set_files(
        {"name": "evil.png", "mimeType": "image/png", "buffer": b"<svg onload=alert(1)>"}
    )
    expect(page.locator("#toast")).to_contain_text("no picture")
    assert page.locator("#stage").get_attribute("data-background") == "checker"


def test_the_scene_is_the_same_for_everybody(open_page: OpenPage, round_id: int) -> None:
    scenes = []
    for name, scheme in (("Ada", "light"), ("Grace", "dark")):
        page = open_page(name=name, color_scheme=scheme)
        wait_until_shown(page)
        page.get_by_role("button", name="a drawn scene").click()
        scenes.append(seen(page)[8:-8, 8:60])  # beside the candidate
    assert (scenes[0] == scenes[1]).all()
    assert len(np.unique(scenes[0].reshape(-1, 3), axis=0)) > 500, "smooth and busy places"


def test_edges_show_a_fringe_bright_and_a_sound_edge_dark(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    fill_round(database, store, [disc((40, 120, 60)), disc((255, 255, 255))])
    page = open_page()
    brightness, told = {}, {}
    for _ in range(2):
        wait_until_shown(page)
        prompt = page.locator("#prompt").inner_text()
        page.keyboard.press("Shift+v")
        expect(page.locator("#edge-legend")).to_contain_text("half clear")
        image(page, f"edges-{prompt[-1]}")
        told[prompt[-1]] = page.locator("#edge-legend").inner_text()
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
    gaps = {
        name: float(words.split("whose colour is ")[1].split()[0]) for name, words in told.items()
    }
    assert gaps["0"] < 2
    assert gaps["1"] > 100


def test_edges_are_found_ahead_and_off_the_page(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    fill_round(database, store, [disc((255, 255, 255), at=30 + 3 * turn) for turn in range(8)])
    page = open_page()
    workers: list[Worker] = []
    wait_until_shown(page)
    page.wait_for_timeout(400)
    assert page.workers == [], "nobody has looked at edges in this browser"
    page.keyboard.press("Shift+v")
    expect(page.locator("#edge-legend")).to_contain_text("half clear")
    press(page, "s")
    for turn in range(6):
        wait_until_shown(page)
        page.wait_for_timeout(400)
        # In the handling of the key itself, not some frames later: nothing is computed then.
        found = page.evaluate("""() => {
          document.dispatchEvent(new KeyboardEvent('keydown', { key: 'V', code: 'KeyV', shiftKey: true }));
          return [document.querySelector('#edge-legend').textContent, document.querySelector('#sheet canvas').width];
        }""")
        assert "half clear" in found[0]
        assert found[1] == SIDE
        workers = page.workers
        press(page, "r" if turn % 2 else "s")
    assert [worker.url.rpartition("/")[2] for worker in workers] == ["edge_worker.js"]


def test_edges_that_cannot_be_had_are_told(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    fill_round(database, store, [disc((255, 255, 255)), disc((0, 0, 0))])
    page = open_page()
    page.route("**/edge_worker.js", lambda route: route.abort())
    page.reload()
    wait_until_shown(page)
    page.keyboard.press("Shift+v")
    expect(page.locator("#edge-legend")).to_have_text("The edges cannot be had now.")
    press(page, "r")
    wait_until_shown(page)
    expect(page.locator("#stage")).to_have_attribute("data-view", "picture")


def test_a_layer_without_an_inside_has_edges_too(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    haze = disc((90, 90, 90))
    haze[..., 3] //= 3
    thin = np.zeros((SIDE, SIDE, 4), np.uint8)
    thin[::7, ::5] = (200, 10, 10, 255)
    fill_round(database, store, [haze, thin, np.zeros((9, 13, 4), np.uint8)])
    page = open_page()
    told = {}
    for _ in range(3):
        wait_until_shown(page)
        page.keyboard.press("Shift+v")
        expect(page.locator("#edge-legend")).to_contain_text("half clear")
        told[page.locator("#prompt").inner_text()[-1]] = page.locator("#edge-legend").inner_text()
        press(page, "s")
    assert "100 % half clear." in told["0"], (
        "with nothing opaque there is no colour to compare with"
    )
    assert "0 % half clear." in told["1"]
    assert "0 % half clear." in told["2"]


def test_the_magnifier_shows_the_pixels_under_the_pointer(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    halves = np.full((SIDE, SIDE, 4), 255, np.uint8)
    halves[:, : SIDE // 2, :3], halves[:, SIDE // 2 :, :3] = (255, 0, 0), (0, 0, 255)
    fill_round(database, store, [halves])
    page = open_page()
    wait_until_shown(page)
    box = page.locator('#stage img[data-role="foreground"]').bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)
    page.keyboard.down("l")
    expect(page.locator(".loupe")).to_be_visible()
    image(page, "loupe")
    glass = page.locator(".loupe").bounding_box()
    frame = page.locator("#stage").bounding_box()
    row = seen(page)[round(glass["y"] - frame["y"] + glass["height"] / 2)]
    left = round(glass["x"] - frame["x"])
    middle = left + round(glass["width"] / 2)
    assert list(row[middle]) == [255, 0, 0], "the middle of the glass is what the pointer is on"
    inside = row[left + 4 : left + round(glass["width"]) - 4]
    border = left + 4 + int(np.argmax(inside[:, 2] > 128))
    assert border - middle == pytest.approx(0.05 * box["width"] * 4, abs=4), "four times as large"
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    assert page.locator(".loupe").bounding_box() != glass
    page.keyboard.up("l")
    expect(page.locator(".loupe")).to_have_count(0)


def test_zoom_and_pan_by_keys(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    image = page.locator("#stage img")
    page.keyboard.press("z")
    before = image.bounding_box()
    for _ in range(4):
        page.keyboard.press("+")
    larger = image.bounding_box()
    assert larger["width"] == pytest.approx(4 * before["width"], rel=0.01)
    middle = before["x"] + before["width"] / 2
    assert larger["x"] + larger["width"] / 2 == pytest.approx(middle, abs=1.5), "around the middle"
    page.keyboard.press("Shift+ArrowRight")
    assert image.bounding_box()["x"] < larger["x"]
    assert page.locator("#stage").get_attribute("data-candidate") == candidate, (
        "an arrow with Shift decides nothing"
    )
    for _ in range(4):
        page.keyboard.press("-")
    assert image.bounding_box()["width"] == pytest.approx(before["width"], rel=0.01)


def test_the_nearest_accepted_sample_blinks_and_lies_over(
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
    expect(page.locator("#nearest")).to_have_text("Nothing else is accepted yet.")
    page.keyboard.up("n")
    with database.transaction() as tx:
        grace = add_reviewer(tx, "Grace")
        tx.execute(sa.text("delete from leases"))
        for one in made[1:]:
            decide(tx, grace.id, one, Verdict.accept, key=uuid.uuid4())
        tx.execute(sa.text("update candidates set state = 'waiting' where state = 'showing'"))
    page.reload()
    assert wait_until_shown(page) == str(made[0])
    own = page.locator('#stage img[data-role="foreground"]')
    page.keyboard.down("n")
    nearest = page.locator('#stage img[data-role="nearest"]')
    expect(nearest).to_be_visible()
    expect(own).to_be_hidden()
    expect(page.locator("#nearest")).to_contain_text("of 192 apart: a disc, number 1")
    page.keyboard.up("n")
    expect(nearest).to_be_hidden()
    expect(own).to_be_visible()
    page.keyboard.press("Shift+n")
    expect(nearest).to_be_visible()
    expect(own).to_be_visible()
    assert nearest.evaluate("image => getComputedStyle(image).opacity") == "0.5"
    expect(page.locator("#onion")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Shift+n")
    expect(nearest).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_moves_for_who_wants_no_motion_and_lines_are_strong_for_who_wants_contrast(
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
        "['--quiet', '--ink'].map((name) => getComputedStyle(document.body).getPropertyValue(name))"
    )
    assert colors[0] == colors[1]
    page.keyboard.press("Tab")
    for _ in range(30):
        page.keyboard.press("Tab")
        width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 2 or page.evaluate("document.activeElement === document.body"), (
            "what has the focus shows it"
        )
