"""Restored backups of Label Studio: decisions stand, and both sides are reconciled."""

from __future__ import annotations

import uuid

import pytest

from curation.domain import RejectReason
from curation.labeling import projects, reconcile
from curation.review import decisions, reviewers
from curation.rounds import lifecycle
from tests.support.factories import make_candidates, make_round
from tests.support.label_studio import ACCEPT, REJECT, LabeledRound

pytestmark = pytest.mark.slow

ADA, BOB, CID = "ada@example.org", "bob@example.org", "cid@example.org"


def pull_all(labeled: LabeledRound) -> None:
    """Pull all projects, as the reconcile job does in turn."""
    with labeled.database.transaction() as tx:
        made = projects.created_projects(tx, labeled.sync.backend.url)
    for _ in range(2):
        for project in made:
            labeled.sync.pull_project(project)


def another(labeled: LabeledRound, store, count: int) -> LabeledRound:
    """Create and push another round."""
    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, count)
    labeled.sync.push(round_id)
    return LabeledRound(labeled.studio, labeled.database, labeled.sync, round_id, made)


@pytest.mark.parametrize("labeled", [12], indirect=True)
def test_changes_since_a_backup_survive_its_restore(labeled, store):
    studio, backend = labeled.studio, labeled.sync.backend
    closed = another(labeled, store, 5)
    closed_project = closed.project.remote_id
    edited, deleted = (
        studio.annotate(labeled.task(0), ACCEPT, by=ADA),
        studio.annotate(labeled.task(1), ACCEPT, by=ADA),
    )
    studio.annotate(labeled.task(3), ACCEPT, by=BOB)
    labeled.sync.pull()
    tasks = {index: labeled.task(index) for index in range(12)}
    backup = studio.back_up()

    studio.edit_annotation(edited, REJECT, [RejectReason.halo])
    studio.client.annotations.delete(deleted)
    created = studio.annotate(labeled.task(2), ACCEPT, by=CID)
    with labeled.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada of the pages").id
        decisions.decide(tx, ada, labeled.candidates[4], ACCEPT, key=uuid.uuid4())
    assert labeled.sync.pull(labeled.round) == {"decided": 2, "undone": 1}
    with labeled.database.transaction() as tx:
        bob = reviewers.find_reviewer(tx, BOB).id
        decisions.undo(tx, bob, None, key=uuid.uuid4(), seconds=1)
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, BOB))
        lifecycle.close_round(tx, closed.round, "test")
    labeled.sync.push(closed.round)
    labeled.sync.push(labeled.round)
    later = another(labeled, store, 3)
    assert studio.tasks(closed_project) == {}

    studio.restore(backup)
    assert len(studio.tasks(closed_project)) == 5
    again = studio.annotate(tasks[2], REJECT, by=ADA)
    assert again <= created, "the server gives the numbers of what it has lost again"
    kinds = {(one.kind, one.candidate) for one in reconcile.compare(labeled.sync)}
    assert ("lost", labeled.candidates[2]) in kinds
    assert ("unpulled", labeled.candidates[2]) in kinds
    assert ("returned", closed.candidates[0]) in kinds
    assert "foreign" not in {kind for kind, _ in kinds}

    pull_all(labeled)
    assert (labeled.state(0), labeled.decisions(0)[-1]) == ("rejected", ("reject", ADA))
    assert labeled.state(1) == "waiting"
    assert (labeled.state(2), labeled.decisions(2)) == ("accepted", [("accept", CID)])
    assert any("already" in why for why in labeled.refusals())
    assert labeled.state(4) == "accepted"
    assert studio.tasks(closed_project) == {}, "a closed round is taken down again"
    labeled.sync.push(labeled.round)
    labeled.sync.push(later.round)
    for one in (labeled, later, closed):
        left = [each for each in reconcile.compare(labeled.sync, one.round) if each.repairable]
        assert left == []
    there = studio.tasks(labeled.project.remote_id)
    assert len(there.pop(str(labeled.candidates[3]))) == 2, (
        "Bob's own task, and another since he took it back here"
    )
    assert all(len(numbers) == 1 for numbers in there.values())
    assert {str(labeled.candidates[index]) for index in (0, 2, 4)}.isdisjoint(there), (
        "nobody is asked again"
    )
    assert str(labeled.candidates[1]) in there
    assert set(studio.tasks(later.project.remote_id)) == set(map(str, later.candidates))
    studio.annotate(labeled.task(1), REJECT, by=CID)
    assert labeled.sync.pull(labeled.round) == {"decided": 1}
    assert backend.pull(labeled.project, None).restore_mark == labeled.project.restore_mark


def test_reused_annotation_id_of_another_author_is_a_new_annotation(labeled):
    backup = labeled.studio.back_up()
    first = labeled.studio.annotate(labeled.task(0), ACCEPT, by=CID)
    labeled.sync.pull()
    labeled.studio.restore(backup)
    assert labeled.studio.annotate(labeled.task(0), REJECT, by=ADA) == first
    differences = [
        one
        for one in reconcile.compare(labeled.sync, labeled.round)
        if one.candidate == labeled.candidates[0]
    ]
    assert {one.kind for one in differences} == {"lost", "unpulled"}
    labeled.sync.pull()
    assert (labeled.state(0), labeled.decisions(0)) == ("accepted", [("accept", CID)])
    assert labeled.accepted() == 1
    with labeled.database.transaction() as tx:
        rows = tx.connection.exec_driver_sql(
            "select author, decision_id is not null, refused is not null from labeling_annotations order by id"
        ).all()
    assert [tuple(row) for row in rows] == [(CID, True, False), (ADA, False, True)]
