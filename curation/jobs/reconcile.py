"""The reconcile job: releases lost leases, and enqueues work that has no message."""

from __future__ import annotations

import sqlalchemy as sa

from curation.db import counts, workers
from curation.db.advisory_locks import AdvisoryLock, try_lock
from curation.db.engine import Transaction
from curation.db.tables import candidates, rounds
from curation.domain import CandidateState, JobName, Kind, RoundState
from curation.events import chain, deliveries
from curation.jobs.lease_heartbeat import release_lost_leases_in
from curation.labeling import project_reads, projects
from curation.reporting import kept
from curation.review import consensus
from curation.runtime.context import AppContext
from curation.selection import acceptance_model_store, diversity_measurement


def reconcile(context: AppContext) -> None:
    """Seal new events, release lost leases, and enqueue jobs for work that became due."""
    chain.seal_events(context.database)
    with context.database.transaction() as tx:
        release_lost_leases_in(tx, context)
        # The other steps concern the whole instance, so that one worker does them.
        if not try_lock(tx, AdvisoryLock.reconcile):
            return
        workers.remove_lost_workers(tx)
        # Kept counts, and reports based on new decisions.
        counts.fold_deltas(tx)
        if kept.has_stale_reports(tx):
            tx.enqueue(JobName.refresh_reports)
        # Workers find requested and generated candidates, and runs, without a message.
        for round_id in open_rounds_with(tx, CandidateState.screened):
            tx.enqueue(JobName.select, round_id)
        for round_id in open_rounds_with(tx, CandidateState.waiting, by_rules=True):
            tx.enqueue(JobName.review, round_id)
        # Diversity of rounds that are drawn, models and consensus.
        for round_id in diversity_measurement.rounds_to_measure(tx):
            tx.enqueue(JobName.measure_diversity, round_id)
        for kind in _kinds_with_models(tx):
            if acceptance_model_store.may_need_fit(tx, kind):
                tx.enqueue(JobName.fit_acceptance_model, kind)
        for round_id in consensus.rounds_needing_skill_estimates(tx):
            tx.enqueue(JobName.aggregate, round_id)
        # Messages to receivers of events.
        if deliveries.deliveries_due(tx):
            tx.enqueue(JobName.deliver_webhooks)
        # Label Studio, if it is configured.
        if context.settings.labeling_url is not None:
            _enqueue_labeling(tx, context.settings.labeling_url)


def _enqueue_labeling(tx: Transaction, url: str) -> None:
    """Enqueue the jobs that push tasks and pull annotations."""
    for round_id in projects.rounds_to_sync(tx, url):
        tx.enqueue(JobName.push_tasks, round_id)
    for project_id in project_reads.projects_to_read(tx, url):
        tx.enqueue(JobName.pull_annotations, str(project_id))


def open_rounds_with(
    tx: Transaction, state: CandidateState, *, by_rules: bool = False
) -> list[int]:
    """Return the ids of open rounds with candidates in a state.

    Args:
        tx: The transaction.
        state: The state that at least one candidate is in.
        by_rules: Only rounds that the rule reviewer decides.
    """
    has = sa.exists().where(candidates.c.round_id == rounds.c.id, candidates.c.state == state)
    query = sa.select(rounds.c.id).where(rounds.c.state == RoundState.open, has)
    if by_rules:
        query = query.where(rounds.c.rule_reviewer)
    return [row.id for row in tx.execute(query)]


def _kinds_with_models(tx: Transaction) -> list[Kind]:
    """Return the kinds of open rounds whose policy uses an acceptance model."""
    mixed = (rounds.c.state == RoundState.open) & (rounds.c.policy["kind"].astext == "mixed")
    return [Kind(row.kind) for row in tx.execute(sa.select(rounds.c.kind).where(mixed).distinct())]
