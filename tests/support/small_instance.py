"""A small instance with rows of most tables and all kinds of objects."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import sqlalchemy as sa

from curation.checkpoints.registry import promote_checkpoint, register_checkpoint
from curation.datasets.manifest import Manifest
from curation.datasets.samples import add_samples, samples_from_candidates
from curation.datasets.snapshots import freeze_snapshot
from curation.db.engine import Database
from curation.db.tables import snapshots
from curation.domain import Checkpoint, Role, Verdict
from curation.review.decisions import decide
from curation.review.frozen_decisions import find_decided
from curation.review.reviewers import add_reviewer
from curation.store_inventory import InstanceStore
from tests.support.factories import make_candidates, make_round


@dataclass(frozen=True)
class SmallInstance:
    """IDs of parts of the instance that tests use."""

    round_id: int
    checkpoint: str
    snapshot: str


def fill_instance(database: Database, store: InstanceStore, count: int = 6) -> SmallInstance:
    """Make a round with decided candidates, samples, a checkpoint and a tagged snapshot with decisions."""
    with database.transaction() as tx:
        # The checkpoint was trained on a snapshot without samples.
        empty = Manifest((), {})
        store.put(empty.bytes())
        tx.execute(sa.insert(snapshots), {"id": empty.id, "samples": 0, "counts": {}})
        files = {"backbone": store.put(b"backbone" * 999), "base": store.put(b"base" * 999)}
        trained = Checkpoint(
            files, "base", "tiny", empty.id, None, 0, "test", {"psnr": 30.25}, store.put(b"grid")
        )
        register_checkpoint(tx, trained, "test")
        promote_checkpoint(tx, trained.id, "test")
        round_id = make_round(tx, trained.id)
        candidates = make_candidates(tx, store, round_id, count)
        reviewer = add_reviewer(tx, "Åsa | \\t 'quoted'", Role.admin)
    # One reviewer accepts every second candidate, with a comment that needs escaping.
    for number, candidate in enumerate(candidates):
        with database.transaction() as tx:
            verdict = Verdict.reject if number % 2 else Verdict.accept
            decide(
                tx,
                reviewer.id,
                candidate,
                verdict,
                key=uuid.uuid4(),
                comment='tab\there, new\nline, back\\slash, "quote", ünïcode',
                dwell_ms=number,
            )
    with database.transaction() as tx:
        add_samples(tx, samples_from_candidates(tx, candidates[::2]))
    frozen = freeze_snapshot(database, store, tag="first", actor="test", find_decided=find_decided)
    return SmallInstance(round_id, trained.id, frozen.id)
