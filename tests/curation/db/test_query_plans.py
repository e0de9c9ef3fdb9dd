"""Query plans at size: no frequent query scans a large table.

A new hot query needs one line in OPERATIONS: every statement that the operation executes is captured and explained.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from curation.datasets.sample_records import list_samples
from curation.datasets.samples import find_sample_id
from curation.db.counts import fold_deltas
from curation.db.engine import Database, Transaction
from curation.db.kept_reports import store_report
from curation.db.schema import migrate
from curation.db.tables import rounds
from curation.domain import CandidateState, Kind, Verdict
from curation.events.listing import list_events
from curation.jobs.reconcile import open_rounds_with
from curation.reporting import kept, missing_workers, round_report
from curation.review import claims, decisions, progress, queue, recent_decisions, similar_samples
from curation.review.reviewers import PERSON, find_reviewer, list_reviewers
from curation.rounds import generation, lifecycle
from curation.rounds.candidate_list import list_candidates
from curation.steering import outcomes
from tests.support.factories import fresh_database, with_database
from tests.support.million_rows import fill

CANDIDATES = 100_000
MAX_DISCARDED = 5_000
LARGE = {
    "candidates", "candidate_layers", "claims", "decisions", "events", "layers", "sample_layers", "samples", "screenings",
}  # fmt: skip

pytestmark = pytest.mark.slow


def claim_and_decide(tx: Transaction, reviewer: int) -> None:
    items = queue.claim_batch(tx, reviewer, None, 8, (), 60).items
    claims.check_claimed(tx, reviewer, items[0].id)
    similar_samples.most_similar_sample(tx, items[0].id)
    for item in items:
        decisions.decide(tx, reviewer, item.id, Verdict.accept, key=uuid.uuid4(), dwell_ms=900)
    decisions.undo(tx, reviewer, None, key=uuid.uuid4(), seconds=60)
    recent_decisions.recent_decisions(tx, reviewer, 20)


def second_page(read: Callable[[int, Any], list[dict[str, Any]]]) -> None:
    read(50, read(50, None)[-1]["id"])


OPERATIONS: dict[str, Callable[[Transaction, int], object]] = {
    "claim, decide and undo": claim_and_decide,
    "claim with overlap": lambda tx, reviewer: queue.claim_batch(tx, reviewer, 2, 8, (), 60),
    "claim for generation": lambda tx, _: generation.claim_candidates(tx, 1, "worker", 8, 60),
    "progress": lambda tx, reviewer: progress.review_progress(tx, reviewer, None),
    "list of rounds": lambda tx, _: lifecycle.list_rounds(tx),
    "list of candidates": lambda tx, _: list_candidates(tx, 1, None, 50),
    "list of waiting candidates": lambda tx, _: list_candidates(tx, 1, CandidateState.waiting, 50),
    "second page of candidates": lambda tx, _: second_page(
        lambda limit, after: list_candidates(tx, None, None, limit, after)
    ),
    "list of samples": lambda tx, _: list_samples(tx, limit=50),
    "second page of samples": lambda tx, _: second_page(
        lambda limit, after: list_samples(tx, limit=limit, after=after)
    ),
    "a sample by its first digits": lambda tx, _: find_sample_id(
        tx, list_samples(tx, limit=1)[0]["id"][:12]
    ),
    "second page of the audit log": lambda tx, _: list_events(
        tx, kind="checkpoint promoted", limit=50, after=CANDIDATES // 20
    ),
    "round report": lambda tx, _: round_report.round_report(tx, 1),
    "round report with overlap": lambda tx, _: round_report.round_report(tx, 2),
    "agreement": lambda tx, _: kept.agreement_report(tx, 2),
    "reviewers": lambda tx, _: kept.reviewer_reports(
        tx, list_reviewers(tx, kind=PERSON, limit=100)
    ),
    "own statistics": lambda tx, _: kept.own_report(tx, find_reviewer(tx, "reviewer 1")),
    "steering": lambda tx, _: outcomes.read_outcomes(tx, Kind.single),
    "waiting work": lambda tx, _: missing_workers.count_waiting_work(tx),
    "pending work": lambda tx, _: open_rounds_with(tx, CandidateState.requested),
    "stale reports": lambda tx, _: kept.has_stale_reports(tx),
    "fold": lambda tx, _: fold_deltas(tx),
}


@pytest.fixture(scope="module")
def large(postgres_address: str) -> Iterator[Database]:
    with fresh_database(postgres_address) as name:
        database = Database(with_database(postgres_address, name))
        migrate(database)
        fill(database, CANDIDATES)
        with database.transaction() as tx:
            # Reports as the job keeps them; what they cost is not a matter of pages.
            for subjects, kind in (
                (
                    kept._subjects(tx, kept.REVIEWER, [one.id for one in list_reviewers(tx)]),
                    "reviewer",
                ),
                (kept._subjects(tx, kept.AGREEMENT, [1, 2]), "agreement"),
            ):
                for subject in subjects:
                    store_report(
                        tx, kind, subject.id, {"all": {}, "own": {}},
                        marker=subject.marker, seconds=1.0,
                    )  # fmt: skip
            # Closed rounds whose outcomes are kept.
            tx.execute(sa.update(rounds).where(rounds.c.id > 2).values(state="closed"))
            assert len(outcomes.read_outcomes(tx, Kind.single)) == 18
        yield database
        database.close()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_hot_query_scans_a_large_table(large: Database, operation: str) -> None:
    captured: list[tuple[str, Any]] = []

    def capture(_c, _cursor, statement: str, parameters: Any, _context, many: bool) -> None:
        if not many and statement.lstrip().split(None, 1)[0].lower() in {
            "select", "with", "insert", "update", "delete",
        }:  # fmt: skip
            captured.append((statement, parameters))

    with large.engine.connect() as connection, connection.begin() as rolled_back:
        tx = Transaction(connection)
        reviewer = find_reviewer(tx, "reviewer 1").id
        sa.event.listen(large.engine, "before_cursor_execute", capture)
        try:
            OPERATIONS[operation](tx, reviewer)
        finally:
            sa.event.remove(large.engine, "before_cursor_execute", capture)
        assert captured
        cursor = connection.connection.cursor()
        for statement, parameters in captured:
            writes = re.search(r"\b(insert|update|delete)\b|nextval|setval", statement.lower())
            analyzed = "false" if writes else "true"
            cursor.execute(f"explain (analyze {analyzed}, format json) {statement}", parameters)
            [plan] = json.loads(json.dumps(cursor.fetchone()[0]))
            scanned = {node["Relation Name"] for node in nodes(plan["Plan"]) if is_scan(node)}
            assert not scanned & LARGE, f"{sorted(scanned)} in: {statement}"
            # An index in a wanted order can be read from one end to the other too.
            for node in nodes(plan["Plan"]):
                discarded = discarded_rows(node) if node.get("Relation Name") in LARGE else 0
                assert discarded <= MAX_DISCARDED, f"{discarded} rows discarded by: {statement}"
        rolled_back.rollback()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def discarded_rows(node: dict[str, Any]) -> int:
    """The rows that a step has read and left out, in all its loops."""
    return int(node.get("Rows Removed by Filter", 0) * node.get("Actual Loops", 1))


def is_scan(node: dict[str, Any]) -> bool:
    """A sequential scan that a limit does not end early."""
    return node["Node Type"] == "Seq Scan"
