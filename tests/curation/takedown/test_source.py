"""A takedown of one source leaves nothing of it, and none of it comes back."""

from __future__ import annotations

import re
import shutil

import pytest
import sqlalchemy as sa
from PIL import Image

from curation.adapters.snapshot_sources import pack_folder
from curation.checkpoints.registry import (
    find_promoted_checkpoint,
    list_checkpoints,
    promote_checkpoint,
    request_training,
)
from curation.checkpoints.taint import refuse_tainted
from curation.datasets.manifest import read_samples
from curation.datasets.snapshot_history import describe_snapshot, find_current
from curation.datasets.snapshots import find_snapshot
from curation.db.tables import candidates, import_files, samples
from curation.domain import TrainingRequest
from curation.errors import TakenDown
from curation.events.chain import seal_events, verify_chain
from curation.exports.formats import FORMATS, PullRequest, pull_snapshot
from curation.exports.rendering import Treatment
from curation.exports.selection import Selection
from curation.exports.verify import verify_snapshot
from curation.ingest.listing import ListingOptions
from curation.ingest.seed_import import import_seeds
from curation.takedown.preview import preview
from curation.takedown.records import is_signed, read_record
from curation.takedown.selectors import Selector
from tests.support.taken_down import (
    BAD,
    GOOD,
    SECRET,
    blob,
    dump,
    fill_two_sources,
    find_forbidden,
    samples_of,
    take_down_now,
)

SOURCE = Selector("source", (BAD,))


@pytest.fixture
def made(database, store, tmp_path):
    return fill_two_sources(database, store, tmp_path)


def pull(store, snapshot, folder):
    chosen = FORMATS["imagefolder"]
    request = PullRequest(chosen, Selection(chosen.splits), Treatment(chosen.alpha))
    return pull_snapshot(store, snapshot, request, folder)


def again(database, store, folder):
    return import_seeds(database, store, folder, workers=1, options=ListingOptions())


def test_no_byte_of_it_is_left(database, database_address, store, made, tmp_path):
    old = tmp_path / "pulled"
    pull(store, made.snapshot, old)
    before = dump(database_address)
    assert "an unlicensed shape" in before
    assert all(name in before for name in made.hashes)
    assert find_forbidden(store.folder, made.forbidden)

    rows = take_down_now(database, store, SOURCE)

    assert [row["counts"]["sample"] for row in rows] == [7]
    assert find_forbidden(store.folder, made.forbidden) == []
    after = dump(database_address)
    assert "an unlicensed shape" not in after
    assert [name for name in made.hashes if name in after] == []
    # A pull made afterwards has none of it, also into the folder of an older one.
    with database.transaction() as tx:
        successor = find_snapshot(tx, "both")
    assert successor != made.snapshot
    for folder in (tmp_path / "fresh", old):
        pull(store, successor, folder)
        assert find_forbidden(folder, made.forbidden[:1]) == []
        assert len(list(folder.rglob("*.png"))) == len(samples_of(database, GOOD))
    kept = {one.id for one in samples_of(database, GOOD)}
    assert {one.id for one in read_samples(store, successor)} == kept
    assert verify_snapshot(store, successor) == []


def test_a_touched_snapshot_says_so_everywhere(database, store, made, tmp_path):
    take_down_now(database, store, SOURCE)
    with database.transaction() as tx:
        info = describe_snapshot(tx, made.snapshot)
        assert find_current(tx, made.snapshot) == info["successor"]
        assert describe_snapshot(tx, info["successor"])["parent"] == made.snapshot
        assert "taken down" in describe_snapshot(tx, info["successor"])["notes"][0]
    assert info["taken_down"]
    for reads in (
        lambda: verify_snapshot(store, made.snapshot),
        lambda: pull(store, made.snapshot, tmp_path / "pulled"),
        lambda: list(read_samples(store, made.snapshot)),
    ):
        with pytest.raises(TakenDown, match="was taken down") as error:
            reads()
        assert info["successor"] in error.value.hint
    request = TrainingRequest("whole", "tiny", made.snapshot, None, None, 0, 100)
    with pytest.raises(TakenDown, match="taken down"), database.transaction() as tx:
        request_training(tx, request, "test")
    # The snapshot without its samples is untouched.
    with database.transaction() as tx:
        assert not describe_snapshot(tx, made.only_good)["taken_down"]


