"""Label Studio as a labeling backend, through its SDK: projects, tasks and annotations."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from curation.adapters.label_studio_errors import get_error_detail, translate_errors
from curation.adapters.label_studio_projects import MODEL, PAGE, Projects, task_filter
from curation.adapters.label_studio_results import build_result
from curation.adapters.label_studio_tasks import (
    has_changed,
    import_request,
    own_id,
    read_task,
    task_data,
)
from curation.adapters.label_studio_users import Users
from curation.adapters.label_studio_view import task_html
from curation.domain import RuleVerdict, Verdict
from curation.labeling.port import (
    Project,
    ProjectReading,
    PushResult,
    RemoteTask,
    Task,
    UnknownProject,
)

TIMEOUT: Final = httpx.Timeout(60, connect=5)
TASK_FIELDS: Final = (
    "id,data,created_at,updated_at,updated_by,annotations,"
    "completed_by,result,was_cancelled,lead_time"
)
"""Fields of tasks and of their annotations; the server filters both by the same list."""


class LabelStudioBackend:
    """A LabelingBackend at a URL such as http://127.0.0.1:8080.

    The client itself never repeats a request (max_retries=0): it would repeat an import whose
    connection was lost, and every task of it would exist twice.

    Args:
        url: URL of the server.
        token: A legacy or a personal access token.
        webhook: URL and headers of the webhook with which the server notifies us.
    """

    def __init__(
        self, url: str, token: str, webhook: tuple[str, Mapping[str, str]] | None = None
    ) -> None:
        """Create the client; nothing is sent yet."""
        self.url = url.rstrip("/")
        self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=False)
        self._client = LabelStudio(
            base_url=self.url, api_key=token, max_retries=0, httpx_client=self._http
        )
        self._projects = Projects(self._client, self.url, webhook)
        self._users = Users(self._client)

    def push(self, project: Project, batch: uuid.UUID, tasks: Sequence[Task]) -> PushResult:
        """Import tasks into a project, which is created if needed, and read back which exist.

        The response to an import may be in another order, and may be lost. Therefore the tasks of
        the batch are looked up by our own ids before and after the import. Existing tasks whose
        view differs are updated with one call each, since the API has no bulk update.

        Args:
            project: The project.
            batch: Id of the batch, which is stored in its tasks.
            tasks: The tasks of the batch.

        Returns:
            Label Studio's ids of the project and the tasks, and the errors.
        """
        with translate_errors(self.url):
            # Find or create the project, and repair its configuration and webhook.
            if project.remote_id is None:
                remote = self._projects.find_or_create(project)
            else:
                remote = self._projects.find(project)
            remote_id = int(remote.id)
            error = self._projects.repair(remote, project, retry_refused=True)
            self._projects.ensure_webhook(remote_id, project)
            # Import the tasks of the batch that do not exist yet.
            found = self._find_batch(remote_id, batch)
            missing = [task for task in tasks if task.id not in found]
            refused: dict[uuid.UUID, str] = {}
            if missing:
                refused = self._import(remote, project, batch, missing)
                found = self._find_batch(remote_id, batch)
                if project.remote_id is None:
                    self._projects.create_first_tab(remote_id, missing[0].columns)
            # Update tasks that are shown with an older view.
            for task in tasks:
                if task.id in found and found[task.id].data.get("look") != task_html(task):
                    self._update_task(int(found[task.id].id), project, batch, task)
            pushed = {task.id: int(found[task.id].id) for task in tasks if task.id in found}
            return PushResult(remote_id, remote.created_at, pushed, refused, error)

    def update(self, project: Project, tasks: Mapping[int, tuple[uuid.UUID, Task]]) -> None:
        """Update tasks, given by remote ID, with one call each, if the ID is still the task's."""
        with translate_errors(self.url):
            project_remote_id = int(self._projects.find(project).id) if tasks else 0
            for remote_id, (batch, task) in tasks.items():
                wanted = [task_filter("id", "equal", "Number", remote_id)]
                found = next(
                    self._projects.tasks(project_remote_id, wanted, "id,data", page_size=1), None
                )
                if found is not None and own_id(found) == task.id:
                    self._update_task(remote_id, project, batch, task)

    def pull(
        self, project: Project, since: datetime | None, *, repair: bool = True
    ) -> ProjectReading:
        """Count the tasks, and read the changed tasks with their annotations.

        Drafts and deleted tasks do not count as changes.

        Args:
            project: The project.
            since: Read tasks that changed since this time; None reads all.
            repair: Repair the project's configuration; otherwise only report the differences.

        Returns:
            The number of tasks, and an iterator that reads the changed tasks.
        """
        with translate_errors(self.url):
            remote = self._projects.find(project)
            if repair:
                error = self._projects.repair(remote, project, retry_refused=since is None)
            else:
                error = self._projects.differences(remote, project)
            # Read the mark before the webhook is repaired: a missing webhook means that the mark
            # was lost.
            mark = self._projects.restore_mark(int(remote.id))
            if repair and since is None:
                self._projects.ensure_webhook(int(remote.id), project)
        tasks = self._read(int(remote.id), since)
        return ProjectReading(int(remote.task_number or 0), tasks, mark, remote.created_at, error)

    def write_restore_mark(self, project: Project, mark: int) -> bool:
        """Store a number in the project's webhook; return False if no webhook is configured.

        Users do not edit webhooks, and a server restored from a backup has the older number.
        """
        with translate_errors(self.url):
            return self._projects.write_restore_mark(project, mark)

    def remove(
        self,
        project: Project,
        task_remote_ids: Mapping[uuid.UUID, Sequence[int]],
        unless: Mapping[uuid.UUID, datetime | None] | None = None,
    ) -> set[uuid.UUID]:
        """Delete tasks, after a check that their IDs still belong to them.

        A server that is restored from a backup assigns IDs again.

        Args:
            project: The project.
            task_remote_ids: Task id -> Label Studio's IDs of the task.
            unless: Task id -> time at which it was last read. A task that changed since then, or
                that was never read and has annotations, is kept.

        Returns:
            The ids of the tasks that were kept because they changed.
        """
        if not task_remote_ids:
            return set()
        remote_ids = sorted(id_ for several in task_remote_ids.values() for id_ in several)
        kept: set[uuid.UUID] = set()
        with translate_errors(self.url):
            project_remote_id = int(self._projects.find(project).id)
            for start in range(0, len(remote_ids), PAGE):
                page = remote_ids[start : start + PAGE]
                deletable = []
                for remote in self._between(project_remote_id, page):
                    task_id = own_id(remote)
                    if task_id is None or remote.id not in task_remote_ids.get(task_id, ()):
                        continue
                    if unless is not None and has_changed(remote, unless.get(task_id)):
                        kept.add(task_id)
                    else:
                        deletable.append(int(remote.id))
                # One call deletes a page of tasks.
                if deletable:
                    chosen: Any = {"all": False, "included": deletable}
                    self._client.actions.create(
                        id="delete_tasks", project=project_remote_id, selected_items=chosen
                    )
        return kept

    def find_unknown_projects(
        self, known: Collection[tuple[int, datetime | None]]
    ) -> Iterator[UnknownProject]:
        """Yield projects that hold tasks of ours and are not known by ID and creation time."""
        with translate_errors(self.url):
            for remote in self._projects.find_unknown(known):
                remote_id = int(remote.id)
                yield UnknownProject(
                    remote_id, str(remote.title or ""), self._read(remote_id, None)
                )

    def submit_annotation(
        self, remote_id: int, user: str, key: uuid.UUID, verdict: RuleVerdict
    ) -> None:
        """Create an annotation in the name of a user, who is created if needed.

        Args:
            remote_id: Label Studio's ID of the task.
            user: E-mail address of the user.
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
        with translate_errors(self.url):
            user_id = self._users.find_or_create(user)
            try:
                fields: dict[str, Any] = {
                    "completed_by": user_id,
                    "unique_id": str(key),
                    "was_cancelled": skipped,
                }
                self._client.annotations.create(remote_id, result=result, **fields)
            except ApiError as error:
                # A conflict means that an earlier call created it.
                if error.status_code != httpx.codes.CONFLICT:
                    raise

    def list_users(self) -> Mapping[int, str]:
        """Return the e-mail address of each user by ID. Raises Unreachable."""
        with translate_errors(self.url):
            return dict(self._users.emails(fresh=True))

    def active_users(self, since: datetime) -> Collection[str]:
        """Return the addresses of users who signed in, drafted or submitted since a time.

        The server does not record reading. Our own account is excluded.
        """
        with translate_errors(self.url):
            return self._users.active(since)

    def whoami(self) -> str:
        """Return the address of the account that the token belongs to. Raises Unreachable."""
        with translate_errors(self.url):
            return self._users.own_account(fresh=True)[1]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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

    def _update_task(self, remote_id: int, project: Project, batch: uuid.UUID, task: Task) -> None:
        """Replace a task's data and keep its annotations; a task deleted meanwhile is ignored."""
        # More annotators than the project's overlap are set for the task itself.
        more: dict[str, Any] = {}
        if task.overlap is not None and task.overlap > project.overlap:
            more = {"overlap": task.overlap, "is_labeled": False}
        try:
            self._client.tasks.update(str(remote_id), data=task_data(task, project, batch), **more)
        except ApiError as error:
            if error.status_code != httpx.codes.NOT_FOUND:
                raise

    def _read(self, project_remote_id: int, since: datetime | None) -> Iterator[RemoteTask]:
        wanted = []
        if since is not None:
            # The server fails on whole seconds and on other time zones.
            when = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            wanted = [task_filter("updated_at", "greater_or_equal", "Datetime", when)]
        with translate_errors(self.url):
            for remote in self._projects.tasks(project_remote_id, wanted, TASK_FIELDS):
                yield read_task(remote, self._users)

    def _find_batch(self, project_remote_id: int, batch: uuid.UUID) -> dict[uuid.UUID, Any]:
        """Return the existing tasks of a batch by our id; of duplicates, the lowest ID."""
        found = self._projects.tasks(
            project_remote_id,
            [task_filter("data.batch", "equal", "String", str(batch))],
            "id,data",
        )
        return {
            task_id: remote
            for remote in reversed(list(found))
            if (task_id := own_id(remote)) is not None
        }

    def _between(self, project_remote_id: int, remote_ids: Sequence[int]) -> Iterator[Any]:
        """Yield tasks by sorted IDs, with the fields that show whether they changed."""
        # The filter knows ranges but no lists, so the range is read and filtered here.
        bounds = task_filter("id", "in", "Number", {"min": remote_ids[0], "max": remote_ids[-1]})
        wanted = set(remote_ids)
        found = self._projects.tasks(
            project_remote_id,
            [bounds],
            "id,data,updated_at,total_annotations,cancelled_annotations",
        )
        return (remote for remote in found if remote.id in wanted)
