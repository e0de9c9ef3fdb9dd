"""Label Studio as a desk, through its own client: boards are its projects, postings its tasks, answers annotations."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from curation.adapters.label_studio_view import as_result, configuration, look, read_result, shown
from curation.desk.door import Answer, Board, Placed, Posting, Seen
from curation.domain import Said, Verdict
from curation.errors import Conflict, LayerloopError, NotFound, Refused, Unreachable

TIMEOUT: Final = httpx.Timeout(60, connect=5)
PAGE: Final = 500
"""Tasks read at once; with only the fields asked for, a page costs the server about half a second of CPU."""

MODEL: Final = "layerloop"
"""The name of our predictions. Label Studio orders tasks by the scores of its project's current model alone."""

WAKING: Final = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
LOOKED_AT: Final = "id,data,updated_at,annotations,completed_by,result,was_cancelled,lead_time"
"""Fields of tasks, and of their annotations: the server cuts both by one list."""


class LabelStudioDesk:
    """A ReviewDesk at an address such as http://127.0.0.1:8080; the token is a legacy one or a personal access token.

    `hook` are the address and the headers with which it is to wake us. Nothing is ever sent twice by the client itself
    (max_retries=0): it would repeat imports that had been cut off, and every task of them would be there twice.
    """

    def __init__(self, address: str, token: str, hook: tuple[str, Mapping[str, str]] | None = None) -> None:
        """Sends nothing yet."""
        self.address = address.rstrip("/")
        self._hook = hook
        self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=False)
        self._client = LabelStudio(base_url=self.address, api_key=token, max_retries=0, httpx_client=self._http)
        self._people: dict[int, str] = {}

    def put_up(self, board: Board, batch: uuid.UUID, postings: Sequence[Posting]) -> Placed:
        """Import tasks into the board's project, made if need be, and read back which are there, by our own ids.

        The answer to an import is never trusted to be in order, nor missed when it is lost: before and after it we
        look for the batch's name in the tasks themselves. Those whose page differs are rewritten, each by a call: there
        is none for several.
        """
        with self._told():
            number = self._project(board) if board.number is None else self._settled(board)
            self._hang_hook(number)
            found = self._placed(number, batch)
            missing = [one for one in postings if one.id not in found]
            if missing:
                self._client.projects.import_tasks(number, request=[_task(one, batch) for one in missing])
                found = self._placed(number, batch)
            for one in postings:
                if one.id in found and found[one.id].data.get("look") != look(one):
                    self._rewrite(int(found[one.id].id), _data(one, batch))
            return number, {one.id: found[one.id].id for one in postings if one.id in found}

    def collect(self, board: Board, since: datetime | None) -> tuple[int, Iterator[Seen]]:
        """Count tasks, and read those that changed with their annotations. Drafts and deleted tasks leave no trace."""
        with self._told():
            project = self._checked(board)
        return int(project.task_number or 0), self._read(int(project.id), since)

    def take_down(self, board: Board, postings: Mapping[uuid.UUID, Sequence[int]]) -> None:
        """Delete tasks. A server that was restored from a backup gives numbers again, so each is looked at first."""
        ours = {str(posting) for posting in postings}
        numbers = [number for several in postings.values() for number in several]
        with self._told():
            for start in range(0, len(numbers), PAGE):
                part = numbers[start : start + PAGE]
                between = _filter("id", "in", "Number", {"min": min(part), "max": max(part)})
                found = self._tasks(_made(board), [between], "id,data")
                going = [task.id for task in found if task.id in set(part) and task.data.get("posting") in ours]
                if going:
                    chosen: Any = {"all": False, "included": going}
                    self._client.actions.create(id="delete_tasks", project=_made(board), selected_items=chosen)

    def answer(self, number: int, person: str, key: uuid.UUID, said: Said) -> None:
        """Make an annotation in the name of a person, who is added there if need be."""
        comment = "" if said.verdict is Verdict.accept else said.sentence
        skipped = said.verdict is Verdict.skip  # its own word for it is a cancelled annotation
        result = [] if skipped else as_result(said.verdict, said.reasons, said.layers, comment)
        with self._told():
            by = next((user for user, email in self._users().items() if email == person), None)
            if by is None:
                by = int(self._client.users.create(email=person, username=person.partition("@")[0]).id)
                self._people = {}
            try:
                about: dict[str, Any] = {"completed_by": by, "unique_id": str(key), "was_cancelled": skipped}
                self._client.annotations.create(number, result=result, **about)
            except ApiError as error:
                if error.status_code != httpx.codes.CONFLICT:
                    raise

    def people(self) -> Mapping[int, str]:
        """Everybody there: number and e-mail address. Raises Unreachable, Refused."""
        with self._told():
            return dict(self._users(fresh=True))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _project(self, board: Board) -> int:
        """The board's project: the one that bears its name already, or a new one, with a hook that wakes us."""
        name = _name(board)
        known = self._client.projects.list(include="id,description", page_size=PAGE)
        found = next((int(one.id) for one in known if one.id and one.description == name), None)
        if found is None:
            part = f", part {board.part}" if board.part > 1 else ""
            made = self._client.projects.create(
                title=f"Round {board.round}{part}",
                description=name,
                label_config=configuration(board.kind),
                sampling="Uncertainty sampling",  # by the score of our predictions, the lowest first
                model_version=MODEL,
                show_collab_predictions=False,  # a score is no suggestion
                skip_queue="REQUEUE_FOR_OTHERS",
                maximum_annotations=board.overlap,
            )
            found = int(made.id or 0)
        return found

    def _settled(self, board: Board) -> int:
        """The number of the board's project, which asks for what a new one would ask for. Raises NotFound."""
        project = self._checked(board)
        asked: dict[str, Any] = {"label_config": configuration(board.kind), "maximum_annotations": board.overlap}
        if any(getattr(project, name) != value for name, value in asked.items()):
            self._client.projects.update(int(project.id), **asked)
        return int(project.id)

    def _checked(self, board: Board) -> Any:
        """The board's project, by number. Raises NotFound where a restored server has given it to another one."""
        project = self._client.projects.get(_made(board))
        if project.description != _name(board):
            raise NotFound(f"project {board.number} is another one by now")
        return project

    def _hang_hook(self, project: int) -> None:
        """Have the project wake us at our address; a hook that we hung while we had another one is changed."""
        if self._hook is None:
            return
        url, headers = self._hook
        hung = self._client.webhooks.list(project=str(project))
        ours = [one for one in hung if set(headers) <= set(one.headers or {})]
        asked: dict[str, Any] = {"url": url, "headers": dict(headers), "is_active": True}
        if not ours:
            asked |= {"actions": WAKING, "send_payload": False, "send_for_all_actions": False}
            self._client.webhooks.create(project=project, **asked)
        elif any(getattr(ours[0], name) != value for name, value in asked.items()):
            self._client.webhooks.update(int(ours[0].id or 0), **asked)

    def _rewrite(self, task: int, data: Mapping[str, Any]) -> None:
        """Give a task another page; what was said of it stays. That it was deleted meanwhile the next reading tells."""
        try:
            self._client.tasks.update(str(task), data=dict(data))
        except ApiError as error:
            if error.status_code != httpx.codes.NOT_FOUND:
                raise

    def _read(self, project: int, since: datetime | None) -> Iterator[Seen]:
        wanted = []
        if since is not None:
            # With whole seconds, or another time zone, the server fails.
            when = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            wanted = [_filter("updated_at", "greater_or_equal", "Datetime", when)]
        with self._told():
            for task in self._tasks(project, wanted, LOOKED_AT):
                yield self._seen(task)

    def _placed(self, project: int, batch: uuid.UUID) -> dict[uuid.UUID, Any]:
        """Our postings of a batch that are there, with the task of the lowest number of each."""
        tasks = self._tasks(project, [_filter("data.batch", "equal", "String", str(batch))], "id,data")
        return {posting: task for task in reversed(list(tasks)) if (posting := _posting(task)) is not None}

    def _tasks(self, project: int, wanted: Sequence[Mapping[str, Any]], include: str) -> Iterator[Any]:
        """Tasks by their numbers, each part after the last of the one before: pages would shift while people work."""
        after: list[dict[str, Any]] = []
        while True:
            query = {"filters": {"conjunction": "and", "items": [*wanted, *after]}, "ordering": ["tasks:id"]}
            # One page only: the client's own pager always asks for one more than there are.
            found = self._client.tasks.list(
                project=project, query=json.dumps(query), include=include, page_size=PAGE
            ).items
            yield from found or ()
            if not found or len(found) < PAGE:
                return
            after = [_filter("id", "greater", "Number", found[-1].id)]

    def _users(self, *, fresh: bool = False) -> Mapping[int, str]:
        if fresh or not self._people:
            self._people = {int(one.id): str(one.email).lower() for one in self._client.users.list() if one.id}
        return self._people

    def _seen(self, task: Any) -> Seen:
        annotations = [one if isinstance(one, Mapping) else one.dict() for one in task.annotations or ()]
        answers = tuple(self._answer(one) for one in annotations)
        return Seen(task.id, _posting(task), task.updated_at, answers, shown(str((task.data or {}).get("look"))))

    def _answer(self, annotation: Mapping[str, Any]) -> Answer:
        """An annotation as an answer of who completed it, as Label Studio counts it. A skipped one is a verdict too."""
        by = annotation.get("completed_by")
        who = int(by["id"] if isinstance(by, Mapping) else by or 0)
        person = self._users().get(who) or self._users(fresh=True).get(who, "")
        skipped = {"verdict": Verdict.skip}
        said = skipped if annotation.get("was_cancelled") else read_result(annotation.get("result") or [])
        if not person:
            said = {"fault": f"nobody there has the number {who}"}
        at = annotation["updated_at"]
        when = at if isinstance(at, datetime) else datetime.fromisoformat(at)
        fields = {"verdict": None, "seconds": annotation.get("lead_time")} | said
        return Answer(number=int(annotation["id"]), person=person, at=when, **fields)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Translate what the client and the network raise."""
        try:
            yield
        except httpx.TransportError as error:
            hint = "is it running? nothing is lost: what is missing on either side is made up for once it answers"
            raise Unreachable(f"Label Studio at {self.address} does not answer: {error}", hint) from error
        except ApiError as error:
            raise self._translated(error) from error

    def _translated(self, error: ApiError) -> LayerloopError:
        said = f"Label Studio at {self.address} answered {error.status_code}: {str(error.body)[:300]}"
        if error.status_code in {401, 403}:
            return Refused(said, "give a token of it in LAYERLOOP_DESK_TOKEN")
        if error.status_code == 404:
            return NotFound(said)
        if error.status_code == 409:
            return Conflict(said)
        if error.status_code is None or error.status_code >= 500 or error.status_code == 429:
            return Unreachable(said, "its own log tells why; the next try may succeed")
        return Refused(said)


def _task(posting: Posting, batch: uuid.UUID) -> dict[str, Any]:
    scored = {"model_version": MODEL, "score": posting.score, "result": []}
    return {"data": _data(posting, batch), "predictions": [scored]}


def _data(posting: Posting, batch: uuid.UUID) -> dict[str, str]:
    ours = {"posting": posting.id, "candidate": posting.candidate, "batch": batch}
    return {"look": look(posting)} | {name: str(one) for name, one in ours.items()}


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _posting(task: Any) -> uuid.UUID | None:
    """Our id in a task's data; whatever else stands there was not put up by us."""
    try:
        return uuid.UUID((task.data or {})["posting"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _name(board: Board) -> str:
    return f"layerloop {board.id}"


def _made(board: Board) -> int:
    if board.number is None:
        raise NotFound(f"board {board.id} is not made yet")
    return board.number
