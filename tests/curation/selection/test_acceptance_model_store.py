"""Stored acceptance models: their training rows, when they are refitted, and how candidates are embedded and scored."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import acceptance_models as models_table
from curation.db.tables import candidates, decisions, embeddings, rounds, scores, screenings
from curation.domain import CandidateState, Kind, LayerRole, Verdict
from curation.errors import NotFound, Refused
from curation.images.codec import decode_layer
from curation.jobs import fit_acceptance_model as fit_job
from curation.jobs import reconcile, screen
from curation.jobs import select as select_job
from curation.object_store import FolderStore
from curation.review.decisions import decide, undo
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.review.verdicts import CONSENSUS
from curation.rounds import lifecycle
from curation.runtime.context import open_context
from curation.screening.embedding import BUILTIN_EMBEDDER, unpack_vectors
from curation.selection import acceptance_model_store
from curation.selection.acceptance_model import MIN_DECISIONS, TrainingRows, fit_acceptance_model
from curation.selection.embedding_backfill import backfill_embeddings
from curation.selection.select import select_candidates
from curation.settings import Settings
from tests.support.candidate_streams import (
    SOURCE,
    accepts,
    arrive,
    fitted_model,
    judge_waiting,
    open_stream,
)
from tests.support.factories import OpenTransaction, make_candidates, make_round


def decided(tx, count=150, seed=1):
    """Return a round whose candidates a person has decided, and their ids."""
    round_id = open_stream(tx, {"kind": "random", "share": 1.0}, count)
    quality = np.random.default_rng(seed).standard_normal(count)
    ids = arrive(tx, round_id, seed, quality)
    tx.execute(
        sa.update(candidates).where(candidates.c.round_id == round_id).values(state="waiting")
    )
    judge_waiting(tx, round_id, dict(zip(ids, accepts(seed, quality).tolist(), strict=True)))
    return round_id, ids


def test_too_few_decisions_make_no_model_and_enough_do(database: Database) -> None:
    with database.transaction() as tx:
        with pytest.raises(NotFound, match="no acceptance model yet"):
            acceptance_model_store.find_model(tx, Kind.single)
        decided(tx, MIN_DECISIONS - 1)
        assert not acceptance_model_store.may_need_fit(tx, Kind.single)
        with pytest.raises(Refused, match="too few"):
            acceptance_model_store.fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)
        decided(tx, 60, seed=2)
        assert acceptance_model_store.may_need_fit(tx, Kind.single)
        assert acceptance_model_store.needs_fit(tx, Kind.single, SOURCE)
        assert not acceptance_model_store.needs_fit(tx, Kind.pair, SOURCE)
        model = acceptance_model_store.fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)
        assert (model.metrics["decisions"], model.label_source) == (MIN_DECISIONS + 59, "person")
        assert not acceptance_model_store.may_need_fit(tx, Kind.single)
        assert not acceptance_model_store.needs_fit(tx, Kind.single, SOURCE)
        assert (
            acceptance_model_store.fit_and_store(OpenTransaction(tx), Kind.single, SOURCE).id
            == model.id
        )
        assert acceptance_model_store.find_model(tx, Kind.single, model.id[:8]).id == model.id


def test_undone_decisions_are_not_trained_on_and_rule_verdicts_only_without_people(
    database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        round_id, _ = decided(tx, 120)
        ids = make_candidates(tx, store, round_id, 1)
        tx.execute(sa.insert(screenings), {"candidate_id": ids[0], "signals": {"quality": 0.0}})
        tx.execute(
            sa.insert(embeddings), {"candidate_id": ids[0], "source": SOURCE, "vector": bytes(8)}
        )
        bob = add_reviewer(tx, "bob").id
        decide(tx, bob, ids[0], Verdict.accept, key=uuid.uuid4())
        before = acceptance_model_store.count_training_rows(tx, Kind.single, SOURCE)
        undo(tx, bob, None, key=uuid.uuid4(), seconds=60)
        after = acceptance_model_store.count_training_rows(tx, Kind.single, SOURCE)
        assert (after[0], after[1]) == (before[0] - 1, before[1])
        rule_reviewer = add_rule_reviewer(tx)
        tx.connection.exec_driver_sql("alter table decisions disable trigger append_only")
        tx.connection.exec_driver_sql(f"update decisions set reviewer_id = {rule_reviewer}")
        assert (
            acceptance_model_store.fit_and_store(
                OpenTransaction(tx), Kind.single, SOURCE
            ).label_source
            == "rule_reviewer"
        )


def test_several_votes_on_a_candidate_are_one_training_row_by_its_outcome(
    database: Database,
) -> None:
    """Three reviewers vote on each of 60; a re-aggregation flips ten verdicts and adds no training row."""
    count, flipped = 60, 10
    with database.transaction() as tx:
        round_id = open_stream(tx, {"kind": "random", "share": 1.0}, count)
        ids = arrive(tx, round_id, 5, np.linspace(-2, 2, count))
        people = [add_reviewer(tx, name).id for name in ("ann", "bob", "cy")]
        consensus_id = add_reviewer(tx, CONSENSUS, kind="rule_reviewer").id
        for index, candidate_id in enumerate(ids):
            good, is_flipped = index >= count // 2, index < flipped
            votes = [
                (reviewer_id, good if reviewer_id != people[2] else not good, "pages")
                for reviewer_id in people
            ]
            votes += [(consensus_id, not good, CONSENSUS)] if is_flipped else []
            rows = [
                {"candidate_id": candidate_id, "reviewer_id": reviewer_id, "verdict": "accept" if accept else "reject", "channel": channel,
                 "key": uuid.uuid4(), "final": channel == CONSENSUS}
                for reviewer_id, accept, channel in votes
            ]  # fmt: skip
            tx.execute(sa.insert(decisions), rows)
            state = "accepted" if good is not is_flipped else "rejected"
            for step in ("waiting", state):
                tx.execute(
                    sa.update(candidates)
                    .where(candidates.c.id == candidate_id)
                    .values(state=step, decided=3)
                )
        assert acceptance_model_store.count_training_rows(tx, Kind.single, SOURCE) == (0, 0), (
            "60 decisions of people are too few, and there are none of the rule reviewer"
        )
        assert not acceptance_model_store.needs_fit(tx, Kind.single, SOURCE), (
            "180 votes on 60 candidates are fewer than 100 decided candidates"
        )
        decided(tx, 60, seed=2)
        model = acceptance_model_store.fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)
        training_rows = acceptance_model_store.count_training_rows(tx, Kind.single, SOURCE)
        counts = lifecycle.count_states(tx, round_id)
    assert (counts["accepted"], counts["rejected"]) == (40, 20)
    assert (model.metrics["decisions"], model.label_source, sum(training_rows)) == (
        120,
        "person",
        120,
    )
    assert model.metrics["accepted"] >= 40


def test_a_stored_model_predicts_the_same_for_any_names_of_signals(
    database: Database,
) -> None:
    """jsonb orders keys by length, so columns must not depend on the order of the keys."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 3))
    signals = [
        dict(zip(("specks", "zeta", "a_long_name"), row.tolist(), strict=True)) for row in values
    ]
    vectors = rng.standard_normal((200, 4)).astype(np.float32)
    fitted, _ = fit_acceptance_model(
        TrainingRows(signals, vectors, values[:, 1] > 0, list(range(200)), [1] * 200)
    )
    with database.transaction() as tx:
        row = {
            "id": fitted.id, "kind": "single", "embedder": SOURCE, "label_source": "person", "last_decision": 1,
            "parameters": fitted.as_json(), "metrics": {"decisions": 200},
        }  # fmt: skip
        tx.execute(sa.insert(models_table), row)
        model = acceptance_model_store.find_model(tx, Kind.single)
    assert model.id == fitted.id
    np.testing.assert_array_equal(
        model.fitted.predict(signals, vectors), fitted.predict(signals, vectors)
    )


