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
def three(labeled, store) -> LabeledRound:
    """Create and push a round with an overlap of three and two candidates."""
    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 3), "test")
        made = make_candidates(tx, store, round_id, 2)
    assert labeled.sync.push(round_id) == {}, (
        "people there see what others said, so it is not offered unasked"
    )
    with labeled.database.transaction() as tx:
        assert "can see the annotations of others" in projects.switch_interface(
            tx, round_id, "label-studio", "test"
        )
    labeled.sync.push(round_id)
    return LabeledRound(labeled.studio, labeled.database, labeled.sync, round_id, made)


def given(labeled: LabeledRound) -> int | None:
    """Return the next task for the owner; None if there is none."""
    owner = {"Authorization": f"Token {labeled.studio.server.token}"}
    url = f"{labeled.studio.server.address}/api/projects/{labeled.project.remote_id}/next"
    answer = httpx.get(url, headers=owner, timeout=60)
    return None if answer.status_code == 404 else int(answer.raise_for_status().json()["id"])


def test_overlap_tasks_reach_several_users_and_the_majority_decides(three):
    first = three.task(0)
    three.studio.annotate(first, ACCEPT, by=ADA)
    assert three.sync.pull(three.round) == {"decided": 1}
    assert (three.state(0), given(three)) == ("waiting", first), "it is begun, so it comes first"
    doubtful = three.studio.annotate(first, ACCEPT, by=BOB)
    three.studio.edit_annotation(doubtful, REJECT, [RejectReason.halo])
    assert three.sync.pull(three.round) == {"decided": 1}
    assert three.state(0) == "waiting"
    three.studio.edit_annotation(doubtful, ACCEPT)
    three.studio.annotate(first, REJECT, by=CID)
    assert three.sync.pull(three.round) == {"decided": 2}
    assert three.state(0) == "accepted"
    assert [verdict for verdict, _ in three.decisions(0)] == [
        "accept",
        "reject",
        "undo",
        "accept",
        "reject",
    ]
    assert given(three) == three.task(1)
    assert reconcile.compare(three.sync, three.round) == []


def test_a_changed_overlap_reaches_existing_projects(labeled):
    with labeled.database.transaction() as tx:
        set_consensus(tx, labeled.round, ConsensusSettings(ConsensusRule.majority, 3), "test")
        projects.switch_interface(tx, labeled.round, "pages", "test")
    assert labeled.sync.push(labeled.round) == {"removed": 8}
    with labeled.database.transaction() as tx:
        projects.switch_interface(tx, labeled.round, "label-studio", "test")
    assert labeled.sync.push(labeled.round) == {"pushed": 8}
    assert labeled.studio.client.projects.get(labeled.project.remote_id).maximum_annotations == 3
