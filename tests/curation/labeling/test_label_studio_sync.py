"""Synchronization with a real Label Studio: every action has one outcome, however often it is pulled."""

from __future__ import annotations

import threading
import uuid

import pytest
import sqlalchemy as sa

from curation.db.tables import labeling_tasks, rounds
from curation.domain import RejectReason
from curation.labeling import projects, reconcile
from curation.review import decisions, queue, reviewers
from curation.runtime.label_studio_server import OWNER
from tests.support.label_studio import ACCEPT, REJECT

pytestmark = pytest.mark.slow

ADA, BOB = "ada@example.org", "bob@example.org"


def is_consistent(labeled) -> bool:
    """Return whether nothing is left to repair."""
    return not [
        difference
        for difference in reconcile.compare(labeled.sync, labeled.round)
        if difference.repairable
    ]


def test_annotations_become_decisions_once(labeled):
    labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA, lead_time=2.5)
    labeled.studio.annotate(
        labeled.task(1), REJECT, [RejectReason.halo, RejectReason.holes], by=BOB
    )
    labeled.studio.annotate(labeled.task(2), None, was_cancelled=True, by=BOB)
    assert labeled.sync.pull() == {"decided": 3}, labeled.refusals()
    assert labeled.sync.pull() == {}
    assert labeled.sync.pull(everything=True) == {}
    assert [labeled.state(index) for index in range(4)] == [
        "accepted",
        "rejected",
        "waiting",
        "waiting",
    ]
    assert labeled.decisions(0) == [("accept", ADA)]
    assert labeled.decisions(1) == [("reject", BOB)]
    assert labeled.decisions(2) == [("skip", BOB)]
    with labeled.database.transaction() as tx:
        rows = {row.candidate_id: row for row in tx.execute(sa.select(decisions_table()))}
    first, second = rows[labeled.candidates[0]], rows[labeled.candidates[1]]
    assert (first.channel, first.dwell_ms, first.propensity) == ("label-studio", 2_500, 1.0)
    assert second.reasons == ["halo", "holes"]
    assert labeled.accepted() == 1
    assert is_consistent(labeled)


def test_an_edit_is_an_undo_and_a_new_decision(labeled):
    annotation = labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    labeled.sync.pull()
    labeled.studio.edit_annotation(annotation, REJECT, [RejectReason.residue])
    assert labeled.sync.pull() == {"decided": 1}
    assert [verdict for verdict, _ in labeled.decisions(0)] == ["accept", "undo", "reject"]
    assert labeled.state(0) == "rejected"
    assert labeled.accepted() == 0
    assert is_consistent(labeled)


def test_a_deleted_annotation_is_undone(labeled):
    annotation = labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    labeled.sync.pull()
    labeled.studio.client.annotations.delete(annotation)
    assert labeled.sync.pull() == {"undone": 1}
    assert (labeled.state(0), labeled.accepted()) == ("waiting", 0)
    assert labeled.sync.pull() == {}
    labeled.studio.annotate(labeled.task(0), REJECT, by=BOB)  # its task is open again
    assert labeled.sync.pull() == {"decided": 1}
    assert is_consistent(labeled)


def test_a_second_annotation_is_refused_and_reported(labeled):
    labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    labeled.studio.annotate(labeled.task(0), REJECT, by=BOB)
    assert labeled.sync.pull() == {"decided": 1, "refused": 1}
    assert labeled.decisions(0) == [("accept", ADA)]
    assert labeled.refusals() == ["this candidate is already decided"]
    differences = [
        difference
        for difference in reconcile.compare(labeled.sync, labeled.round)
        if not difference.repairable
    ]
    assert [difference.kind for difference in differences] == ["refused"]
    assert BOB in differences[0].message


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([{"from_name": "mood", "to_name": "candidate", "type": "choices", "value": {"choices": ["fine"]}}], "the control 'mood'"),
        ([{"from_name": "verdict", "to_name": "candidate", "type": "choices", "value": {"choices": ["maybe"]}}], "maybe"),
        ([{"from_name": "reasons", "to_name": "candidate", "type": "choices", "value": {"choices": ["ugly"]}}], "ugly"),
        ([], "neither accept nor reject"),
    ],
    ids=["control", "verdict", "reason", "nothing"],
)  # fmt: skip
def test_an_unreadable_annotation_is_refused_and_reported(labeled, result, message):
    labeled.studio.annotate(labeled.task(0), result=result)
    assert labeled.sync.pull() == {"refused": 1}
    assert labeled.sync.pull(everything=True) == {}
    assert labeled.state(0) == "waiting"
    assert message in labeled.refusals()[0]
    assert [difference.kind for difference in reconcile.compare(labeled.sync, labeled.round)] == [
        "refused"
    ]