def test_scores_are_those_of_the_model_and_computed_once(database: Database) -> None:
    with database.transaction() as tx:
        model = fitted_model(tx)
        round_id = open_stream(tx, {"kind": "random", "share": 0.1}, 50)
        quality = np.linspace(-2, 2, 50)
        ids = arrive(tx, round_id, 3, quality)
        assert acceptance_model_store.score_round(tx, model, round_id) == 50
        assert acceptance_model_store.score_round(tx, model, round_id) == 0
        found = {row.candidate_id: row for row in tx.execute(sa.select(scores))}
        vectors = tx.execute(
            sa.select(embeddings.c.vector).where(embeddings.c.candidate_id == ids[7])
        ).scalar()
        probability = model.fitted.predict(
            [{"quality": quality[7]}], unpack_vectors([bytes(vectors)])
        )[0]
        assert found[ids[7]].probability == pytest.approx(probability, abs=1e-6)
        assert found[ids[-5]].probability > 3 * found[ids[5]].probability


def test_selected_candidates_are_scored_by_the_next_model_too_so_that_caps_count_them(
    database: Database,
) -> None:
    with database.transaction() as tx:
        first = fitted_model(tx)
        policy = {"kind": "mixed", "share": 0.5, "likely": 0.5, "uncertain": 0.2, "random": 0.3}
        round_id = open_stream(tx, policy, 10**6)
        quality = np.random.default_rng(8).standard_normal(300)
        ids = arrive(tx, round_id, 8, quality)
        select_candidates(tx, round_id, SOURCE)
        judge_waiting(tx, round_id, dict(zip(ids, accepts(8, quality).tolist(), strict=True)))
        second = acceptance_model_store.fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)
        assert second.id != first.id
        acceptance_model_store.score_round(tx, second, round_id)
        chosen = sa.select(candidates.c.slice, scores.c.acceptance_model_id).join(scores)
        found = tx.execute(
            chosen.where(candidates.c.round_id == round_id, candidates.c.slice.is_not(None))
        ).all()
    assert {row.slice for row in found} == {"random", "likely", "uncertain"}
    assert {row.acceptance_model_id for row in found} == {second.id}


