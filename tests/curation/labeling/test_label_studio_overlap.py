"""Overlap in Label Studio: several users annotate each task, and the majority decides."""

from __future__ import annotations

import httpx
import pytest

from curation.domain import RejectReason
from curation.labeling import projects, reconcile
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from tests.support.factories import make_candidates, make_round
from tests.support.label_studio import ACCEPT, REJECT, LabeledRound

pytestmark = pytest.mark.slow

ADA, BOB, CID = "ada@example.org", "bob@example.org", "cid@example.org"


@pytest.fixture
def round_of_three(labeled, store) -> LabeledRound:
    """Create and push a round with an overlap of three and two candidates."""
    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 3), "test")
        ids = make_candidates(tx, store, round_id, 2)
    assert labeled.sync.push(round_id) == {}, (
        "users there see annotations of others, so overlap needs an explicit choice"
    )
    with labeled.database.transaction() as tx:
        assert "can see the annotations of others" in projects.switch_interface(
            tx, round_id, "label-studio", "test"
        )
    labeled.sync.push(round_id)
    return LabeledRound(labeled.studio, labeled.database, labeled.sync, round_id, ids)


def next_task(labeled: LabeledRound) -> int | None:
    """Return the next task for the owner; None if there is none."""
    owner = {"Authorization": f"Token {labeled.studio.server.token}"}
    url = f"{labeled.studio.server.address}/api/projects/{labeled.project.remote_id}/next"
    response = httpx.get(url, headers=owner, timeout=60)
    return None if response.status_code == 404 else int(response.raise_for_status().json()["id"])


def test_overlap_tasks_reach_several_users_and_the_majority_decides(round_of_three):
    first = round_of_three.task(0)
    round_of_three.studio.annotate(first, ACCEPT, by=ADA)
    assert round_of_three.sync.pull(round_of_three.round) == {"decided": 1}
    assert (round_of_three.state(0), next_task(round_of_three)) == ("waiting", first), (
        "a partly annotated task comes first"
    )
    second = round_of_three.studio.annotate(first, ACCEPT, by=BOB)
    round_of_three.studio.edit_annotation(second, REJECT, [RejectReason.halo])
    assert round_of_three.sync.pull(round_of_three.round) == {"decided": 1}
    assert round_of_three.state(0) == "waiting"
    round_of_three.studio.edit_annotation(second, ACCEPT)
    round_of_three.studio.annotate(first, REJECT, by=CID)
    assert round_of_three.sync.pull(round_of_three.round) == {"decided": 2}
    assert round_of_three.state(0) == "accepted"
    assert [verdict for verdict, _ in round_of_three.decisions(0)] == [
        "accept",
        "reject",
        "undo",
        "accept",
        "reject",
    ]
    assert next_task(round_of_three) == round_of_three.task(1)
    assert reconcile.compare(round_of_three.sync, round_of_three.round) == []


def test_a_changed_overlap_reaches_existing_projects(labeled):
    with labeled.database.transaction() as tx:
        set_consensus(tx, labeled.round, ConsensusSettings(ConsensusRule.majority, 3), "test")
        projects.switch_interface(tx, labeled.round, "pages", "test")
    assert labeled.sync.push(labeled.round) == {"removed": 8}
    with labeled.database.transaction() as tx:
        projects.switch_interface(tx, labeled.round, "label-studio", "test")
    assert labeled.sync.push(labeled.round) == {"pushed": 8}
    assert labeled.studio.client.projects.get(labeled.project.remote_id).maximum_annotations == 3
