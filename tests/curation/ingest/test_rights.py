"""Licences and sources at import: stated, as SPDX ids where possible, or recorded as unknown."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from PIL import Image

from curation.db.tables import samples
from curation.domain import Sample
from curation.ingest.listing import ListingOptions
from curation.ingest.seed_import import import_seeds
from curation.synthetic.dataset import draw_seed_set


@pytest.fixture
def folder(tmp_path):
    """Return a folder of six images: two with licence and source, two with a licence, two with neither."""
    draw_seed_set(tmp_path / "drawn", 6)
    folder = tmp_path / "seeds"
    folder.mkdir()
    rows = []
    for index, file in enumerate(sorted((tmp_path / "drawn").rglob("*.webp"))[:6]):
        with Image.open(file) as image:
            image.save(folder / f"{index}.png")
        row = {"file_name": f"{index}.png", "text": f"image {index}"}
        if index < 4:
            row["licence"] = "cc by 4.0"
        if index < 2:
            row["source"] = "https://example.org"
        rows.append(row)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def imported(database, store, folder, **options):
    summary = import_seeds(
        database, store, folder, workers=1, options=ListingOptions(**options), update=True
    )
    with database.transaction() as tx:
        lines = tx.execute(sa.select(samples.c.line)).scalars()
        found = {sample.caption: sample for sample in map(Sample.read, lines)}
    held_back = sum("rights_missing" in sample.codes for sample in summary.named)
    return found, held_back


def test_files_without_rights_are_held_back_until_they_are_stated(database, store, folder):
    found, held_back = imported(database, store, folder, accept_unknown=False)
    assert (set(found), held_back) == ({"image 0", "image 1"}, 4)
    assert (found["image 0"].licence, found["image 0"].licence_text) == ("CC-BY-4.0", "cc by 4.0")
    # The same folder again, with a source: two more; then with a licence too: all.
    found, held_back = imported(database, store, folder, accept_unknown=False, source="a friend")
    assert (len(found), held_back) == (4, 2)
    assert found["image 2"].source == "a friend"
    found, held_back = imported(
        database, store, folder, accept_unknown=False, source="a friend", licence="mit"
    )
    assert (len(found), held_back) == (6, 0)
    assert (found["image 5"].licence, found["image 5"].licence_text) == ("MIT", "mit")
    assert found["image 0"].licence == "CC-BY-4.0"


def test_unknown_rights_are_accepted_on_request_and_recorded(database, store, folder):
    found, held_back = imported(database, store, folder, accept_unknown=True)
    assert held_back == 0
    assert found["image 4"].licence == "unknown"
    assert found["image 4"].source == "seed folder seeds"
    assert Sample.read(found["image 0"].line()) == found["image 0"]
