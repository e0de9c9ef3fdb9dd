"""Import of a folder: every file has one outcome, in parallel, and again after any interruption."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from curation.db.tables import (
    candidate_layers,
    candidates,
    import_files,
    imports,
    layers,
    rounds,
    samples,
)
from curation.domain import Sample, Split
from curation.errors import NotFound
from curation.images.codec import decode_layer
from curation.ingest.import_log import summarize
from curation.ingest.inspection_result import InspectionOutcome
from curation.ingest.seed_import import import_seeds
from tests.conftest import SHARED
from tests.curation.ingest.test_inspection import CHANGED


def image(seed: int, size: int = 48) -> np.ndarray:
    """Return a soft blob of its own form and color; no two are near duplicates."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - size / 2) / size
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    edge = 0.3 + 0.12 * np.cos(int(rng.integers(2, 8)) * angle + rng.uniform(0, 6))
    alpha = np.clip((edge - radius) * size / 2 + 0.5, 0, 1)
    rgb = np.clip(
        rng.uniform(0, 255, 3) + 60 * np.sin(20 * x[..., None] * rng.uniform(-1, 1, 3)), 0, 255
    )
    rgba = np.rint(np.dstack([rgb, alpha * 255])).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def save(folder: Path, name: str, rgba: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(folder / name)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six good files, a copy, a smaller copy, a cut one, and two that are refused."""
    at = tmp_path / "seeds"
    for number in range(6):
        save(at, f"in/{number}.png", image(number))
    Image.fromarray(image(0)).save(at / "copy.webp", lossless=True, exact=True)
    Image.fromarray(image(1)).resize((46, 46), Image.Resampling.LANCZOS).save(at / "smaller.png")
    save(at, "cut.png", np.ascontiguousarray(image(9)[:, :24]))
    (at / "empty.png").write_bytes(b"")
    save(at, "opaque.png", np.full((40, 40, 4), 255, np.uint8))
    rows = [
        {
            "file_name": f"in/{n}.png",
            "text": f"thing {n}",
            "licence": "CC0-1.0",
            "source": "me",
            "split": "heldout",
        }
        for n in range(3)
    ]
    (at / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return at


def lines(database) -> list[Sample]:
    with database.transaction() as tx:
        return [
            Sample.read(row.line)
            for row in tx.execute(sa.select(samples.c.line).order_by(samples.c.line))
        ]


def outcomes(database) -> dict[str, tuple[str, list[str]]]:
    with database.transaction() as tx:
        return {row.name: (row.outcome, row.codes) for row in tx.execute(sa.select(import_files))}


def test_every_file_has_its_outcome_and_good_ones_become_samples(database, store, folder):
    seen = []
    summary = import_seeds(database, store, folder, seen.append)
    assert summary.outcomes == {
        InspectionOutcome.accept: 6,
        InspectionOutcome.duplicate: 2,
        InspectionOutcome.review: 1,
        InspectionOutcome.reject: 2,
    }
    assert (summary.files, summary.fresh, summary.refused) == (11, 11, 2)
    assert {one.name for one in summary.named} == {
        "copy.webp",
        "smaller.png",
        "cut.png",
        "empty.png",
        "opaque.png",
    }
    found = outcomes(database)
    assert found["copy.webp"] == ("duplicate", ["duplicate_of:in/0.png"])
    assert found["smaller.png"] == ("duplicate", ["near_duplicate_of:in/1.png"])
    assert found["in/4.png"] == ("accept", ["licence_unknown"])
    made = lines(database)
    assert len(made) == 6
    first = next(one for one in made if one.caption == "thing 0")
    assert (first.licence, first.source, first.split, first.round) == (
        "CC0-1.0",
        "me",
        Split.heldout,
        0,
    )
    assert np.array_equal(decode_layer(store.get(first.layers["foreground"])), image(0))
    assert {one.licence for one in made if not one.caption.startswith("thing")} == {"unknown"}
    assert (seen[-1].done, seen[-1].total) == (11, 11)
    assert [one.done for one in seen] == sorted(one.done for one in seen)


def test_doubtful_images_wait_for_people_with_their_code(database, store, folder):
    import_seeds(database, store, folder)
    with database.transaction() as tx:
        row = tx.execute(sa.select(candidates)).mappings().one()
        assert (row["state"], row["flags"]) == ("waiting", ["cut_at_border"])
        assert row["origin"]["licence"] == "unknown"
        assert row["origin"]["file"] == "cut.png"
        sha = tx.scalar(sa.select(candidate_layers.c.sha256))
        assert store.has(sha)
        assert tx.execute(sa.select(rounds.c.purpose, rounds.c.quota)).one() == ("seeds", 1)


def test_a_second_run_does_nothing_and_has_the_same_result(database, store, folder):
    first = import_seeds(database, store, folder)
    before = lines(database), outcomes(database)
    second = import_seeds(database, store, folder, workers=1)
    assert second.fresh == 0
    assert (second.outcomes, second.codes, second.named) == (
        first.outcomes,
        first.codes,
        first.named,
    )
    assert (lines(database), outcomes(database)) == before
    with database.transaction() as tx:
        assert summarize(tx, folder).outcomes == first.outcomes
        assert tx.scalar(sa.select(imports.c.finished_at)) is not None


def test_an_interrupted_import_goes_on_where_it_stopped(database, store, folder, monkeypatch):
    monkeypatch.setattr("curation.ingest.seed_import.BATCH_FILES", 3)

    def stop(progress):
        if progress.done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_seeds(database, store, folder, stop)
    done = len(outcomes(database))
    assert 6 <= done < 11
    summary = import_seeds(database, store, folder)
    assert summary.fresh == 11 - done
    assert summary.outcomes == {
        InspectionOutcome.accept: 6,
        InspectionOutcome.duplicate: 2,
        InspectionOutcome.review: 1,
        InspectionOutcome.reject: 2,
    }
    assert len(lines(database)) == 6


def test_a_changed_file_is_read_again_and_a_new_one_is_added(database, store, folder):
    import_seeds(database, store, folder)
    save(folder, "empty.png", image(20))
    save(folder, "new.png", image(21))
    summary = import_seeds(database, store, folder)
    assert summary.fresh == 2
    assert summary.outcomes[InspectionOutcome.accept] == 8
    assert len(lines(database)) == 8


def test_the_same_files_in_another_folder_are_duplicates(database, store, folder, tmp_path):
    import_seeds(database, store, folder)
    shutil.copytree(folder / "in", tmp_path / "other")
    summary = import_seeds(database, store, tmp_path / "other")
    assert summary.outcomes == {InspectionOutcome.duplicate: 6}
    assert outcomes(database)["3.png"] == ("duplicate", ["duplicate_of:in/3.png"])


def test_archives_links_and_unusual_names_are_recorded(database, store, tmp_path):
    at = tmp_path / "seeds"
    save(at, "a.png", image(1))
    with zipfile.ZipFile(at / "more.zip", "w") as archive:
        archive.write(at / "a.png", "b.png")
        archive.writestr("../escape.png", b"x")
        save(tmp_path, "c.png", image(2))
        archive.write(tmp_path / "c.png", "in/c.png")
    os.symlink("/etc/hostname", at / "host.png")
    shutil.copy(tmp_path / "c.png", os.fsencode(at) + b"/\xff\xfe.png")
    summary = import_seeds(database, store, at)
    found = outcomes(database)
    assert found["more.zip"] == ("partial", ["path_traversal"])
    assert found["more.zip/../escape.png"] == ("reject", ["path_traversal"])
    assert found["more.zip/b.png"][1][0] == "duplicate_of:a.png"
    assert found["more.zip/in/c.png"][0] == "accept"
    assert found["host.png"] == ("reject", ["path_traversal"])
    assert found["\\xff\\xfe.png"][1][0] == "duplicate_of:more.zip/in/c.png"
    assert summary.refused == 3
    assert not (tmp_path / "escape.png").exists()
    assert import_seeds(database, store, at).fresh == 0


def test_one_batch_is_one_transaction_of_bounded_size(database, store, folder, monkeypatch):
    monkeypatch.setattr("curation.ingest.seed_import.BATCH_BYTES", 1)
    steps = []
    import_seeds(database, store, folder, lambda progress: steps.append(progress.done))
    assert len(steps) >= 8
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(layers)) == 7


def test_a_missing_folder_is_an_error(database, store, tmp_path):
    with pytest.raises(NotFound, match="there is no folder"):
        import_seeds(database, store, tmp_path / "gone")
    with database.transaction() as tx, pytest.raises(NotFound, match="never imported"):
        summarize(tx, tmp_path / "gone")


def test_bad_inputs_in_one_import_have_their_outcomes(database, store, tmp_path):
    if not (SHARED / "bad_inputs.tar.gz").is_file():
        pytest.skip("the folder 'shared' with the bad inputs is not beside this checkout")
    with tarfile.open(SHARED / "bad_inputs.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    summary = import_seeds(database, store, tmp_path / "bad_inputs")
    found = outcomes(database)
    rows = json.loads((SHARED / "bad_inputs_expected.json").read_text())["files"]
    for row in (one | CHANGED.get(one["file"], {}) for one in rows):
        outcome, codes = found[row["file"]]
        if (
            outcome == "duplicate"
        ):  # many of these files are one picture: its flaws stay listed beside that
            assert codes[0].endswith("duplicate_of:plain_rgba.png")
            assert row["decision"] not in {"reject", "review", "partial"}
            assert row["code"] in {*codes, ""}
        else:
            assert (
                outcome,
                ([code for code in codes if code != "licence_unknown"] or [""])[0],
            ) == (
                row["decision"],
                row["code"],
            )
    assert found["bad_captions.jsonl:16"] == ("reject", ["bad_line"])
    assert found["metadata_traversal.jsonl:5"] == ("reject", ["path_traversal"])
    assert found["traversal.zip/ok/good.png"][1][0] == "duplicate_of:plain_rgba.png"
    assert summary.files == len(found)
    assert (
        len(lines(database))
        == summary.outcomes[InspectionOutcome.accept]
        + summary.outcomes[InspectionOutcome.accept_warn]
    )
