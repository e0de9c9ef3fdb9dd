"""A real Label Studio for tests, which can be killed and restored, and the actions of its users."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa

from curation.adapters.label_studio_results import build_result
from curation.db.engine import Database
from curation.db.tables import (
    candidates,
    decisions,
    labeling_annotations,
    labeling_tasks,
    reviewers,
    samples,
)
from curation.domain import LayerRole, RejectReason, Verdict
from curation.labeling import projects, tasks
from curation.labeling.port import Project, Task
from curation.labeling.previews import WEBHOOK_HEADER, PreviewUrls
from curation.labeling.sync import LabelingSync
from curation.ports import ObjectStore
from curation.runtime.label_studio_server import (
    CACHE,
    OWNER,
    VERSION,
    LabelStudioServer,
    run_label_studio,
)
from tests.support.factories import make_candidates, make_round
from tests.support.servers import free_port, missing

if TYPE_CHECKING:
    from curation.adapters.label_studio import LabelStudioBackend

ACCEPT, REJECT = Verdict.accept, Verdict.reject
WEBHOOK = ("http://127.0.0.1:1/api/labeling/webhook", {WEBHOOK_HEADER: "secret"})
"""A webhook without a receiver: tests pull by themselves."""


def cache() -> Path:
    """Return the folder in which the environment of Label Studio is kept between runs."""
    return Path(os.environ.get("LAYERLOOP_TEST_LABEL_STUDIO") or CACHE)


class Studio:
    """A Label Studio with its data in a folder, and the actions of its users."""

    def __init__(self, folder: Path) -> None:
        if find_spec("label_studio_sdk") is None:
            missing("Label Studio's client", "make setup installs requirements-label-studio.lock")
        if (
            os.environ.get("CI") != "true"
            and not (cache() / f"label-studio-{VERSION}" / "complete").exists()
        ):
            missing(
                "Label Studio",
                "make demo LABELING=label-studio installs it, or name its folder in LAYERLOOP_TEST_LABEL_STUDIO",
            )
        self.folder = folder
        self.port = free_port()
        self._stack = ExitStack()
        self.server: LabelStudioServer
        self.start()

    def start(self) -> None:
        """Start it with its data."""
        from label_studio_sdk import LabelStudio  # importing it takes four seconds

        self._sessions: dict[str, httpx.Client] = {}
        self.server = self._stack.enter_context(run_label_studio(cache(), self.folder, self.port))
        http = self._stack.enter_context(httpx.Client(timeout=60))
        self.client = LabelStudio(
            base_url=self.server.address,
            api_key=self.server.token,
            max_retries=0,
            httpx_client=http,
        )

    def stop(self) -> None:
        """Stop it gracefully."""
        for one in self._sessions.values():
            one.close()
        self._stack.close()

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self.server.process.kill()
        self.stop()

    def back_up(self) -> Path:
        """Copy its data while it is stopped, and return the copy."""
        self.stop()
        kept = self.folder.with_name("backup")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.folder, kept)
        self.start()
        return kept

    def restore(self, kept: Path) -> None:
        """Restore a copy of its data."""
        self.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(kept, self.folder)
        self.start()

    def user_id(self, email: str) -> int:
        """Return the ID of a user, who is created if needed."""
        if email not in {one.email for one in self.client.users.list()}:
            self.session(email)
        return next(int(one.id) for one in self.client.users.list() if one.email == email)

    def annotate(
        self,
        task: int,
        verdict: Verdict | None = ACCEPT,
        reasons: Sequence[RejectReason] = (),
        layers: Sequence[LayerRole] = (),
        by: str = OWNER,
        result: Any = None,
        **more: Any,
    ) -> int:
        """Create an annotation and return its ID."""
        message = (
            result
            if result is not None
            else build_result(verdict, reasons, layers)
            if verdict
            else []
        )
        made = self.client.annotations.create(
            task, result=message, completed_by=self.user_id(by), unique_id=str(uuid.uuid4()), **more
        )
        return int(made.id)

    def edit_annotation(
        self,
        annotation: int,
        verdict: Verdict,
        reasons: Sequence[RejectReason] = (),
        by: str | None = None,
    ) -> None:
        """Edit an annotation, as its author or as somebody else."""
        who = self.client.annotations.get(annotation).completed_by
        author = next(str(one.email) for one in self.client.users.list() if one.id == who)
        path = f"/api/annotations/{annotation}"
        message = {"result": build_result(verdict, reasons)}
        self.session(by or author).patch(path, json=message).raise_for_status()

    def session(self, email: str) -> httpx.Client:
        """Return a session of an invited user or of the owner."""
        if email not in self._sessions:
            self._sessions[email] = sign_in(self.server, email)
        return self._sessions[email]

    def tasks(self, project: int) -> dict[str, list[int]]:
        """Return the IDs of all tasks by candidate."""
        found: dict[str, list[int]] = {}
        for task in self.client.tasks.list(project=project, page_size=500, include="id,data"):
            found.setdefault(task.data.get("candidate", ""), []).append(task.id)
        return found


def sign_in(server: LabelStudioServer, email: str) -> httpx.Client:
    """Sign up by an invitation, or sign in, and return the session."""
    client = httpx.Client(base_url=server.address, timeout=120)
    invited = client.get("/api/invite", headers={"Authorization": f"Token {server.token}"}).json()[
        "invite_url"
    ]
    password = server.password if email == OWNER else "a long password"
    for path in ("/user/login/",) if email == OWNER else ("/user/login/", invited):
        form = client.get(path)
        hidden = form.text.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
        message = {
            "csrfmiddlewaretoken": hidden,
            "email": email,
            "password": password,
            "allow_newsletters": "false",
        }
        client.post(path, data=message, headers={"Referer": server.address})
        if "sessionid" in client.cookies and client.get("/api/current-user/whoami").is_success:
            break
    client.headers.update(
        {"X-CSRFToken": client.cookies.get("csrftoken", ""), "Referer": server.address}
    )
    assert client.get("/api/current-user/whoami").raise_for_status().json()["email"] == email
    return client


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Run one Label Studio for all tests."""
    studio = Studio(tmp_path_factory.mktemp("label-studio") / "data")
    yield studio
    studio.stop()


