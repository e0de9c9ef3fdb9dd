"""Label Studio projects: lookup, creation, repair, webhooks and task queries."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from xml.etree import ElementTree as ET

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from curation.adapters.label_studio_view import HIDDEN, INSTRUCTION, configuration, project_class
from curation.errors import Conflict, LayerloopError, NotFound, Refused, Unreachable
from curation.labeling.port import Project

PAGE: Final = 500
"""Tasks per request; a page of this size takes the server about half a second of CPU."""

MODEL: Final = "order only"
"""Model version of our predictions, whose scores order the tasks of a project."""

WEBHOOK_ACTIONS: Final = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
MARK_HEADER: Final = "X-Layerloop-Mark"
DESCRIPTION: Final = "Image layers to accept or reject. Title and description may be edited; Layerloop keeps the rest."
NEVER: Final = datetime.min.replace(tzinfo=UTC)
MAX_EXPLAINED: Final = 3
"""Largest number of unknown controls, and of their tasks, that an error names."""


class Projects:
    """The projects of a Label Studio server, each identified by number and time of creation.

    Args:
        client: Client of the server.
        address: URL of the server, for errors.
        hook: URL and headers of the webhook with which a project notifies us.
    """

    def __init__(
        self, client: LabelStudio, address: str, hook: tuple[str, Mapping[str, str]] | None
    ) -> None:
        self._client = client
        self._address = address
        self._hook = hook

    def make(self, board: Project) -> Any:
        """Return the existing project that has our ids, or create it."""
        found = next((remote for remote in self._listed() if self._is_of(remote, board)), None)
        if found is not None:
            return self._client.projects.get(int(found.id))
        part = f", part {board.part}" if board.part > 1 else ""
        return self._client.projects.create(
            title=f"Round {board.round}{part}",
            description=DESCRIPTION,
            label_config=configuration(board.kind, board.id),
            expert_instruction=INSTRUCTION,
            # Show tasks in the order of our predictions' scores, the lowest first.
            sampling="Uncertainty sampling",
            model_version=MODEL,
            # The scores only set the order; do not prefill annotations from predictions.
            show_collab_predictions=False,
            skip_queue="REQUEUE_FOR_OTHERS",
            maximum_annotations=board.overlap,
        )

    def lay_out(self, project: int, columns: Mapping[str, str | float]) -> None:
        """Create a new project's first tab, with the columns to sort by and without ids.

        Errors are ignored, since users can configure their tabs themselves.

        Args:
            project: Number of the project.
            columns: The additional columns of a task, with the values of its first task.
        """
        numbers = {
            f"tasks:data.{name}": "Number"
            for name, value in columns.items()
            if not isinstance(value, str)
        }
        images = {"tasks:data.thumbnail": "Image"} if "thumbnail" in columns else {}
        data = {
            "title": "Candidates",
            "type": "list",
            "target": "tasks",
            "filters": {"conjunction": "and", "items": []},
            "hiddenColumns": {"explore": HIDDEN, "labeling": HIDDEN},
            "columnsDisplayType": numbers | images,
        }
        with suppress(ApiError):
            self._client.views.create(project=project, data=data)

    def find(self, board: Project) -> Any:
        """Return the project by its number.

        Raises:
            NotFound: The project does not exist, or the number belongs to another project now.
        """
        if board.number is None:
            raise NotFound(f"project {board.id} is not created yet")
        remote = self._client.projects.get(board.number)
        same = remote.created_at == board.made_at if board.made_at else self._is_of(remote, board)
        if not same:
            raise NotFound(f"the number {board.number} belongs to another project now")
        return remote

    def settle(self, project: Any, board: Project, *, retry_refused: bool) -> str:
        """Repair a project's settings that differ from ours, with one request for each.

        Args:
            project: The project as the server returns it.
            board: The project as we know it.
            retry_refused: Repeat a request that was refused before; only a change by users on the server
                makes it succeed.

        Returns:
            The errors of the server, or an empty string.
        """
        if board.trouble and not retry_refused:
            return board.trouble
        config = configuration(board.kind, board.id)
        troubles = []
        for name, value in self._differing(project, board).items():
            try:
                self._client.projects.update(int(project.id), **{name: value})
            except ApiError as error:
                if error.status_code != httpx.codes.BAD_REQUEST:
                    raise
                troubles.append(self._explain(int(project.id), name, config, error))
        return "; ".join(troubles)

    def differences(self, project: Any, board: Project) -> str:
        """Describe the settings that `settle` would repair.

        Args:
            project: The project as the server returns it.
            board: The project as we know it.

        Returns:
            The last error of a repair, else the differences, or an empty string.
        """
        names = {"label_config": "labeling configuration", "maximum_annotations": "overlap"}
        differing = [names[name] for name in self._differing(project, board)]
        message = (
            f"project {project.id} has another {' and '.join(differing)} by now"
            if differing
            else ""
        )
        return board.trouble or message

    def _differing(self, remote: Any, project: Project) -> dict[str, Any]:
        """Return the settings that differ on the server, with our values."""
        config = configuration(project.kind, project.id)
        wanted: dict[str, Any] = {}
        if not same_configuration(remote.label_config, config):
            wanted["label_config"] = config
        if remote.maximum_annotations != project.overlap:
            wanted["maximum_annotations"] = project.overlap
        return wanted

    def ensure_webhook(self, project: int, board: Project) -> None:
        """Create the project's webhook, or update it after a change of our URL or headers.

        Args:
            project: Number of the project.
            board: The project as we know it.
        """
        if self._hook is None:
            return
        url, headers = self._hook
        # The mark in an existing webhook is newer than ours, or shows that a backup was restored.
        marked = dict(headers) | {MARK_HEADER: str(board.mark)}
        existing = self._find_webhook(project)
        if existing is not None:
            marked |= {
                name: value
                for name, value in (existing.headers or {}).items()
                if name == MARK_HEADER
            }
        target: dict[str, Any] = {"url": f"{url}?board={board.id}", "headers": marked}
        if existing is None:
            options: dict[str, Any] = {
                "actions": WEBHOOK_ACTIONS,
                "send_payload": False,
                "send_for_all_actions": False,
            }
            self._client.webhooks.create(project=project, is_active=True, **target, **options)
            return
        if not existing.is_active or any(
            getattr(existing, name) != value for name, value in target.items()
        ):
            self._client.webhooks.update(int(existing.id or 0), is_active=True, **target)

    def mark(self, project: int) -> int | None:
        """Return the number in the project's webhook; None if there is none."""
        existing = self._find_webhook(project)
        value = (existing.headers or {}).get(MARK_HEADER) if existing is not None else None
        return int(value) if value is not None and str(value).isdecimal() else None

    def set_mark(self, board: Project, mark: int) -> bool:
        """Write a number to a project's webhook, which is created again if it was removed.

        Args:
            board: The project.
            mark: The number.

        Returns:
            Whether it was written; False if no webhook is configured.
        """
        if self._hook is None:
            return False
        number = int(self.find(board).id)
        existing = self._find_webhook(number)
        if existing is None:
            self.ensure_webhook(number, replace(board, mark=mark))
        else:
            headers = dict(existing.headers or {}) | {MARK_HEADER: str(mark)}
            self._client.webhooks.update(int(existing.id or 0), headers=headers)
        return True

    def others(self, known: Collection[tuple[int, datetime | None]]) -> Iterator[Any]:
        """Yield projects that hold a task with an id of ours and are not known.

        Args:
            known: Number and time of creation of each known project; without a time, every project
                of that number is known.
        """
        numbers = dict(known)
        with_our_id = [task_filter("data.posting", "empty", "String", value=False)]
        for remote in self._listed():
            known_at = numbers.get(int(remote.id), NEVER)
            if known_at in {None, remote.created_at}:
                continue
            found = next(self.tasks(int(remote.id), with_our_id, "id,data", page_size=1), None)
            if found is not None:
                yield remote

    def tasks(
        self,
        project: int,
        conditions: Sequence[Mapping[str, Any]],
        include: str,
        page_size: int = PAGE,
    ) -> Iterator[Any]:
        """Yield tasks in the order of their numbers.

        Each page is read after the last number of the page before, since page numbers shift while
        users work.

        Args:
            project: Number of the project.
            conditions: Conditions, see `task_filter`.
            include: Names of the fields to read, comma separated.
            page_size: Page size; with less than PAGE only one page is read.
        """
        after: list[dict[str, Any]] = []
        while True:
            query = {
                "filters": {"conjunction": "and", "items": [*conditions, *after]},
                "ordering": ["tasks:id"],
            }
            # The client's own pager always requests one page more than there are.
            found = self._client.tasks.list(
                project=project, query=json.dumps(query), include=include, page_size=page_size
            ).items
            yield from found or ()
            if not found or len(found) < page_size or page_size < PAGE:
                return
            after = [task_filter("id", "greater", "Number", found[-1].id)]

    def _listed(self) -> list[Any]:
        fields = "id,title,description,label_config,created_at"
        found = self._client.projects.list(include=fields, page_size=PAGE)
        return sorted((remote for remote in found if remote.id), key=lambda remote: int(remote.id))

    def _is_of(self, remote: Any, project: Project) -> bool:
        """Return whether a project on the server is ours, by the ids that it contains."""
        if project_class(project.id) in (remote.label_config or ""):
            return True
        # Older versions wrote the id into the description.
        if remote.description == f"layerloop {project.id}":
            return True
        # If users changed both, the tasks still hold our ids.
        ids = [("data.board", project.id), *(("data.batch", batch) for batch in project.batches)]
        for column, value in ids:
            wanted = [task_filter(column, "equal", "String", str(value))]
            if next(self.tasks(int(remote.id), wanted, "id", page_size=1), None) is not None:
                return True
        return False

    def _find_webhook(self, number: int) -> Any:
        """Return our webhook of a project, identified by the names of its headers."""
        if self._hook is None:
            return None
        names = set(self._hook[1])
        webhooks = self._client.webhooks.list(project=str(number))
        return next((hook for hook in webhooks if names <= set(hook.headers or {})), None)

    def _explain(self, number: int, name: str, config: str, error: ApiError) -> str:
        """Return why a project cannot be repaired, and which annotations prevent it."""
        if name != "label_config":
            return f"project {number} does not accept its overlap: {get_error_detail(error)}"
        # Find controls that annotations use and our configuration lacks.
        used = re.findall(r"from_name=([^,\n]+)", str(error.body))
        elements = ET.fromstring(config).iter()  # noqa: S314  # our own configuration
        controls = {element.get("name") for element in elements if element.get("toName")}
        # Find the annotations that use them.
        found = []
        for control in sorted(set(used) - controls)[:MAX_EXPLAINED]:
            wanted = [task_filter("annotations_results", "contains", "String", json.dumps(control))]
            for task in self.tasks(
                number, wanted, "id,annotations,result", page_size=MAX_EXPLAINED
            ):
                for item in task.annotations or ():
                    annotation = item if isinstance(item, Mapping) else item.dict()
                    results = annotation.get("result") or ()
                    if any(result.get("from_name") == control for result in results):
                        found.append(
                            f"annotation {annotation['id']} of task {task.id} uses the unknown control {control!r}"
                        )
        named = "; ".join(found) or get_error_detail(error)
        return f"project {number} does not accept its labeling configuration: {named}"


