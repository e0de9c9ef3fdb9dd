"""A real Label Studio for the tests, which can be killed and put back, and what its people do there."""

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

from curation.adapters.label_studio_view import build_result
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
from curation.labeling import projects
from curation.labeling import tasks as postings
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
from tests.making import make_candidates, make_round
from tests.servers import free_port, missing

if TYPE_CHECKING:
    from curation.adapters.label_studio import LabelStudioBackend

ACCEPT, REJECT = Verdict.accept, Verdict.reject
HOOK = ("http://127.0.0.1:1/api/labeling/webhook", {WEBHOOK_HEADER: "secret"})
"""Where nobody listens: tests collect by themselves."""


def cache() -> Path:
    """Where the environment of Label Studio is kept between runs."""
    return Path(os.environ.get("LAYERLOOP_TEST_LABEL_STUDIO") or CACHE)


class Studio:
    """A Label Studio with its data in a folder: started, stopped, killed, and what a person does at it."""

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
        """Start it on the data that it has."""
        from label_studio_sdk import LabelStudio  # four seconds that other tests need not wait

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
        """Stop it in order."""
        for one in self._sessions.values():
            one.close()
        self._stack.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.server.process.kill()
        self.stop()

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
        if email not in {one.email for one in self.client.users.list()}:
            self.session(email)
        return next(int(one.id) for one in self.client.users.list() if one.email == email)

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
        said = (
            result
            if result is not None
            else build_result(verdict, reasons, layers)
            if verdict
            else []
        )
        made = self.client.annotations.create(
            task, result=said, completed_by=self.person(by), unique_id=str(uuid.uuid4()), **more
        )
        return int(made.id)

    def change(
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
        said = {"result": build_result(verdict, reasons)}
        self.session(by or author).patch(path, json=said).raise_for_status()

    def session(self, email: str) -> httpx.Client:
        """A session of somebody who signed up by an invitation, or of the owner."""
        if email not in self._sessions:
            self._sessions[email] = sign_in(self.server, email)
        return self._sessions[email]

    def tasks(self, project: int) -> dict[str, list[int]]:
        """The numbers of all tasks by the candidates that they show."""
        found: dict[str, list[int]] = {}
        for task in self.client.tasks.list(project=project, page_size=500, include="id,data"):
            found.setdefault(task.data.get("candidate", ""), []).append(task.id)
        return found


def sign_in(server: LabelStudioServer, email: str) -> httpx.Client:
    """Sign up by an invitation, or sign in; returns a session that may send."""
    client = httpx.Client(base_url=server.address, timeout=120)
    invited = client.get("/api/invite", headers={"Authorization": f"Token {server.token}"}).json()[
        "invite_url"
    ]
    password = server.password if email == OWNER else "a long password"
    for path in ("/user/login/",) if email == OWNER else ("/user/login/", invited):
        form = client.get(path)
        hidden = form.text.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
        said = {
            "csrfmiddlewaretoken": hidden,
            "email": email,
            "password": password,
            "allow_newsletters": "false",
        }
        client.post(path, data=said, headers={"Referer": server.address})
        if "sessionid" in client.cookies and client.get("/api/current-user/whoami").is_success:
            break
    client.headers.update(
        {"X-CSRFToken": client.cookies.get("csrftoken", ""), "Referer": server.address}
    )
    assert client.get("/api/current-user/whoami").raise_for_status().json()["email"] == email
    return client


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A running Label Studio for the whole run."""
    studio = Studio(tmp_path_factory.mktemp("label-studio") / "data")
    yield studio
    studio.stop()


@dataclass
class Seat:
    """Both sides of one round, as tests look at them."""

    studio: Studio
    database: Database
    exchange: LabelingSync
    round: int
    candidates: Sequence[uuid.UUID]

    @property
    def board(self) -> Project:
        """The round's last board."""
        with self.database.transaction() as tx:
            return projects.open_projects(tx, self.exchange.backend.url, self.round)[-1]

    def task(self, place: int) -> int:
        """The task of a candidate, by its place."""
        with self.database.transaction() as tx:
            mine = (labeling_tasks.c.candidate_id == self.candidates[place]) & (
                labeling_tasks.c.state != "removed"
            )
            return int(tx.scalar(sa.select(labeling_tasks.c.remote_id).where(mine)))

    def state(self, place: int) -> str:
        """A candidate's state."""
        with self.database.transaction() as tx:
            return str(
                tx.scalar(
                    sa.select(candidates.c.state).where(candidates.c.id == self.candidates[place])
                )
            )

    def decided(self, place: int) -> list[tuple[str, str]]:
        """What was decided of a candidate: verdict and reviewer, in order."""
        rows = sa.select(decisions.c.verdict, reviewers.c.name).join(reviewers)
        with self.database.transaction() as tx:
            mine = rows.where(decisions.c.candidate_id == self.candidates[place]).order_by(
                decisions.c.id
            )
            return [(row.verdict, row.name) for row in tx.execute(mine)]

    def said(self, place: int) -> tuple[list[str], list[str], str]:
        """Reasons, layers and comment of the last decision on a candidate."""
        mine = sa.select(decisions).where(decisions.c.candidate_id == self.candidates[place])
        with self.database.transaction() as tx:
            row = tx.execute(mine.order_by(decisions.c.id.desc())).first()
        return row.reasons, row.layers, row.comment

    def refusals(self) -> list[str]:
        """The sentences with which answers were refused."""
        with self.database.transaction() as tx:
            rows = sa.select(labeling_annotations.c.refused).where(
                labeling_annotations.c.refused.is_not(None)
            )
            return list(
                tx.execute(rows.order_by(labeling_annotations.c.content_updated_at)).scalars()
            )

    def accepted(self) -> int:
        """How many samples stand."""
        with self.database.transaction() as tx:
            return int(
                tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None)))
            )


def make_seat(
    studio: Studio, desk: LabelStudioBackend, database: Database, store: ObjectStore, count: int
) -> Seat:
    """A round of so many candidates, put up."""
    with database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, count)
    exchange = LabelingSync(
        database,
        desk,
        "test",
        PreviewUrls("secret", "http://127.0.0.1:1").sign_url,
        max_tasks=10_000,
        pause=0,
    )
    assert exchange.push(number)["pushed"] == count
    return Seat(studio, database, exchange, number, made)


def begin_import(
    seat: Seat, store: ObjectStore, count: int
) -> tuple[Seat, Project, uuid.UUID, list[Task]]:
    """A new round of so many candidates as it is when its import begins: its seat, the board, the batch, what is sent."""
    with seat.database.transaction() as tx:
        number = make_round(tx)
        made = make_candidates(tx, store, number, count)
        board, room = projects.project_with_room(tx, seat.exchange.backend.url, number, 10)
        batch = postings.next_batch(tx, board, room, 0, 50)
        sending = postings.read_batch(tx, batch, seat.exchange.layer_url)
    return replace(seat, round=number, candidates=made), board, batch, sending


@pytest.fixture
def desk(studio: Studio) -> Iterator[LabelStudioBackend]:
    """Label Studio as a desk."""
    from curation.adapters.label_studio import LabelStudioBackend

    desk = LabelStudioBackend(studio.server.address, studio.server.token, HOOK)
    yield desk
    desk.close()


@pytest.fixture
def seat(
    studio: Studio, desk: LabelStudioBackend, database: Database, store: ObjectStore, request: Any
) -> Seat:
    """A round of eight candidates, or as many as a test's parameter says, put up."""
    return make_seat(studio, desk, database, store, getattr(request, "param", 8))
