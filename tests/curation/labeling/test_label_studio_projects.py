"""Projects of a real Label Studio that people edit: known all the same, repaired where they differ, told where they cannot."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from curation.adapters.label_studio_projects import same_configuration
from curation.adapters.label_studio_view import configuration
from curation.db.tables import labeling_projects, labeling_tasks
from curation.domain import Kind
from curation.labeling import projects as boards
from curation.labeling import reconcile
from tests.support.label_studio import ACCEPT, REJECT, Seat
from tests.making import make_candidates, make_round

pytestmark = pytest.mark.slow

BOB = "bob@example.org"
MOOD = [
    {"from_name": "mood", "to_name": "candidate", "type": "choices", "value": {"choices": ["fine"]}}
]


def projects(seat: Seat) -> int:
    return len(list(seat.studio.client.projects.list(page_size=500)))


def trouble(seat: Seat) -> str:
    with seat.database.transaction() as tx:
        [row] = [one for one in boards.list_projects(tx) if one["round"] == seat.round]
    return row["error"] or ""


def more(seat: Seat, store, count: int) -> None:
    """Further candidates of the round."""
    with seat.database.transaction() as tx:
        seat.candidates = [
            *seat.candidates,
            *make_candidates(tx, store, seat.round, count, start=len(seat.candidates)),
        ]


def test_one_annotation_with_an_unknown_control_stops_nothing(seat, store):
    said = seat.studio.say(seat.task(0), result=MOOD, by=BOB)
    more(seat, store, 3)
    assert seat.exchange.push(seat.round) == {"pushed": 3}
    assert trouble(seat) == "", "nothing differs, so nothing is written"
    seat.exchange.pull()
    task, project = seat.task(0), seat.board.remote_id
    # Somebody renames a label, which can be mended only once that annotation is gone.
    renamed = configuration(Kind.single, seat.board.id).replace('value="Reject"', 'value="Refuse"')
    renamed = renamed.replace(
        "</View>\n",
        '<Choices name="mood" toName="candidate"><Choice value="fine"/></Choices></View>\n',
        1,
    )
    seat.studio.client.projects.update(project, label_config=renamed)
    more(seat, store, 2)
    assert seat.exchange.push(seat.round) == {"pushed": 2}
    assert trouble(seat) == (
        f"project {project} does not accept its labeling configuration: "
        f"annotation {said} of task {task} uses the unknown control 'mood'"
    )
    told = [one for one in reconcile.compare(seat.exchange, seat.round) if one.kind == "project"]
    assert [(one.message, one.repairable) for one in told] == [(trouble(seat), False)]
    reconcile.repair(seat.exchange, seat.round)
    seat.studio.say(seat.task(1), ACCEPT, by=BOB)
    assert seat.exchange.pull() == {"decided": 1}
    seat.studio.client.annotations.delete(said)
    seat.exchange.pull(everything=True)
    assert trouble(seat) == ""
    kept = seat.studio.client.projects.get(project).label_config
    assert same_configuration(kept, configuration(Kind.single, seat.board.id))


def test_a_refused_board_does_not_stop_the_others(seat, store, caplog, monkeypatch):
    from curation.errors import Refused

    with seat.database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, 2)
    seat.exchange.push(number)
    other = Seat(seat.studio, seat.database, seat.exchange, number, made)
    seat.studio.say(other.task(0), ACCEPT)
    collect = seat.exchange.backend.pull
    refusing = seat.board.id

    def refuse_one(board, since, **more):
        if board.id == refusing:
            raise Refused("Label Studio refuses it")
        return collect(board, since, **more)

    monkeypatch.setattr(seat.exchange.backend, "pull", refuse_one)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            seat.exchange.pull()
    assert other.state(0) == "accepted"
    assert trouble(seat) == "Label Studio refuses it"
    assert len([one for one in caplog.records if "refuses" in one.message]) == 1


def test_one_posting_that_is_refused_does_not_stop_the_others(seat, store, monkeypatch):
    from curation.adapters import label_studio_tasks

    more(seat, store, 5)
    hostile = seat.candidates[9]
    build = label_studio_tasks.task_data

    def without_a_page(posting, *args):
        data = build(posting, *args)
        return (
            data
            if posting.candidate != hostile
            else {key: data[key] for key in data if key != "look"}
        )

    monkeypatch.setattr(label_studio_tasks, "task_data", without_a_page)
    assert seat.exchange.push(seat.round) == {"pushed": 4}
    with seat.database.transaction() as tx:
        [row] = tx.execute(
            sa.select(labeling_tasks).where(labeling_tasks.c.state == "refused")
        ).all()
    assert row.candidate_id == hostile
    assert "look" in row.refused
    assert seat.exchange.push(seat.round) == {}, "it is not tried for ever; the pages have it"


def test_title_and_description_are_peoples_own(seat, store):
    before, number = projects(seat), seat.board.remote_id
    seat.studio.client.projects.update(number, title="Annas round", description="please be quick")
    seat.studio.say(seat.task(0), ACCEPT)
    more(seat, store, 2)
    assert seat.exchange.push(seat.round) == {"pushed": 2}
    assert seat.exchange.pull() == {"decided": 1}
    assert (projects(seat), seat.board.remote_id) == (before, number)
    assert seat.studio.client.projects.get(number).title == "Annas round"
    assert reconcile.compare(seat.exchange, seat.round) == []


@pytest.mark.parametrize("legacy", [False, True])
def test_a_project_is_found_by_our_ids_where_its_number_was_lost(seat, store, legacy):
    """Cut off before the number was noted, and edited meanwhile; also as older versions made it."""
    before, number = projects(seat), seat.board.remote_id
    if legacy:
        plain = configuration(Kind.single)
        seat.studio.client.projects.update(number, label_config=plain, description="edited")
    else:
        seat.studio.client.projects.update(number, description="edited", title="edited")
    with seat.database.transaction() as tx:
        lost = (
            {"remote_created_at": None}
            if legacy
            else {"remote_id": None, "remote_created_at": None}
        )
        tx.execute(
            sa.update(labeling_projects)
            .where(labeling_projects.c.round_id == seat.round)
            .values(lost)
        )
    more(seat, store, 2)
    assert seat.exchange.push(seat.round) == {"pushed": 2}
    assert (projects(seat), seat.board.remote_id) == (before, number)


def test_changed_overlap_is_repaired(seat):
    seat.studio.client.projects.update(seat.board.remote_id, maximum_annotations=3)
    [told] = reconcile.compare(seat.exchange, seat.round)
    assert (told.kind, told.repairable) == ("project", True)
    assert seat.studio.client.projects.get(seat.board.remote_id).maximum_annotations == 3, (
        "to compare changes nothing"
    )
    seat.exchange.pull()
    assert seat.studio.client.projects.get(seat.board.remote_id).maximum_annotations == 1


def test_answers_at_a_second_project_with_our_ids_are_brought_home(seat):
    task = seat.studio.client.tasks.get(str(seat.task(0)))
    config = configuration(Kind.single)
    second = seat.studio.client.projects.create(title="a copy", label_config=config)
    copied = seat.studio.client.tasks.create(project=int(second.id), data=task.data)
    seat.studio.say(int(copied.id), REJECT, by=BOB)
    [told] = [
        one for one in reconcile.compare(seat.exchange, seat.round) if one.kind == "unknown_project"
    ]
    assert (told.remote_id, told.repairable) == (second.id, True)
    assert "1 of them have annotations that are not known here" in told.message
    reconcile.repair(seat.exchange, seat.round)
    assert seat.decided(0) == [("reject", BOB)]
    assert [one for one in reconcile.compare(seat.exchange, seat.round) if one.repairable] == []
    seat.studio.client.projects.delete(int(second.id))


def test_configurations_are_compared_by_what_they_say():
    one = configuration(Kind.pair)
    assert same_configuration(one.strip(), one)
    assert same_configuration(one.replace("\n  <View", "\n      <View"), one)
    assert not same_configuration(one.replace("Reject", "Refuse"), one)
    assert not same_configuration(None, one)
    assert not same_configuration("<View", one)
