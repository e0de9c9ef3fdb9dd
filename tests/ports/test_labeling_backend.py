"""The contract of every desk that is other software, on a real Label Studio; our own pages need no door."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from curation.domain import Kind, LayerRole, RejectReason, RuleVerdict, Verdict
from curation.errors import NotFound, Unreachable
from curation.labeling.port import LabelingBackend, Project, RemoteTask, Task
from tests.support.label_studio import HOOK, Studio
from tests.servers import free_port

pytestmark = pytest.mark.slow

ADA, BOB = "ada@example.org", "bob@example.org"
ACCEPT = RuleVerdict(Verdict.accept, (), "")


@dataclass
class Case:
    """One desk, and the way around it: what its own people and their administrators do."""

    backend: LabelingBackend
    edit: Callable[[int, Verdict], None]  # by an answer's number
    take_back: Callable[[int], None]
    add: Callable[[int], int]  # something of others' to a board, by its number
    remove: Callable[[int], None]  # a board
    away: Callable[[], LabelingBackend]


@pytest.fixture(params=["label-studio"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield from label_studio_case(request.getfixturevalue("studio"))


def label_studio_case(studio: Studio) -> Iterator[Case]:
    from curation.adapters.label_studio import LabelStudioBackend

    for person in (ADA, BOB):  # who edit later, and so need a session
        studio.person(person)
    desk = LabelStudioBackend(studio.server.address, studio.server.token, HOOK)
    away = LabelStudioBackend(f"http://127.0.0.1:{free_port()}", studio.server.token)
    yield Case(
        desk,
        edit=studio.change,
        take_back=studio.client.annotations.delete,
        add=lambda board: int(
            studio.client.tasks.create(project=board, data={"look": "somebody's own"}).id
        ),
        remove=studio.client.projects.delete,
        away=lambda: away,
    )
    desk.close()
    away.close()


def board(kind: Kind = Kind.single, **more: int) -> Project:
    return replace(Project(uuid.uuid4(), 7, 1, kind, None), **more)


def posting(
    text: str = "a cat", roles: Sequence[LayerRole] = (LayerRole.foreground,), score: float = 0.5
) -> Task:
    layers = {role: f"http://127.0.0.1:1/{role}?one=1&other='\"" for role in roles}
    return Task(uuid.uuid4(), uuid.uuid4(), text, {}, layers, score)


def push(
    case: Case, postings: Sequence[Task], kind: Kind = Kind.single
) -> tuple[Project, dict[uuid.UUID, int]]:
    fresh = board(kind)
    placed = case.backend.push(fresh, uuid.uuid4(), postings)
    return replace(fresh, remote_id=placed.project_remote_id, created_at=placed.created_at), dict(
        placed.task_remote_ids
    )


def look(
    case: Case, at: Project, since: datetime | None = None
) -> dict[uuid.UUID | None, RemoteTask]:
    reading = case.backend.pull(at, since)
    found = list(reading.tasks)
    assert since is not None or reading.count == len(found)
    assert len({one.remote_id for one in found}) == len(found)
    return {one.task_id: one for one in found}


def test_what_is_put_up_is_there_with_its_layers_and_a_number(case):
    hostile = posting("<script>alert(1)</script> & \"quotes\" 'both' \\ \u2028 猫\U0001f408")
    pair = posting("a cat on a sofa", list(LayerRole))
    at, placed = push(case, [hostile, pair], Kind.pair)
    found = look(case, at)
    assert {id_: one.remote_id for id_, one in found.items()} == placed
    assert len(set(placed.values())) == 2
    assert {one.id: found[one.id].layers for one in (hostile, pair)} == {
        one.id: one.layers for one in (hostile, pair)
    }
    assert [one.annotations for one in found.values()] == [(), ()]


def test_putting_up_twice_is_putting_up_once(case):
    fresh, batch, several = board(), uuid.uuid4(), [posting() for _ in range(5)]
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
    assert set(look(case, at)) == {one.id for one in several}


def test_nothing_at_all_can_be_put_up(case):
    at, placed = push(case, [])
    assert placed == {}
    assert look(case, at) == {}


def test_what_is_put_up_differently_is_changed_where_it_stands(case):
    fresh, batch, several = board(), uuid.uuid4(), [posting(), posting()]
    made = case.backend.push(fresh, batch, several)
    at, placed = (
        replace(fresh, remote_id=made.project_remote_id, created_at=made.created_at),
        made.task_remote_ids,
    )
    case.backend.submit_annotation(placed[several[0].id], ADA, uuid.uuid4(), ACCEPT)
    moved = replace(several[0], layers={LayerRole.foreground: "http://127.0.0.1:2/elsewhere"})
    assert case.backend.push(at, batch, [moved]).task_remote_ids == {moved.id: placed[moved.id]}
    found = look(case, at)
    assert [found[one.id].layers for one in (moved, several[1])] == [
        moved.layers,
        several[1].layers,
    ]
    assert [answer.user for answer in found[moved.id].annotations] == [ADA]


@pytest.mark.parametrize("kind", Kind)
def test_every_answer_comes_back_as_it_was_said(case, kind):
    roles = [LayerRole.foreground] if kind is Kind.single else list(LayerRole)
    halo, other = RejectReason.halo, RejectReason.other
    layered = (LayerRole.background, LayerRole.foreground) if kind is Kind.pair else ()
    said = [
        ACCEPT,
        RuleVerdict(Verdict.skip, (), ""),
        RuleVerdict(Verdict.reject, (), ""),
        RuleVerdict(Verdict.reject, (other,), 'with "words" & <signs> 猫'),
        RuleVerdict(Verdict.reject, (halo, other), "", layered),
    ]
    several = [posting(roles=roles) for _ in said]
    at, placed = push(case, several, kind)
    began = datetime.now(UTC)
    for one, what in zip(several, said, strict=True):
        case.backend.submit_annotation(placed[one.id], ADA, uuid.uuid4(), what)
    found = look(case, at)
    for one, what in zip(several, said, strict=True):
        [answer] = found[one.id].annotations
        assert (answer.error, answer.user, answer.verdict, answer.comment) == (
            "",
            ADA,
            what.verdict,
            what.sentence,
        )
        assert sorted(answer.reasons) == sorted(what.reasons)
        assert dict(zip(answer.layers, answer.reasons, strict=False)) == dict(
            zip(what.layers, what.reasons, strict=False)
        )
        assert abs((answer.updated_at - began).total_seconds()) < 60


def test_an_answer_with_the_same_key_changes_nothing_and_another_is_another(case):
    one = posting()
    at, placed = push(case, [one])
    key = uuid.uuid4()
    for _ in range(2):
        case.backend.submit_annotation(placed[one.id], ADA, key, ACCEPT)
    case.backend.submit_annotation(
        placed[one.id], BOB, uuid.uuid4(), RuleVerdict(Verdict.reject, (), "")
    )
    answers = look(case, at)[one.id].annotations
    assert [(each.user, each.verdict) for each in sorted(answers, key=lambda each: each.remote_id)] == [
        (ADA, Verdict.accept), (BOB, Verdict.reject),
    ]  # fmt: skip


def test_only_what_changed_since_is_told_with_all_that_was_said_of_it(case):
    several = [posting() for _ in range(4)]
    at, placed = push(case, several)
    for one in several[:3]:
        case.backend.submit_annotation(placed[one.id], ADA, uuid.uuid4(), ACCEPT)
    before = look(case, at)
    since = max(one.updated_at for one in before.values())
    first, second = before[several[0].id].annotations[0], before[several[1].id].annotations[0]
    case.edit(first.remote_id, Verdict.reject)
    case.take_back(second.remote_id)
    case.backend.submit_annotation(placed[several[3].id], BOB, uuid.uuid4(), ACCEPT)
    found = look(case, at, since)
    now = {
        one.id: [answer.verdict for answer in found[one.id].annotations]
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
    assert look(case, at, max(one.updated_at for one in found.values()).replace(year=2100)) == {}


def test_what_was_put_there_by_others_is_told_and_left_alone(case):
    ours = posting()
    at, placed = push(case, [ours])
    theirs = case.add(at.remote_id)
    assert {id_: one.remote_id for id_, one in look(case, at).items()} == {
        ours.id: placed[ours.id],
        None: theirs,
    }
    case.backend.remove(at, {ours.id: [placed[ours.id], theirs]})
    assert [one.remote_id for one in look(case, at).values()] == [theirs]


def test_taking_down_takes_what_is_named_and_twice_is_once(case):
    several = [posting() for _ in range(4)]
    at, placed = push(case, several)
    gone, stays = several[0].id, several[1].id
    case.backend.remove(
        at, {gone: [placed[gone]], uuid.uuid4(): [placed[stays]]}
    )  # that number is another's by now
    case.backend.remove(at, {gone: [placed[gone]]})
    case.backend.remove(at, {})
    assert set(look(case, at)) == {one.id for one in several[1:]}


def test_boards_do_not_see_each_other(case):
    one, other = posting(), posting()
    (first, placed), (second, _) = push(case, [one]), push(case, [other])
    assert first.remote_id != second.remote_id
    case.backend.remove(second, {one.id: [placed[one.id]]})
    assert (set(look(case, first)), set(look(case, second))) == ({one.id}, {other.id})


def test_a_board_that_is_gone_is_not_found_whatever_is_asked(case):
    at, _ = push(case, [posting()])
    case.remove(at.remote_id)
    with pytest.raises(NotFound):
        case.backend.push(at, uuid.uuid4(), [posting()])
    with pytest.raises(NotFound):
        look(case, at)


def test_a_desk_that_does_not_answer_is_unreachable_and_says_where_it_should_be(case):
    away, at, one = case.away(), board(remote_id=1), posting()
    for ask in (
        lambda: away.push(at, uuid.uuid4(), [one]),
        lambda: list(away.pull(at, None).tasks),
        lambda: away.remove(at, {one.id: [1]}),
        lambda: away.submit_annotation(1, ADA, uuid.uuid4(), ACCEPT),
    ):
        with pytest.raises(Unreachable, match=away.url) as told:
            ask()
        assert told.value.hint
