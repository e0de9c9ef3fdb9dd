"""A pending job is sent once, however often it is requested; a lost message is replaced."""

from __future__ import annotations

import threading
import uuid

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.db import pending_jobs
from curation.db.pending_jobs import DeduplicatingSender
from curation.db.tables import labeling_projects, labeling_tasks
from curation.domain import Job
from curation.labeling import project_reads
from curation.runtime.context import AppContext
from tests.support.factories import make_candidates, make_round


@pytest.fixture
def sent(database) -> list[Job]:
    """Return the list of the jobs that reach the queue."""
    sent: list[Job] = []

    def send(job: Job) -> bool:
        sent.append(job)
        return True

    database.send = DeduplicatingSender(database, send)
    return sent


def enqueue(database, name: str, *args: str) -> None:
    with database.transaction() as tx:
        tx.enqueue(name, *args)


def test_eighty_equal_requests_are_one_job_until_it_is_taken(database, sent):
    project = str(uuid.uuid4())
    threads = [
        threading.Thread(target=enqueue, args=(database, "pull_annotations", project))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(72):
        enqueue(database, "pull_annotations", project)
    enqueue(database, "pull_annotations", str(uuid.uuid4()))
    assert len(sent) == 2
    with database.transaction() as tx:
        assert pending_jobs.take_pending(tx, Job("pull_annotations", (project,)))
        assert not pending_jobs.take_pending(tx, Job("pull_annotations", (project,)))
    enqueue(database, "pull_annotations", project)
    assert len(sent) == 3


def test_a_job_whose_message_was_lost_is_found_by_an_idle_worker_and_sent_once(database, sent):
    for _ in range(3):
        enqueue(database, "review", 1)
    with database.transaction() as tx:
        assert pending_jobs.take_overdue(tx, ["review"]) is None, "its message may still arrive"
        tx.connection.exec_driver_sql(
            "update pending_jobs set created_at = now() - interval '4 seconds'"
        )
        assert pending_jobs.take_overdue(tx, ["screen"]) is None
        assert pending_jobs.take_overdue(tx, ["screen", "review"]) == Job("review", (1,))
        assert pending_jobs.take_overdue(tx, ["review"]) is None
    assert sent == [Job("review", (1,))]


def test_a_job_is_sent_once_however_long_all_workers_are_busy(database, sent):
    enqueue(database, "generate", 1)
    with database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "update pending_jobs set created_at = now() - interval '9 hours'"
        )
    for _ in range(40):
        enqueue(database, "generate", 1)
    assert sent == [Job("generate", (1,))]


def test_a_queue_that_is_away_leaves_the_job_to_an_idle_worker(database):
    tried: list[Job] = []
    database.send = DeduplicatingSender(database, lambda job: bool(tried.append(job)))
    for _ in range(3):
        enqueue(database, "review", 1)
    assert len(tried) == 1
    with database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "update pending_jobs set created_at = now() - interval '4 seconds'"
        )
        assert pending_jobs.take_overdue(tx, ["review"]) == Job("review", (1,))


def test_reconcile_enqueues_each_project_once_and_closed_ones_in_turn(
    database, settings, store, sent
):
    labeling = {"labeling": "label-studio+http://127.0.0.1:1", "labeling_token": "0" * 40}
    settings = type(settings)(**settings.model_dump() | labeling)
    context = AppContext(
        settings, database, store, CeleryQueue(make_app(settings, settings.database))
    )
    with database.transaction() as tx:
        round_ids = [make_round(tx) for _ in range(3)]
        for round_id in round_ids:
            project = {
                "id": uuid.uuid4(),
                "server_url": "http://127.0.0.1:1",
                "round_id": round_id,
                "part": 1,
                "remote_id": round_id,
            }
            tx.execute(sa.insert(labeling_projects), project)
            [candidate] = make_candidates(tx, store, round_id, 1)
            state = "open" if round_id == round_ids[0] else "removed"
            row = {
                "id": uuid.uuid4(),
                "project_id": project["id"],
                "candidate_id": candidate,
                "state": state,
            }
            tx.execute(
                sa.insert(labeling_tasks), row | {"batch": uuid.uuid4(), "remote_id": round_id}
            )
        expected = project_reads.projects_to_read(tx, "http://127.0.0.1:1")
    assert len(expected) == 2, "the open project, and one of the closed ones"
    for _ in range(5):
        jobs.reconcile(context)
    assert sorted(job.args[0] for job in sent if job.name == "pull_annotations") == sorted(
        map(str, expected)
    )
    assert sum(job.name == "push_tasks" for job in sent) == 2
