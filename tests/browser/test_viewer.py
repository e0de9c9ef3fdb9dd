"""The viewer: backgrounds, alpha, zoom, layers, the shortcut list, touch, and the empty state."""

from __future__ import annotations

import io

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import expect

from curation.db.engine import Database
from curation.db.tables import candidate_layers, rounds
from curation.object_store import FolderStore
from tests.browser.reviewing import (
    OpenPage,
    active_verdicts,
    press,
    shown,
    wait_until_sent,
    wait_until_shown,
)
from tests.support.factories import make_candidates, make_round


def test_the_help_lists_every_shortcut(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("?")
    listed = " ".join(
        page.locator("#help-keys dt").evaluate_all("all => all.map((dt) => dt.dataset.keys)")
    ).split()
    arrows = {"ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"}
    everywhere = {*"ubpit?", "Backspace", "Shift+b"} | {str(digit) for digit in range(10)}
    expected = everywhere | {*"ajrksvzcfgmoexln+=-", "ArrowLeft", "ArrowRight"}
    expected |= {f"Shift+{key}" for key in {*"vzn", *arrows}} | {
        f"Shift+{digit}" for digit in range(10)
    }
    assert set(listed) == expected
    assert len(listed) == len(expected)
    assert all(text.strip() for text in page.locator("#help-keys dd").all_inner_texts())
    before = shown(page)
    page.keyboard.press("a")
    assert shown(page) == before, "keys decide nothing while the help is open"
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("t")
    page.wait_for_selector("#grid .grid-item")
    page.keyboard.press("?")
    listed = " ".join(
        page.locator("#help-keys dt").evaluate_all("all => all.map((dt) => dt.dataset.keys)")
    ).split()
    grid = (
        {*"anwlv+=-", "Space", "Enter", "Home", "End"} | arrows | {f"Shift+{key}" for key in arrows}
    )
    assert set(listed) == everywhere | grid, "a view lists only its own shortcuts"
    assert len(listed) == len(set(listed))


def test_view_controls_by_keyboard(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    viewer = page.locator("#viewer")
    seen = []
    for _ in range(6):
        seen.append(
            (
                viewer.get_attribute("data-background"),
                viewer.evaluate("e => getComputedStyle(e).background"),
            )
        )
        page.keyboard.press("b")
    assert [name for name, _ in seen] == ["checker", "black", "white", "gray", "color", "scene"]
    assert len({paint for _, paint in seen}) == 6
    page.keyboard.press("b")
    page.emulate_media(color_scheme="dark")
    assert viewer.evaluate("e => getComputedStyle(e).background") == seen[1][1], (
        "the background does not depend on the theme"
    )
    for zoom in ("1", "2", "4", "8"):
        page.keyboard.press("z")
        assert viewer.get_attribute("data-zoom") == zoom
        width = page.locator("#viewer img").evaluate(
            "e => e.getBoundingClientRect().width / e.naturalWidth"
        )
        assert width == pytest.approx(float(zoom))
    page.keyboard.press("v")
    assert "alpha-as-gray" in page.locator("#viewer img").evaluate(
        "e => getComputedStyle(e).filter"
    )
    press(page, "a")
    wait_until_shown(page)
    assert viewer.get_attribute("data-view") == "image", "the view is reset for the next candidate"
    assert viewer.get_attribute("data-background") == "black", "the background is kept"
    page.reload()
    wait_until_shown(page)
    assert viewer.get_attribute("data-background") == "black"


def test_the_alpha_view_shows_alpha_exactly(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("z")  # one screen pixel per image pixel
    page.keyboard.press("v")
    alpha = page.locator("#viewer img").evaluate("""(image) => {
      const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
      const context = canvas.getContext('2d');
      context.drawImage(image, 0, 0);
      return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data).filter((_, i) => i % 4 === 3);
    }""")
    box = page.locator("#viewer img").bounding_box()
    assert box is not None
    clip = {
        "x": round(box["x"]),
        "y": round(box["y"]),
        "width": round(box["width"]),
        "height": round(box["height"]),
    }
    gray = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")).astype(int)
    expected = np.array(alpha).reshape(gray.shape[:2])
    inside = (slice(2, -2), slice(2, -2))  # without the dashed outline
    assert np.abs(gray[inside] - expected[inside][..., None]).max() <= 1


def test_the_layers_of_a_pair_by_keyboard(
    open_page: OpenPage, database: Database, round_id: int
) -> None:
    with database.transaction() as tx:
        tx.execute(sa.update(rounds).values(kind="pair"))
        layers = tx.execute(
            sa.select(candidate_layers).order_by(candidate_layers.c.candidate_id)
        ).all()
        for turn, layer in enumerate(layers):
            for step, role in enumerate(("background", "blended"), 1):
                other = layers[(turn + step) % len(layers)].sha256
                row = {"candidate_id": layer.candidate_id, "role": role, "sha256": other}
                tx.execute(sa.insert(candidate_layers), row)
    page = open_page()
    wait_until_shown(page)
    visible = """() => [...document.querySelectorAll('#viewer img')]
      .filter((image) => getComputedStyle(image).visibility === 'visible').map((image) => image.dataset.role)"""
    assert page.evaluate(visible) == ["blended"], "the blended image is shown first"
    for key, roles in {
        "f": ["foreground"],
        "g": ["background"],
        "o": ["background", "foreground"],
        "m": ["blended"],
    }.items():
        page.keyboard.press(key)
        assert page.evaluate(visible) == roles
    expect(page.locator("#layers button")).to_have_count(5)


def test_the_empty_state_shows_the_activity(
    open_page: OpenPage, database: Database, store: FolderStore
) -> None:
    page = open_page()
    expect(page.locator(".empty-state")).to_be_visible()
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 3, state="requested")
    expect(page.locator("#activity")).to_contain_text(f"Generating round {round_id}")
    with database.transaction() as tx:
        make_candidates(tx, store, make_round(tx), 2)
    wait_until_shown(page)
    expect(page.locator(".empty-state")).to_be_hidden()


def test_decisions_by_touch(open_page: OpenPage, database: Database, round_id: int) -> None:
    page = open_page(viewport={"width": 820, "height": 1180}, has_touch=True)
    accepted = wait_until_shown(page)
    page.locator("#accept").tap()
    rejected = wait_until_shown(page)
    page.locator("#reasons button", has_text="halo").tap()
    page.locator("#reject").tap()
    wait_until_sent(page)
    assert active_verdicts(database) == {accepted: ("accept", []), rejected: ("reject", ["halo"])}
    for name in ("#accept", "#reject"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["height"] >= 48
        assert box["y"] + box["height"] <= 1180, "within reach without scrolling"


def test_a_button_pressed_by_key_keeps_the_focus(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    for row, name in (
        ("#views", "Faint alpha"),
        ("#zooms", "2×"),
        ("#backgrounds", "Background: black"),
        ("#reasons", "halo"),
    ):
        button = page.locator(row).get_by_role("button", name=name)
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(button).to_be_focused()
    press(page, "r")
    wait_until_shown(page)
    expect(page.locator("#reasons").get_by_role("button", name="halo")).to_have_attribute(
        "aria-pressed", "false"
    )


def test_opened_signals_are_scrolled_into_view(open_page: OpenPage, round_id: int) -> None:
    page = open_page(viewport={"width": 1280, "height": 800})
    wait_until_shown(page)
    page.keyboard.press("i")
    expect(page.locator("#flags")).to_be_in_viewport()


def test_texts_over_the_image_are_not_part_of_its_label(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    wait_until_shown(page)
    expect(page.get_by_role("img", name="Candidate: prompt")).to_have_count(1)
    page.keyboard.press("Shift+v")
    expect(page.get_by_role("status").filter(has_text="semi-transparent")).to_be_visible()
