"""Pairs at the review page: one unit, layers by key and apart, backgrounds swapped, reasons that name a layer."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from curation.datasets import snapshots
from curation.db.engine import Database
from curation.db.tables import decisions, samples
from curation.object_store import FolderStore
from tests.browser.reviewing import (
    OpenPage,
    Site,
    image,
    press,
    shown,
    wait_until_sent,
    wait_until_shown,
)
from tests.making import make_pairs, make_round, scenes


def visible(page: Page) -> list[str]:
    """The roles of the pictures that can be seen on the stage, in the order they are painted."""
    return page.evaluate("""() => [...document.querySelectorAll('#sheet img')]
        .filter((image) => getComputedStyle(image).visibility === 'visible').map((image) => image.dataset.role)""")


def boxes(page: Page) -> dict[str, dict]:
    """Where the pictures lie once nothing moves any more, by role."""
    page.wait_for_timeout(260)
    return page.evaluate("""() => Object.fromEntries([...document.querySelectorAll('#sheet img')]
        .map((image) => [image.dataset.role, image.getBoundingClientRect().toJSON()]))""")


def said(database: Database) -> list[tuple[str, list[str], list[str]]]:
    with database.transaction() as tx:
        rows = tx.execute(sa.select(decisions).order_by(decisions.c.id))
        return [(row.verdict, row.reasons, row.layers) for row in rows]


def test_a_key_shows_each_layer_and_the_blend_comes_first(
    open_page: OpenPage, pair_round: int
) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    image(page, "pair")
    assert visible(page) == ["blended"]
    for key, roles in {
        "f": ["foreground"],
        "g": ["background"],
        "o": ["background", "foreground"],
        "x": ["other", "foreground"],
        "m": ["blended"],
    }.items():
        page.keyboard.press(key)
        assert visible(page) == roles, key
        image(page, f"pair-{key}")
    assert shown(page) == candidate
    expect(page.locator("#texts")).to_contain_text("foreground")
    expect(page.locator('#layers [aria-pressed="true"]')).to_have_text("Blended")


def test_elsewhere_is_another_candidates_background_each_time(
    open_page: OpenPage, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    own = page.locator('#sheet [data-role="background"]').get_attribute("src")
    seen = []
    for _ in range(3):
        page.keyboard.press("x")
        seen.append(page.locator('#sheet [data-role="other"]').get_attribute("src"))
    assert len({*seen, own}) == 4
    page.wait_for_function(
        "() => document.querySelector('#sheet [data-role=other]').naturalWidth > 0"
    )
    page.keyboard.press("a")
    wait_until_shown(page)
    assert visible(page) == ["blended"], "the next pair is shown as it was drawn"


@pytest.mark.parametrize(("wide", "way"), [(False, "across"), (True, "down")])
def test_layers_move_apart_and_together(
    open_page: OpenPage, database: Database, store: FolderStore, wide: bool, way: str
) -> None:
    """Beside each other, or one below the other where that shows them larger."""
    drawn = [
        (prompt, {role: layer[40:88] if wide else layer for role, layer in pair.items()})
        for prompt, pair in scenes(4, 128)
    ]
    with database.transaction() as tx:
        make_pairs(tx, store, make_round(tx, kind="pair"), drawn)
    page = open_page()
    wait_until_shown(page)
    together = boxes(page)
    assert together["foreground"] == together["background"] == together["blended"]
    page.keyboard.press("e")
    image(page, f"apart-{way}")
    apart = boxes(page)
    axis, side = ("x", "width") if way == "across" else ("y", "height")
    places = [apart[role][axis] for role in ("foreground", "background", "blended")]
    assert places[1] - places[0] >= apart["foreground"][side]
    assert places[2] - places[1] >= apart["foreground"][side]
    assert sorted(visible(page)) == ["background", "blended", "foreground"]
    stage = page.locator("#stage").bounding_box()
    for box in apart.values():
        assert stage["x"] <= box["x"] and box["x"] + box["width"] <= stage["x"] + stage["width"] + 1
        assert (
            stage["y"] <= box["y"] and box["y"] + box["height"] <= stage["y"] + stage["height"] + 1
        )
    page.keyboard.press("g")
    page.keyboard.press("a")
    wait_until_shown(page)
    assert sorted(visible(page)) == ["background", "blended", "foreground"], (
        "the next pair is apart too"
    )
    page.keyboard.press("e")
    assert visible(page) == ["blended"]
    assert boxes(page)["foreground"] == boxes(page)["blended"]


def test_a_reason_concerns_the_layer_that_is_looked_at(
    open_page: OpenPage, database: Database, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    expect(page.locator("#concerned")).to_have_text(": the whole picture")
    page.keyboard.press("g")
    expect(page.locator("#concerned")).to_have_text(": the background")
    press(page, "2")
    wait_until_shown(page)
    press(page, "0")
    wait_until_shown(page)
    page.keyboard.press("f")
    page.keyboard.press("Shift+Digit1")
    page.keyboard.press("g")
    page.keyboard.press("Shift+Digit1")
    page.keyboard.press("Shift+Digit0")
    image(page, "reasons")
    expect(page.locator(".reason").first.locator(".tick")).to_have_text("F G")
    press(page, "r")
    wait_until_shown(page)
    press(page, "a")
    wait_until_sent(page)
    assert said(database) == [
        ("reject", ["residue"], ["background"]),
        ("reject", ["clash"], ["blended"]),
        ("reject", ["clash", "halo", "halo"], ["blended", "background", "foreground"]),
        ("accept", [], []),
    ]
    with database.transaction() as tx:
        line = tx.scalar(sa.select(samples.c.line))
    assert '"kind":"pair"' in line
    assert '"texts":{"background":' in line


def test_what_was_undone_has_its_reasons_again(
    open_page: OpenPage, database: Database, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("g")
    page.keyboard.press("Shift+Digit2")
    press(page, "r")
    wait_until_shown(page)
    assert "background: residue" in (
        page.locator("#trail button").first.get_attribute("title") or ""
    )
    press(page, "u")
    page.keyboard.press("g")
    expect(page.locator('.reason[aria-pressed="true"]')).to_contain_text("residue")
    wait_until_sent(page)


def test_single_layers_have_no_keys_of_pairs(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    for key in "fgoxe0":
        page.keyboard.press(key)
    assert visible(page) == ["foreground"]
    assert shown(page) == candidate
    expect(page.locator("#apart")).to_be_hidden()
    expect(page.locator("#layers")).to_be_hidden()
    expect(page.locator("#reasons li:visible")).to_have_count(9)


def test_the_report_tells_reasons_by_layer_and_how_pairs_measure(
    open_page: OpenPage, site: Site, database: Database, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("g")
    press(page, "2")
    wait_until_shown(page)
    press(page, "a")
    wait_until_sent(page)
    with database.transaction(repeatable_read=True) as tx:
        frozen = snapshots.freeze_snapshot(tx, site.context.store, tag="now", actor="test")
    page.goto(f"{site.address}/rounds/{pair_round}")
    expect(page.locator("#reasons")).to_contain_text("background: residue")
    expect(page.locator("#about")).to_contain_text("layer pairs")
    image(page, "round")
    page.goto(f"{site.address}/snapshots/now")
    expect(page.locator("#counts")).to_contain_text("pair")
    expect(page.locator("#sheet .pair img")).to_have_count(3)
    image(page, "snapshot")
    assert frozen.counts["kind"] == {"pair": 1}
