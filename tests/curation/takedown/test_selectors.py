"""What each selector takes down, and what it leaves: reviews, gold, pairs, near copies, people."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.adapters.snapshot_sources import pack_folder
from curation.checkpoints.registry import register_checkpoint
from curation.datasets.blocked import TakenDownLayer
from curation.datasets.decision_records import read_decisions
from curation.datasets.manifest import Manifest
from curation.datasets.samples import StoredLayer, record_layers
from curation.datasets.snapshot_history import find_current
from curation.datasets.snapshots import find_snapshot, freeze_snapshot
from curation.db import leases
from curation.db.tables import (
    candidate_layers,
    candidates,
    decisions,
    events,
    layers,
    prompts,
    reviewers,
    samples,
    snapshots,
)
from curation.domain import CandidateState, Checkpoint, Role, Verdict
from curation.errors import Conflict, NotFound, Refused
from curation.events.chain import seal_events, verify_chain
from curation.exports.verify import verify_snapshot
from curation.images.perceptual_hash import fingerprint
from curation.review.decisions import decide
from curation.review.frozen_decisions import find_decided
from curation.review.reviewers import add_reviewer, lease_holder_name
from curation.review.undo import undo
from curation.takedown.people import pseudonym
from curation.takedown.preview import find_near, preview
from curation.takedown.selectors import Selector, TakedownScope, select
from tests.support.factories import make_candidates, make_pairs, make_round, scenes
from tests.support.taken_down import blob, dump, fill_two_sources, samples_of, take_down_now


@pytest.fixture
def reviewed(database, store):
    """Four candidates of a round: two accepted, one rejected, one that a person looks at."""
    empty = Manifest((), {})
    store.put(empty.bytes())
    with database.transaction() as tx:
        tx.execute(sa.insert(snapshots), {"id": empty.id, "samples": 0, "counts": {}})
        trained = Checkpoint({}, "whole", "tiny", empty.id, None, 0, "test")
        round_id = make_round(tx, register_checkpoint(tx, trained, "test"))
        ids = make_candidates(tx, store, round_id, 4)
        person = add_reviewer(tx, "Åsa Öberg", Role.admin)
    for candidate, verdict in zip(
        ids, (Verdict.accept, Verdict.accept, Verdict.reject), strict=False
    ):
        with database.transaction() as tx:
            decide(tx, person.id, candidate, verdict, key=uuid.uuid4(), comment="my neighbor")
    with database.transaction() as tx:
        tx.execute(sa.update(candidates).where(candidates.c.id == ids[3]).values(state="showing"))
        leases.claim(tx, [ids[3]], "review", lease_holder_name(person.id), 600)
    return person, ids


def state_of(database, candidate):
    with database.transaction() as tx:
        return tx.scalar(sa.select(candidates.c.state).where(candidates.c.id == candidate))


def layers_of(database, candidate):
    with database.transaction() as tx:
        query = sa.select(candidate_layers.c.sha256)
        return set(tx.execute(query.where(candidate_layers.c.candidate_id == candidate)).scalars())


def test_a_rejected_candidate_and_one_under_review_go_by_their_ids(database, store, reviewed):
    person, ids = reviewed
    gone = layers_of(database, ids[2]) | layers_of(database, ids[3])
    take_down_now(database, store, Selector("sample", (str(ids[2]), ids[3].hex[:8])))
    assert [state_of(database, one) for one in ids] == [
        "accepted",
        "accepted",
        "removed",
        "removed",
    ]
    assert not any(store.has(name) for name in gone)
    with pytest.raises(Conflict, match="taken down"), database.transaction() as tx:
        decide(tx, person.id, ids[3], Verdict.accept, key=uuid.uuid4())
    # The prompts of removed candidates are emptied, and their verdicts still count.
    with database.transaction() as tx:
        texts = tx.execute(
            sa.select(prompts.c.text).join(candidates, candidates.c.prompt_id == prompts.c.id)
            .where(candidates.c.id.in_(ids[2:]))
        ).scalars()  # fmt: skip
        assert set(texts) == {""}
        rejected = tx.execute(sa.select(decisions).where(decisions.c.candidate_id == ids[2])).one()
    assert (rejected.verdict, rejected.comment) == ("reject", "")


def test_an_accepted_candidate_goes_with_its_sample_and_cannot_be_undone(database, store, reviewed):
    person, ids = reviewed
    with database.transaction() as tx:
        sample = tx.scalar(sa.select(samples.c.id).where(samples.c.candidate_id == ids[1]))
    take_down_now(database, store, Selector("sample", (sample.hex,)))
    assert state_of(database, ids[1]) == "removed"
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == 1
        last = tx.scalar(sa.select(decisions.c.id).where(decisions.c.candidate_id == ids[1]))
    with pytest.raises(Conflict, match="taken down"), database.transaction() as tx:
        undo(tx, person.id, seconds=60, decision=last, key=uuid.uuid4())


def test_an_unknown_id_is_named(database, store, reviewed):
    with pytest.raises(NotFound, match="no sample and no candidate"):
        take_down_now(database, store, Selector("sample", ("deadbeefdeadbeef",)))


def test_a_pair_is_one_sample_and_a_shared_layer_stays(database, store):
    drawn = scenes(2)
    # The second pair stands before the background of the first.
    shared = dict(drawn[1][1]) | {"background": drawn[0][1]["background"]}
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        ids = make_pairs(tx, store, round_id, [drawn[0], (drawn[1][0], shared)])
        person = add_reviewer(tx, "ann", Role.admin)
    for one in ids:
        with database.transaction() as tx:
            decide(tx, person.id, one, Verdict.accept, key=uuid.uuid4())
    held, kept = layers_of(database, ids[0]), layers_of(database, ids[1])
    assert (len(held), len(held & kept)) == (3, 1)
    planned = preview(database, store, Selector("sample", (str(ids[0]),)), pack_folder)
    assert (planned["layers"], planned["layers_kept"]) == (2, 1)
    take_down_now(database, store, Selector("sample", (str(ids[0]),)))
    assert [store.has(name) for name in sorted(held - kept)] == [False, False]
    assert all(store.has(name) for name in kept)
    assert layers_of(database, ids[1]) == kept


def test_every_way_to_record_a_layer_refuses_what_was_taken_down(database, store, reviewed):
    _, ids = reviewed
    with database.transaction() as tx:
        row = tx.execute(
            sa.select(layers).where(layers.c.sha256.in_(layers_of(database, ids[0])))
        ).mappings().one()  # fmt: skip
    take_down_now(database, store, Selector("sample", (str(ids[0]),)))
    again = StoredLayer(row["sha256"], row["width"], row["height"], row["bytes"], row["visible"])
    with pytest.raises(TakenDownLayer, match="cannot be added again"), database.transaction() as tx:
        record_layers(tx, [again])


def test_an_image_is_found_with_its_near_copies_which_stay_unless_named(database, store, tmp_path):
    fill_two_sources(database, store, tmp_path)
    wanted = samples_of(database, "a friend")[0]
    with database.transaction() as tx:
        row = tx.execute(
            sa.select(layers).where(layers.c.sha256 == wanted.layers["foreground"])
        ).mappings().one()  # fmt: skip
        near = find_near(tx, [bytes(row["fingerprint"])], TakedownScope())
        selector = Selector("image", (row["visible"],))
        found = select(tx, selector)
    assert near[0]["id"] == wanted.id
    assert near[0]["bits"] == 0
    assert {one.hex for one in found.samples} == {wanted.id}
    take_down_now(database, store, selector)
    assert wanted.id not in {one.id for one in samples_of(database, "a friend")}
    # An image that the instance does not hold is blocked all the same.
    rgba = blob(999)
    given = {"sha256": "ab" * 32, "visible": "cd" * 32, "fingerprint": fingerprint(rgba)}
    (row,) = take_down_now(database, store, Selector("image", ("cd" * 32,)), given=[given])
    assert row["counts"]["sample"] == 0
    assert take_down_now(database, store, Selector("image", ("cd" * 32,)), given=[given]) == []


def test_a_licence_is_compared_by_its_spdx_id(database, store, tmp_path):
    fill_two_sources(database, store, tmp_path)
    with database.transaction() as tx:
        found = select(tx, Selector("licence", ("cc0",)))
        assert (len(found.samples), len(found.candidates)) == (14, 2)
        assert select(tx, Selector("licence", ("MIT",))).samples == set()


def test_a_person_leaves_no_name_and_the_verdicts_stay(database, database_address, store, reviewed):
    person, ids = reviewed
    with database.transaction() as tx:
        tx.log(person.name, "signed in", f"reviewer {person.name}")
    planned = preview(database, store, Selector("reviewer", (person.name,)), pack_folder)
    assert planned["verdicts kept"] == 3
    take_down_now(database, store, Selector("reviewer", (person.name,)))
    text = dump(database_address)
    assert person.name not in text
    assert "my neighbor" not in text
    assert [state_of(database, one) for one in ids] == [
        "accepted", "accepted", "rejected", "waiting",
    ]  # fmt: skip
    with database.transaction(repeatable_read=True) as tx:
        row = tx.execute(sa.select(reviewers).where(reviewers.c.id == person.id)).one()
        own = decisions.c.reviewer_id == person.id
        verdicts = tx.execute(sa.select(decisions.c.verdict).where(own)).scalars().all()
    assert (row.name, row.active) == (pseudonym(person.id), False)
    assert sorted(verdicts) == ["accept", "accept", "reject"]
    seal_events(database, wait=True)
    with database.transaction(repeatable_read=True) as tx:
        assert verify_chain(tx).problems == ()
        actors = set(tx.execute(sa.select(events.c.actor)).scalars())
    assert pseudonym(person.id) in actors


def test_a_built_in_reviewer_is_no_person(database, store):
    with database.transaction() as tx:
        add_reviewer(tx, "rule_reviewer", Role.annotator, "rule_reviewer")
    with pytest.raises(Refused, match="no person"):
        take_down_now(database, store, Selector("reviewer", ("rule_reviewer",)))


def test_hostile_sources_select_only_themselves(database, store, tmp_path):
    fill_two_sources(database, store, tmp_path)
    for source in ("%", "_", "https://bad.example/%", "' or true --", "\\", ""):
        with database.transaction() as tx:
            assert select(tx, Selector("source", (source,))).samples == set()


def test_one_side_of_a_pair_selects_the_pair(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx, kind="pair")
        (id_,) = make_pairs(tx, store, round_id, scenes(1), CandidateState.waiting)
        both = {"source": "foreground: here; background: there", "licence": "MIT"}
        tx.execute(sa.update(candidates).where(candidates.c.id == id_).values(origin=both))
        for source in ("here", "there", both["source"]):
            assert select(tx, Selector("source", (source,))).candidates == {id_}
        assert select(tx, Selector("source", ("her",))).candidates == set()


def test_decisions_in_a_snapshot_go_with_their_candidates(database, store, reviewed):
    """A rejected candidate touches a snapshot that was frozen with it."""
    _, ids = reviewed
    options = {"tag": "all", "actor": "test", "find_decided": find_decided}
    touched = freeze_snapshot(database, store, **options).id
    assert ids[2].hex in {one.candidate for one in read_decisions(store, touched)}
    take_down_now(database, store, Selector("sample", (str(ids[2]),)))
    with database.transaction() as tx:
        successor = find_snapshot(tx, "all")
        assert find_current(tx, touched) == successor
    left = {one.candidate for one in read_decisions(store, successor)}
    assert left == {ids[0].hex, ids[1].hex}
    assert verify_snapshot(store, successor) == []
