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
    edit: Callable[[int, Verdict], None]  # by the remote ID of an annotation
    delete_annotation: Callable[[int], None]
    add_task: Callable[[int], int]  # a foreign task, by the project's ID
    delete_project: Callable[[int], None]  # by its remote ID
    unreachable: Callable[[], LabelingBackend]


@pytest.fixture(params=["label-studio"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield from label_studio_case(request.getfixturevalue("studio"))


def label_studio_case(studio: Studio) -> Iterator[Case]:
    from curation.adapters.label_studio import LabelStudioBackend

    for email in (ADA, BOB):  # both edit later and need a session
        studio.user_id(email)
    backend = LabelStudioBackend(studio.server.address, studio.server.token, WEBHOOK)
    unreachable = LabelStudioBackend(f"http://127.0.0.1:{free_port()}", studio.server.token)
    yield Case(
        backend,
        edit=studio.edit_annotation,
        delete_annotation=studio.client.annotations.delete,
        add_task=lambda project: int(
            studio.client.tasks.create(project=project, data={"look": "a foreign task"}).id
        ),
        delete_project=studio.client.projects.delete,
        unreachable=lambda: unreachable,
    )
    backend.close()
    unreachable.close()


def make_project(kind: Kind = Kind.single, **changes: int) -> Project:
    return replace(Project(uuid.uuid4(), 7, 1, kind, None), **changes)


def make_task(
    text: str = "a cat", roles: Sequence[LayerRole] = (LayerRole.foreground,), score: float = 0.5
) -> Task:
    layers = {role: f"http://127.0.0.1:1/{role}?one=1&other='\"" for role in roles}
    return Task(uuid.uuid4(), uuid.uuid4(), text, {}, layers, score)


def push_tasks(
    case: Case, tasks: Sequence[Task], kind: Kind = Kind.single
) -> tuple[Project, dict[uuid.UUID, int]]:
    new_project = make_project(kind)
    pushed = case.backend.push(new_project, uuid.uuid4(), tasks)
    project = replace(new_project, remote_id=pushed.project_remote_id, created_at=pushed.created_at)
    return project, dict(pushed.task_remote_ids)


def read_tasks(
    case: Case, project: Project, since: datetime | None = None
) -> dict[uuid.UUID | None, RemoteTask]:
    pulled = case.backend.pull(project, since)
    tasks = list(pulled.tasks)
    assert since is not None or pulled.count == len(tasks)
    assert len({task.remote_id for task in tasks}) == len(tasks)
    return {task.task_id: task for task in tasks}


def test_pushed_tasks_exist_with_layers_and_id(case):
    hostile = make_task("<script>alert(1)</script> & \"quotes\" 'both' \\ \u2028 猫\U0001f408")
    pair = make_task("a cat on a sofa", list(LayerRole))
    project, remote_ids = push_tasks(case, [hostile, pair], Kind.pair)
    found = read_tasks(case, project)
    assert {id_: task.remote_id for id_, task in found.items()} == remote_ids
    assert len(set(remote_ids.values())) == 2
    assert {task.id: found[task.id].layers for task in (hostile, pair)} == {
        task.id: task.layers for task in (hostile, pair)
    }
    assert [task.annotations for task in found.values()] == [(), ()]


def test_push_is_idempotent(case):
    new_project, batch, tasks = make_project(), uuid.uuid4(), [make_task() for _ in range(5)]
    first = case.backend.push(
        new_project, batch, tasks[:3]
    )  # interrupted, so that the project's remote ID is unknown
    again = case.backend.push(new_project, batch, tasks)
    project = replace(new_project, remote_id=first.project_remote_id, created_at=first.created_at)
    assert again == case.backend.push(project, batch, tasks)
    assert again.project_remote_id == first.project_remote_id
    assert {id_: again.task_remote_ids[id_] for id_ in first.task_remote_ids} == (
        first.task_remote_ids
    )
    assert set(read_tasks(case, project)) == {task.id for task in tasks}


def test_an_empty_push_creates_no_tasks(case):
    project, remote_ids = push_tasks(case, [])
    assert remote_ids == {}
    assert read_tasks(case, project) == {}


def test_pushing_changed_tasks_updates_them(case):
    new_project, batch, tasks = make_project(), uuid.uuid4(), [make_task(), make_task()]
    pushed = case.backend.push(new_project, batch, tasks)
    project, remote_ids = (
        replace(new_project, remote_id=pushed.project_remote_id, created_at=pushed.created_at),
        pushed.task_remote_ids,
    )
    case.backend.submit_annotation(remote_ids[tasks[0].id], ADA, uuid.uuid4(), ACCEPT)
    moved = replace(tasks[0], layers={LayerRole.foreground: "http://127.0.0.1:2/elsewhere"})
    assert case.backend.push(project, batch, [moved]).task_remote_ids == {
        moved.id: remote_ids[moved.id]
    }
    found = read_tasks(case, project)
    assert [found[task.id].layers for task in (moved, tasks[1])] == [
        moved.layers,
        tasks[1].layers,
    ]
    assert [annotation.user for annotation in found[moved.id].annotations] == [ADA]


@pytest.mark.parametrize("kind", Kind)
def test_annotations_round_trip(case, kind):
    roles = [LayerRole.foreground] if kind is Kind.single else list(LayerRole)
    halo, other = RejectReason.halo, RejectReason.other
    layered = (LayerRole.background, LayerRole.foreground) if kind is Kind.pair else ()
    verdicts = [
        ACCEPT,
        RuleVerdict(Verdict.skip, (), ""),
        RuleVerdict(Verdict.reject, (), ""),
        RuleVerdict(Verdict.reject, (other,), 'with "words" & <signs> 猫'),
        RuleVerdict(Verdict.reject, (halo, other), "", layered),
    ]
    tasks = [make_task(roles=roles) for _ in verdicts]
    project, remote_ids = push_tasks(case, tasks, kind)
    started_at = datetime.now(UTC)
    for task, verdict in zip(tasks, verdicts, strict=True):
        case.backend.submit_annotation(remote_ids[task.id], ADA, uuid.uuid4(), verdict)
    found = read_tasks(case, project)
    for task, verdict in zip(tasks, verdicts, strict=True):
        [annotation] = found[task.id].annotations
        assert (annotation.error, annotation.user, annotation.verdict, annotation.comment) == (
            "",
            ADA,
            verdict.verdict,
            verdict.sentence,
        )
        assert sorted(annotation.reasons) == sorted(verdict.reasons)
        assert dict(zip(annotation.layers, annotation.reasons, strict=False)) == dict(
            zip(verdict.layers, verdict.reasons, strict=False)
        )
        assert abs((annotation.updated_at - started_at).total_seconds()) < 60


def test_submit_annotation_is_idempotent_by_key(case):
    task = make_task()
    project, remote_ids = push_tasks(case, [task])
    key = uuid.uuid4()
    for _ in range(2):
        case.backend.submit_annotation(remote_ids[task.id], ADA, key, ACCEPT)
    case.backend.submit_annotation(
        remote_ids[task.id], BOB, uuid.uuid4(), RuleVerdict(Verdict.reject, (), "")
    )
    by_id = sorted(
        read_tasks(case, project)[task.id].annotations, key=lambda annotation: annotation.remote_id
    )
    assert [(annotation.user, annotation.verdict) for annotation in by_id] == [
        (ADA, Verdict.accept), (BOB, Verdict.reject),
    ]  # fmt: skip


def test_pull_returns_changed_tasks_with_all_annotations(case):
    tasks = [make_task() for _ in range(4)]
    project, remote_ids = push_tasks(case, tasks)
    for task in tasks[:3]:
        case.backend.submit_annotation(remote_ids[task.id], ADA, uuid.uuid4(), ACCEPT)
    before = read_tasks(case, project)
    since = max(task.updated_at for task in before.values())
    first, second = before[tasks[0].id].annotations[0], before[tasks[1].id].annotations[0]
    case.edit(first.remote_id, Verdict.reject)
    case.delete_annotation(second.remote_id)
    case.backend.submit_annotation(remote_ids[tasks[3].id], BOB, uuid.uuid4(), ACCEPT)
    found = read_tasks(case, project, since)
    now = {
        task.id: [annotation.verdict for annotation in found[task.id].annotations]
        for task in tasks
        if task.id in found
    }
    assert now[tasks[0].id] == [Verdict.reject]
    assert now[tasks[1].id] == []
    assert now[tasks[3].id] == [Verdict.accept]
    assert now.get(tasks[2].id) in (None, [Verdict.accept]), (
        "a task updated exactly at `since` may be returned again"
    )
    [edited] = found[tasks[0].id].annotations
    assert (edited.remote_id, edited.updated_at > first.updated_at) == (first.remote_id, True)
    assert (
        read_tasks(
            case, project, max(task.updated_at for task in found.values()).replace(year=2100)
        )
        == {}
    )


def test_foreign_tasks_are_reported_and_kept(case):
    ours = make_task()
    project, remote_ids = push_tasks(case, [ours])
    foreign = case.add_task(project.remote_id)
    assert {id_: task.remote_id for id_, task in read_tasks(case, project).items()} == {
        ours.id: remote_ids[ours.id],
        None: foreign,
    }
    case.backend.remove(project, {ours.id: [remote_ids[ours.id], foreign]})
    assert [task.remote_id for task in read_tasks(case, project).values()] == [foreign]


def test_remove_is_idempotent_and_checks_ids(case):
    tasks = [make_task() for _ in range(4)]
    project, remote_ids = push_tasks(case, tasks)
    removed, kept = tasks[0].id, tasks[1].id
    case.backend.remove(
        project, {removed: [remote_ids[removed]], uuid.uuid4(): [remote_ids[kept]]}
    )  # that remote ID belongs to another task now
    case.backend.remove(project, {removed: [remote_ids[removed]]})
    case.backend.remove(project, {})
    assert set(read_tasks(case, project)) == {task.id for task in tasks[1:]}


def test_projects_are_separate(case):
    task, other = make_task(), make_task()
    (first, remote_ids), (second, _) = push_tasks(case, [task]), push_tasks(case, [other])
    assert first.remote_id != second.remote_id
    case.backend.remove(second, {task.id: [remote_ids[task.id]]})
    assert (set(read_tasks(case, first)), set(read_tasks(case, second))) == ({task.id}, {other.id})


def test_a_deleted_project_raises_not_found(case):
    project, _ = push_tasks(case, [make_task()])
    case.delete_project(project.remote_id)
    with pytest.raises(NotFound):
        case.backend.push(project, uuid.uuid4(), [make_task()])
    with pytest.raises(NotFound):
        read_tasks(case, project)


def test_an_unreachable_server_is_named_in_the_error(case):
    backend, project, task = case.unreachable(), make_project(remote_id=1), make_task()
    for call in (
        lambda: backend.push(project, uuid.uuid4(), [task]),
        lambda: list(backend.pull(project, None).tasks),
        lambda: backend.remove(project, {task.id: [1]}),
        lambda: backend.submit_annotation(1, ADA, uuid.uuid4(), ACCEPT),
    ):
        with pytest.raises(Unreachable, match=backend.url) as error:
            call()
        assert error.value.hint
