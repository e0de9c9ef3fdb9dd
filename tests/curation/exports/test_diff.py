"""Differences of snapshots: added, removed and changed samples, licences, and the contact sheet."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from curation.domain import CaptionSource
from curation.exports.diff import TILE, compare_snapshots, contact_sheet, read_changes
from tests.support.snapshots import make_sample, make_snapshot


def test_a_difference_names_every_sample_once(store):
    samples = [make_sample(store, number) for number in range(1, 13)]
    first = make_snapshot(store, samples, withheld=[samples[5].id])
    changed = make_sample(store, 12, caption="another caption")
    added = [make_sample(store, number) for number in (50, 51, 52)]
    second = make_snapshot(store, [*samples[2:-1], changed, *added], withheld=[samples[6].id])
    diff = compare_snapshots(store, first, second)
    assert {one.id for one in diff.added} == {one.id for one in added}
    assert {one.id for one in diff.removed} == {one.id for one in samples[:2]}
    assert [(one.after.id, one.fields) for one in diff.changed] == [(changed.id, ("caption",))]
    assert (diff.withheld, diff.released) == ([samples[6].id], [samples[5].id])
    assert diff.licences == {"MIT": (6, 7)}
    sheet = Image.open(io.BytesIO(contact_sheet(store, diff)))
    assert sheet.size == (8 * TILE, 6 * TILE)
    same = compare_snapshots(store, first, first)
    assert not (same.added or same.removed or same.changed or same.licences)


def test_snapshots_whose_parts_are_cut_differently_compare(store):
    samples = [make_sample(store, 1)]
    lines = [
        samples[0].__class__(**(samples[0].__dict__ | {"id": f"{n:032x}"})) for n in range(4_100)
    ]
    first, second = make_snapshot(store, lines[:4_000]), make_snapshot(store, lines)
    diff = compare_snapshots(store, first, second)
    assert (len(diff.added), len(diff.removed), len(diff.changed)) == (100, 0, 0)


@pytest.mark.parametrize("limit", [1, 2, 5, 200])
def test_pages_of_changes_show_what_the_difference_has(store, monkeypatch, limit):
    samples = [make_sample(store, number) for number in range(1, 13)]
    changed = make_sample(store, 12, caption="another caption")
    added = [make_sample(store, number) for number in (50, 51, 52)]
    first = make_snapshot(store, samples)
    second = make_snapshot(store, [*samples[2:-1], changed, *added])
    diff = compare_snapshots(store, first, second)
    for scanned in (1, 3, 20_000):
        monkeypatch.setattr("curation.exports.diff.MAX_SCANNED", scanned)
        found = pages(store, first, second, None, limit)
        assert [one.sample.id for one in found] == sorted(
            one.id for one in (*diff.added, *diff.removed, changed)
        )
        for kind, wanted in (("added", diff.added), ("removed", diff.removed)):
            assert [one.sample for one in pages(store, first, second, kind, limit)] == wanted
        [only] = pages(store, first, second, "changed", limit)
        assert (only.fields, only.after, only.before) == (("caption",), changed, samples[-1])
        assert pages(store, first, first, None, limit) == []


def pages(store, first, second, kind, limit):
    """Read all pages; each has at most `limit` rows, and every page makes progress."""
    found, after, seen = [], "", set()
    while after is not None:
        assert after not in seen
        seen.add(after)
        page, after = read_changes(store, first, second, kind=kind, after=after, limit=limit)
        assert len(page) <= limit
        found += page
    return found


def test_a_change_keeps_both_samples_and_their_equal_values_once(store):
    before = replace(
        make_sample(store, 12, caption="IMG 7"), caption_source=CaptionSource.file_name
    )
    after = replace(before, caption="a red circle", caption_source=None, licence_text="as it was")
    first, second = make_snapshot(store, [before]), make_snapshot(store, [after])
    [change] = compare_snapshots(store, first, second).changed
    assert (change.before, change.after, change.fields) == (before, after, ("caption",))
    assert change.after.layers is change.before.layers