def test_candidates_screened_earlier_are_embedded_later(
    database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        round_id = make_round(tx)
        ids = make_candidates(tx, store, round_id, 5, CandidateState.accepted)
        make_candidates(tx, store, make_round(tx), 3, CandidateState.generated)
    assert backfill_embeddings(database, store, Kind.single, BUILTIN_EMBEDDER) == 5
    assert backfill_embeddings(database, store, Kind.single, BUILTIN_EMBEDDER) == 0
    with database.transaction() as tx:
        row = tx.execute(sa.select(embeddings).where(embeddings.c.candidate_id == ids[0])).one()
        sha = tx.execute(
            sa.text("select sha256 from candidate_layers where candidate_id = :id"), {"id": ids[0]}
        ).scalar()
        known = tx.scalar(
            sa.select(screenings.c.signals).where(screenings.c.candidate_id == ids[0])
        )
    layer = {LayerRole.foreground: np.asarray(decode_layer(store.get(sha)))}
    assert row.source == BUILTIN_EMBEDDER.source
    assert unpack_vectors([bytes(row.vector)])[0] == pytest.approx(
        BUILTIN_EMBEDDER.embed([layer], [None])[0].vector, abs=1e-2
    )
    assert "coverage" in known


def test_jobs_screen_fit_and_select(settings: Settings) -> None:
    """Generated candidates are screened and embedded, decisions train a model, and the model selects."""
    with open_context(settings) as context:
        with context.database.transaction() as tx:
            round_id = make_round(tx, quota=10**6)
            policy = {"kind": "mixed", "share": 0.5, "likely": 0.6, "uncertain": 0.2, "random": 0.2}
            tx.execute(sa.update(rounds).values(policy=policy))
            make_candidates(tx, context.store, round_id, 40, CandidateState.generated)
            other, _ = decided(tx, 150)
            rows = (
                sa.select(embeddings.c.candidate_id)
                .join(candidates)
                .where(candidates.c.round_id == other)
            )
            tx.execute(
                sa.update(embeddings)
                .where(embeddings.c.candidate_id.in_(rows))
                .values(
                    source=BUILTIN_EMBEDDER.source,
                    vector=np.random.default_rng(0).standard_normal(96).astype("<f2").tobytes(),
                )
            )
        screen(context, round_id)
        with context.database.transaction() as tx:
            counts = lifecycle.count_states(tx, round_id)
            assert counts["waiting"] + counts["screened"] == 40
            assert 2 <= counts["waiting"] <= 15  # the random slice: 0.1 of 40
        requested = []
        context.database.send = requested.append
        reconcile(context)
        assert {("select", round_id), ("fit_acceptance_model", "single")} <= {
            (job.name, *job.args) for job in requested
        }
        fit_job(context, "single")
        assert ("select", round_id) in {(job.name, *job.args) for job in requested[2:]}
        select_job(context, round_id)
        with context.database.transaction() as tx:
            chosen = (
                tx.execute(sa.select(candidates.c.slice).where(candidates.c.slice.is_not(None)))
                .scalars()
                .all()
            )
            assert {"random", "likely", "uncertain"} == set(chosen)
            assert (
                acceptance_model_store.find_model(tx, Kind.single).embedder
                == BUILTIN_EMBEDDER.source
            )
