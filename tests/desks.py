"""A real Label Studio for the tests, which can be killed and put back, and what its people do there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk import LabelStudio

from curation.adapters.label_studio_view import as_result
from curation.domain import LayerRole, RejectReason, Verdict
from curation.label_studio_server import OWNER, VERSION, LabelStudioServer, label_studio
from tests.servers import free_port, missing

ACCEPT, REJECT = Verdict.accept, Verdict.reject


def cache() -> Path:
    """Where the environment of Label Studio is kept between runs."""
    given = os.environ.get("LAYERLOOP_TEST_LABEL_STUDIO")
    return Path(given) if given else Path.home() / ".cache" / "layerloop" / "label-studio"


class Studio:
    """A Label Studio with its data in a folder: started, stopped, killed, and what a person does at it."""

    def __init__(self, folder: Path) -> None:
        if os.environ.get("CI") != "true" and not (cache() / f"label-studio-{VERSION}" / "complete").exists():
            missing(
                "Label Studio",
                "make demo DESK=label-studio installs it, or name its folder in LAYERLOOP_TEST_LABEL_STUDIO",
            )
        self.folder = folder
        self.port = free_port()
        self._stack = ExitStack()
        self.server: LabelStudioServer
        self.start()

    def start(self) -> None:
        """Start it on the data that it has."""
        self.server = self._stack.enter_context(label_studio(cache(), self.folder, self.port))
        self.client = LabelStudio(base_url=self.server.address, api_key=self.server.token, max_retries=0)

    def stop(self) -> None:
        """Stop it in order."""
        self._stack.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.server.process.kill()
        self._stack.close()

    def back_up(self) -> Path:
        """A copy of its data, taken while it is stopped."""
        self.stop()
        kept = self.folder.with_name("backup")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.folder, kept)
        self.start()
        return kept

    def restore(self, kept: Path) -> None:
        """Put it back to what a copy holds."""
        self.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(kept, self.folder)
        self.start()

    def person(self, email: str) -> int:
        """Somebody who works there; the number that the server knows them by."""
        known = {one.email: one.id for one in self.client.users.list()}
        return int(known.get(email) or self.client.users.create(email=email, username=email.partition("@")[0]).id)

    def say(
        self,
        task: int,
        verdict: Verdict | None = ACCEPT,
        reasons: Sequence[RejectReason] = (),
        layers: Sequence[LayerRole] = (),
        by: str = OWNER,
        result: Any = None,
        **more: Any,
    ) -> int:
        """An annotation, whose number is returned."""
        said = result if result is not None else as_result(verdict, reasons, layers) if verdict else []
        made = self.client.annotations.create(
            task, result=said, completed_by=self.person(by), unique_id=str(uuid.uuid4()), **more
        )
        return int(made.id)

    def change(self, annotation: int, verdict: Verdict, reasons: Sequence[RejectReason] = ()) -> None:
        """Edit an annotation."""
        self.client.annotations.update(annotation, result=as_result(verdict, reasons))

    def tasks(self, project: int) -> dict[str, list[int]]:
        """The numbers of all tasks by the candidates that they show."""
        found: dict[str, list[int]] = {}
        for task in self.client.tasks.list(project=project, page_size=500, include="id,data"):
            found.setdefault(task.data.get("candidate", ""), []).append(task.id)
        return found


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory):
    """A running Label Studio for the whole run."""
    studio = Studio(tmp_path_factory.mktemp("label-studio") / "data")
    yield studio
    studio.stop()
