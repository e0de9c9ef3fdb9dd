"""The contract of labeling backends, on a real Label Studio."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from curation.domain import Kind, LayerRole, RejectReason, RuleVerdict, Verdict
from curation.errors import NotFound, Unreachable
from curation.labeling.port import LabelingBackend, Project, RemoteTask, Task
from tests.support.label_studio import WEBHOOK, Studio
from tests.support.servers import free_port

pytestmark = pytest.mark.slow

ADA, BOB = "ada@example.org", "bob@example.org"
ACCEPT = RuleVerdict(Verdict.accept, (), "")


@dataclass
class Case:
    """A backend, and the actions of its users and administrators."""

    backend: LabelingBackend
    edit: Callable[[int, Verdict], None]  # by an annotation's number
    delete_annotation: Callable[[int], None]
    add_task: Callable[[int], int]  # something of others' to a project, by its ID
    delete_project: Callable[[int], None]  # a project
    unreachable: Callable[[], LabelingBackend]


@pytest.fixture(params=["label-studio"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield from label_studio_case(request.getfixturevalue("studio"))


def label_studio_case(studio: Studio) -> Iterator[Case]:
    from curation.adapters.label_studio import LabelStudioBackend

    for email in (ADA, BOB):  # who edit later, and so need a session
        studio.user_id(email)
    backend = LabelStudioBackend(studio.server.address, studio.server.token, WEBHOOK)
    away = LabelStudioBackend(f"http://127.0.0.1:{free_port()}", studio.server.token)
    yield Case(
        backend,
        edit=studio.edit_annotation,
        delete_annotation=studio.client.annotations.delete,
        add_task=lambda project: int(
            studio.client.tasks.create(project=project, data={"look": "somebody's own"}).id
        ),
        delete_project=studio.client.projects.delete,
        unreachable=lambda: away,
    )
    backend.close()
    away.close()


def make_project(kind: Kind = Kind.single, **more: int) -> Project:
    return replace(Project(uuid.uuid4(), 7, 1, kind, None), **more)


def make_task(
    text: str = "a cat", roles: Sequence[LayerRole] = (LayerRole.foreground,), score: float = 0.5
) -> Task:
    layers = {role: f"http://127.0.0.1:1/{role}?one=1&other='\"" for role in roles}
    return Task(uuid.uuid4(), uuid.uuid4(), text, {}, layers, score)


def push_tasks(
    case: Case, tasks: Sequence[Task], kind: Kind = Kind.single
) -> tuple[Project, dict[uuid.UUID, int]]:
    fresh = make_project(kind)
    placed = case.backend.push(fresh, uuid.uuid4(), tasks)
    return replace(fresh, remote_id=placed.project_remote_id, created_at=placed.created_at), dict(
        placed.task_remote_ids
    )


def read_tasks(
    case: Case, at: Project, since: datetime | None = None
) -> dict[uuid.UUID | None, RemoteTask]:
    reading = case.backend.pull(at, since)
    found = list(reading.tasks)
    assert since is not None or reading.count == len(found)
    assert len({one.remote_id for one in found}) == len(found)
    return {one.task_id: one for one in found}


def test_pushed_tasks_exist_with_layers_and_id(case):
    hostile = make_task("<script>alert(1)</script> & \"quotes\" 'both' \\ \u2028 猫\U0001f408")
    pair = make_task("a cat on a sofa", list(LayerRole))
    at, placed = push_tasks(case, [hostile, pair], Kind.pair)
    found = read_tasks(case, at)
    assert {id_: one.remote_id for id_, one in found.items()} == placed
    assert len(set(placed.values())) == 2
    assert {one.id: found[one.id].layers for one in (hostile, pair)} == {
        one.id: one.layers for one in (hostile, pair)
    }
    assert [one.annotations for one in found.values()] == [(), ()]


def test_push_is_idempotent(case):
    fresh, batch, several = make_project(), uuid.uuid4(), [make_task() for _ in range(5)]
    first = case.backend.push(
        fresh, batch, several[:3]
    )  # and cut off, so that the board's number is unknown
    again = case.backend.push(fresh, batch, several)
    at = replace(fresh, remote_id=first.project_remote_id, created_at=first.created_at)
    assert again == case.backend.push(at, batch, several)
    assert again.project_remote_id == first.project_remote_id
    assert {id_: again.task_remote_ids[id_] for id_ in first.task_remote_ids} == (
        first.task_remote_ids
    )
    assert set(read_tasks(case, at)) == {one.id for one in several}


def test_an_empty_push(case):
    at, placed = push_tasks(case, [])
    assert placed == {}
    assert read_tasks(case, at) == {}


def test_pushing_changed_tasks_updates_them(case):
    fresh, batch, several = make_project(), uuid.uuid4(), [make_task(), make_task()]
    made = case.backend.push(fresh, batch, several)
    at, placed = (
        replace(fresh, remote_id=made.project_remote_id, created_at=made.created_at),
        made.task_remote_ids,
    )
    case.backend.submit_annotation(placed[several[0].id], ADA, uuid.uuid4(), ACCEPT)
    moved = replace(several[0], layers={LayerRole.foreground: "http://127.0.0.1:2/elsewhere"})
    assert case.backend.push(at, batch, [moved]).task_remote_ids == {moved.id: placed[moved.id]}
    found = read_tasks(case, at)
    assert [found[one.id].layers for one in (moved, several[1])] == [
        moved.layers,
        several[1].layers,
    ]
    assert [annotation.user for annotation in found[moved.id].annotations] == [ADA]


@pytest.mark.parametrize("kind", Kind)
def test_annotations_round_trip(case, kind):
    roles = [LayerRole.foreground] if kind is Kind.single else list(LayerRole)
    halo, other = RejectReason.halo, RejectReason.other
    layered = (LayerRole.background, LayerRole.foreground) if kind is Kind.pair else ()
    message = [
        ACCEPT,
        RuleVerdict(Verdict.skip, (), ""),
        RuleVerdict(Verdict.reject, (), ""),
        RuleVerdict(Verdict.reject, (other,), 'with "words" & <signs> 猫'),
        RuleVerdict(Verdict.reject, (halo, other), "", layered),
    ]
    several = [make_task(roles=roles) for _ in message]
    at, placed = push_tasks(case, several, kind)
    began = datetime.now(UTC)
    for one, what in zip(several, message, strict=True):
        case.backend.submit_annotation(placed[one.id], ADA, uuid.uuid4(), what)
    found = read_tasks(case, at)
    for one, what in zip(several, message, strict=True):
        [annotation] = found[one.id].annotations
        assert (annotation.error, annotation.user, annotation.verdict, annotation.comment) == (
            "",
            ADA,
            what.verdict,
            what.sentence,
        )
        assert sorted(annotation.reasons) == sorted(what.reasons)
        assert dict(zip(annotation.layers, annotation.reasons, strict=False)) == dict(
            zip(what.layers, what.reasons, strict=False)
        )
        assert abs((annotation.updated_at - began).total_seconds()) < 60


def test_submit_annotation_is_idempotent_by_key(case):
    one = make_task()
    at, placed = push_tasks(case, [one])
    key = uuid.uuid4()
    for _ in range(2):
        case.backend.submit_annotation(placed[one.id], ADA, key, ACCEPT)
    case.backend.submit_annotation(
        placed[one.id], BOB, uuid.uuid4(), RuleVerdict(Verdict.reject, (), "")
    )
    annotations = read_tasks(case, at)[one.id].annotations
    assert [(each.user, each.verdict) for each in sorted(annotations, key=lambda each: each.remote_id)] == [
        (ADA, Verdict.accept), (BOB, Verdict.reject),
    ]  # fmt: skip


def test_pull_returns_changed_tasks_with_all_annotations(case):
    several = [make_task() for _ in range(4)]
    at, placed = push_tasks(case, several)
    for one in several[:3]:
        case.backend.submit_annotation(placed[one.id], ADA, uuid.uuid4(), ACCEPT)
    before = read_tasks(case, at)
    since = max(one.updated_at for one in before.values())
    first, second = before[several[0].id].annotations[0], before[several[1].id].annotations[0]
    case.edit(first.remote_id, Verdict.reject)
    case.delete_annotation(second.remote_id)
    case.backend.submit_annotation(placed[several[3].id], BOB, uuid.uuid4(), ACCEPT)
    found = read_tasks(case, at, since)
    now = {
        one.id: [annotation.verdict for annotation in found[one.id].annotations]
        for one in several
        if one.id in found
    }
    assert now[several[0].id] == [Verdict.reject]
    assert now[several[1].id] == []
    assert now[several[3].id] == [Verdict.accept]
    assert now.get(several[2].id) in (None, [Verdict.accept]), (
        "what is as old as the time itself may come again"
    )
    [edited] = found[several[0].id].annotations
    assert (edited.remote_id, edited.updated_at > first.updated_at) == (first.remote_id, True)
    assert (
        read_tasks(case, at, max(one.updated_at for one in found.values()).replace(year=2100)) == {}
    )


def test_foreign_tasks_are_reported_and_kept(case):
    ours = make_task()
    at, placed = push_tasks(case, [ours])
    expected = case.add_task(at.remote_id)
    assert {id_: one.remote_id for id_, one in read_tasks(case, at).items()} == {
        ours.id: placed[ours.id],
        None: expected,
    }
    case.backend.remove(at, {ours.id: [placed[ours.id], expected]})
    assert [one.remote_id for one in read_tasks(case, at).values()] == [expected]


def test_remove_is_idempotent_and_checks_ids(case):
    several = [make_task() for _ in range(4)]
    at, placed = push_tasks(case, several)
    gone, stays = several[0].id, several[1].id
    case.backend.remove(
        at, {gone: [placed[gone]], uuid.uuid4(): [placed[stays]]}
    )  # that number is another's by now
    case.backend.remove(at, {gone: [placed[gone]]})
    case.backend.remove(at, {})
    assert set(read_tasks(case, at)) == {one.id for one in several[1:]}


def test_projects_are_separate(case):
    one, other = make_task(), make_task()
    (first, placed), (second, _) = push_tasks(case, [one]), push_tasks(case, [other])
    assert first.remote_id != second.remote_id
    case.backend.remove(second, {one.id: [placed[one.id]]})
    assert (set(read_tasks(case, first)), set(read_tasks(case, second))) == ({one.id}, {other.id})


def test_a_deleted_project_raises_not_found(case):
    at, _ = push_tasks(case, [make_task()])
    case.delete_project(at.remote_id)
    with pytest.raises(NotFound):
        case.backend.push(at, uuid.uuid4(), [make_task()])
    with pytest.raises(NotFound):
        read_tasks(case, at)


def test_an_unreachable_server_is_named_in_the_error(case):
    away, at, one = case.unreachable(), make_project(remote_id=1), make_task()
    for ask in (
        lambda: away.push(at, uuid.uuid4(), [one]),
        lambda: list(away.pull(at, None).tasks),
        lambda: away.remove(at, {one.id: [1]}),
        lambda: away.submit_annotation(1, ADA, uuid.uuid4(), ACCEPT),
    ):
        with pytest.raises(Unreachable, match=away.url) as output:
            ask()
        assert output.value.hint
