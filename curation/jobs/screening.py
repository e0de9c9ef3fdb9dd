"""The jobs that measure candidates, select them for review, and fit acceptance models."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from curation.db import leases
from curation.domain import CandidateState, JobName, Kind, RoundState, content_id
from curation.downloads import Downloads
from curation.jobs.lease_heartbeat import (
    WORKER_ID,
    register_worker,
    renewing_leases,
    stop_requested,
)
from curation.jobs.looking import SESSION_SECONDS
from curation.jobs.reconcile import open_rounds_with
from curation.jobs.trouble import (
    InstanceTrouble,
    breakers,
    describe,
    is_instance_trouble,
)
from curation.ports import Embedder
from curation.rounds import work
from curation.rounds.lifecycle import find_round
from curation.runtime.context import AppContext, load_embedder
from curation.screening import claims, rules
from curation.screening.candidates import (
    MeasurableCandidate,
    MeasuredCandidate,
    find_measurable,
    measure_candidate,
)
from curation.selection import acceptance_model_store, embedding_backfill
from curation.selection.select import select_candidates

log = logging.getLogger("layerloop.jobs")

SCREEN_BATCH_SIZE: Final = 32


@dataclass(frozen=True)
class _Batch:
    """Claimed candidates, and what is needed to measure them."""

    ids: Sequence[uuid.UUID]
    found: Sequence[MeasurableCandidate]


def screen(context: AppContext, round_id: int) -> None:
    """Measure candidates of a round for a while, apply the screening rules, and select for review.

    The layers of the next batch are read while one is measured.

    Args:
        context: The app context.
        round_id: Id of the round.

    Raises:
        InstanceTrouble: The object store or the database fails; no attempt was counted.
    """
    register_worker(context)
    embedder = load_embedder(context.settings)
    deadline = time.monotonic() + SESSION_SECONDS
    with (
        closing(Downloads(context.store)) as downloads,
        renewing_leases(context, "screen"),
    ):
        batch = _claim(context, round_id, downloads)
        try:
            while batch.ids:
                going_on = not stop_requested.is_set() and time.monotonic() < deadline
                # Read ahead; a worker that failed before claims one candidate at a time.
                ahead = going_on and not breakers["screen"].is_probing
                following = _claim(context, round_id, downloads) if ahead else _Batch((), ())
                current, batch = batch, following
                _screen_batch(context, round_id, current, downloads, embedder)
                if going_on and not ahead:
                    batch = _claim(context, round_id, downloads)
        finally:
            # Candidates claimed ahead of an error are left to another worker.
            if batch.ids:
                with context.database.transaction() as tx:
                    claims.release_unmeasured(tx, batch.ids, round_id, WORKER_ID)


def _claim(context: AppContext, round_id: int, downloads: Downloads) -> _Batch:
    """Claim a batch, and begin to read its layers."""
    with context.database.transaction() as tx:
        size = work.shared_batch(tx, round_id, "screen", SCREEN_BATCH_SIZE)
        if breakers["screen"].is_probing:
            size = 1
        seconds = context.settings.lease_seconds
        ids = claims.claim_generated(tx, round_id, WORKER_ID, size, seconds)
        batch = _Batch(ids, find_measurable(tx, ids))
        if ids:
            # Wake another worker for the rest.
            tx.enqueue(JobName.screen, round_id)
    for item in batch.found:
        downloads.start(item.objects)
    return batch


def _screen_batch(
    context: AppContext,
    round_id: int,
    batch: _Batch,
    downloads: Downloads,
    embedder: Embedder,
) -> None:
    """Measure a batch without an open transaction, and store what could be read."""
    measured: list[MeasuredCandidate] = []
    troubles: list[BaseException] = []
    for item in batch.found:
        try:
            measured.append(measure_candidate(item, downloads.take, embedder))
        except Exception as error:
            if not is_instance_trouble(error):
                raise
            troubles.append(error)
        finally:
            downloads.forget(item.objects)
    unread = set(batch.ids) - {item.candidate for item in measured}
    with context.database.transaction() as tx:
        claims.release_unmeasured(tx, sorted(unread), round_id, WORKER_ID)
        ids = [item.candidate for item in measured]
        held = set(leases.release_held(tx, ids, "screen", WORKER_ID))
        kept = [item for item in measured if item.candidate in held]
        rules.store_screenings(tx, kept, max_attempts=leases.MAX_ATTEMPTS)
        shown, _ = select_candidates(tx, round_id, embedder.source)
        if shown and find_round(tx, round_id)["rule_reviewer"]:
            tx.enqueue(JobName.review, round_id)
    errors = [item.error for item in measured if item.error]
    if troubles or errors:
        reason = describe(troubles[0]) if troubles else errors[0]
        raise InstanceTrouble(
            f"{len(troubles) + len(errors)} of {len(batch.ids)} candidates could not be read: "
            f"{reason}"
        )
    breakers["screen"].succeed()


def select(context: AppContext, round_id: int) -> None:
    """Select candidates for review from those that were screened before, by the round's policy."""
    source = load_embedder(context.settings).source
    with context.database.transaction() as tx:
        if find_round(tx, round_id)["state"] == RoundState.open:
            select_candidates(tx, round_id, source)


def fit_acceptance_model(context: AppContext, kind: str) -> None:
    """Fit an acceptance model to all decisions, and select again by its scores.

    One worker at a time fits the model of a kind; the job of another one ends at once.

    Args:
        context: The app context.
        kind: Value of the Kind that the model is for.
    """
    register_worker(context)
    embedder = load_embedder(context.settings)
    subject = content_id("fit acceptance model", kind)
    with context.database.transaction() as tx:
        seconds = context.settings.lease_seconds
        if not leases.try_claim(tx, subject, "fit", WORKER_ID, seconds):
            return
    try:
        with renewing_leases(context, "fit"):
            _fit(context, Kind(kind), embedder)
    finally:
        with context.database.transaction() as tx:
            leases.delete_leases(tx, [subject])


def _fit(context: AppContext, kind: Kind, embedder: Embedder) -> None:
    # Embed the candidates that have no embedding yet.
    embedding_backfill.backfill_embeddings(context.database, context.store, kind, embedder)
    with context.database.transaction() as tx:
        if not acceptance_model_store.needs_fit(tx, kind, embedder.source):
            return
    kept = acceptance_model_store.fit_and_store(context.database, kind, embedder.source)
    log.info(
        "acceptance model %s: %d decisions, AUC %.3f",
        kept.id[:12],
        kept.metrics["decisions"],
        kept.metrics["by_prompt"]["auc"],
    )
    with context.database.transaction() as tx:
        for number in open_rounds_with(tx, CandidateState.screened):
            tx.enqueue(JobName.select, number)
