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
    get_error_detail,
    task_filter,
    translate_errors,
)
from curation.adapters.label_studio_tasks import (
    as_time,
    has_changed,
    import_request,
    own_id,
    task_data,
)
from curation.adapters.label_studio_view import (
    build_result,
    parse_layer_urls,
    parse_result,
    task_html,
)
from curation.domain import RuleVerdict, Verdict
from curation.labeling.port import (
    Annotation,
    Project,
    ProjectReading,
    PushResult,
    RemoteTask,
    Task,
    UnknownProject,
)

TIMEOUT: Final = httpx.Timeout(60, connect=5)
TASK_FIELDS: Final = "id,data,created_at,updated_at,updated_by,annotations,completed_by,result,was_cancelled,lead_time"
"""Fields of tasks and of their annotations; the server filters both by the same list."""

UNEDITED_WITHIN: Final = timedelta(milliseconds=50)
"""The largest difference between the two times of an annotation that was never edited."""


class LabelStudioBackend:
    """A LabelingBackend at a URL such as http://127.0.0.1:8080.

    The client itself never repeats a request (max_retries=0): it would repeat an import whose
    connection was lost, and every task of it would exist twice.

    Args:
        address: URL of the server.
        token: A legacy or a personal access token.
        hook: URL and headers of the webhook with which the server notifies us.
    """

    def __init__(
        self, address: str, token: str, webhook: tuple[str, Mapping[str, str]] | None = None
    ) -> None:
        """Create the client; nothing is sent yet."""
        self.address = address.rstrip("/")
        self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=False)
        self._client = LabelStudio(
            base_url=self.address, api_key=token, max_retries=0, httpx_client=self._http
        )
        self._projects = Projects(self._client, self.address, webhook)
        self._emails: dict[int, str] = {}
        self._own_account: tuple[int, str] | None = None

    def put_up(self, board: Project, batch: uuid.UUID, postings: Sequence[Task]) -> PushResult:
        """Import tasks into a project, which is created if needed, and read back which exist.

        The response to an import may be in another order, and may be lost. Therefore the tasks of
        the batch are looked up by our own ids before and after the import. Existing tasks whose
        view differs are updated with one call each, since the API has no bulk update.

        Args:
            board: The project.
            batch: Id of the batch, which is stored in its tasks.
            postings: The tasks of the batch.

        Returns:
            Label Studio's ids of the project and the tasks, and the errors.
        """
        with translate_errors(self.address):
            # Find or create the project, and repair its configuration and webhook.
            remote = (
                self._projects.make(board) if board.number is None else self._projects.find(board)
            )
            number = int(remote.id)
            trouble = self._projects.settle(remote, board, retry_refused=True)
            self._projects.ensure_webhook(number, board)
            # Import the tasks of the batch that do not exist yet.
            found = self._find_batch(number, batch)
            missing = [task for task in postings if task.id not in found]
            refused: dict[uuid.UUID, str] = {}
            if missing:
                refused = self._import(remote, board, batch, missing)
                found = self._find_batch(number, batch)
                if board.number is None:
                    self._projects.lay_out(number, missing[0].facts)
            # Update tasks that are shown with an older view.
            for task in postings:
                if task.id in found and found[task.id].data.get("look") != task_html(task):
                    self._update_task(int(found[task.id].id), board, batch, task)
            placed = {task.id: int(found[task.id].id) for task in postings if task.id in found}
            return PushResult(number, remote.created_at, placed, refused, trouble)

    def update(self, board: Project, postings: Mapping[int, tuple[uuid.UUID, Task]]) -> None:
        """Update tasks, given by number, with one call each, if the number is still the task's."""
        with translate_errors(self.address):
            project_number = int(self._projects.find(board).id) if postings else 0
            for number, (batch, task) in postings.items():
                wanted = [task_filter("id", "equal", "Number", number)]
                found = next(
                    self._projects.tasks(project_number, wanted, "id,data", page_size=1), None
                )
                if found is not None and own_id(found) == task.id:
                    self._update_task(number, board, batch, task)

    def collect(
        self, board: Project, since: datetime | None, *, repair: bool = True
    ) -> ProjectReading:
        """Count the tasks, and read the changed tasks with their annotations.

        Drafts and deleted tasks do not count as changes.

        Args:
            board: The project.
            since: Read tasks that changed since this time; None reads all.
            repair: Repair the project's configuration; otherwise only report the differences.

        Returns:
            The number of tasks, and an iterator that reads the changed tasks.
        """
        with translate_errors(self.address):
            remote = self._projects.find(board)
            if repair:
                trouble = self._projects.settle(remote, board, retry_refused=since is None)
            else:
                trouble = self._projects.differences(remote, board)
            # Read the mark before the webhook is repaired: a missing webhook means that the mark
            # was lost.
            mark = self._projects.mark(int(remote.id))
            if repair and since is None:
                self._projects.ensure_webhook(int(remote.id), board)
        seen = self._read(int(remote.id), since)
        return ProjectReading(int(remote.task_number or 0), seen, mark, remote.created_at, trouble)

    def set_mark(self, board: Project, mark: int) -> bool:
        """Store a number in the project's webhook; return False if no webhook is configured.

        Users do not edit webhooks, and a server restored from a backup has the older number.
        """
        with translate_errors(self.address):
            return self._projects.set_mark(board, mark)

    def take_down(
        self,
        board: Project,
        postings: Mapping[uuid.UUID, Sequence[int]],
        unless: Mapping[uuid.UUID, datetime | None] | None = None,
    ) -> set[uuid.UUID]:
        """Delete tasks, after a check that their numbers still belong to them.

        A server that is restored from a backup assigns numbers again.

        Args:
            board: The project.
            postings: Task id -> Label Studio's numbers of the task.
            unless: Task id -> time at which it was last read. A task that changed since then, or
                that was never read and has annotations, is kept.

        Returns:
            The ids of the tasks that were kept because they changed.
        """
        if not postings:
            return set()
        numbers = sorted(number for several in postings.values() for number in several)
        left: set[uuid.UUID] = set()
        with translate_errors(self.address):
            project_number = int(self._projects.find(board).id)
            for start in range(0, len(numbers), PAGE):
                page = numbers[start : start + PAGE]
                deletable = []
                for remote in self._between(project_number, page):
                    task_id = own_id(remote)
                    if task_id is None or remote.id not in postings.get(task_id, ()):
                        continue
                    if unless is not None and has_changed(remote, unless.get(task_id)):
                        left.add(task_id)
                    else:
                        deletable.append(int(remote.id))
                # One call deletes a page of tasks.
                if deletable:
                    chosen: Any = {"all": False, "included": deletable}
                    self._client.actions.create(
                        id="delete_tasks", project=project_number, selected_items=chosen
                    )
        return left

    def find_unknown_projects(
        self, known: Collection[tuple[int, datetime | None]]
    ) -> Iterator[UnknownProject]:
        """Yield projects that hold tasks of ours and are not known by number and creation time."""
        with translate_errors(self.address):
            for remote in self._projects.others(known):
                number = int(remote.id)
                yield UnknownProject(number, str(remote.title or ""), self._read(number, None))

    def answer(self, number: int, person: str, key: uuid.UUID, verdict: RuleVerdict) -> None:
        """Create an annotation in the name of a user, who is created if needed.

        Args:
            number: Label Studio's number of the task.
            person: E-mail address of the user.
            key: Id of the annotation; a second call with the same key changes nothing.
            verdict: The verdict with its reasons.
        """
        comment = "" if verdict.verdict is Verdict.accept else verdict.sentence
        # Label Studio calls a skipped annotation a cancelled one.
        skipped = verdict.verdict is Verdict.skip
        result = (
            []
            if skipped
            else build_result(verdict.verdict, verdict.reasons, verdict.layers, comment)
        )
        with translate_errors(self.address):
            user_id = next((user for user, email in self._users().items() if email == person), None)
            if user_id is None:
                username = person.partition("@")[0]
                user_id = int(self._client.users.create(email=person, username=username).id)
                self._emails = {}
            try:
                fields: dict[str, Any] = {
                    "completed_by": user_id,
                    "unique_id": str(key),
                    "was_cancelled": skipped,
                }
                self._client.annotations.create(number, result=result, **fields)
            except ApiError as error:
                # A conflict means that an earlier call created it.
                if error.status_code != httpx.codes.CONFLICT:
                    raise

    def people(self) -> Mapping[int, str]:
        """Return the e-mail address of each user by number. Raises Unreachable."""
        with translate_errors(self.address):
            return dict(self._users(fresh=True))

    def present(self, since: datetime) -> Collection[str]:
        """Return the addresses of users who signed in, drafted or submitted since a time.

        The server does not record reading. Our own account is excluded.
        """
        with translate_errors(self.address):
            own = self._account()[0]
            found = [user for user in self._client.users.list() if user.id and int(user.id) != own]
        return {
            str(user.email).lower()
            for user in found
            if user.last_activity and user.last_activity >= since
        }

    def whoami(self) -> str:
        """Return the address of the account that the token belongs to. Raises Unreachable."""
        with translate_errors(self.address):
            return self._account(fresh=True)[1]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _account(self, *, fresh: bool = False) -> tuple[int, str]:
        if fresh or self._own_account is None:
            found = self._client.users.whoami()
            self._own_account = int(found.id or 0), str(found.email).lower()
        return self._own_account

    def _import(
        self, remote: Any, project: Project, batch: uuid.UUID, tasks: Sequence[Task]
    ) -> dict[uuid.UUID, str]:
        """Import tasks, and return those that the server refuses, each with the reason.

        The server refuses a request as a whole, so a refused batch is split until the refused tasks
        are found.
        """
        model = remote.model_version or MODEL
        try:
            self._client.projects.import_tasks(
                int(remote.id),
                request=[import_request(task, project, batch, model) for task in tasks],
            )
        except ApiError as error:
            if error.status_code != httpx.codes.BAD_REQUEST:
                raise
            if len(tasks) == 1:
                return {tasks[0].id: get_error_detail(error)}
            half = len(tasks) // 2
            return self._import(remote, project, batch, tasks[:half]) | self._import(
                remote, project, batch, tasks[half:]
            )
        return {}

    def _update_task(self, number: int, project: Project, batch: uuid.UUID, task: Task) -> None:
        """Replace a task's data and keep its annotations; a task deleted meanwhile is ignored."""
        # More annotators than the project's overlap are set for the task itself.
        people: dict[str, Any] = {}
        if task.people is not None and task.people > project.overlap:
            people = {"overlap": task.people, "is_labeled": False}
        try:
            self._client.tasks.update(str(number), data=task_data(task, project, batch), **people)
        except ApiError as error:
            if error.status_code != httpx.codes.NOT_FOUND:
                raise

    def _read(self, project_number: int, since: datetime | None) -> Iterator[RemoteTask]:
        wanted = []
        if since is not None:
            # The server fails on whole seconds and on other time zones.
            when = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            wanted = [task_filter("updated_at", "greater_or_equal", "Datetime", when)]
        with translate_errors(self.address):
            for remote in self._projects.tasks(project_number, wanted, TASK_FIELDS):
                yield self._remote_task(remote)

    def _find_batch(self, project_number: int, batch: uuid.UUID) -> dict[uuid.UUID, Any]:
        """Return the existing tasks of a batch by our id; of duplicates, the lowest number."""
        found = self._projects.tasks(
            project_number, [task_filter("data.batch", "equal", "String", str(batch))], "id,data"
        )
        return {
            task_id: remote
            for remote in reversed(list(found))
            if (task_id := own_id(remote)) is not None
        }

    def _between(self, project_number: int, numbers: Sequence[int]) -> Iterator[Any]:
        """Yield tasks by sorted numbers, with the fields that show whether they changed."""
        # The filter knows ranges but no lists, so the range is read and filtered here.
        bounds = task_filter("id", "in", "Number", {"min": numbers[0], "max": numbers[-1]})
        wanted = set(numbers)
        found = self._projects.tasks(
            project_number,
            [bounds],
            "id,data,updated_at,total_annotations,cancelled_annotations",
        )
        return (remote for remote in found if remote.id in wanted)

    def _users(self, *, fresh: bool = False) -> Mapping[int, str]:
        if fresh or not self._emails:
            self._emails = {
                int(user.id): str(user.email).lower()
                for user in self._client.users.list()
                if user.id
            }
        return self._emails

    def _email(self, user_id: int) -> str:
        return self._users().get(user_id) or self._users(fresh=True).get(user_id, "")

    def _remote_task(self, remote: Any) -> RemoteTask:
        annotations = [
            item if isinstance(item, Mapping) else item.dict() for item in remote.annotations or ()
        ]
        return RemoteTask(
            int(remote.id),
            own_id(remote),
            remote.updated_at,
            tuple(self._annotation(item) for item in annotations),
            parse_layer_urls(str((remote.data or {}).get("look"))),
        )

    def _annotation(self, annotation: Mapping[str, Any]) -> Annotation:
        """Convert an annotation; a skipped annotation has the verdict skip.

        The server records the signed-in user as `updated_by`, also where an annotation is created
        in the name of another user. That user is the editor, except where our own account created
        the annotation in a user's name.
        """
        completed_by = annotation.get("completed_by")
        author_id = int(
            completed_by["id"] if isinstance(completed_by, Mapping) else completed_by or 0
        )
        author = self._email(author_id)
        # Find out whether somebody else changed it.
        created_at = as_time(annotation["created_at"])
        updated_at = as_time(annotation["updated_at"])
        updated_by = int(annotation.get("updated_by") or 0)
        edited = updated_by not in {0, author_id} and (
            updated_by != self._account()[0] or updated_at - created_at > UNEDITED_WITHIN
        )
        # Read the verdict.
        skipped = {"verdict": Verdict.skip}
        verdict = (
            skipped
            if annotation.get("was_cancelled")
            else parse_result(annotation.get("result") or [])
        )
        if not author:
            verdict = {"fault": f"there is no user with the number {author_id}"}
        fields = {"verdict": None, "seconds": annotation.get("lead_time")} | verdict
        return Annotation(
            number=int(annotation["id"]),
            author=author,
            at=updated_at,
            made_at=created_at,
            editor=self._email(updated_by) if edited else "",
            **fields,
        )
