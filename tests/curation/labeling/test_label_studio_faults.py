"""Kills, restarts, outages and restored backups of Label Studio: nothing is lost or duplicated."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.db.tables import labeling_tasks
from curation.domain import JobName, Verdict
from curation.errors import Unreachable
from curation.jobs.review import _failures
from curation.labeling import projects, reconcile
from curation.labeling.previews import WEBHOOK_HEADER
from curation.review import decisions, reviewers
from curation.runtime.context import AppContext
from curation.runtime.label_studio_server import OWNER
from tests.support.factories import make_candidates, make_round
from tests.support.label_studio import (
    ACCEPT,
    REJECT,
    LabeledRound,
    begin_import,
    make_labeled_round,
)
from tests.support.servers import free_port

pytestmark = pytest.mark.slow


def agree(labeled: LabeledRound) -> bool:
    return not [one for one in reconcile.compare(labeled.sync, labeled.round) if one.repairable]


def there(labeled: LabeledRound) -> list[str]:
    """Return the candidates of all tasks of the round, with repetitions."""
    with labeled.database.transaction() as tx:
        standing = projects.open_projects(tx, labeled.sync.backend.url, labeled.round)
    return sorted(
        one
        for project in standing
        for one, tasks in labeled.studio.tasks(project.remote_id).items()
        for _ in tasks
    )


def test_import_with_a_lost_response_is_not_repeated(labeled, store):
    other, project, batch, sending = begin_import(labeled, store, 6)
    first = labeled.sync.backend.push(
        project, batch, sending
    )  # and the process dies before it can note anything
    again = replace(project, remote_id=first.project_remote_id, created_at=first.created_at)
    assert labeled.sync.backend.push(again, batch, sending) == first
    labeled.studio.annotate(first.task_remote_ids[sending[0].id], ACCEPT)
    assert labeled.sync.push(other.round) == {"pushed": 6}
    assert there(other) == sorted(map(str, other.candidates))
    assert other.sync.pull(other.round) == {"decided": 1}
    assert agree(other)


def test_import_resumes_after_a_kill_without_duplicates(labeled, store):
    with labeled.database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, 300)
    cut_off: list[Unreachable] = []

    def push() -> None:
        try:
            labeled.sync.push(round_id)
        except Unreachable as error:
            cut_off.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    time.sleep(0.7)
    labeled.studio.kill()
    thread.join()
    with pytest.raises(Unreachable):
        labeled.sync.pull()
    labeled.studio.start()
    while labeled.sync.push(round_id):
        pass
    other = LabeledRound(labeled.studio, labeled.database, labeled.sync, round_id, made)
    assert there(other) == sorted(map(str, made))
    assert agree(other)


def test_annotations_survive_a_restart(labeled):
    labeled.studio.annotate(labeled.task(0), ACCEPT)
    labeled.studio.kill()
    with pytest.raises(Unreachable, match="does not answer"):
        labeled.sync.pull()
    with labeled.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        decisions.decide(tx, ada, labeled.candidates[1], REJECT, key=uuid.uuid4())
    with pytest.raises(Unreachable):
        labeled.sync.push(labeled.round)
    labeled.studio.start()
    labeled.studio.annotate(labeled.task(2), REJECT)
    assert labeled.sync.pull() == {"decided": 2}
    assert labeled.sync.push(labeled.round) == {"removed": 1}
    assert agree(labeled)


def test_annotations_without_webhook_calls_are_pulled(labeled, database, store):
    """Label Studio calls a webhook once; polling finds the same annotations."""
    heard: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.headers[WEBHOOK_HEADER])
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    from curation.adapters.label_studio import LabelStudioBackend

    port = free_port()
    hook = (f"http://127.0.0.1:{port}/api/labeling/webhook", {WEBHOOK_HEADER: "the secret"})
    woken = LabelStudioBackend(labeled.studio.server.address, labeled.studio.server.token, hook)
    other = make_labeled_round(labeled.studio, woken, database, store, 52)
    receiver = HTTPServer(("127.0.0.1", port), Receiver)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    labeled.studio.annotate(other.task(50), ACCEPT)
    assert heard == ["the secret"]
    receiver.shutdown()
    receiver.server_close()
    thread.join()
    for index in range(50):
        labeled.studio.annotate(other.task(index), ACCEPT if index % 2 else REJECT)
    assert other.sync.pull(other.round) == {"decided": 51}
    assert [other.state(index) for index in (0, 1, 49, 50, 51)] == [
        "rejected", "accepted", "accepted", "accepted", "waiting",
    ]  # fmt: skip
    assert agree(other)
    woken.close()


def test_restored_backup_is_reconciled_and_decisions_stand(labeled, store):
    before = labeled.studio.annotate(labeled.task(0), ACCEPT)
    labeled.sync.pull()
    kept = labeled.studio.back_up()
    labeled.studio.annotate(labeled.task(1), REJECT)  # of a task that the backup has, without this
    with labeled.database.transaction() as tx:
        later = make_round(tx)
        young = LabeledRound(
            labeled.studio,
            labeled.database,
            labeled.sync,
            later,
            make_candidates(tx, store, later, 4),
        )
    labeled.sync.push(later)
    lost = young.task(0)
    labeled.studio.annotate(lost, ACCEPT)  # of a task that the backup has not
    assert labeled.sync.pull() == {"decided": 2}

    labeled.studio.restore(kept)
    with (
        labeled.database.transaction() as tx
    ):  # others work there before we notice: numbers are given again
        newest = make_round(tx)
        fresh = LabeledRound(
            labeled.studio,
            labeled.database,
            labeled.sync,
            newest,
            make_candidates(tx, store, newest, 3),
        )
    labeled.sync.push(newest)
    assert fresh.task(0) == lost or lost in {fresh.task(index) for index in range(3)}
    kinds = {one.kind for one in reconcile.compare(labeled.sync)}
    assert "lost" in kinds
    assert kinds & {"project", "missing"}
    reconcile.repair(labeled.sync)
    labeled.sync.push(later)
    for one in (labeled, young, fresh):
        assert agree(one)
        assert len(there(one)) == len(set(there(one)))
    assert [labeled.state(index) for index in range(3)] == ["accepted", "rejected", "waiting"]
    assert young.state(0) == "accepted"
    assert [young.state(index) for index in range(1, 4)] == ["waiting"] * 3
    assert str(labeled.candidates[1]) not in there(labeled), (
        "nobody there is asked again what is decided"
    )
    assert there(young) == sorted(map(str, young.candidates[1:]))
    assert there(fresh) == sorted(map(str, fresh.candidates))
    labeled.studio.annotate(fresh.task(0), REJECT)
    labeled.studio.edit_annotation(before, REJECT)
    assert labeled.sync.pull() == {"decided": 2}
    assert (fresh.state(0), labeled.state(0)) == ("rejected", "rejected")


def test_an_outage_is_logged_once(database, store, settings, caplog):
    away = {"labeling": f"label-studio+http://127.0.0.1:{free_port()}", "labeling_token": "0" * 40}
    settings = type(settings)(**settings.model_dump() | away)
    context = AppContext(
        settings, database, store, CeleryQueue(make_app(settings, settings.database))
    )
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 3)
    requested = []
    database.send = requested.append
    _failures.clear()
    with caplog.at_level(logging.WARNING, "layerloop.jobs"):
        for _ in range(3):
            jobs.reconcile(context)
            jobs.push_tasks(context, round_id)
    pushes = [job.name for job in requested if job.name != JobName.measure_diversity]
    assert pushes == ["push_tasks"] * 3
    assert len([one for one in caplog.records if "does not answer" in one.message]) == 1
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(labeling_tasks)) == 3


def test_the_owner_is_a_reviewer(labeled):
    labeled.studio.annotate(labeled.task(0), Verdict.accept)
    labeled.sync.pull()
    assert labeled.decisions(0) == [("accept", OWNER)]