def test_an_unreadable_edit_keeps_the_decision(labeled):
    annotation = labeled.studio.annotate(labeled.task(0), ACCEPT)
    labeled.sync.pull()
    labeled.studio.client.annotations.update(annotation, result=[])
    assert labeled.sync.pull() == {"refused": 1}
    assert labeled.state(0) == "accepted"


def test_a_decision_on_either_interface_removes_the_other(labeled):
    with labeled.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        decisions.decide(tx, ada, labeled.candidates[0], ACCEPT, key=uuid.uuid4())
    late = labeled.task(0)
    labeled.studio.annotate(labeled.task(1), ACCEPT, by=BOB)
    assert labeled.sync.push(labeled.round) == {"removed": 1}
    assert str(labeled.candidates[0]) not in labeled.studio.tasks(labeled.project.remote_id)
    assert labeled.state(1) == "accepted", "annotations are pulled before tasks are removed"
    with labeled.database.transaction() as tx:
        items = queue.claim_items(tx, ada, labeled.round, 8, (), 60)
    assert {item.id for item in items} < set(labeled.candidates[2:])
    assert len(items) == 3, "the other half is left to Bob, who gets it next"
    assert labeled.sync.push(labeled.round) == {"removed": 3}, (
        "candidates leased by a reviewer have no tasks"
    )
    assert late not in [
        task_id
        for task_ids in labeled.studio.tasks(labeled.project.remote_id).values()
        for task_id in task_ids
    ]
    assert is_consistent(labeled)


def test_an_annotation_waits_for_a_lease(labeled):
    with labeled.database.transaction() as tx:
        tx.execute(
            sa.update(labeling_tasks).values(reserved_until=None)
        )  # reservations of users in other tests
        ada = reviewers.add_reviewer(tx, "ada")
        queue.claim_items(tx, ada.id, labeled.round, 8, (), 60)
    labeled.studio.annotate(labeled.task(0), ACCEPT, by=BOB)
    labeled.studio.annotate(labeled.task(1), ACCEPT, by=BOB)
    assert labeled.sync.pull() == {"waiting": 2}
    assert labeled.sync.push(labeled.round) == {"removed": 8}
    assert labeled.state(0) == "showing"
    with labeled.database.transaction() as tx:
        decisions.decide(tx, ada.id, labeled.candidates[0], REJECT, key=uuid.uuid4())
        reviewers.deactivate(tx, ada)  # her candidates wait again
    assert labeled.sync.pull() == {"decided": 1, "refused": 1}
    assert labeled.decisions(0) == [("reject", "ada")]
    assert labeled.decisions(1) == [("accept", BOB)]
    assert labeled.sync.push(labeled.round) == {"pushed": 6}
    assert is_consistent(labeled)


def test_a_withdrawn_candidate_is_removed_and_late_annotations_refused(labeled):
    from curation.rounds import lifecycle

    project = labeled.project
    labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    with labeled.database.transaction() as tx:
        lifecycle.close_round(tx, labeled.round, "test")
    assert labeled.sync.push(labeled.round) == {"removed": 8}
    assert labeled.state(0) == "withdrawn"
    assert labeled.refusals() == ["the round of this candidate was closed"]
    assert labeled.studio.tasks(project.remote_id) == {}


def test_an_undo_pushes_the_candidate_again(labeled):
    with labeled.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        made = decisions.decide(tx, ada, labeled.candidates[0], ACCEPT, key=uuid.uuid4())
    labeled.sync.push(labeled.round)
    with labeled.database.transaction() as tx:
        decisions.undo(tx, ada, made.decision, key=uuid.uuid4(), seconds=60)
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, "ada"))
    assert labeled.sync.push(labeled.round) == {"pushed": 1}
    assert str(labeled.candidates[0]) in labeled.studio.tasks(labeled.project.remote_id)
    assert is_consistent(labeled)


def test_switching_the_interface_of_an_open_round(labeled):
    remote_id = labeled.project.remote_id
    labeled.studio.annotate(labeled.task(0), ACCEPT)
    with labeled.database.transaction() as tx:
        projects.switch_interface(tx, labeled.round, "pages", "test")
    assert labeled.sync.push(labeled.round) == {"removed": 7}
    assert list(labeled.studio.tasks(remote_id)) == [str(labeled.candidates[0])]
    assert labeled.state(0) == "accepted"
    with labeled.database.transaction() as tx:
        projects.switch_interface(tx, labeled.round, "label-studio", "test")
    assert labeled.sync.push(labeled.round) == {"pushed": 7}
    assert len(labeled.studio.tasks(remote_id)) == 8
    assert is_consistent(labeled)