@dataclass
class LabeledRound:
    """One round in both systems."""

    studio: Studio
    database: Database
    sync: LabelingSync
    round: int
    candidates: Sequence[uuid.UUID]

    @property
    def project(self) -> Project:
        """Return the round's last project."""
        with self.database.transaction() as tx:
            return projects.open_projects(tx, self.sync.backend.url, self.round)[-1]

    def task(self, index: int) -> int:
        """Return the ID of a candidate's task, by the index of the candidate."""
        with self.database.transaction() as tx:
            own = (labeling_tasks.c.candidate_id == self.candidates[index]) & (
                labeling_tasks.c.state != "removed"
            )
            return int(tx.scalar(sa.select(labeling_tasks.c.remote_id).where(own)))

    def state(self, index: int) -> str:
        """Return a candidate's state."""
        with self.database.transaction() as tx:
            return str(
                tx.scalar(
                    sa.select(candidates.c.state).where(candidates.c.id == self.candidates[index])
                )
            )

    def decisions(self, index: int) -> list[tuple[str, str]]:
        """Return verdict and reviewer of all decisions on a candidate, in order."""
        rows = sa.select(decisions.c.verdict, reviewers.c.name).join(reviewers)
        with self.database.transaction() as tx:
            own = rows.where(decisions.c.candidate_id == self.candidates[index]).order_by(
                decisions.c.id
            )
            return [(row.verdict, row.name) for row in tx.execute(own)]

    def decision_content(self, index: int) -> tuple[list[str], list[str], str]:
        """Return reasons, layers and comment of the last decision on a candidate."""
        own = sa.select(decisions).where(decisions.c.candidate_id == self.candidates[index])
        with self.database.transaction() as tx:
            row = tx.execute(own.order_by(decisions.c.id.desc())).first()
        return row.reasons, row.layers, row.comment

    def refusals(self) -> list[str]:
        """Return the reasons of all refused annotations."""
        with self.database.transaction() as tx:
            rows = sa.select(labeling_annotations.c.refused).where(
                labeling_annotations.c.refused.is_not(None)
            )
            return list(
                tx.execute(rows.order_by(labeling_annotations.c.content_updated_at)).scalars()
            )

    def accepted(self) -> int:
        """Return the number of samples that are not withdrawn."""
        with self.database.transaction() as tx:
            return int(
                tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None)))
            )


def make_labeled_round(
    studio: Studio, backend: LabelStudioBackend, database: Database, store: ObjectStore, count: int
) -> LabeledRound:
    """Create and push a round."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, count)
    sync = LabelingSync(
        database,
        backend,
        "test",
        PreviewUrls("secret", "http://127.0.0.1:1").sign_url,
        max_tasks=10_000,
        pause=0,
    )
    assert sync.push(round_id)["pushed"] == count
    return LabeledRound(studio, database, sync, round_id, made)


def begin_import(
    labeled: LabeledRound, store: ObjectStore, count: int
) -> tuple[LabeledRound, Project, uuid.UUID, list[Task]]:
    """Create a round whose import has begun; return it with the project, batch and tasks."""
    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, count)
        project, room = projects.project_with_room(tx, labeled.sync.backend.url, round_id, 10)
        batch = tasks.next_batch(tx, project, room, 0, 50)
        sending = tasks.read_batch(tx, batch, labeled.sync.layer_url)
    return replace(labeled, round=round_id, candidates=made), project, batch, sending


@pytest.fixture
def backend(studio: Studio) -> Iterator[LabelStudioBackend]:
    """Connect to Label Studio."""
    from curation.adapters.label_studio import LabelStudioBackend

    backend = LabelStudioBackend(studio.server.address, studio.server.token, WEBHOOK)
    yield backend
    backend.close()


@pytest.fixture
def labeled(
    studio: Studio,
    backend: LabelStudioBackend,
    database: Database,
    store: ObjectStore,
    request: Any,
) -> LabeledRound:
    """Create and push a round of eight candidates, or of the number in the test's parameter."""
    return make_labeled_round(studio, backend, database, store, getattr(request, "param", 8))
