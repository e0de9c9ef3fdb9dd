"""Label Studio as a labeling backend, through its SDK: projects, tasks and annotations."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from curation.adapters.label_studio_projects import (
    MODEL,
    PAGE,
    Projects,
    detail_of,
    task_filter,
    translated,
)
from curation.adapters.label_studio_view import as_result, look, read_result, shown
from curation.domain import RuleVerdict, Verdict
from curation.labeling.port import Annotation, Elsewhere, Placed, Project, Reading, RemoteTask, Task

TIMEOUT: Final = httpx.Timeout(60, connect=5)
LOOKED_AT: Final = "id,data,created_at,updated_at,updated_by,annotations,completed_by,result,was_cancelled,lead_time"
"""Fields of tasks, and of their annotations: the server cuts both by one list."""

AT_ONCE: Final = timedelta(milliseconds=50)
"""An annotation that was never edited has its two times closer together than this."""


class LabelStudioBackend:
    """A ReviewDesk at an address such as http://127.0.0.1:8080; the token is a legacy one or a personal access token.

    `hook` are the address and the headers with which it is to wake us. Nothing is ever sent twice by the client itself
    (max_retries=0): it would repeat imports that had been cut off, and every task of them would be there twice.
    """

    def __init__(
        self, address: str, token: str, hook: tuple[str, Mapping[str, str]] | None = None
    ) -> None:
        """Sends nothing yet."""
        self.address = address.rstrip("/")
        self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=False)
        self._client = LabelStudio(
            base_url=self.address, api_key=token, max_retries=0, httpx_client=self._http
        )
        self._projects = Projects(self._client, self.address, hook)
        self._people: dict[int, str] = {}
        self._me: tuple[int, str] | None = None

    def put_up(self, board: Project, batch: uuid.UUID, postings: Sequence[Task]) -> Placed:
        """Import tasks into the board's project, made if need be, and read back which are there, by our own ids.

        The answer to an import is never trusted to be in order, nor missed when it is lost: before and after it we
        look for the batch's name in the tasks themselves. Those whose page differs are rewritten, each by a call: there
        is none for several.
        """
        with translated(self.address):
            project = (
                self._projects.make(board) if board.number is None else self._projects.find(board)
            )
            number = int(project.id)
            trouble = self._projects.settle(project, board, insist=True)
            self._projects.hang_hook(number, board)
            found = self._placed(number, batch)
            missing = [one for one in postings if one.id not in found]
            refused: dict[uuid.UUID, str] = {}
            if missing:
                refused = self._import(project, board, batch, missing)
                found = self._placed(number, batch)
                if board.number is None:
                    self._projects.lay_out(number, missing[0].facts)
            for one in postings:
                if one.id in found and found[one.id].data.get("look") != look(one):
                    self._rewrite(int(found[one.id].id), board, batch, one)
            placed = {one.id: int(found[one.id].id) for one in postings if one.id in found}
            return Placed(number, project.created_at, placed, refused, trouble)

    def update(self, board: Project, postings: Mapping[int, tuple[uuid.UUID, Task]]) -> None:
        """Rewrite tasks, each by a call, after a look whether its number is still the posting's."""
        with translated(self.address):
            number = int(self._projects.find(board).id) if postings else 0
            for task, (batch, posting) in postings.items():
                wanted = [task_filter("id", "equal", "Number", task)]
                found = next(self._projects.tasks(number, wanted, "id,data", most=1), None)
                if found is not None and _posting(found) == posting.id:
                    self._rewrite(task, board, batch, posting)

    def collect(self, board: Project, since: datetime | None, *, repair: bool = True) -> Reading:
        """Count tasks, and read those that changed with their annotations. Drafts and deleted tasks leave no trace."""
        with translated(self.address):
            project = self._projects.find(board)
            if repair:
                trouble = self._projects.settle(project, board, insist=since is None)
            else:
                trouble = self._projects.differences(project, board)
            mark = self._projects.mark(int(project.id))
            if (
                repair and since is None
            ):  # after the mark was read: a hook that is missing says that it was lost
                self._projects.hang_hook(int(project.id), board)
        seen = self._read(int(project.id), since)
        return Reading(int(project.task_number or 0), seen, mark, project.created_at, trouble)

    def set_mark(self, board: Project, mark: int) -> bool:
        """Write a number to the project's hook, where nobody edits it, and which a restored server has as it was."""
        with translated(self.address):
            return self._projects.set_mark(board, mark)

    def take_down(
        self,
        board: Project,
        postings: Mapping[uuid.UUID, Sequence[int]],
        unless: Mapping[uuid.UUID, datetime | None] | None = None,
    ) -> set[uuid.UUID]:
        """Delete tasks. A server that was restored from a backup gives numbers again, so each is looked at first."""
        if not postings:
            return set()
        numbers = sorted(number for several in postings.values() for number in several)
        left: set[uuid.UUID] = set()
        with translated(self.address):
            project = int(self._projects.find(board).id)
            for start in range(0, len(numbers), PAGE):
                part = numbers[start : start + PAGE]
                going = []
                for task in self._between(project, part):
                    posting = _posting(task)
                    if posting is None or task.id not in postings.get(posting, ()):
                        continue
                    if unless is not None and _changed(task, unless.get(posting)):
                        left.add(posting)
                    else:
                        going.append(int(task.id))
                if going:
                    chosen: Any = {"all": False, "included": going}
                    self._client.actions.create(
                        id="delete_tasks", project=project, selected_items=chosen
                    )
        return left

    def elsewhere(self, known: Collection[tuple[int, datetime | None]]) -> Iterator[Elsewhere]:
        """Look at every project whether it holds tasks of ours."""
        with translated(self.address):
            for one in self._projects.others(known):
                yield Elsewhere(int(one.id), str(one.title or ""), self._read(int(one.id), None))

    def answer(self, number: int, person: str, key: uuid.UUID, said: RuleVerdict) -> None:
        """Make an annotation in the name of a person, who is added there if need be."""
        comment = "" if said.verdict is Verdict.accept else said.sentence
        skipped = said.verdict is Verdict.skip  # its own word for it is a cancelled annotation
        result = [] if skipped else as_result(said.verdict, said.reasons, said.layers, comment)
        with translated(self.address):
            by = next((user for user, email in self._users().items() if email == person), None)
            if by is None:
                by = int(
                    self._client.users.create(email=person, username=person.partition("@")[0]).id
                )
                self._people = {}
            try:
                about: dict[str, Any] = {
                    "completed_by": by,
                    "unique_id": str(key),
                    "was_cancelled": skipped,
                }
                self._client.annotations.create(number, result=result, **about)
            except ApiError as error:
                if error.status_code != httpx.codes.CONFLICT:
                    raise

    def people(self) -> Mapping[int, str]:
        """Everybody there: number and e-mail address. Raises Unreachable."""
        with translated(self.address):
            return dict(self._users(fresh=True))

    def present(self, since: datetime) -> Collection[str]:
        """Who has signed in, drafted or submitted since a time; reading leaves no trace."""
        with translated(self.address):
            mine = self._account()[0]
            found = [one for one in self._client.users.list() if one.id and int(one.id) != mine]
        return {
            str(one.email).lower()
            for one in found
            if one.last_activity and one.last_activity >= since
        }

    def whoami(self) -> str:
        """The address of the account that the token belongs to. Raises Unreachable."""
        with translated(self.address):
            return self._account(fresh=True)[1]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _account(self, *, fresh: bool = False) -> tuple[int, str]:
        if fresh or self._me is None:
            found = self._client.users.whoami()
            self._me = int(found.id or 0), str(found.email).lower()
        return self._me

    def _import(
        self, project: Any, board: Project, batch: uuid.UUID, postings: Sequence[Task]
    ) -> dict[uuid.UUID, str]:
        """Import tasks; where the server refuses them, half by half, until those that it does not take are known."""
        model = project.model_version or MODEL
        try:
            self._client.projects.import_tasks(
                int(project.id), request=[_task(one, board, batch, model) for one in postings]
            )
        except ApiError as error:
            if error.status_code != httpx.codes.BAD_REQUEST:
                raise
            if len(postings) == 1:
                return {postings[0].id: detail_of(error)}
            half = len(postings) // 2
            return self._import(project, board, batch, postings[:half]) | self._import(
                project, board, batch, postings[half:]
            )
        return {}

    def _rewrite(self, task: int, board: Project, batch: uuid.UUID, posting: Task) -> None:
        """Give a task another page; what was said of it stays. That it was deleted meanwhile the next reading tells."""
        people: dict[str, Any] = {}
        if posting.people is not None and posting.people > board.overlap:
            people = {"overlap": posting.people, "is_labeled": False}
        try:
            self._client.tasks.update(str(task), data=_data(posting, board, batch), **people)
        except ApiError as error:
            if error.status_code != httpx.codes.NOT_FOUND:
                raise

    def _read(self, project: int, since: datetime | None) -> Iterator[RemoteTask]:
        wanted = []
        if since is not None:
            # With whole seconds, or another time zone, the server fails.
            when = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            wanted = [task_filter("updated_at", "greater_or_equal", "Datetime", when)]
        with translated(self.address):
            for task in self._projects.tasks(project, wanted, LOOKED_AT):
                yield self._seen(task)

    def _placed(self, project: int, batch: uuid.UUID) -> dict[uuid.UUID, Any]:
        """Our postings of a batch that are there, with the task of the lowest number of each."""
        tasks = self._projects.tasks(
            project, [task_filter("data.batch", "equal", "String", str(batch))], "id,data"
        )
        return {
            posting: task
            for task in reversed(list(tasks))
            if (posting := _posting(task)) is not None
        }

    def _between(self, project: int, numbers: Sequence[int]) -> Iterator[Any]:
        """The tasks from the lowest to the highest of some numbers, with what tells whether they changed."""
        bounds = task_filter("id", "in", "Number", {"min": numbers[0], "max": numbers[-1]})
        wanted = set(numbers)
        found = self._projects.tasks(
            project, [bounds], "id,data,updated_at,total_annotations,cancelled_annotations"
        )
        return (task for task in found if task.id in wanted)

    def _users(self, *, fresh: bool = False) -> Mapping[int, str]:
        if fresh or not self._people:
            self._people = {
                int(one.id): str(one.email).lower() for one in self._client.users.list() if one.id
            }
        return self._people

    def _person(self, who: int) -> str:
        return self._users().get(who) or self._users(fresh=True).get(who, "")

    def _seen(self, task: Any) -> RemoteTask:
        annotations = [
            one if isinstance(one, Mapping) else one.dict() for one in task.annotations or ()
        ]
        answers = tuple(self._answer(one) for one in annotations)
        return RemoteTask(
            int(task.id),
            _posting(task),
            task.updated_at,
            answers,
            shown(str((task.data or {}).get("look"))),
        )

    def _answer(self, annotation: Mapping[str, Any]) -> Annotation:
        """An annotation as an answer of who completed it. A skipped one is a verdict too.

        Whoever is signed in is noted by the server as `updated_by`, also where an annotation is made in another's name.
        So that is who said it, save for what our own account made in people's names.
        """
        by = annotation.get("completed_by")
        who = int(by["id"] if isinstance(by, Mapping) else by or 0)
        author = self._person(who)
        made, at = _time(annotation["created_at"]), _time(annotation["updated_at"])
        changed = int(annotation.get("updated_by") or 0)
        edited = changed not in {0, who} and (changed != self._account()[0] or at - made > AT_ONCE)
        skipped = {"verdict": Verdict.skip}
        said = (
            skipped
            if annotation.get("was_cancelled")
            else read_result(annotation.get("result") or [])
        )
        if not author:
            said = {"fault": f"nobody there has the number {who}"}
        fields = {"verdict": None, "seconds": annotation.get("lead_time")} | said
        editor = self._person(changed) if edited else ""
        return Annotation(
            number=int(annotation["id"]),
            author=author,
            at=at,
            made_at=made,
            editor=editor,
            **fields,
        )


def _task(posting: Task, board: Project, batch: uuid.UUID, model: str) -> dict[str, Any]:
    scored = {"model_version": model, "score": posting.score, "result": []}
    return {"data": _data(posting, board, batch), "predictions": [scored]}


def _data(posting: Task, board: Project, batch: uuid.UUID) -> dict[str, Any]:
    """What a task holds: its page, columns for the data manager, and last our ids."""
    columns = {"prompt": posting.prompt, "note": posting.note} | dict(posting.facts)
    ours = {
        "posting": posting.id,
        "candidate": posting.candidate,
        "batch": batch,
        "board": board.id,
    }
    return columns | {"look": look(posting)} | {name: str(one) for name, one in ours.items()}


def _posting(task: Any) -> uuid.UUID | None:
    """Our id in a task's data; whatever else stands there was not put up by us."""
    try:
        return uuid.UUID((task.data or {})["posting"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _changed(task: Any, seen_at: datetime | None) -> bool:
    """Whether a task says more than what was read of it."""
    if seen_at is None:
        return bool((task.total_annotations or 0) + (task.cancelled_annotations or 0))
    return bool(task.updated_at > seen_at)


def _time(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