def same_configuration(left: str | None, other: str) -> bool:
    """Return whether two labeling configurations are equal except for white space."""
    try:
        return ET.canonicalize(left or "", strip_text=True) == ET.canonicalize(
            other, strip_text=True
        )
    except ET.ParseError:
        return False


def task_filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    """Return a filter condition of the data manager.

    Args:
        column: Column of a task, such as id or data.batch.
        operator: Operator, such as equal.
        kind: Type of the column: String, Number or Datetime.
        value: The value to compare with.
    """
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def get_error_detail(error: ApiError) -> str:
    """Return the server's error message, without ids and traces, so that equal errors are equal."""
    body = error.body if isinstance(error.body, Mapping) else {}
    messages = [str(message) for message in _leaves(body.get("validation_errors"))] or [
        str(body.get("detail") or "")
    ]
    return " ".join(" ".join(messages).split())[:300] or "no reason given"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value:
        yield value


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Translate errors of the client and the network to errors of this package."""
    try:
        yield
    except httpx.TransportError as error:
        hint = "check that it runs; nothing is lost: both sides are synchronized once it answers"
        raise Unreachable(f"Label Studio at {address} does not answer: {error}", hint) from error
    except ApiError as error:
        raise _translate(address, error) from error


def _translate(address: str, error: ApiError) -> LayerloopError:
    message = f"Label Studio at {address} answered {error.status_code}: {get_error_detail(error)}"
    if error.status_code in {401, 403}:
        return Unreachable(
            f"Label Studio at {address} does not accept the token ({error.status_code})",
            "set a token of that server in LAYERLOOP_LABELING_TOKEN",
        )
    if error.status_code == 404:
        return NotFound(message)
    if error.status_code == 409:
        return Conflict(message)
    if error.status_code is None or error.status_code >= 500 or error.status_code == 429:
        return Unreachable(message, "see Label Studio's log; the next try may succeed")
    return Refused(
        f"Label Studio at {address} refuses the request: {get_error_detail(error)}",
        "see Label Studio's log",
    )
