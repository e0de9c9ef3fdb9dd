"""Review of pairs: layers by key, separate layers, swapped backgrounds, and reasons per layer."""

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
    press,
    screenshot,
    shown,
    wait_until_sent,
    wait_until_shown,
)
from tests.support.factories import make_pairs, make_round, scenes


def visible(page: Page) -> list[str]:
    """Return the roles of the visible images, in painting order."""
    return page.evaluate("""() => [...document.querySelectorAll('#layer-stack img')]
        .filter((image) => getComputedStyle(image).visibility === 'visible').map((image) => image.dataset.role)""")


def boxes(page: Page) -> dict[str, dict]:
    """Return the bounding boxes of the images by role, after transitions have ended."""
    page.wait_for_timeout(260)
    return page.evaluate("""() => Object.fromEntries([...document.querySelectorAll('#layer-stack img')]
        .map((image) => [image.dataset.role, image.getBoundingClientRect().toJSON()]))""")


def saved_reasons(database: Database) -> list[tuple[str, list[str], list[str]]]:
    with database.transaction() as tx:
        rows = tx.execute(sa.select(decisions).order_by(decisions.c.id))
        return [(row.verdict, row.reasons, row.layers) for row in rows]


def test_keys_show_each_layer_and_the_blended_image_comes_first(
    open_page: OpenPage, pair_round: int
) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    screenshot(page, "pair")
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
        screenshot(page, f"pair-{key}")
    assert shown(page) == candidate
    expect(page.locator("#texts")).to_contain_text("foreground")
    expect(page.locator('#layers [aria-pressed="true"]')).to_have_text("Blended")


def test_swap_shows_the_background_of_another_candidate_each_time(
    open_page: OpenPage, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    own = page.locator('#layer-stack [data-role="background"]').get_attribute("src")
    seen = []
    for _ in range(3):
        page.keyboard.press("x")
        seen.append(page.locator('#layer-stack [data-role="other"]').get_attribute("src"))
    assert len({*seen, own}) == 4
    page.wait_for_function(
        "() => document.querySelector('#layer-stack [data-role=other]').naturalWidth > 0"
    )
    page.keyboard.press("a")
    wait_until_shown(page)
    assert visible(page) == ["blended"], "the next pair is shown unchanged"


@pytest.mark.parametrize(("wide", "arrangement"), [(False, "row"), (True, "column")])
def test_layers_are_shown_separately_and_stacked(
    open_page: OpenPage, database: Database, store: FolderStore, wide: bool, arrangement: str
) -> None:
    """Side by side, or one below the other if they are larger that way."""
    drawn = [
        (prompt, {role: layer[40:88] if wide else layer for role, layer in pair.items()})
        for prompt, pair in scenes(4, 128)
    ]
    with database.transaction() as tx:
        make_pairs(tx, store, make_round(tx, kind="pair"), drawn)
    page = open_page()
    wait_until_shown(page)
    stacked = boxes(page)
    assert stacked["foreground"] == stacked["background"] == stacked["blended"]
    page.keyboard.press("e")
    screenshot(page, f"separate-{arrangement}")
    separate = boxes(page)
    axis, side = ("x", "width") if arrangement == "row" else ("y", "height")
    positions = [separate[role][axis] for role in ("foreground", "background", "blended")]
    assert positions[1] - positions[0] >= separate["foreground"][side]
    assert positions[2] - positions[1] >= separate["foreground"][side]
    assert sorted(visible(page)) == ["background", "blended", "foreground"]
    viewer = page.locator("#viewer").bounding_box()
    for box in separate.values():
        assert (
            viewer["x"] <= box["x"] and box["x"] + box["width"] <= viewer["x"] + viewer["width"] + 1
        )
        assert (
            viewer["y"] <= box["y"]
            and box["y"] + box["height"] <= viewer["y"] + viewer["height"] + 1
        )
    page.keyboard.press("g")
    page.keyboard.press("a")
    wait_until_shown(page)
    assert sorted(visible(page)) == ["background", "blended", "foreground"], (
        "the next pair is shown separately, too"
    )
    page.keyboard.press("e")
    assert visible(page) == ["blended"]
    assert boxes(page)["foreground"] == boxes(page)["blended"]


def test_a_reason_refers_to_the_layer_on_display(
    open_page: OpenPage, database: Database, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    expect(page.locator("#reason-layer")).to_have_text(" (whole image)")
    page.keyboard.press("g")
    expect(page.locator("#reason-layer")).to_have_text(" (background)")
    press(page, "2")
    wait_until_shown(page)
    press(page, "0")
    wait_until_shown(page)
    page.keyboard.press("f")
    page.keyboard.press("Shift+Digit1")
    page.keyboard.press("g")
    page.keyboard.press("Shift+Digit1")
    page.keyboard.press("Shift+Digit0")
    screenshot(page, "reasons")
    expect(page.locator(".reason").first.locator(".check")).to_have_text("F G")
    press(page, "r")
    wait_until_shown(page)
    press(page, "a")
    wait_until_sent(page)
    assert saved_reasons(database) == [
        ("reject", ["residue"], ["background"]),
        ("reject", ["clash"], ["blended"]),
        ("reject", ["clash", "halo", "halo"], ["blended", "background", "foreground"]),
        ("accept", [], []),
    ]
    with database.transaction() as tx:
        line = tx.scalar(sa.select(samples.c.line))
    assert '"kind":"pair"' in line
    assert '"texts":{"background":' in line


def test_undo_restores_the_reasons(
    open_page: OpenPage, database: Database, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("g")
    page.keyboard.press("Shift+Digit2")
    press(page, "r")
    wait_until_shown(page)
    assert "background: residue" in (
        page.locator("#recent button").first.get_attribute("title") or ""
    )
    press(page, "u")
    page.keyboard.press("g")
    expect(page.locator('.reason[aria-pressed="true"]')).to_contain_text("residue")
    wait_until_sent(page)


def test_pair_shortcuts_do_nothing_for_single_layers(open_page: OpenPage, round_id: int) -> None:
    page = open_page()
    candidate = wait_until_shown(page)
    for key in "fgoxe0":
        page.keyboard.press(key)
    assert visible(page) == ["foreground"]
    assert shown(page) == candidate
    expect(page.locator("#separate")).to_be_hidden()
    expect(page.locator("#layers")).to_be_hidden()
    expect(page.locator("#reasons li:visible")).to_have_count(9)


def test_the_report_shows_reasons_by_layer_and_pair_signals(
    open_page: OpenPage, site: Site, database: Database, pair_round: int
) -> None:
    page = open_page()
    wait_until_shown(page)
    page.keyboard.press("g")
    press(page, "2")
    wait_until_shown(page)
    press(page, "a")
    wait_until_sent(page)
    frozen = snapshots.freeze_snapshot(database, site.context.store, tag="now", actor="test")
    page.goto(f"{site.address}/rounds/{pair_round}")
    expect(page.locator("#reasons")).to_contain_text("background: residue")
    expect(page.locator("#summary")).to_contain_text("layer pairs")
    screenshot(page, "round")
    page.goto(f"{site.address}/snapshots/now")
    expect(page.locator("#counts")).to_contain_text("pair")
    expect(page.locator("#samples .pair img")).to_have_count(3)
    screenshot(page, "snapshot")
    assert frozen.counts["kind"] == {"pair": 1}