def test_checkpoints_trained_on_it_are_tainted(database, store, made):
    take_down_now(database, store, SOURCE)
    with database.transaction() as tx:
        rows = {row["id"]: row for row in list_checkpoints(tx)}
        assert find_promoted_checkpoint(tx) is None
    tainted = {id_ for id_, row in rows.items() if row["tainted_by"]}
    assert tainted == {made.checkpoint, made.child}
    assert all(rows[id_]["sample_grid"] is None for id_ in tainted)
    assert rows[made.clean]["sample_grid"] is not None
    for id_ in tainted:
        with pytest.raises(TakenDown, match="trained on samples"), database.transaction() as tx:
            promote_checkpoint(tx, id_, "test")
    with database.transaction() as tx:
        promote_checkpoint(tx, made.child, "test", tainted=True)
        refuse_tainted(tx, made.child)
        assert find_promoted_checkpoint(tx).id == made.child


@pytest.mark.parametrize("form", ["as it was", "png", "webp"])
def test_the_same_pixels_are_never_imported_again(database, store, made, tmp_path, form):
    take_down_now(database, store, SOURCE)
    folder = tmp_path / "again"
    if form == "as it was":
        shutil.copytree(made.bad, folder)
    else:
        folder.mkdir()
        for number in range(200, 207):
            options = {"lossless": True} if form == "webp" else {"compress_level": 1}
            Image.fromarray(blob(number)).save(folder / f"other name {number}.{form}", **options)
    for place in (folder, made.bad) if form == "as it was" else (folder,):
        summary = again(database, store, place)
        refused = [one for one in summary.named if one.codes == ("taken_down",)]
        assert len(refused) == (8 if form == "as it was" else 7)
        assert all("never imported again" in one.sentence for one in refused)
    assert samples_of(database, BAD) == []
    assert find_forbidden(store.folder, made.forbidden) == []


def test_a_near_copy_is_imported_with_a_warning(database, store, made, tmp_path):
    take_down_now(database, store, SOURCE)
    folder = tmp_path / "near"
    folder.mkdir()
    near = blob(200)
    near[30:34, 30:34, :3] ^= 1
    Image.fromarray(near).save(folder / "near.png")
    again(database, store, folder)
    with database.transaction() as tx:
        row = tx.execute(sa.select(import_files).where(import_files.c.name == "near.png")).one()
    assert "near_taken_down" in row.codes
    assert row.outcome == "accept_warn"
    assert row.layer is not None


def test_the_record_has_hashes_alone_and_the_log_stays_whole(database, store, made):
    with database.transaction() as tx:
        assert tx.scalar(sa.text("select count(*) from events where data::text like '%unlic%'"))
    seal_events(database, wait=True)
    (row,) = take_down_now(database, store, SOURCE)
    record = read_record(store, row["record"])
    assert BAD not in str(record)
    assert "shape" not in str(record)
    assert {one["sha256"] for one in record["layers"]} == made.hashes
    assert record["selector_hash"] == SOURCE.hash
    assert is_signed(row, SECRET)
    assert not is_signed(row, SECRET + "!")
    seal_events(database, wait=True)
    with database.transaction(repeatable_read=True) as tx:
        found = verify_chain(tx)
        kinds = set(tx.execute(sa.text("select kind from events")).scalars())
    assert found.problems == ()
    assert found.redacted == 1
    assert {"takedown started", "takedown finished", "snapshot taken down"} <= kinds
    # A redaction that no sealed event lists is found.
    with database.transaction() as tx:
        tx.connection.exec_driver_sql("set local layerloop.takedown = 'on'")
        tx.connection.exec_driver_sql(
            "update events set data = '{\"redacted\": \"x\"}' where kind = 'takedown started'"
        )
    with database.transaction(repeatable_read=True) as tx:
        assert len(verify_chain(tx).problems) == 1


def test_the_candidate_that_waits_for_review_goes_too(database, store, made):
    with database.transaction() as tx:
        states = dict(tx.execute(sa.select(candidates.c.id, candidates.c.state)).all())
    assert set(states.values()) == {"waiting"}
    planned = preview(database, store, SOURCE, pack_folder)
    assert len(planned["samples"]) == 7
    assert planned["candidate_states"] == {"waiting": 1}
    assert planned["snapshots"] == [made.snapshot]
    assert set(planned["checkpoints"]) == {made.checkpoint, made.child}
    assert planned["layers"] == 8
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == 14
    take_down_now(database, store, SOURCE)
    with database.transaction() as tx:
        rows = tx.execute(sa.select(candidates.c.state, candidates.c.origin)).all()
    assert sorted(row.state for row in rows) == ["removed", "waiting"]
    assert all(row.origin is None for row in rows if row.state == "removed")


def test_a_second_run_finds_nothing_to_do(database, store, made):
    assert len(take_down_now(database, store, SOURCE)) == 1
    assert take_down_now(database, store, SOURCE) == []
    assert preview(database, store, SOURCE, pack_folder)["samples"] == []


def test_selectors_are_stored_as_hashes(database, database_address, store, made):
    take_down_now(database, store, SOURCE)
    assert not re.search("bad.example", dump(database_address))
