"""Lineage: from a sample to its prompt, decisions, snapshots and checkpoints, and back."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.checkpoints.registry import find_checkpoint, register_checkpoint
from curation.datasets.samples import add_samples, samples_from_candidates
from curation.datasets.snapshots import freeze_snapshot
from curation.db.tables import candidates, decisions, rounds
from curation.domain import CandidateState, Checkpoint
from curation.errors import NotFound
from curation.exports.model_card import model_card
from curation.reporting.lineage import used_by_checkpoint, why_sample
from curation.review.reviewers import add_reviewer
from tests.support.factories import make_candidates, make_round


def test_the_lineage_of_a_sample_and_of_a_checkpoint_refer_to_each_other(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        generator = tx.scalar(sa.select(rounds.c.checkpoint_id).where(rounds.c.id == round_id))
        [candidate, _] = make_candidates(tx, store, round_id, 2, CandidateState.accepted)
        ada = add_reviewer(tx, "Ada")
        row = {"candidate_id": candidate, "reviewer_id": ada.id, "verdict": "accept",
               "channel": "test", "key": uuid.uuid4()}  # fmt: skip
        tx.execute(sa.insert(decisions), row)
        [sample] = add_samples(tx, samples_from_candidates(tx, [candidate]))
    frozen = freeze_snapshot(database, store, tag="v1", actor="test")
    with database.transaction() as tx:
        trained = Checkpoint({}, "base", "tiny", frozen.id, generator, 0, "test")
        register_checkpoint(tx, trained, "test")
    found = why_sample(database, store, sample.hex[:10])
    with database.transaction() as tx:
        assert (found["candidate"]["round"], found["candidate"]["checkpoint"]) == (
            round_id,
            generator,
        )
        assert found["candidate"]["prompt"] == f"prompt 0 of round {round_id}"
        assert [(row["reviewer"], row["verdict"]) for row in found["candidate"]["decisions"]] == [
            ("Ada", "accept")
        ]
        assert found["snapshots"] == [{"id": frozen.id, "tags": ["v1"], "withheld": False}]
        assert [row["id"] for row in found["checkpoints"]] == [trained.id]

        of_trained = used_by_checkpoint(tx, trained.id[:10])
        assert (of_trained["snapshot"], of_trained["samples"]) == (frozen.id, 1)
        assert [row["id"] for row in of_trained["ancestors"]] == [generator]
        of_generator = used_by_checkpoint(tx, generator)
        assert of_generator["rounds"] == [{"id": round_id, "candidates": 2, "accepted": 2}]
        assert of_generator["children"] == [trained.id]

        card = model_card(find_checkpoint(tx, generator), of_generator, "ann/flowers")
        assert f"| {round_id} | 2 of 2 (95 % interval 34% to 100%) |" in card
        card = model_card(trained, of_trained, "ann/flowers")
        [(licence, count)] = frozen.counts["licence"].items()
        assert (
            f"## Licences of the data\n\n| licence | samples |\n|---|---:|\n| {licence} |" in card
        )
        assert f"| {count} |" in card
    with pytest.raises(NotFound):
        why_sample(database, store, "0" * 32)


@pytest.mark.parametrize("state", [CandidateState.showing, CandidateState.unshown])
def test_no_origin_is_shown_while_a_candidate_is_open_again(database, store, state):
    with database.transaction() as tx:
        [candidate] = make_candidates(tx, store, make_round(tx), 1, CandidateState.accepted)
        [sample] = add_samples(tx, samples_from_candidates(tx, [candidate]))
    assert why_sample(database, store, sample.hex)["candidate"]["id"] == str(candidate)
    with database.transaction() as tx:
        reopening = sa.update(candidates).where(candidates.c.id == candidate)
        tx.execute(reopening.values(state=state))
    found = why_sample(database, store, sample.hex)
    assert (found["open"], found["candidate"]) == (True, None)


def test_only_the_newest_snapshots_are_searched_if_asked(database, store):
    with database.transaction() as tx:
        ids = make_candidates(tx, store, make_round(tx), 2, CandidateState.accepted)
        [sample] = add_samples(tx, samples_from_candidates(tx, ids[:1]))
    freeze_snapshot(database, store, tag="old", actor="test")
    with database.transaction() as tx:
        add_samples(tx, samples_from_candidates(tx, ids[1:]))
    newer = freeze_snapshot(database, store, tag="new", actor="test").id
    held = why_sample(database, store, sample.hex, newest=1)["snapshots"]
    assert [one["id"] for one in held] == [newer]
    assert len(why_sample(database, store, sample.hex)["snapshots"]) == 2
