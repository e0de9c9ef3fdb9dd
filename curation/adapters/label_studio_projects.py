"""Label Studio projects: find, create, keep up to date and mark them."""

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

from curation.adapters.label_studio_view import INSTRUCTION, board_class, configuration
from curation.errors import Conflict, LayerloopError, NotFound, Refused, Unreachable
from curation.labeling.port import Project

PAGE: Final = 500
"""Tasks read at once; with only the fields asked for, a page costs the server about half a second of CPU."""

MODEL: Final = "order only"
"""The name of our predictions. Label Studio orders tasks by the scores of its project's current model alone."""

WAKING: Final = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
MARK_HEADER: Final = "X-Layerloop-Mark"
DESCRIPTION: Final = "Image layers to accept or reject. Title and description may be edited; Layerloop keeps the rest."
HIDDEN: Final = [
    *(f"tasks:data.{name}" for name in ("look", "posting", "candidate", "batch", "board", "round")),
    *(
        f"tasks:{name}"
        for name in ("file_upload", "storage_filename", "inner_id", "created_at", "updated_at")
    ),
    *(
        f"tasks:{name}"
        for name in ("updated_by", "avg_lead_time", "draft_exists", "predictions_results")
    ),
    *(
        f"tasks:{name}"
        for name in ("predictions_model_versions", "total_predictions", "annotations_ids")
    ),
]
"""Columns of the data manager that a new project does not show at first."""

NEVER: Final = datetime.min.replace(tzinfo=UTC)
TRIED: Final = 3
"""Controls that a refusal names, at most."""


class Projects:
    """The projects of one Label Studio, each known by its number together with the time at which it was made."""

    def __init__(
        self, client: LabelStudio, address: str, hook: tuple[str, Mapping[str, str]] | None
    ) -> None:
        """`hook` are the address and the headers with which a project is to wake us."""
        self._client = client
        self._address = address
        self._hook = hook

    def make(self, board: Project) -> Any:
        """Return the board's project: one that holds our ids already, or a new one."""
        found = next((one for one in self._listed() if self._is_of(one, board)), None)
        if found is not None:
            return self._client.projects.get(int(found.id))
        part = f", part {board.part}" if board.part > 1 else ""
        return self._client.projects.create(
            title=f"Round {board.round}{part}",
            description=DESCRIPTION,
            label_config=configuration(board.kind, board.id),
            expert_instruction=INSTRUCTION,
            sampling="Uncertainty sampling",  # by the score of our predictions, the lowest first
            model_version=MODEL,
            show_collab_predictions=False,  # a score is no suggestion
            skip_queue="REQUEUE_FOR_OTHERS",
            maximum_annotations=board.overlap,
        )

    def lay_out(self, project: int, columns: Mapping[str, str | float]) -> None:
        """Give a new project a first tab that shows what people sort by, and hides pages and ids.

        What the server refuses of it is left: people can lay out their tabs themselves.
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
        """Return the board's project by its number. Raises NotFound where that number is another one's by now."""
        if board.number is None:
            raise NotFound(f"board {board.id} is not made yet")
        project = self._client.projects.get(board.number)
        same = project.created_at == board.made_at if board.made_at else self._is_of(project, board)
        if not same:
            raise NotFound(f"project {board.number} is another one by now")
        return project

    def settle(self, project: Any, board: Project, *, insist: bool) -> str:
        """Repair what differs in a project, one write for each thing; returns what the server refused.

        A write that was refused before is tried again only if `insist`: nothing but people can make it succeed.
        """
        if board.trouble and not insist:
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
        """Return a sentence on what `settle` would repair, or what was refused the last time; empty for nothing."""
        names = {"label_config": "labeling configuration", "maximum_annotations": "overlap"}
        differing = [names[name] for name in self._differing(project, board)]
        told = (
            f"project {project.id} has another {' and '.join(differing)} by now"
            if differing
            else ""
        )
        return board.trouble or told

    def _differing(self, project: Any, board: Project) -> dict[str, Any]:
        """What a project should have and has not."""
        config = configuration(board.kind, board.id)
        wanted: dict[str, Any] = {}
        if not same_configuration(project.label_config, config):
            wanted["label_config"] = config
        if project.maximum_annotations != board.overlap:
            wanted["maximum_annotations"] = board.overlap
        return wanted

    def hang_hook(self, project: int, board: Project) -> None:
        """Have the project wake us at our address; a hook that we hung while we had another one is changed."""
        if self._hook is None:
            return
        url, headers = self._hook
        marked = dict(headers) | {MARK_HEADER: str(board.mark)}
        ours = self._hung(project)
        if ours is not None:
            marked |= {
                name: value for name, value in (ours.headers or {}).items() if name == MARK_HEADER
            }
        asked: dict[str, Any] = {"url": f"{url}?board={board.id}", "headers": marked}
        if ours is None:
            about: dict[str, Any] = {
                "actions": WAKING,
                "send_payload": False,
                "send_for_all_actions": False,
            }
            self._client.webhooks.create(project=project, is_active=True, **asked, **about)
            return
        if not ours.is_active or any(getattr(ours, name) != value for name, value in asked.items()):
            self._client.webhooks.update(int(ours.id or 0), is_active=True, **asked)

    def mark(self, project: int) -> int | None:
        """Return the number that was last written to the project's hook; None where there is none."""
        ours = self._hung(project)
        value = (ours.headers or {}).get(MARK_HEADER) if ours is not None else None
        return int(value) if value is not None and str(value).isdecimal() else None

    def set_mark(self, board: Project, mark: int) -> bool:
        """Write a number to the hook of a board's project, which is hung again where somebody removed it."""
        if self._hook is None:
            return False
        project = int(self.find(board).id)
        ours = self._hung(project)
        if ours is None:
            self.hang_hook(project, replace(board, mark=mark))
        else:
            headers = dict(ours.headers or {}) | {MARK_HEADER: str(mark)}
            self._client.webhooks.update(int(ours.id or 0), headers=headers)
        return True

    def others(self, known: Collection[tuple[int, datetime | None]]) -> Iterator[Any]:
        """Yield projects that hold a task with an id of ours and are none of those known."""
        numbers = dict(known)
        ours = [task_filter("data.posting", "empty", "String", value=False)]
        for one in self._listed():
            known_at = numbers.get(int(one.id), NEVER)
            if known_at in {None, one.created_at}:
                continue
            if next(self.tasks(int(one.id), ours, "id,data", most=1), None) is not None:
                yield one

    def tasks(
        self, project: int, wanted: Sequence[Mapping[str, Any]], include: str, most: int = PAGE
    ) -> Iterator[Any]:
        """Yield tasks by their numbers, each part after the last of the one before: pages shift while people work."""
        after: list[dict[str, Any]] = []
        while True:
            query = {
                "filters": {"conjunction": "and", "items": [*wanted, *after]},
                "ordering": ["tasks:id"],
            }
            # One page only: the client's own pager always asks for one more than there are.
            found = self._client.tasks.list(
                project=project, query=json.dumps(query), include=include, page_size=most
            ).items
            yield from found or ()
            if not found or len(found) < most or most < PAGE:
                return
            after = [task_filter("id", "greater", "Number", found[-1].id)]

    def _listed(self) -> list[Any]:
        fields = "id,title,description,label_config,created_at"
        found = self._client.projects.list(include=fields, page_size=PAGE)
        return sorted((one for one in found if one.id), key=lambda one: int(one.id))

    def _is_of(self, project: Any, board: Project) -> bool:
        """Whether a project bears the board's id in its configuration or tasks, or as older versions wrote it."""
        if board_class(board.id) in (project.label_config or ""):
            return True
        if project.description == f"layerloop {board.id}":
            return True
        signs = [("data.board", board.id), *(("data.batch", batch) for batch in board.batches)]
        for column, value in signs:
            wanted = [task_filter(column, "equal", "String", str(value))]
            if next(self.tasks(int(project.id), wanted, "id", most=1), None) is not None:
                return True
        return False

    def _hung(self, project: int) -> Any:
        """The hook of ours that a project has, known by the names of its headers."""
        if self._hook is None:
            return None
        names = set(self._hook[1])
        hung = self._client.webhooks.list(project=str(project))
        return next((one for one in hung if names <= set(one.headers or {})), None)

    def _explain(self, project: int, name: str, config: str, error: ApiError) -> str:
        """Say why a project cannot be repaired, and which annotations stand in the way."""
        if name != "label_config":
            return f"project {project} does not take its overlap: {detail_of(error)}"
        used = re.findall(r"from_name=([^,\n]+)", str(error.body))
        controls = {one.get("name") for one in ET.fromstring(config).iter() if one.get("toName")}  # noqa: S314  # ours
        found = []
        for control in sorted(set(used) - controls)[:TRIED]:
            wanted = [task_filter("annotations_results", "contains", "String", json.dumps(control))]
            for task in self.tasks(project, wanted, "id,annotations,result", most=TRIED):
                for one in task.annotations or ():
                    about = one if isinstance(one, Mapping) else one.dict()
                    if any(item.get("from_name") == control for item in about.get("result") or ()):
                        found.append(
                            f"annotation {about['id']} of task {task.id} uses the unknown control {control!r}"
                        )
        named = "; ".join(found) or detail_of(error)
        return f"project {project} does not take its labeling configuration: {named}"


