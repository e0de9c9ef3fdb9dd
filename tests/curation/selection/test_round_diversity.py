"""Diversity of rounds: measured on all that was drawn, kept, and beside the first round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import embeddings, kept_reports, sample_embeddings, samples
from curation.domain import CandidateState, JobName, LayerRole, Prompt
from curation.jobs import measure_diversity, reconcile
from curation.ports import EmbeddingResult
from curation.reporting import round_report
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import AppContext, open_context
from curation.runtime.instance_metrics import read_metrics
from curation.screening.embedding import BUILTIN_EMBEDDER, EMBEDDING_DIM
from curation.selection import diversity_measurement, diversity_report
from curation.settings import Settings
from curation.synthetic.shapes import SUBJECTS, draw_subject
from tests.support.factories import make_pairs, make_round

NAMES = sorted(SUBJECTS)


@pytest.fixture
def context(settings: Settings) -> Iterator[AppContext]:
    with open_context(settings) as opened:
        import_initial_seeds(opened, None, 70, lambda _: None)
        yield opened


def draw_round(
    context: AppContext, count: int, kinds: int, state: CandidateState = CandidateState.rejected
) -> int:
    """Insert a round of drawn candidates with so many kinds of subjects."""
    with context.database.transaction() as tx:
        round_id = make_round(tx, quota=count)
        drawn = []
        for number in range(count):
            name = NAMES[number % kinds * (len(NAMES) // kinds)]
            rng = np.random.default_rng([round_id, number])
            rgba = draw_subject(SUBJECTS[name], rng, 64)
            drawn.append((Prompt(f"{name} {number}"), {LayerRole.foreground: rgba}))
        make_pairs(tx, context.store, round_id, drawn, state)
    return round_id


def figures(tx: Transaction, round_id: int) -> dict[str, dict]:
    report = diversity_report.diversity_report(tx, round_id)
    return {figure["name"]: figure for figure in report["figures"]}


def test_a_collapse_is_measured_beside_the_first_round(context: AppContext) -> None:
    first = draw_round(context, 72, len(NAMES))
    same = draw_round(context, 80, len(NAMES), CandidateState.refused)
    collapsed = draw_round(context, 64, 2, CandidateState.unshown)
    with context.database.transaction() as tx:
        assert diversity_report.diversity_report(tx, first) is None
        assert diversity_measurement.rounds_to_measure(tx) == [first, same, collapsed]
    sent = []
    context.database.send = sent.append
    reconcile(context)
    wanted = [job.args[0] for job in sent if job.name == JobName.measure_diversity]
    assert wanted == [first, same, collapsed]
    for round_id in wanted:
        measure_diversity(context, round_id)
    with context.database.transaction() as tx:
        assert diversity_measurement.rounds_to_measure(tx) == []
        # The seeds were embedded once, and so was each candidate.
        count = sa.select(sa.func.count())
        seeds = tx.scalar(count.select_from(samples))
        assert tx.scalar(count.select_from(sample_embeddings)) == seeds >= 60
        assert tx.scalar(count.select_from(embeddings)) == 72 + 80 + 64
        report = diversity_report.diversity_report(tx, first)
        assert (report["size"], report["first_round"], report["candidates"]) == (48, None, 72)
        assert all(figure["ratio"] is None for figure in report["figures"])
        assert figures(tx, first)["vendi"]["seeds"] > 1
        # A round of the same kind is as diverse, a collapsed one is not.
        alike = diversity_report.diversity_report(tx, same)
        assert (alike["first_round"], alike["lost"]) == (first, False)
        vendi = figures(tx, same)["vendi"]["ratio"]
        assert vendi["low"] < 1 < vendi["high"]
        lost = diversity_report.diversity_report(tx, collapsed)
        assert lost["lost"]
        assert figures(tx, collapsed)["vendi"]["ratio"]["high"] < 0.9
        assert figures(tx, collapsed)["recall"]["ratio"]["high"] < 1
        text = round_report.as_text(round_report.round_report(tx, collapsed))
    metrics = {metric.name: metric for metric in read_metrics(context.database)}
    ratios = metrics["layerloop_round_diversity_ratio"].samples
    assert {sample.labels["figure"] for sample in ratios} == set(diversity_report.FIGURES)
    assert all(sample.labels["kind"] == "single" and sample.value < 1 for sample in ratios)
    assert "diversity of 48 of 64 drawn candidates:" in text
    assert f"the Vendi score fell by more than 10% since round {first}" in text


def test_a_small_round_says_what_it_lacks_and_is_not_the_first(context: AppContext) -> None:
    small, large = draw_round(context, 59, 6), draw_round(context, 60, 6)
    for round_id in (small, large):
        measure_diversity(context, round_id)
    with context.database.transaction() as tx:
        report = round_report.round_report(tx, small)
        assert report["diversity"]["figures"] == []
        assert "not measured: 59 drawn candidates, 60 are needed" in round_report.as_text(report)
        assert diversity_report.diversity_report(tx, large)["first_round"] is None


def test_what_was_not_drawn_does_not_count(context: AppContext) -> None:
    round_id = draw_round(context, 64, 6)
    with context.database.transaction() as tx:
        tx.execute(sa.text("alter table candidates disable trigger user"))
        tx.execute(
            sa.text("""update candidates set state = 'requested' where id in
                (select id from candidates where round_id = :round limit 1)"""),
            {"round": round_id},
        )
        assert round_id not in diversity_measurement.rounds_to_measure(tx)
        tx.execute(sa.text("update rounds set state = 'closed'"))
        assert round_id in diversity_measurement.rounds_to_measure(tx)
    measure_diversity(context, round_id)
    with context.database.transaction() as tx:
        assert diversity_report.diversity_report(tx, round_id)["candidates"] == 63


class OtherEmbedder:
    """An embedder of half the numbers, by another name."""

    source = "other@1"
    metric_names = ()

    def embed(self, drawn, prompts):
        found = BUILTIN_EMBEDDER.embed(drawn, prompts)
        return [EmbeddingResult(result.vector[: EMBEDDING_DIM // 2], {}) for result in found]


def test_another_embedder_measures_the_first_round_again(context, monkeypatch) -> None:
    first = draw_round(context, 60, 6)
    measure_diversity(context, first)
    later = draw_round(context, 60, 6)
    monkeypatch.setattr("curation.jobs.diversity.load_embedder", lambda _: OtherEmbedder())
    measure_diversity(context, later)
    with context.database.transaction() as tx:
        report = diversity_report.diversity_report(tx, later)
        sources = tx.execute(sa.select(kept_reports.c.report["embedder"].astext)).scalars().all()
    assert (report["embedder"], report["first_round"]) == ("other@1", first)
    assert sources == ["other@1"] * 2
    # Measuring again changes nothing, and is no work.
    monkeypatch.setattr(diversity_measurement, "measure_diversity", None)
    measure_diversity(context, later)
