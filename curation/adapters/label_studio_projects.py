"""Label Studio projects: lookup, creation, repair, webhooks and task queries."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from xml.etree import ElementTree as ET

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from curation.adapters.label_studio_errors import get_error_detail
from curation.adapters.label_studio_view import HIDDEN, INSTRUCTION, configuration, project_class
from curation.errors import NotFound
from curation.labeling.port import Project

PAGE: Final = 500
"""Tasks per request; a page of this size takes the server about half a second of CPU."""

MODEL: Final = "order only"
"""Model version of our predictions, whose scores order the tasks of a project."""

WEBHOOK_ACTIONS: Final = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
MARK_HEADER: Final = "X-Layerloop-Mark"
DESCRIPTION: Final = (
    "Image layers to accept or reject. "
    "Title and description may be edited; Layerloop keeps the rest."
)
NEVER: Final = datetime.min.replace(tzinfo=UTC)
MAX_EXPLAINED: Final = 3
"""Largest number of unknown controls, and of their tasks, that an error names."""


class Projects:
    """The projects of a Label Studio server, each identified by ID and creation time.

    Args:
        client: Client of the server.
        url: URL of the server, for errors.
        webhook: URL and headers of the webhook with which a project notifies us.
    """

    def __init__(
        self, client: LabelStudio, url: str, webhook: tuple[str, Mapping[str, str]] | None
    ) -> None:
        self._client = client
        self._url = url
        self._webhook = webhook

    def find_or_create(self, project: Project) -> Any:
        """Return the existing project that has our ids, or create it."""
        found = next((remote for remote in self._listed() if self._is_of(remote, project)), None)
        if found is not None:
            return self._client.projects.get(int(found.id))
        part = f", part {project.part}" if project.part > 1 else ""
        return self._client.projects.create(
            title=f"Round {project.round}{part}",
            description=DESCRIPTION,
            label_config=configuration(project.kind, project.id),
            expert_instruction=INSTRUCTION,
            # Show tasks in the order of our predictions' scores, the lowest first.
            sampling="Uncertainty sampling",
            model_version=MODEL,
            # The scores only set the order; do not prefill annotations from predictions.
            show_collab_predictions=False,
            skip_queue="REQUEUE_FOR_OTHERS",
            maximum_annotations=project.overlap,
        )

    def create_first_tab(self, project_remote_id: int, columns: Mapping[str, str | float]) -> None:
        """Create a new project's first tab, with the columns to sort by and without ids.

        Errors are ignored, since users can configure their tabs themselves.

        Args:
            project_remote_id: ID of the project on the server.
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
            self._client.views.create(project=project_remote_id, data=data)

    def find(self, project: Project) -> Any:
        """Return the project by its ID on the server.

        Raises:
            NotFound: The project does not exist, or the ID belongs to another project now.
        """
        if project.remote_id is None:
            raise NotFound(f"project {project.id} is not created yet")
        remote = self._client.projects.get(project.remote_id)
        same = (
            remote.created_at == project.created_at
            if project.created_at
            else self._is_of(remote, project)
        )
        if not same:
            raise NotFound(f"the ID {project.remote_id} belongs to another project now")
        return remote

    def repair(self, remote: Any, project: Project, *, retry_refused: bool) -> str:
        """Repair a project's settings that differ from ours, with one request for each.

        Args:
            remote: The project as the server returns it.
            project: The project as we know it.
            retry_refused: Repeat a request that was refused before; only a change by users on the
                server makes it succeed.

        Returns:
            The errors of the server, or an empty string.
        """
        if project.error and not retry_refused:
            return project.error
        config = configuration(project.kind, project.id)
        errors = []
        for name, value in self._differing(remote, project).items():
            try:
                self._client.projects.update(int(remote.id), **{name: value})
            except ApiError as error:
                if error.status_code != httpx.codes.BAD_REQUEST:
                    raise
                errors.append(self._explain(int(remote.id), name, config, error))
        return "; ".join(errors)

    def differences(self, remote: Any, project: Project) -> str:
        """Describe the settings that `repair` would change.

        Args:
            remote: The project as the server returns it.
            project: The project as we know it.

        Returns:
            The last error of a repair, else the differences, or an empty string.
        """
        names = {"label_config": "labeling configuration", "maximum_annotations": "overlap"}
        differing = [names[name] for name in self._differing(remote, project)]
        message = (
            f"project {remote.id} has another {' and '.join(differing)} by now" if differing else ""
        )
        return project.error or message

    def _differing(self, remote: Any, project: Project) -> dict[str, Any]:
        """Return the settings that differ on the server, with our values."""
        config = configuration(project.kind, project.id)
        wanted: dict[str, Any] = {}
        if not same_configuration(remote.label_config, config):
            wanted["label_config"] = config
        if remote.maximum_annotations != project.overlap:
            wanted["maximum_annotations"] = project.overlap
        return wanted

    def ensure_webhook(self, remote_id: int, project: Project) -> None:
        """Create the project's webhook, or update it after a change of our URL or headers.

        Args:
            remote_id: ID of the project on the server.
            project: The project as we know it.
        """
        if self._webhook is None:
            return
        url, headers = self._webhook
        # The mark in an existing webhook is newer than ours, or shows that a backup was restored.
        marked = dict(headers) | {MARK_HEADER: str(project.restore_mark)}
        existing = self._find_webhook(remote_id)
        if existing is not None:
            marked |= {
                name: value
                for name, value in (existing.headers or {}).items()
                if name == MARK_HEADER
            }
        target: dict[str, Any] = {"url": f"{url}?project={project.id}", "headers": marked}
        if existing is None:
            options: dict[str, Any] = {
                "actions": WEBHOOK_ACTIONS,
                "send_payload": False,
                "send_for_all_actions": False,
            }
            self._client.webhooks.create(project=remote_id, is_active=True, **target, **options)
            return
        if not existing.is_active or any(
            getattr(existing, name) != value for name, value in target.items()
        ):
            self._client.webhooks.update(int(existing.id or 0), is_active=True, **target)

    def restore_mark(self, remote_id: int) -> int | None:
        """Return the number in the project's webhook; None if there is none."""
        existing = self._find_webhook(remote_id)
        value = (existing.headers or {}).get(MARK_HEADER) if existing is not None else None
        return int(value) if value is not None and str(value).isdecimal() else None

    def write_restore_mark(self, project: Project, mark: int) -> bool:
        """Write a number to a project's webhook, which is created again if it was removed.

        Args:
            project: The project.
            mark: The number.

        Returns:
            Whether it was written; False if no webhook is configured.
        """
        if self._webhook is None:
            return False
        remote_id = int(self.find(project).id)
        existing = self._find_webhook(remote_id)
        if existing is None:
            self.ensure_webhook(remote_id, replace(project, restore_mark=mark))
        else:
            headers = dict(existing.headers or {}) | {MARK_HEADER: str(mark)}
            self._client.webhooks.update(int(existing.id or 0), headers=headers)
        return True

    def find_unknown(self, known: Collection[tuple[int, datetime | None]]) -> Iterator[Any]:
        """Yield projects that hold a task with an id of ours and are not known.

        Args:
            known: ID and creation time of each known project; without a time, every project of
                that ID is known.
        """
        created = dict(known)
        with_our_id = [task_filter("data.posting", "empty", "String", value=False)]
        for remote in self._listed():
            known_at = created.get(int(remote.id), NEVER)
            if known_at in {None, remote.created_at}:
                continue
            found = next(self.tasks(int(remote.id), with_our_id, "id,data", page_size=1), None)
            if found is not None:
                yield remote

    def tasks(
        self,
        project_remote_id: int,
        conditions: Sequence[Mapping[str, Any]],
        include: str,
        page_size: int = PAGE,
    ) -> Iterator[Any]:
        """Yield tasks in the order of their IDs.

        Each page is read after the last ID of the page before, since page numbers shift while
        users work.

        Args:
            project_remote_id: ID of the project on the server.
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
                project=project_remote_id,
                query=json.dumps(query),
                include=include,
                page_size=page_size,
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

    def _find_webhook(self, remote_id: int) -> Any:
        """Return our webhook of a project, identified by the names of its headers."""
        if self._webhook is None:
            return None
        names = set(self._webhook[1])
        webhooks = self._client.webhooks.list(project=str(remote_id))
        return next((found for found in webhooks if names <= set(found.headers or {})), None)

    def _explain(self, remote_id: int, name: str, config: str, error: ApiError) -> str:
        """Return why a project cannot be repaired, and which annotations prevent it."""
        if name != "label_config":
            return f"project {remote_id} does not accept its overlap: {get_error_detail(error)}"
        # Find controls that annotations use and our configuration lacks.
        used = re.findall(r"from_name=([^,\n]+)", str(error.body))
        elements = ET.fromstring(config).iter()  # noqa: S314  # our own configuration
        controls = {element.get("name") for element in elements if element.get("toName")}
        # Find the annotations that use them.
        found = []
        for control in sorted(set(used) - controls)[:MAX_EXPLAINED]:
            wanted = [task_filter("annotations_results", "contains", "String", json.dumps(control))]
            for task in self.tasks(
                remote_id, wanted, "id,annotations,result", page_size=MAX_EXPLAINED
            ):
                for item in task.annotations or ():
                    annotation = item if isinstance(item, Mapping) else item.dict()
                    results = annotation.get("result") or ()
                    if any(result.get("from_name") == control for result in results):
                        found.append(
                            f"annotation {annotation['id']} of task {task.id} "
                            f"uses the unknown control {control!r}"
                        )
        named = "; ".join(found) or get_error_detail(error)
        return f"project {remote_id} does not accept its labeling configuration: {named}"


def same_configuration(left: str | None, right: str) -> bool:
    """Return whether two labeling configurations are equal except for white space."""
    try:
        return ET.canonicalize(left or "", strip_text=True) == ET.canonicalize(
            right, strip_text=True
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
