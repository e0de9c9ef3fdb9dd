"""A home of the former version opens with its rows, snapshot and checkpoint, and its round continues.

The fixture was made at 8bddab0 by `layerloop demo --preset micro --rounds 1 --quota 12 --seeds 40
--images 128 --reviewer oracle`, `reviewer add ann`, and `round open --quota 4 --overlap 2 --rule
dawid_skene --machines-vote`: the database as a plain dump, and the folder of its objects.
"""

from __future__ import annotations

import gzip
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from curation.checkpoints import registry
from curation.datasets import manifest, snapshots
from curation.db.schema import find_schema_drift, get_revisions
from curation.db.tables import (
    candidates,
    decisions,
    events,
    reviewers,
    rounds,
    samples,
    training_runs,
)
from curation.domain import CandidateState, Verdict
from curation.review.consensus import ConsensusSettings
from curation.review.decisions import claim_items, decide
from curation.runtime.context import AppContext, open_context, upgrade_database
from curation.settings import Settings
from tests.support.factories import fresh_database, with_database

FORMER = Path(__file__).parents[2] / "data" / "former_home"
SNAPSHOT = "a5a649169a0e3712c0eb9db99b81f805c1dfd1425aff27ce18865a8cd679df7f"
CHECKPOINT = "86a6dbe9035cd74176120f8d1cf9e54ce752f2d4b39d6f5f51acdcc634f28b0a"


@pytest.fixture
def context(postgres_address: str, tmp_path: Path) -> Iterator[AppContext]:
    with tarfile.open(FORMER / "objects.tar.gz") as archive:
        archive.extractall(tmp_path / "home", filter="data")
    with fresh_database(postgres_address) as name:
        address = with_database(postgres_address, name)
        connection = psycopg2.connect(address)
        with connection, connection.cursor() as cursor:
            cursor.execute(gzip.decompress((FORMER / "database.sql.gz").read_bytes()).decode())
        connection.close()
        settings = Settings(home=tmp_path / "home", database=address)
        upgrade_database(settings)
        with open_context(settings) as opened:
            yield opened


def test_its_tables_are_brought_to_the_newest_revision(context: AppContext) -> None:
    version, newest = get_revisions(context.database)
    assert version == newest
    assert find_schema_drift(context.database) == []


def test_stored_words_of_rounds_decisions_and_reviewers_are_migrated(context: AppContext) -> None:
    with context.database.transaction() as tx:
        assert [tuple(row) for row in tx.execute(
            sa.select(rounds.c.id, rounds.c.state, rounds.c.purpose).order_by(rounds.c.id)
        )] == [(1, "closed", "generated"), (2, "open", "generated")]  # fmt: skip
        row = tx.execute(sa.select(rounds.c.consensus).where(rounds.c.id == 2)).scalar_one()
        states = Counter(tx.execute(sa.select(candidates.c.state)).scalars())
        made = Counter(tx.execute(sa.select(decisions.c.channel)).scalars())
        kinds = {tuple(row) for row in tx.execute(sa.select(reviewers.c.name, reviewers.c.kind))}
        assert tx.scalar(sa.select(sa.func.count()).select_from(samples)) == 40
        assert tx.scalar(sa.select(sa.func.count()).select_from(events)) >= 9
        progress = tx.execute(sa.select(training_runs.c.progress)).scalar_one()
    assert ConsensusSettings.read(row).rule_reviewer_votes
    assert states == {"rejected": 12, "requested": 4}
    assert made == {"rule_reviewer": 12}
    assert kinds == {("owner", "person"), ("ann", "person"), ("rule_reviewer", "rule_reviewer")}
    assert "figures" not in progress


def test_its_snapshot_and_checkpoint_keep_their_ids(context: AppContext) -> None:
    with context.database.transaction() as tx:
        assert snapshots.find_snapshot(tx, SNAPSHOT[:8]) == SNAPSHOT
        checkpoint = registry.find_checkpoint(tx, CHECKPOINT[:8])
    again = snapshots.freeze_snapshot(context.database, context.store, tag=None, actor="test")
    assert again.id == SNAPSHOT
    assert len(list(manifest.read_samples(context.store, SNAPSHOT))) == 40
    assert checkpoint.id == CHECKPOINT
    assert context.store.get(checkpoint.sample_grid).startswith(b"\x89PNG")


def test_its_open_round_goes_on_to_decisions(context: AppContext) -> None:
    """With the former checkpoint's weights, as a worker would."""
    from curation.jobs import generate, screen

    generate(context, 2)
    with context.database.transaction() as tx:
        states = Counter(
            tx.execute(sa.select(candidates.c.state).where(candidates.c.round_id == 2)).scalars()
        )
    assert states == {CandidateState.generated: 4}
    screen(context, 2)
    with context.database.transaction() as tx:
        tx.execute(
            sa.update(candidates)
            .where(candidates.c.round_id == 2, candidates.c.state == "unshown")
            .values(state="waiting")
        )
        ann = tx.execute(sa.select(reviewers.c.id).where(reviewers.c.name == "ann")).scalar_one()
        items = claim_items(tx, ann, 2, 4, (), 60)
        for item in items:
            decide(tx, ann, item.id, Verdict.reject, key=item.id)
        made = tx.scalar(sa.select(sa.func.count()).where(decisions.c.reviewer_id == ann))
    assert made == len(items) > 0
