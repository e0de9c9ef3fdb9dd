"""Projects that users edit in Label Studio: recognized, repaired, or reported."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from curation.adapters.label_studio_projects import same_configuration
from curation.adapters.label_studio_view import configuration
from curation.db.tables import labeling_projects, labeling_tasks
from curation.domain import Kind
from curation.labeling import projects, reconcile
from tests.support.factories import make_candidates, make_round
from tests.support.label_studio import ACCEPT, REJECT, LabeledRound

pytestmark = pytest.mark.slow

BOB = "bob@example.org"
MOOD = [
    {"from_name": "mood", "to_name": "candidate", "type": "choices", "value": {"choices": ["fine"]}}
]


def count_projects(labeled: LabeledRound) -> int:
    return len(list(labeled.studio.client.projects.list(page_size=500)))


def recorded_error(labeled: LabeledRound) -> str:
    with labeled.database.transaction() as tx:
        [row] = [one for one in projects.list_projects(tx) if one["round"] == labeled.round]
    return row["error"] or ""


def add_candidates(labeled: LabeledRound, store, count: int) -> None:
    """Add candidates to the round."""
    with labeled.database.transaction() as tx:
        labeled.candidates = [
            *labeled.candidates,
            *make_candidates(tx, store, labeled.round, count, start=len(labeled.candidates)),
        ]


def test_an_unknown_control_does_not_stop_the_project(labeled, store):
    annotation = labeled.studio.annotate(labeled.task(0), result=MOOD, by=BOB)
    add_candidates(labeled, store, 3)
    assert labeled.sync.push(labeled.round) == {"pushed": 3}
    assert recorded_error(labeled) == "", "nothing differs, so nothing is written"
    labeled.sync.pull()
    task, project = labeled.task(0), labeled.project.remote_id
    # Somebody renames a label, which can be mended only once that annotation is gone.
    renamed = configuration(Kind.single, labeled.project.id).replace(
        'value="Reject"', 'value="Refuse"'
    )
    renamed = renamed.replace(
        "</View>\n",
        '<Choices name="mood" toName="candidate"><Choice value="fine"/></Choices></View>\n',
        1,
    )
    labeled.studio.client.projects.update(project, label_config=renamed)
    add_candidates(labeled, store, 2)
    assert labeled.sync.push(labeled.round) == {"pushed": 2}
    assert recorded_error(labeled) == (
        f"project {project} does not accept its labeling configuration: "
        f"annotation {annotation} of task {task} uses the unknown control 'mood'"
    )
    differences = [
        one for one in reconcile.compare(labeled.sync, labeled.round) if one.kind == "project"
    ]
    assert [(one.message, one.repairable) for one in differences] == [
        (recorded_error(labeled), False)
    ]
    reconcile.repair(labeled.sync, labeled.round)
    labeled.studio.annotate(labeled.task(1), ACCEPT, by=BOB)
    assert labeled.sync.pull() == {"decided": 1}
    labeled.studio.client.annotations.delete(annotation)
    labeled.sync.pull(everything=True)
    assert recorded_error(labeled) == ""
    kept = labeled.studio.client.projects.get(project).label_config
    assert same_configuration(kept, configuration(Kind.single, labeled.project.id))


def test_a_refused_project_does_not_stop_others(labeled, store, caplog, monkeypatch):
    from curation.errors import Refused

    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, 2)
    labeled.sync.push(round_id)
    other = LabeledRound(labeled.studio, labeled.database, labeled.sync, round_id, made)
    labeled.studio.annotate(other.task(0), ACCEPT)
    pull = labeled.sync.backend.pull
    refusing = labeled.project.id

    def refuse_one(project, since, **more):
        if project.id == refusing:
            raise Refused("Label Studio refuses it")
        return pull(project, since, **more)

    monkeypatch.setattr(labeled.sync.backend, "pull", refuse_one)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            labeled.sync.pull()
    assert other.state(0) == "accepted"
    assert recorded_error(labeled) == "Label Studio refuses it"
    assert len([one for one in caplog.records if "refuses" in one.message]) == 1


def test_a_refused_task_does_not_stop_others(labeled, store, monkeypatch):
    from curation.adapters import label_studio_tasks

    add_candidates(labeled, store, 5)
    hostile = labeled.candidates[9]
    build = label_studio_tasks.task_data

    def without_view(task, *args):
        data = build(task, *args)
        return (
            data if task.candidate != hostile else {key: data[key] for key in data if key != "look"}
        )

    monkeypatch.setattr(label_studio_tasks, "task_data", without_view)
    assert labeled.sync.push(labeled.round) == {"pushed": 4}
    with labeled.database.transaction() as tx:
        [row] = tx.execute(
            sa.select(labeling_tasks).where(labeling_tasks.c.state == "refused")
        ).all()
    assert row.candidate_id == hostile
    assert "look" in row.refused
    assert labeled.sync.push(labeled.round) == {}, "it is not tried for ever; the pages have it"


def test_users_may_edit_title_and_description(labeled, store):
    before, remote_id = count_projects(labeled), labeled.project.remote_id
    labeled.studio.client.projects.update(
        remote_id, title="Annas round", description="please be quick"
    )
    labeled.studio.annotate(labeled.task(0), ACCEPT)
    add_candidates(labeled, store, 2)
    assert labeled.sync.push(labeled.round) == {"pushed": 2}
    assert labeled.sync.pull() == {"decided": 1}
    assert (count_projects(labeled), labeled.project.remote_id) == (before, remote_id)
    assert labeled.studio.client.projects.get(remote_id).title == "Annas round"
    assert reconcile.compare(labeled.sync, labeled.round) == []


@pytest.mark.parametrize("legacy", [False, True])
def test_a_project_with_a_lost_id_is_found_by_its_content(labeled, store, legacy):
    """The push was interrupted before the ID was stored; also as older versions created it."""
    before, remote_id = count_projects(labeled), labeled.project.remote_id
    if legacy:
        plain = configuration(Kind.single)
        labeled.studio.client.projects.update(remote_id, label_config=plain, description="edited")
    else:
        labeled.studio.client.projects.update(remote_id, description="edited", title="edited")
    with labeled.database.transaction() as tx:
        lost = (
            {"remote_created_at": None}
            if legacy
            else {"remote_id": None, "remote_created_at": None}
        )
        tx.execute(
            sa.update(labeling_projects)
            .where(labeling_projects.c.remote_id == labeled.round)
            .values(lost)
        )
    add_candidates(labeled, store, 2)
    assert labeled.sync.push(labeled.round) == {"pushed": 2}
    assert (count_projects(labeled), labeled.project.remote_id) == (before, remote_id)


def test_changed_overlap_is_repaired(labeled):
    labeled.studio.client.projects.update(labeled.project.remote_id, maximum_annotations=3)
    [differences] = reconcile.compare(labeled.sync, labeled.round)
    assert (differences.kind, differences.repairable) == ("project", True)
    assert labeled.studio.client.projects.get(labeled.project.remote_id).maximum_annotations == 3, (
        "to compare changes nothing"
    )
    labeled.sync.pull()
    assert labeled.studio.client.projects.get(labeled.project.remote_id).maximum_annotations == 1


def test_annotations_of_an_unknown_project_are_pulled(labeled):
    task = labeled.studio.client.tasks.get(str(labeled.task(0)))
    config = configuration(Kind.single)
    second = labeled.studio.client.projects.create(title="a copy", label_config=config)
    copied = labeled.studio.client.tasks.create(project=int(second.id), data=task.data)
    labeled.studio.annotate(int(copied.id), REJECT, by=BOB)
    [differences] = [
        one
        for one in reconcile.compare(labeled.sync, labeled.round)
        if one.kind == "unknown_project"
    ]
    assert (differences.remote_id, differences.repairable) == (second.id, True)
    assert "1 of them have annotations that are not known here" in differences.message
    reconcile.repair(labeled.sync, labeled.round)
    assert labeled.decisions(0) == [("reject", BOB)]
    assert [one for one in reconcile.compare(labeled.sync, labeled.round) if one.repairable] == []
    labeled.studio.client.projects.delete(int(second.id))


def test_configurations_are_compared_by_content():
    one = configuration(Kind.pair)
    assert same_configuration(one.strip(), one)
    assert same_configuration(one.replace("\n  <View", "\n      <View"), one)
    assert not same_configuration(one.replace("Reject", "Refuse"), one)
    assert not same_configuration(None, one)
    assert not same_configuration("<View", one)