def same_configuration(one: str | None, other: str) -> bool:
    """Whether two labeling configurations say the same, however they are spaced."""
    try:
        return ET.canonicalize(one or "", strip_text=True) == ET.canonicalize(
            other, strip_text=True
        )
    except ET.ParseError:
        return False


def task_filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    """Return one condition of the data manager."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def detail_of(error: ApiError) -> str:
    """Return what the server says is wrong, without its ids and traces: the same error is the same sentence."""
    body = error.body if isinstance(error.body, Mapping) else {}
    told = [str(one) for one in _leaves(body.get("validation_errors"))] or [
        str(body.get("detail") or "")
    ]
    return " ".join(" ".join(told).split())[:300] or "it gives no reason"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif value:
        yield value


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise what the client and the network raise as errors that people read."""
    try:
        yield
    except httpx.TransportError as error:
        hint = "is it running? nothing is lost: what is missing on either side is made up for once it answers"
        raise Unreachable(f"Label Studio at {address} does not answer: {error}", hint) from error
    except ApiError as error:
        raise _translate(address, error) from error


def _translate(address: str, error: ApiError) -> LayerloopError:
    told = f"Label Studio at {address} answered {error.status_code}: {detail_of(error)}"
    if error.status_code in {401, 403}:
        return Unreachable(
            f"Label Studio at {address} does not accept the token ({error.status_code})",
            "give a token of it in LAYERLOOP_DESK_TOKEN",
        )
    if error.status_code == 404:
        return NotFound(told)
    if error.status_code == 409:
        return Conflict(told)
    if error.status_code is None or error.status_code >= 500 or error.status_code == 429:
        return Unreachable(told, "its own log tells why; the next try may succeed")
    return Refused(
        f"Label Studio at {address} refuses it: {detail_of(error)}", "its own log tells more"
    )
