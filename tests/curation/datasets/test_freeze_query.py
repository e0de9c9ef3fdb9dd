"""Freezing by a query: the matching samples, an id that depends on the samples only, and the history."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.datasets import snapshot_history, snapshots
from curation.datasets.freeze_query import FreezeQuery
from curation.datasets.licences import LicencePolicy
from curation.datasets.manifest import read_samples
from curation.datasets.samples import add_samples, samples_from_candidates
from curation.db.engine import Database
from curation.db.tables import candidates, decisions, samples, scores, screenings
from curation.domain import CandidateState, Kind
from curation.errors import Conflict, NotFound, Refused
from curation.object_store import FolderStore
from curation.review.reviewers import add_reviewer
from tests.curation.datasets.test_samples import new_sample
from tests.support.factories import make_candidates, make_round
from tests.support.snapshots import assume_whole


@pytest.fixture
def reviewed(database: Database, store: FolderStore) -> dict[int, list[uuid.UUID]]:
    """Return the candidate ids by round: two rounds of six accepted candidates, beside four imports.

    Ada accepts all of them; Ben rejects those with an even number.
    """
    ids_by_round = {}
    with database.transaction() as tx:
        ada, ben = (add_reviewer(tx, name) for name in ("Ada", "Ben"))
        add_samples(
            tx, [new_sample(n, licence="MIT" if n % 2 else "CC-BY-NC-4.0") for n in range(1, 5)]
        )
        assume_whole(tx)
        for _ in range(2):
            round_id = make_round(tx)
            ids = ids_by_round[round_id] = list(
                make_candidates(tx, store, round_id, 6, CandidateState.accepted)
            )
            for index, candidate in enumerate(ids):
                verdicts = {ada.id: "accept", ben.id: "accept" if index % 2 else "reject"}
                tx.execute(sa.insert(decisions), [
                    {"candidate_id": candidate, "reviewer_id": reviewer_id, "verdict": verdict,
                     "channel": "test", "key": uuid.uuid4()}
                    for reviewer_id, verdict in verdicts.items()
                ])  # fmt: skip
                tx.execute(
                    sa.insert(screenings),
                    {"candidate_id": candidate, "signals": {"haze": index / 10, "other": None}},
                )
            add_samples(tx, samples_from_candidates(tx, ids))
    return ids_by_round


def freeze(database, store, **fields):
    options = {name: fields.pop(name) for name in ("policy", "parent", "tag") if name in fields}
    options = {"tag": None, "policy": LicencePolicy(mix_non_commercial=True)} | options
    return snapshots.freeze_snapshot(
        database, store, actor="test", query=FreezeQuery(**fields), **options
    )


def frozen_ids(database, store, **fields) -> set[str]:
    return {sample.id for sample in read_samples(store, freeze(database, store, **fields).id)}


def ids_of(database, candidates_) -> set[str]:
    with database.transaction() as tx:
        query = sa.select(samples.c.id).where(samples.c.candidate_id.in_(candidates_))
        return {sample.hex for sample in tx.execute(query).scalars()}


def test_each_condition_chooses_its_samples(database, store, reviewed):
    (first, ids), (second, others) = reviewed.items()
    both = ids_of(database, [*ids, *others])
    assert frozen_ids(database, store, rounds=(first,)) == ids_of(database, ids)
    assert frozen_ids(database, store, rounds=(first, second)) == both
    assert len(frozen_ids(database, store, rounds=(0,))) == 4
    assert len(frozen_ids(database, store, licences=("mit",))) == 2
    assert frozen_ids(database, store, sources=("candidate *",)) == both
    assert len(frozen_ids(database, store, kinds=(Kind.single,))) == 16
    assert frozen_ids(database, store, reviewers=("Ada",)) == both
    odd = [candidate_id for ids_ in (ids, others) for candidate_id in ids_[1::2]]
    assert frozen_ids(database, store, reviewers=("Ben",)) == ids_of(database, odd)
    assert frozen_ids(database, store, min_agreement=0.9) == ids_of(database, odd)
    low = [candidate_id for ids_ in (ids, others) for candidate_id in ids_[:2]]
    assert frozen_ids(database, store, signals=("haze<0.15",)) == ids_of(database, low)
    assert len(frozen_ids(database, store, before="2999-01-01")) == 16
    with pytest.raises(Conflict, match="no samples"):
        frozen_ids(database, store, before="2001-01-01")


def test_undone_decisions_do_not_count(database, store, reviewed):
    [first, *_] = reviewed
    candidate = reviewed[first][0]
    with database.transaction() as tx:
        row = tx.execute(sa.select(decisions).where(
            decisions.c.candidate_id == candidate, decisions.c.verdict == "reject")).one()  # fmt: skip
        tx.execute(sa.insert(decisions), {
            "candidate_id": candidate, "reviewer_id": row.reviewer_id, "verdict": "undo",
            "undoes": row.id, "channel": "test", "key": uuid.uuid4()})  # fmt: skip
    wanted = ids_of(database, [candidate])
    assert wanted <= frozen_ids(database, store, rounds=(first,), min_agreement=1.0)


def test_caps_take_the_lowest_ids(database, store, reviewed):
    [first, second] = reviewed
    with database.transaction() as tx:
        # All candidates of the first round share a prompt.
        prompt = tx.scalar(sa.select(candidates.c.prompt_id).where(candidates.c.round_id == first))
        tx.execute(sa.update(candidates).where(candidates.c.round_id == first)
                   .values(prompt_id=prompt))  # fmt: skip
    shared = sorted(ids_of(database, reviewed[first]))
    alone = ids_of(database, reviewed[second])
    found = frozen_ids(database, store, rounds=(first, second), per_prompt=2)
    assert found == {*shared[:2], *alone}


def test_clusters_are_capped(database, store, reviewed):
    [first, _] = reviewed
    with database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "insert into acceptance_models (id, kind, embedder, label_source, last_decision, parameters, metrics)"
            " values (repeat('a', 64), 'single', 'e', 'person', 0, '{}', '{}')"
        )
        tx.execute(sa.insert(scores), [
            {"candidate_id": candidate_id, "acceptance_model_id": "a" * 64, "probability": 0.5,
             "cluster": index // 4}
            for index, candidate_id in enumerate(reviewed[first])
        ])  # fmt: skip
    assert len(frozen_ids(database, store, rounds=(first,), per_cluster=1)) == 2


def test_the_same_samples_have_the_same_id_whatever_the_query(database, store, reviewed):
    [first, second] = reviewed
    by_rounds = freeze(database, store, rounds=(first, second))
    by_source = freeze(database, store, sources=("candidate*",))
    assert by_rounds.id == by_source.id
    with database.transaction() as tx:
        info = snapshot_history.describe_snapshot(tx, by_rounds.id)
    assert info["query"] == {"rounds": [first, second]}  # of the first time
    assert info["review"]["reviewed samples"] == 12
    assert info["review"]["decisions"] == 24
    assert info["review"]["reviewers"] == {"person": 2}
    assert info["review"]["mean agreement"] == 0.75


def test_a_policy_refuses_a_mix_before_anything_is_written(database, store, reviewed):
    before = sum(1 for _ in store.folder.rglob("*"))
    with pytest.raises(Refused, match="2 samples forbid commercial use and 2 do not"):
        freeze(database, store, policy=LicencePolicy())
    with pytest.raises(Refused, match="not allowed"):
        freeze(database, store, policy=LicencePolicy(("MIT",), mix_non_commercial=True))
    assert sum(1 for _ in store.folder.rglob("*")) == before
    assert freeze(database, store, licences=("MIT",), policy=LicencePolicy(("MIT",))).samples == 2


@pytest.mark.parametrize(
    "fields",
    [{"signals": ("haze",)}, {"signals": ("haze<1.2.3",)}, {"before": "yesterday"},
     {"before": "0001-01-01"}],
)  # fmt: skip
def test_queries_that_cannot_be_read_are_refused(database, store, reviewed, fields):
    with pytest.raises((Refused, Conflict)):
        freeze(database, store, **fields)


def test_the_history_has_parents_notes_and_moved_tags(database, store, reviewed):
    [first, second] = reviewed
    first_snapshot = freeze(database, store, rounds=(first,), tag="v")
    second_snapshot = freeze(database, store, rounds=(second,), tag="v")
    third_snapshot = freeze(database, store, rounds=(first, second), parent=first_snapshot.id)
    with database.transaction() as tx:
        snapshot_history.add_note(tx, "v", "better\nedges", "Ada")
        chain = [row["id"] for row in snapshot_history.list_lineage(tx, "v")]
        assert chain[:2] == [second_snapshot.id, first_snapshot.id]
        lineage = snapshot_history.list_lineage(tx, third_snapshot.id)
        assert [row["id"] for row in lineage][:2] == [third_snapshot.id, first_snapshot.id]
        assert snapshot_history.list_lineage(tx, "v")[0]["notes"] == ["better edges"]
        snapshot_history.delete_tag(tx, "v", "Ada")
        moves = snapshot_history.list_tag_moves(tx, "v")
        assert [(row["kind"], row["snapshot"]) for row in moves] == [
            ("tag deleted", second_snapshot.id), ("tag moved", second_snapshot.id), ("tag moved", first_snapshot.id),
        ]  # fmt: skip
        with pytest.raises(NotFound):
            snapshot_history.delete_tag(tx, "v", "Ada")
        for text in ("", " \n", "x" * 2_001):
            with pytest.raises(Refused):
                snapshot_history.add_note(tx, second_snapshot.id, text, "Ada")