def test_a_paused_round_has_no_tasks(labeled):
    remote_id = labeled.project.remote_id
    with labeled.database.transaction() as tx:
        tx.execute(sa.update(rounds).where(rounds.c.id == labeled.round).values(state="paused"))
    assert labeled.sync.push(labeled.round) == {"removed": 8}
    assert labeled.studio.tasks(remote_id) == {}


def test_a_deleted_task_is_pushed_again(labeled):
    remote_id = labeled.project.remote_id
    labeled.studio.annotate(labeled.task(1), ACCEPT)
    labeled.sync.pull()
    for index in (0, 1):
        labeled.studio.client.tasks.delete(str(labeled.task(index)))
    assert [candidate.kind for candidate in reconcile.compare(labeled.sync, labeled.round)] == [
        "missing",
        "missing",
    ]
    assert labeled.sync.pull() == {"tasks_lost": 2}
    assert (labeled.state(0), labeled.state(1)) == ("waiting", "accepted")
    assert labeled.sync.push(labeled.round) == {"pushed": 1}
    assert set(labeled.studio.tasks(remote_id)) == {
        str(candidate) for candidate in (labeled.candidates[0], *labeled.candidates[2:])
    }
    assert is_consistent(labeled)


def test_a_deleted_project_is_created_again(labeled):
    labeled.studio.annotate(labeled.task(0), ACCEPT)
    labeled.sync.pull()
    first = labeled.project.remote_id
    labeled.studio.client.projects.delete(first)
    assert [difference.kind for difference in reconcile.compare(labeled.sync, labeled.round)] == [
        "project"
    ]
    assert labeled.sync.pull() == {"projects_lost": 1}
    assert labeled.sync.push(labeled.round) == {"pushed": 7}
    assert labeled.project.remote_id != first
    assert labeled.state(0) == "accepted"
    assert is_consistent(labeled)


def test_users_are_matched_to_reviewers_by_email(labeled):
    from curation.labeling import users

    with labeled.database.transaction() as tx:
        reviewers.add_reviewer(tx, "Ada")
        users.assign_reviewer_by_name(tx, ADA.upper(), "Ada", "test")
        gone = reviewers.add_reviewer(tx, BOB)
        reviewers.deactivate(tx, gone)
    labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    labeled.studio.annotate(labeled.task(1), ACCEPT, by=BOB)
    labeled.studio.annotate(labeled.task(2), ACCEPT, by=OWNER)
    assert labeled.sync.pull() == {"decided": 2, "refused": 1}
    assert labeled.decisions(0) == [("accept", "Ada")]
    assert labeled.decisions(2) == [("accept", OWNER)]
    assert labeled.refusals() == [f"the reviewer {BOB} is deactivated"]


def test_a_large_round_has_several_projects(labeled, store):
    from dataclasses import replace

    from tests.support.factories import make_candidates, make_round

    small = replace(labeled.sync, max_tasks=5)
    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, 12)
    assert [small.push(round_id)["pushed"] for _ in range(4)] == [5, 5, 2, 0]
    with labeled.database.transaction() as tx:
        parts = projects.open_projects(tx, small.backend.url, round_id)
    assert [project.part for project in parts] == [1, 2, 3]
    task_ids = [
        candidate for project in parts for candidate in labeled.studio.tasks(project.remote_id)
    ]
    assert sorted(task_ids) == sorted(map(str, made))


@pytest.mark.parametrize("page", [1, 4, 5, 8, 9])
def test_tasks_are_read_in_pages(labeled, monkeypatch, page):
    monkeypatch.setattr("curation.adapters.label_studio.PAGE", page)
    labeled.studio.annotate(labeled.task(3), ACCEPT)
    assert labeled.sync.pull(everything=True) == {"decided": 1}
    assert is_consistent(labeled)


def test_concurrent_pushes_create_no_duplicates(labeled, store):
    from dataclasses import replace

    from tests.support.factories import make_candidates, make_round

    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, 20)
    threads = [
        threading.Thread(target=replace(labeled.sync, holder=f"{n}").push, args=(round_id,))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labeled.sync.push(round_id) == {}
    with labeled.database.transaction() as tx:
        [project] = projects.open_projects(tx, labeled.sync.backend.url, round_id)
    task_ids = labeled.studio.tasks(project.remote_id)
    assert sorted(task_ids) == sorted(map(str, made))
    assert all(len(threads) == 1 for threads in task_ids.values())


def decisions_table():
    from curation.db.tables import decisions

    return decisions
