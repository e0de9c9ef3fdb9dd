"""Generation: claims never overlap, objects are stored before rows, lost leases are respected, failures are released."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import candidate_layers, candidates
from curation.domain import GenerationRequest, Job, LayerRole, Prompt
from curation.images.codec import decode_layer
from curation.object_store import FolderStore
from curation.ports import Layers
from curation.rounds import generation, lifecycle
from tests.support.factories import image, make_checkpoint, states
from tests.support.pipeline_steps import generate_claimed


class ImageGenerator:
    """A generator whose images depend on the request only, as the port requires."""

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Layers]:
        return [{LayerRole.foreground: image(request.seed)} for request in requests]


def open_round(database: Database, quota: int) -> int:
    with database.transaction() as tx:
        checkpoint = make_checkpoint(tx)
        return lifecycle.open_round(
            tx, checkpoint=checkpoint, prompt_list=[Prompt("x")], quota=quota, actor="test"
        )


def claim(
    database: Database, round_id: int, holder: str, count: int
) -> list[generation.ClaimedCandidate]:
    with database.transaction() as tx:
        return generation.claim_candidates(tx, round_id, holder, count, 60)


def test_a_generated_candidate_is_stored_with_its_layer(
    database: Database, store: FolderStore
) -> None:
    round_id = open_round(database, 5)
    sent: list[Job] = []
    database.send = sent.append
    claimed = claim(database, round_id, "me", 3)
    assert states(database, round_id) == {"requested": 2, "generating": 3}
    assert generate_claimed(database, store, ImageGenerator(), claimed, "me") == 3
    assert states(database, round_id) == {"requested": 2, "generated": 3}
    assert sent == [Job("screen", (round_id,))]
    with database.transaction() as tx:
        for candidate in claimed:
            sha = tx.scalar(
                sa.select(candidate_layers.c.sha256).where(
                    candidate_layers.c.candidate_id == candidate.id
                )
            )
            assert np.array_equal(decode_layer(store.get(sha)), image(candidate.request.seed))


def test_two_workers_never_claim_the_same(database: Database) -> None:
    round_id = open_round(database, 60)
    with ThreadPoolExecutor(6) as threads:
        claims = list(threads.map(lambda i: claim(database, round_id, f"worker {i}", 10), range(6)))
    ids = [candidate.id for claimed in claims for candidate in claimed]
    assert len(ids) == len(set(ids)) == 60


def test_a_paused_round_is_not_generated(database: Database) -> None:
    round_id = open_round(database, 5)
    with database.transaction() as tx:
        lifecycle.pause_round(tx, round_id, "test")
    assert claim(database, round_id, "me", 5) == []


def test_layers_are_not_stored_after_the_lease_was_lost(
    database: Database, store: FolderStore
) -> None:
    round_id = open_round(database, 2)
    claimed = claim(database, round_id, "slow", 2)
    with database.transaction() as tx:
        leases.release_holder(tx, "slow")
    again = claim(database, round_id, "quick", 2)
    assert generate_claimed(database, store, ImageGenerator(), again, "quick") == 2
    assert generate_claimed(database, store, ImageGenerator(), claimed, "slow") == 0
    assert states(database, round_id) == {"generated": 2}


def test_a_candidate_fails_with_its_reason_after_several_attempts(database: Database) -> None:
    round_id = open_round(database, 1)
    for state in ("requested",) * (leases.MAX_ATTEMPTS - 1) + ("failed",):
        claimed = claim(database, round_id, "me", 1)
        with database.transaction() as tx:
            generation.release_failed(tx, claimed, "me", "OutOfMemory: the card is full")
        assert states(database, round_id) == {state: 1}
    with database.transaction() as tx:
        assert tx.scalar(sa.select(candidates.c.note)) == "OutOfMemory: the card is full"


def test_a_round_that_closed_meanwhile_keeps_nothing(
    database: Database, store: FolderStore
) -> None:
    round_id = open_round(database, 2)
    claimed = claim(database, round_id, "me", 2)
    with database.transaction() as tx:
        lifecycle.close_round(tx, round_id, "test")
    assert generate_claimed(database, store, ImageGenerator(), claimed, "me") == 0
    assert states(database, round_id) == {"withdrawn": 2}


@pytest.mark.parametrize("count", [1, 4])
def test_an_interrupted_generation_writes_no_row(
    database: Database, store: FolderStore, count: int
) -> None:
    class BrokenGenerator(ImageGenerator):
        def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Layers]:
            return super().generate(requests)[:-1]

    round_id = open_round(database, count)
    claimed = claim(database, round_id, "me", count)
    with pytest.raises(ValueError):
        generate_claimed(database, store, BrokenGenerator(), claimed, "me")
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(candidate_layers)) == 0
    assert states(database, round_id) == {"generating": count}


def test_candidates_that_failed_in_a_batch_are_retried_alone_and_last(database: Database) -> None:
    round_id = open_round(database, 24)
    first = claim(database, round_id, "me", 16)
    with database.transaction() as tx:
        generation.release_failed(tx, first, "me", "RuntimeError: no reason")
    sizes, claimed = [], []
    while batch := claim(database, round_id, "me", 16):
        sizes.append(len(batch))
        claimed.append({item.id for item in batch})
    assert sizes == [8, 4, 4, 4, 4]
    assert claimed[0].isdisjoint(item.id for item in first)
    # After a second failure each candidate is in a batch of its own.
    with database.transaction() as tx:
        generation.release_failed(tx, first, "me", "RuntimeError: no reason")
    assert len(claim(database, round_id, "me", 16)) == 1


def test_a_failure_of_the_store_is_no_attempt(database: Database) -> None:
    round_id = open_round(database, 3)
    for _ in range(2 * leases.MAX_ATTEMPTS):
        claimed = claim(database, round_id, "me", 3)
        assert len(claimed) == 3
        with database.transaction() as tx:
            generation.release_unfinished(tx, [item.id for item in claimed], "me")
    assert states(database, round_id) == {"requested": 3}
